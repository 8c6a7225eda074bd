//! `probe/`: what stock peers sent to our own fake peers, printed as JSON by those. Compared as JSON.

use crate::{Tally, file_name, files, same};
use protocol::discovery::Codec;
use protocol::dynamo::{ControlWord, Handshake, Headers, Prologue, RequestControl};
use protocol::events::{RecoveryAnswer, RecoveryQuery};
use protocol::output::{Annotated, EngineOutput, StreamFrame};
use protocol::request::PreprocessedRequest;
use serde_json::Value;

#[test]
fn what_the_stock_mocker_answered_comes_back() {
    let mut tally = Tally::default();
    for path in files("probe", ".response.jsonl") {
        let name = file_name(&path);
        for (index, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            let place = format!("{name}:{}", index + 1);
            let line: Value = serde_json::from_str(line).unwrap();
            let header = line["header"].to_string();
            let body = line["body"].as_object().map(|body| body.values().next().unwrap().to_string());
            match (&line["header"], body) {
                (Value::Null, Some(body)) if name.contains("recovery") => {
                    same::<StreamFrame<RecoveryAnswer>>(Codec::Json, body.as_bytes(), &place);
                    tally.add("recovery item");
                }
                (Value::Null, Some(body)) => {
                    same::<StreamFrame<Annotated<EngineOutput>>>(Codec::Json, body.as_bytes(), &place);
                    tally.add("item");
                }
                (Value::String(_), None) => {
                    same::<ControlWord>(Codec::Json, header.as_bytes(), &place);
                    tally.add("word");
                }
                (Value::Object(fields), None) if fields.contains_key("subject") => {
                    same::<Handshake>(Codec::Json, header.as_bytes(), &place);
                    tally.add("handshake");
                }
                (Value::Object(_), None) => {
                    same::<Prologue>(Codec::Json, header.as_bytes(), &place);
                    tally.add("prologue");
                }
                other => panic!("{place}: {other:?}"),
            }
        }
    }
    tally.is(&[("handshake", 13), ("item", 42), ("prologue", 13), ("recovery item", 2), ("word", 13)]);
}

#[test]
fn what_the_stock_frontend_asked_comes_back() {
    let mut tally = Tally::default();
    for path in files("probe", ".jsonl") {
        let name = file_name(&path);
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["event"] != "request" {
                continue;
            }
            let part = |key: &str| line[key].to_string();
            same::<Headers>(Codec::Json, part("headers").as_bytes(), name);
            same::<RequestControl>(Codec::Json, part("control").as_bytes(), name);
            if line["path"].as_str().unwrap().contains("worker_kv_query") {
                same::<RecoveryQuery>(Codec::Json, part("request").as_bytes(), name);
                tally.add("recovery query");
            } else {
                same::<PreprocessedRequest>(Codec::Json, part("request").as_bytes(), name);
                tally.add("preprocessed request");
            }
        }
    }
    tally.is(&[("preprocessed request", 5), ("recovery query", 2)]);
}
