//! vLLM's KV events as they travel over ZMQ. Pure.
//!
//! A message is `[topic, seq u64 big-endian, msgpack]`, the msgpack `[timestamp, events, data_parallel_rank]`. An event
//! is a map since vLLM 0.32 (`{"type": "BlockStored", …}`) and an array before (`["BlockStored", …]`); a block hash is
//! an integer or the digest's bytes. Unknown keys and trailing array items are skipped.
//!
//! Source: recordings of vLLM 0.32.0 in `tests/data/vllm`, and vLLM's `distributed/kv_events.py`.

use protocol::kv::BlockHash;
use rmpv::Value;

/// Nesting of a batch is 4; more is not an event.
const DEPTH_MAX: usize = 16;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    /// In order.
    pub(crate) events: Vec<Event>,
    /// The rank that speaks, when it tells.
    pub(crate) dp_rank: Option<u32>,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Consecutive blocks are in the cache.
    Stored(Stored),
    /// Blocks are gone.
    Removed {
        /// Which.
        hashes: Vec<BlockHash>,
        /// `GPU`, unless offloaded.
        medium: Option<String>,
        /// KV cache group.
        group: u64,
    },
    /// All blocks are gone.
    Cleared,
    /// A kind that we do not know.
    Unknown(String),
}

/// See [`Event::Stored`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stored {
    pub(crate) hashes: Vec<BlockHash>,
    pub(crate) parent: Option<BlockHash>,
    /// `block_size` a hash.
    pub(crate) token_ids: Vec<u32>,
    pub(crate) block_size: usize,
    pub(crate) lora_id: Option<u64>,
    pub(crate) lora_name: Option<String>,
    /// `GPU`, unless offloaded.
    pub(crate) medium: Option<String>,
    /// What distinguishes a block beside its tokens: adapter, multimodal items, cache salt. One list a block.
    pub(crate) extra_keys: Vec<Vec<Value>>,
    /// KV cache group; hybrid models have several.
    pub(crate) group: u64,
    /// `full_attention` when told.
    pub(crate) spec_kind: Option<String>,
}

/// Why a message is not a batch of events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a KV event message of vLLM does not decode: {0}")]
pub(crate) struct BatchError(String);

fn wrong(what: &str) -> BatchError {
    BatchError(what.to_owned())
}

/// Reads the payload frame.
pub(crate) fn decode(payload: &[u8]) -> Result<Batch, BatchError> {
    let value = rmpv::decode::read_value_with_max_depth(&mut &payload[..], DEPTH_MAX)
        .map_err(|error| BatchError(error.to_string()))?;
    let Value::Array(parts) = value else { return Err(wrong("the batch is no array")) };
    let Some(Value::Array(events)) = parts.get(1) else { return Err(wrong("the batch has no list of events")) };
    let events = events.iter().map(event).collect::<Result<_, _>>()?;
    Ok(Batch { events, dp_rank: parts.get(2).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()) })
}

/// The fields of an event, in either layout: by key, or by position in the declared order.
struct Fields<'a> {
    value: &'a Value,
    order: &'static [&'static str],
}

const STORED: &[&str] = &[
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
];
const REMOVED: &[&str] = &["block_hashes", "medium", "group_idx"];

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        let found = match self.value {
            Value::Map(pairs) => pairs.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value),
            Value::Array(items) => {
                // The tag comes first.
                self.order.iter().position(|&name| name == key).and_then(|at| items.get(at + 1))
            }
            _ => None,
        };
        found.filter(|value| !value.is_nil())
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key).and_then(Value::as_str).map(str::to_owned)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Value::as_u64)
    }

    fn list(&self, key: &str) -> Result<&'a [Value], BatchError> {
        match self.get(key) {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(BatchError(format!("`{key}` is no list"))),
        }
    }
}

