//! What a vLLM server sends: KV events in both layouts, and the stream of an answer.
//!
//! The worker keeps these readers to itself, so their files are taken in as they are.
#![allow(dead_code, reason = "an entry needs a part of each file")]

#[path = "../../crates/worker/src/engine/vllm/answer.rs"]
mod answer;
#[path = "../../crates/worker/src/engine/vllm/kv_events.rs"]
mod kv_events;
#[path = "../../crates/worker/src/engine/vllm/kv_translate.rs"]
mod kv_translate;
#[path = "../../crates/worker/src/engine/vllm/sse.rs"]
mod sse;

/// What `sse` needs of the worker's client.
mod client {
    /// As the worker's.
    #[derive(Debug)]
    pub(crate) enum StreamError {
        Broken(String),
    }
}

use futures::StreamExt;
use protocol::output::EngineOutput;
use protocol::request::PreprocessedRequest;
use std::collections::HashSet;

/// Batches of events, one after another (two bytes of length before each), become changes of a cache that adds up.
pub fn vllm_events(bytes: &[u8]) {
    let (mut rest, mut seq) = (bytes, 0);
    let mut translator = kv_translate::Translator::new(16);
    let mut stored = HashSet::new();
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(tail.len());
        let (payload, tail) = tail.split_at(length);
        rest = tail;
        let Ok(batch) = kv_events::decode(payload) else { continue };
        seq += 1;
        for change in translator.changes(seq, batch) {
            follow(&mut stored, change);
        }
        assert_eq!(translator.stored_blocks(), stored.len(), "the changes do not add up to what is stored");
    }
    for change in translator.forget() {
        follow(&mut stored, change);
    }
    assert!(stored.is_empty(), "forgetting leaves blocks behind");
}

fn follow(stored: &mut HashSet<protocol::kv::BlockHash>, change: protocol::kv::KvChange) {
    use protocol::kv::KvChange;
    match change {
        KvChange::Stored(blocks) => stored.extend(blocks.blocks.iter().map(|block| block.block_hash)),
        KvChange::Removed(blocks) => blocks.block_hashes.iter().for_each(|hash| {
            stored.remove(hash);
        }),
        KvChange::Cleared => stored.clear(),
    }
}

/// The stream of an answer gives the same outputs however its bytes are cut.
pub fn vllm_stream(bytes: &[u8]) {
    let whole = outputs(vec![bytes]);
    let cut = bytes.last().map_or(0, |&byte| usize::from(byte) * bytes.len() / 256);
    assert_eq!(outputs(vec![&bytes[..cut], &bytes[cut..]]), whole);
}

fn outputs(parts: Vec<&[u8]>) -> (Vec<EngineOutput>, bool) {
    let parts: Vec<_> = parts.into_iter().map(|part| Ok(bytes::Bytes::copy_from_slice(part))).collect();
    let mut chunks = sse::chunks(futures::stream::iter(parts).boxed());
    let mut answer = answer::Answer::to(&PreprocessedRequest { token_ids: vec![1, 2, 3], ..Default::default() });
    let (mut outputs, mut broken) = (Vec::new(), false);
    futures::executor::block_on(async {
        while let Some(chunk) = chunks.next().await {
            let Ok(chunk) = chunk else {
                broken = true;
                break;
            };
            outputs.extend(answer.chunk(chunk));
        }
    });
    outputs.extend(answer.finish());
    (outputs, broken || answer.broken().is_some())
}
