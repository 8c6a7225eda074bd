//! Frames round-trip whatever is in them and however they are cut; no bytes panic.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as its tests do")]

#[allow(unreachable_pub, reason = "the fuzz crate needs them public")]
#[path = "../../../fuzz/src/entries.rs"]
mod entries;

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use protocol::discovery::Codec;
use protocol::dynamo::zmtp::{Incoming, Reader, encode_message};
use protocol::dynamo::{Ack, Envelope, FrameError, RequestFrame, TwoPart};
use protocol::ids::PublisherId;
use protocol::kv::{BlockHash, KvChange, KvEvent, RemovedBlocks, StoredBlock, StoredBlocks, TokensHash, WorkerKvEvent};
use protocol::request::PreprocessedRequest;

fn some_bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn request_frames() -> impl Strategy<Value = RequestFrame> {
    (".{0,60}", btree_map(".{0,12}", ".{0,30}", 0..6), some_bytes(600))
        .prop_map(|(path, headers, payload)| RequestFrame { path, headers: headers.into_iter().collect(), payload })
}

fn two_parts() -> impl Strategy<Value = TwoPart> {
    (some_bytes(80), some_bytes(600)).prop_map(|(header, body)| TwoPart { header, body })
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    (any::<u64>(), any::<u64>(), any::<u64>(), "[a-z_-]{0,300}", some_bytes(600)).prop_map(
        |(publisher, sequence, published_at_ms, topic, payload)| Envelope {
            publisher_id: PublisherId(publisher),
            sequence,
            published_at_ms,
            topic,
            payload,
        },
    )
}

/// Feeds `wire` in pieces of the given lengths and collects what comes out.
fn fed<T>(
    wire: &[u8],
    pieces: &[usize],
    mut decode: impl FnMut(&mut BytesMut) -> Result<Option<T>, FrameError>,
) -> Vec<T> {
    let (mut buffer, mut items, mut rest) = (BytesMut::new(), Vec::new(), wire);
    let mut lengths = pieces.iter().copied().chain(std::iter::repeat(wire.len().max(1)));
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(lengths.next().unwrap_or(1).clamp(1, rest.len()));
        buffer.extend_from_slice(piece);
        rest = left;
        while let Some(item) = decode(&mut buffer).unwrap() {
            items.push(item);
        }
    }
    assert!(buffer.is_empty(), "{} bytes are left over", buffer.len());
    items
}

fn kv_changes() -> impl Strategy<Value = KvChange> {
    let blocks = vec(any::<(u64, u64)>(), 0..5).prop_map(|blocks| {
        let block = |(rolled, tokens)| StoredBlock {
            block_hash: BlockHash(rolled),
            tokens_hash: TokensHash(tokens),
            mm_extra_info: None,
        };
        blocks.into_iter().map(block).collect::<Vec<_>>()
    });
    prop_oneof![
        Just(KvChange::Cleared),
        vec(any::<u64>(), 0..5).prop_map(|hashes| {
            KvChange::Removed(RemovedBlocks { block_hashes: hashes.into_iter().map(BlockHash).collect() })
        }),
        (any::<Option<u64>>(), any::<Option<u32>>(), blocks).prop_map(|(parent, start_position, blocks)| {
            KvChange::Stored(StoredBlocks { parent_hash: parent.map(BlockHash), start_position, blocks })
        }),
    ]
}

proptest! {
    #[test]
    fn request_frames_round_trip(frames in vec(request_frames(), 1..4), pieces in vec(1_usize..90, 0..20)) {
        let mut wire = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode_into(&mut wire).unwrap());
        prop_assert_eq!(fed(&wire, &pieces, RequestFrame::decode), frames);
    }

    #[test]
    fn two_part_messages_round_trip(messages in vec(two_parts(), 1..4), pieces in vec(1_usize..90, 0..20)) {
        let mut wire = BytesMut::new();
        messages.iter().for_each(|message| message.encode_into(&mut wire).unwrap());
        prop_assert_eq!(fed(&wire, &pieces, TwoPart::decode), messages);
    }

    #[test]
    fn acks_round_trip(texts in vec(".{0,60}", 1..4), pieces in vec(1_usize..9, 0..20)) {
        let acks: Vec<_> = texts.iter().map(|text| Ack::of_text(text)).collect();
        let mut wire = BytesMut::new();
        acks.iter().for_each(|ack| ack.encode_into(&mut wire));
        prop_assert_eq!(fed(&wire, &pieces, Ack::decode), acks);
    }

    #[test]
    fn events_round_trip_over_zmtp(events in vec(envelopes(), 1..4), pieces in vec(1_usize..90, 0..20)) {
        let mut wire = BytesMut::new();
        events.iter().for_each(|event| wire.extend_from_slice(&encode_message(&event.to_zmq().unwrap())));
        let mut reader = Reader::default();
        let read: Vec<_> = fed(&wire, &pieces, |buffer| reader.next(buffer)).into_iter().map(|incoming| match incoming {
            Incoming::Message(frames) => Envelope::from_zmq(&frames).unwrap(),
            Incoming::Command(command) => panic!("{command:?}"),
        }).collect();
        prop_assert_eq!(read, events);
    }

    #[test]
    fn kv_events_round_trip_with_every_u64(change in kv_changes(), event_id: u64, worker_id: u64, dp_rank: u32) {
        let event = WorkerKvEvent {
            worker_id: protocol::ids::InstanceId(worker_id),
            storage_tier: protocol::kv::StorageTier::HostPinned,
            residency_domain: None,
            event: KvEvent { event_id, data: change, dp_rank },
        };
        for codec in [Codec::Json, Codec::Msgpack] {
            let bytes = codec.encode(&event).unwrap();
            prop_assert_eq!(&codec.decode::<WorkerKvEvent>(&bytes).unwrap(), &event);
        }
    }

    #[test]
    fn token_ids_are_read_as_array_and_as_bin(token_ids in vec(0_u32..1 << 31, 0..100)) {
        let little_endian: Bytes = token_ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let as_bin = std::collections::BTreeMap::from([("token_ids", little_endian)]);
        let request: PreprocessedRequest = Codec::Msgpack.decode(&Codec::Msgpack.encode(&as_bin).unwrap()).unwrap();
        prop_assert_eq!(&request.token_ids, &token_ids);
        let again: PreprocessedRequest = Codec::Msgpack.decode(&Codec::Msgpack.encode(&request).unwrap()).unwrap();
        prop_assert_eq!(again, request);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..300)) {
        entries::request_frame(&bytes);
        entries::two_part(&bytes);
        entries::event_envelope(&bytes);
        entries::zmtp(&bytes);
        entries::msgpack_bodies(&bytes);
        entries::discovery_record(&bytes);
        entries::model_card(&bytes);
    }
}
