//! `discovery/` and `etcd/`: records as files, as JSON lines and as etcd values, with their keys.

use crate::{Tally, files, folder, same};
use protocol::discovery::{Codec, EndpointRecord, EventTransport, Record, RequestTransport};
use protocol::dynamo::file_name::{escape, unescape};
use serde_json::Value;
use std::path::Path;

fn kind(record: &Record) -> &'static str {
    match record {
        Record::Endpoint(_) => "Endpoint",
        Record::Model(_) => "Model",
        Record::EventChannel(_) => "EventChannel",
        Record::EventSource(_) => "EventSource",
    }
}

/// `v1/{bucket}/{file name}`: the record comes back, and its key is the file's.
fn check_file(path: &str, json: &[u8], tally: &mut Tally) {
    let record: Record = same(Codec::Json, json, path);
    let (bucket, name) = record.key();
    assert_eq!(path, format!("v1/{bucket}/{}", escape(&name)));
    let last = path.rsplit_once('/').unwrap().1;
    assert_eq!(unescape(last), Some(name), "{path}");
    tally.add(kind(&record));
}

fn walk(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

#[test]
fn every_record_file_comes_back() {
    let mut tally = Tally::default();
    for stage in std::fs::read_dir(folder("discovery/files")).unwrap() {
        let stage = stage.unwrap().path();
        let mut paths = Vec::new();
        walk(&stage, &mut paths);
        for path in paths {
            let inside = path.strip_prefix(&stage).unwrap().to_str().unwrap();
            check_file(inside, &std::fs::read(&path).unwrap(), &mut tally);
        }
    }
    tally.is(&[("Endpoint", 6), ("EventChannel", 14), ("EventSource", 3), ("Model", 3)]);
}

#[test]
fn every_stage_of_the_file_store_comes_back() {
    let mut tally = Tally::default();
    for path in files("discovery", ".jsonl") {
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let Some(path) = line["path"].as_str() else { continue };
            // The recorder parsed the content; its key order is the file's.
            check_file(path, line["content"].to_string().as_bytes(), &mut tally);
        }
    }
    tally.is(&[("Endpoint", 28), ("EventChannel", 66), ("EventSource", 14), ("Model", 14)]);
}

/// The subjects of a record are those that our own records would have.
fn check_subjects(record: &Record, tally: &mut Tally) {
    match record {
        Record::EventChannel(channel) => {
            let EventTransport::Nats { subject_prefix } = &channel.transport else { return };
            assert_eq!(*subject_prefix, channel.scope.subject_prefix());
            tally.add("event subject");
        }
        Record::Endpoint(endpoint) => {
            let RequestTransport::NatsTcp(subject) = &endpoint.transport else { return };
            assert_eq!(*subject, EndpointRecord::nats_subject(&endpoint.endpoint_id(), endpoint.instance_id));
            tally.add("request subject");
        }
        Record::Model(_) | Record::EventSource(_) => {}
    }
}

#[test]
fn every_etcd_value_comes_back() {
    let mut tally = Tally::default();
    for path in files("etcd", ".json") {
        let stages: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (stage, content) in stages.as_object().unwrap() {
            for pair in content["keys"].as_array().unwrap() {
                let (key, value) = (pair["key"].as_str().unwrap(), pair["value"].as_str().unwrap());
                let record: Record = same(Codec::Json, value.as_bytes(), &format!("{stage} {key}"));
                let (bucket, name) = record.key();
                assert_eq!(key, format!("v1/{bucket}/{name}"), "{stage}");
                check_subjects(&record, &mut tally);
                tally.add(kind(&record));
            }
        }
    }
    tally.is(&[
        ("Endpoint", 32),
        ("EventChannel", 80),
        ("EventSource", 16),
        ("Model", 16),
        ("event subject", 80),
        ("request subject", 16),
    ]);
}
