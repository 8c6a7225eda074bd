//! `card/`: the stock card, its checksum, and which cards the stock frontend takes.

use crate::{files, folder, read};
use protocol::card::ModelCard;
use protocol::discovery::Codec;
use protocol::dynamo::{RequestControl, RequestFrame, TwoPart, card_sum};
use protocol::request::PreprocessedRequest;
use serde_json::Value;

fn stock_card() -> Value {
    serde_json::from_slice(&std::fs::read(folder("card/stock-mocker-card.json")).unwrap()).unwrap()
}

#[test]
fn the_stock_card_comes_back() {
    let recorded = stock_card();
    let card: ModelCard = serde_json::from_value(recorded.clone()).unwrap();
    assert_eq!(serde_json::to_string(&card).unwrap(), recorded.to_string());
    assert_eq!(card.effective_context_length(), 1024);
    assert_eq!(card.files().count(), 4);
}

/// The frontend computed the sum from this card and sent it in each request.
#[test]
fn the_sum_of_the_stock_card_is_the_one_in_the_requests() {
    let card: ModelCard = serde_json::from_value(stock_card()).unwrap();
    let sum = card_sum(&card);
    let mut requests = 0;
    for path in files("request-plane", ".request.frontend-to-worker.bin") {
        let frame = RequestFrame::decode(&mut read(&path)).unwrap().unwrap();
        let message = TwoPart::decode(&mut bytes::BytesMut::from(&frame.payload[..])).unwrap().unwrap();
        let control: RequestControl = Codec::Json.decode(&message.header).unwrap();
        if frame.path.contains("worker_kv_query") {
            continue;
        }
        let request: PreprocessedRequest = control.codec().decode(&message.body).unwrap();
        assert_eq!(request.mdc_sum.as_deref(), Some(&sum[..]), "{}", path.display());
        requests += 1;
    }
    assert_eq!(requests, 12);
}

/// Where the stock frontend rejects a record for a missing field, so do we, and name it; every card that it serves
/// we can read.
#[test]
fn the_stock_frontends_verdicts_on_cards_are_ours() {
    let (mut served, mut missing) = (0, 0);
    for line in std::fs::read_to_string(folder("card/variants.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut card = stock_card();
        for (key, value) in line["overrides"].as_object().unwrap() {
            match value {
                Value::Null => drop(card.as_object_mut().unwrap().shift_remove(key)),
                value => drop(card.as_object_mut().unwrap().insert(key.clone(), value.clone())),
            }
        }
        let (variant, verdict) = (&line["variant"], line["served"].as_str().unwrap());
        let ours = serde_json::from_value::<ModelCard>(card);
        if let Some(field) = verdict.strip_prefix("no: missing field ") {
            let error = ours.unwrap_err().to_string();
            assert!(error.contains("missing field") && error.contains(field), "{variant}: {error}");
            missing += 1;
        } else if verdict.starts_with("yes") || verdict.starts_with("503") {
            ours.unwrap_or_else(|error| panic!("{variant}: {error}"));
            served += 1;
        }
    }
    assert_eq!((served, missing), (18, 5));
}