fn event(value: &Value) -> Result<Event, BatchError> {
    let tag = match value {
        Value::Array(items) => items.first().and_then(Value::as_str),
        map => Fields { value: map, order: &[] }.get("type").and_then(Value::as_str),
    };
    match tag {
        Some("BlockStored") => stored(&Fields { value, order: STORED }).map(Event::Stored),
        Some("BlockRemoved") => {
            let fields = Fields { value, order: REMOVED };
            Ok(Event::Removed {
                hashes: hashes(fields.list("block_hashes")?)?,
                medium: fields.text("medium"),
                group: fields.number("group_idx").unwrap_or(0),
            })
        }
        Some("AllBlocksCleared") => Ok(Event::Cleared),
        Some(other) => Ok(Event::Unknown(other.to_owned())),
        None => Err(wrong("an event has no type")),
    }
}

fn stored(fields: &Fields<'_>) -> Result<Stored, BatchError> {
    let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let token_ids = fields.list("token_ids")?.iter().map(token).collect::<Option<Vec<u32>>>();
    let extra_keys = match fields.get("extra_keys") {
        Some(Value::Array(blocks)) => blocks.iter().map(|keys| keys.as_array().cloned().unwrap_or_default()).collect(),
        _ => Vec::new(),
    };
    Ok(Stored {
        hashes: hashes(fields.list("block_hashes")?)?,
        parent: fields.get("parent_block_hash").map(hash).transpose()?,
        token_ids: token_ids.ok_or_else(|| wrong("`token_ids` holds what is no token id"))?,
        block_size: fields.number("block_size").and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
        lora_id: fields.number("lora_id"),
        lora_name: fields.text("lora_name"),
        medium: fields.text("medium"),
        extra_keys,
        group: fields.number("group_idx").unwrap_or(0),
        spec_kind: fields.text("kv_cache_spec_kind"),
    })
}

fn hashes(values: &[Value]) -> Result<Vec<BlockHash>, BatchError> {
    values.iter().map(hash).collect()
}

