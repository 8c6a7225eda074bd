//! The two block hashes, verified on the recorded events and the recorded prompts.

use crate::events::zmtp_incoming;
use crate::{file_name, files, read};
use protocol::discovery::Codec;
use protocol::dynamo::zmtp::Incoming;
use protocol::dynamo::{Envelope, RequestControl, RequestFrame, TwoPart};
use protocol::events::{KV_EVENTS, RecoveryAnswer};
use protocol::kv::{BlockHash, KvChange, TokensHash, WorkerKvEvent, block_hash, block_hashes, tokens_hashes};
use protocol::output::StreamFrame;
use protocol::request::PreprocessedRequest;
use std::collections::HashMap;

/// The workers ran with `--block-size 16`.
const BLOCK_SIZE: usize = 16;

fn recorded_events() -> Vec<WorkerKvEvent> {
    let mut events = Vec::new();
    for path in files("zmq", ".publisher-to-subscriber.bin") {
        for incoming in zmtp_incoming(&read(&path), file_name(&path)) {
            let Incoming::Message(frames) = incoming else { continue };
            let envelope = Envelope::from_zmq(&frames).unwrap();
            if envelope.topic == KV_EVENTS {
                events.extend(envelope.decode::<Vec<WorkerKvEvent>>().unwrap());
            }
        }
    }
    for path in files("request-plane", ".response.worker-to-frontend.bin") {
        if !file_name(&path).starts_with("recovery-") {
            continue;
        }
        let mut rest = read(&path);
        while let Some(message) = TwoPart::decode(&mut rest).unwrap() {
            let frame = Codec::Msgpack.decode::<StreamFrame<RecoveryAnswer>>(&message.body);
            if let Ok(StreamFrame { data: Some(RecoveryAnswer::TreeDump { events: dumped, .. }), .. }) = frame {
                events.extend(dumped);
            }
        }
    }
    events
}

#[test]
fn every_stored_block_rolls_from_its_parent() {
    let mut blocks = 0;
    for event in recorded_events() {
        let KvChange::Stored(stored) = event.event.data else { continue };
        let mut parent = stored.parent_hash;
        for block in stored.blocks {
            assert_eq!(block.block_hash, block_hash(parent, block.tokens_hash), "event {}", event.event.event_id);
            parent = Some(block.block_hash);
            blocks += 1;
        }
    }
    assert_eq!(blocks, 734);
}

#[test]
fn the_prompts_full_blocks_are_the_stored_ones() {
    let stored: HashMap<BlockHash, TokensHash> = recorded_events()
        .into_iter()
        .filter_map(|event| match event.event.data {
            KvChange::Stored(stored) => Some(stored.blocks),
            _ => None,
        })
        .flatten()
        .map(|block| (block.block_hash, block.tokens_hash))
        .collect();
    let (mut prompts, mut blocks) = (0, 0);
    for path in files("request-plane", ".request.frontend-to-worker.bin") {
        let place = file_name(&path);
        // The worker refused this prompt; requests after the second frontend's start have no recorded events.
        if place.starts_with("too_long") || place.starts_with("recovery-") {
            continue;
        }
        let frame = RequestFrame::decode(&mut read(&path)).unwrap().unwrap();
        let message = TwoPart::decode(&mut bytes::BytesMut::from(&frame.payload[..])).unwrap().unwrap();
        let control: RequestControl = Codec::Json.decode(&message.header).unwrap();
        let request: PreprocessedRequest = control.codec().decode(&message.body).unwrap();
        let tokens = tokens_hashes(&request.token_ids, BLOCK_SIZE);
        for (rolled, tokens) in block_hashes(&tokens).into_iter().zip(&tokens) {
            assert_eq!(stored.get(&rolled), Some(tokens), "{place}: a prompt block that no worker stored");
            blocks += 1;
        }
        prompts += 1;
    }
    assert_eq!((prompts, blocks), (11, 57));
}
