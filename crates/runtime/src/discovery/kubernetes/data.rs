//! `spec.data` of a DynamoWorkerMetadata: four maps of records, one a bucket.
//!
//! Source: Dynamo 1.6.1, the object that its mocker writes: the keys of the maps are the names of the records in their
//! buckets, the values are the records.

use super::super::{RECORD_BYTES_MAX, RecordKey};
use protocol::discovery::Record;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The maps and the buckets of their records.
const MAPS: [(&str, &str); 4] = [
    ("endpoints", "instances"),
    ("model_cards", "mdc"),
    ("event_channels", "event_channels"),
    ("event_sources", "event_sources"),
];

/// Writes records. All four maps are always there, as in what a stock worker writes.
pub(super) fn write<'a>(records: impl Iterator<Item = (&'a RecordKey, &'a Value)>) -> Value {
    let mut data: Map<String, Value> =
        MAPS.iter().map(|(map, _)| ((*map).to_owned(), Value::Object(Map::new()))).collect();
    for (key, value) in records {
        let map = MAPS.iter().find(|(_, bucket)| *bucket == key.bucket).map(|(map, _)| *map);
        if let Some(Value::Object(records)) = map.and_then(|map| data.get_mut(map)) {
            records.insert(key.name.clone(), value.clone());
        }
    }
    Value::Object(data)
}

/// The records of `data` as they lie there, under the keys that they were given. What is no map has none: an API server
/// makes a map `null` when its last record goes by server-side apply, and stock readers take that for empty too.
pub(super) fn raw(data: &Value) -> BTreeMap<RecordKey, &Value> {
    let maps = MAPS.iter().filter_map(|(map, bucket)| Some((*bucket, data.get(map)?.as_object()?)));
    maps.flat_map(|(bucket, records)| {
        records.iter().map(move |(name, value)| (RecordKey { bucket: bucket.to_owned(), name: name.clone() }, value))
    })
    .collect()
}

/// Reads one record, and the key that follows from it: older releases name them otherwise.
pub(super) fn record(bucket: &str, value: &Value) -> Result<(RecordKey, Record), String> {
    let bytes = value.to_string().len() as u64;
    if bytes > RECORD_BYTES_MAX {
        return Err(format!("{bytes} bytes are more than {RECORD_BYTES_MAX}"));
    }
    let record: Record = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let key = RecordKey::of(&record);
    if key.bucket == bucket {
        Ok((key, record))
    } else {
        Err(format!("a record of bucket {} lies in {bucket}", key.bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::stage::endpoint;
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_again_and_all_maps_are_there() {
        let record_written = endpoint(7, 1);
        let (key, value) = (RecordKey::of(&record_written), serde_json::to_value(&record_written).unwrap());
        let data = write([(&key, &value)].into_iter());
        assert_eq!(data["endpoints"]["dynamo/backend/generate/7"]["type"], "Endpoint");
        for map in ["model_cards", "event_channels", "event_sources"] {
            assert_eq!(data[map], json!({}));
        }
        let read = raw(&data);
        assert_eq!(read.keys().collect::<Vec<_>>(), [&key]);
        assert_eq!(record("instances", read[&key]).unwrap(), (key, record_written));
    }

    #[test]
    fn null_and_strange_maps_have_no_records() {
        for data in
            [json!(null), json!({}), json!({"endpoints": null}), json!({"endpoints": [1]}), json!({"x": {"a": 1}})]
        {
            assert!(raw(&data).is_empty(), "{data}");
        }
    }

    #[test]
    fn a_record_in_the_wrong_map_is_none() {
        let value = serde_json::to_value(endpoint(7, 1)).unwrap();
        assert!(record("mdc", &value).unwrap_err().contains("instances"));
        assert!(record("instances", &json!({"type": "Endpoint"})).is_err());
        assert!(record("instances", &json!("x".repeat(RECORD_BYTES_MAX as usize))).unwrap_err().contains("bytes"));
    }
}