/// An integer, or a digest whose low 64 bits are what vLLM sends as an integer by default.
fn hash(value: &Value) -> Result<BlockHash, BatchError> {
    if let Some(number) = value.as_u64() {
        return Ok(BlockHash(number));
    }
    let low = value.as_slice().and_then(|bytes| bytes.last_chunk::<8>());
    low.map(|&bytes| BlockHash(u64::from_be_bytes(bytes)))
        .ok_or_else(|| wrong("a block hash is neither an integer nor at least 8 bytes"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The frames of a recording: per message a count, then length and bytes of each frame.
    pub(crate) fn recording(name: &str) -> Vec<Vec<Vec<u8>>> {
        let path = format!("{}/tests/data/vllm/{name}.bin", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut rest = &bytes[..];
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let count = number(&mut rest);
            messages.push(
                (0..count)
                    .map(|_| {
                        let length = number(&mut rest);
                        take(&mut rest, length).to_vec()
                    })
                    .collect(),
            );
        }
        messages
    }

    fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (head, tail) = rest.split_at(length);
        *rest = tail;
        head
    }

    fn number(rest: &mut &[u8]) -> usize {
        u32::from_be_bytes(take(rest, 4).try_into().unwrap()) as usize
    }

    /// The same messages as the recorder decoded them, one JSON object a line.
    fn decoded(name: &str) -> Vec<serde_json::Value> {
        let path = format!("{}/tests/data/vllm/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) const RECORDINGS: [&str; 2] = ["qwen3-tiny-sha256_cbor", "qwen3-tiny-sha256-evict-lora"];

    #[test]
    fn every_recorded_message_decodes_to_what_the_recorder_saw() {
        for name in RECORDINGS {
            let (messages, expected) = (recording(name), decoded(name));
            assert_eq!(messages.len(), expected.len());
            for (frames, expected) in messages.iter().zip(&expected) {
                let batch = decode(&frames[2]).unwrap();
                let events = expected["batch"][1].as_array().unwrap();
                assert_eq!(batch.dp_rank, Some(0));
                assert_eq!(batch.events.len(), events.len());
                for (event, expected) in batch.events.iter().zip(events) {
                    assert_same(event, expected);
                }
            }
        }
    }

    fn assert_same(event: &Event, expected: &serde_json::Value) {
        let numbers =
            |key: &str| -> Vec<u64> { expected[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect() };
        let raw = |hashes: &[BlockHash]| -> Vec<u64> { hashes.iter().map(|hash| hash.0).collect() };
        match event {
            Event::Stored(stored) => {
                assert_eq!(expected["type"], "BlockStored");
                assert_eq!(raw(&stored.hashes), numbers("block_hashes"));
                assert_eq!(stored.parent.map(|hash| hash.0), expected["parent_block_hash"].as_u64());
                assert_eq!(stored.token_ids.iter().map(|&id| u64::from(id)).collect::<Vec<_>>(), numbers("token_ids"));
                assert_eq!(stored.block_size, 32);
                assert_eq!(stored.lora_name.as_deref(), expected["lora_name"].as_str());
                assert_eq!(stored.medium.as_deref(), Some("GPU"));
                assert_eq!(stored.spec_kind.as_deref(), Some("full_attention"));
                assert_eq!(stored.extra_keys.len(), stored.hashes.len());
            }
            Event::Removed { hashes, medium, group } => {
                assert_eq!(expected["type"], "BlockRemoved");
                assert_eq!(raw(hashes), numbers("block_hashes"));
                assert_eq!((medium.as_deref(), *group), (Some("GPU"), 0));
            }
            Event::Cleared => assert_eq!(expected["type"], "AllBlocksCleared"),
            Event::Unknown(kind) => panic!("{kind}"),
        }
    }

    fn encoded(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        bytes
    }

    fn list(items: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(items.into_iter().collect())
    }

    #[test]
    fn the_older_array_layout_means_the_same_as_the_map() {
        for name in RECORDINGS {
            for frames in recording(name) {
                let Value::Array(mut parts) = rmpv::decode::read_value(&mut &frames[2][..]).unwrap() else { panic!() };
                let Value::Array(events) = &mut parts[1] else { panic!() };
                for event in events {
                    *event = as_array(event);
                }
                assert_eq!(decode(&encoded(&Value::Array(parts))), decode(&frames[2]));
            }
        }
    }

    /// An event of the map layout as older vLLM would have sent it.
    fn as_array(event: &Value) -> Value {
        let fields = Fields { value: event, order: &[] };
        let tag = fields.get("type").unwrap().clone();
        let order = if tag.as_str() == Some("BlockStored") { STORED } else { REMOVED };
        let cleared = tag.as_str() == Some("AllBlocksCleared");
        let values = order.iter().filter(|_| !cleared).map(|key| fields.get(key).cloned().unwrap_or(Value::Nil));
        list(std::iter::once(tag).chain(values))
    }

    #[test]
    fn a_digest_in_bytes_is_its_low_64_bits() {
        let mut digest = vec![0xAA; 24];
        digest.extend_from_slice(&12_355_174_586_350_669_080_u64.to_be_bytes());
        let event = list(["BlockRemoved".into(), list([Value::Binary(digest)]), "GPU".into()]);
        let batch = decode(&encoded(&list([1.5.into(), list([event])]))).unwrap();
        let expected = Event::Removed {
            hashes: vec![BlockHash(12_355_174_586_350_669_080)],
            medium: Some("GPU".into()),
            group: 0,
        };
        assert_eq!(batch, Batch { events: vec![expected], dp_rank: None });
    }

    #[test]
    fn what_is_not_a_batch_is_an_error_and_a_new_kind_of_event_is_not() {
        for bad in [&b""[..], b"\xc1", b"\x01", b"\x91\x01", b"\x92\x01\x91\x90"] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        let new = list([0.0.into(), list([list(["BlockMoved".into(), 1.into()])]), 3.into()]);
        let batch = Batch { events: vec![Event::Unknown("BlockMoved".into())], dp_rank: Some(3) };
        assert_eq!(decode(&encoded(&new)).unwrap(), batch);
    }
}
