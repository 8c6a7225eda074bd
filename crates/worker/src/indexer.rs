//! The worker's own mirror of its KV cache: what is stored now, and the last events, for routers that missed some.
//!
//! Pure: the publisher feeds it one change at a time and a recovery query reads it. Source: Dynamo 1.6.1 on the wire,
//! §5.4.

use protocol::events::{RecoveryAnswer, RecoveryQuery};
use protocol::ids::WorkerRank;
use protocol::kv::{BlockHash, KvChange, KvEvent, StorageTier, StoredBlock, StoredBlocks, TokensHash, WorkerKvEvent};
use std::collections::{HashMap, VecDeque};

/// Events kept with their ids, so that a router with a short hole gets just the hole. The stock worker keeps as many.
pub const RING_EVENTS: usize = 1024;

/// Blocks in one dump. It travels as one frame of at most 32 MiB; a block costs up to 65 bytes on the wire, so
/// 400,000 of them (26 MB) leave room. A larger cache answers `TreeDumpFailed`, and the router goes on from there.
pub const DUMP_BLOCKS_MAX: usize = 400_000;

/// `residency_domain` of a cache that lives in its worker.
const RESIDENCY: &str = "worker";

/// What is stored now, and the newest events.
pub struct Mirror {
    worker: WorkerRank,
    last_event_id: u64,
    ring: VecDeque<KvEvent>,
    blocks: HashMap<BlockHash, Resident>,
}

/// A stored block.
struct Resident {
    parent: Option<BlockHash>,
    tokens_hash: TokensHash,
    mm_extra_info: Option<serde_json::Value>,
}

impl Mirror {
    /// An empty cache of one rank of a worker.
    pub fn new(worker: WorkerRank) -> Self {
        Self { worker, last_event_id: 0, ring: VecDeque::with_capacity(RING_EVENTS), blocks: HashMap::new() }
    }

    /// Takes one change of the cache and gives the event to publish, with the next id (the first is 1).
    pub fn apply(&mut self, change: KvChange) -> WorkerKvEvent {
        match &change {
            KvChange::Stored(stored) => self.store(stored),
            KvChange::Removed(removed) => {
                for hash in &removed.block_hashes {
                    self.blocks.remove(hash);
                }
            }
            KvChange::Cleared => self.blocks.clear(),
        }
        self.last_event_id += 1;
        let event = KvEvent { event_id: self.last_event_id, data: change, dp_rank: self.worker.dp_rank };
        if self.ring.len() == RING_EVENTS {
            self.ring.pop_front();
        }
        self.ring.push_back(event.clone());
        self.of_worker(event)
    }

    fn store(&mut self, stored: &StoredBlocks) {
        let mut parent = stored.parent_hash;
        for block in &stored.blocks {
            let resident =
                Resident { parent, tokens_hash: block.tokens_hash, mm_extra_info: block.mm_extra_info.clone() };
            self.blocks.insert(block.block_hash, resident);
            parent = Some(block.block_hash);
        }
    }

    /// The hashes of all stored blocks, in no order.
    pub fn stored(&self) -> impl Iterator<Item = BlockHash> + '_ {
        self.blocks.keys().copied()
    }

    /// Id of the newest event; 0 before the first.
    pub fn last_event_id(&self) -> u64 {
        self.last_event_id
    }

    /// Answers a router.
    ///
    /// No start: all that is stored now, parents first, ids made up from 0. A start inside the ring: the events from
    /// there, with their ids. A start that the ring has lost: the dump again. A start after the newest: `TooNew`.
    pub fn answer(&self, query: &RecoveryQuery) -> RecoveryAnswer {
        if (query.worker_id, query.dp_rank) != (self.worker.worker_id, self.worker.dp_rank) {
            return RecoveryAnswer::Error(format!(
                "worker {} rank {} was asked for; this is worker {} rank {}",
                query.worker_id, query.dp_rank, self.worker.worker_id, self.worker.dp_rank
            ));
        }
        let Some(start) = query.start_event_id else { return self.dump(query) };
        if let Some(end) = query.end_event_id.filter(|&end| end < start) {
            return RecoveryAnswer::InvalidRange { start_id: start, end_id: end };
        }
        if start > self.last_event_id {
            return RecoveryAnswer::TooNew {
                requested_start: Some(start),
                requested_end: query.end_event_id,
                newest_available: self.last_event_id,
            };
        }
        // Ids start at 1: whoever asks from 0 asks from the first.
        if self.ring.front().is_none_or(|oldest| start.max(1) < oldest.event_id) {
            return self.dump(query);
        }
        let end = query.end_event_id.unwrap_or(u64::MAX);
        let wanted = self.ring.iter().filter(|event| (start..=end).contains(&event.event_id));
        RecoveryAnswer::Events {
            events: wanted.map(|event| self.of_worker(event.clone())).collect(),
            last_event_id: self.last_event_id,
        }
    }

    fn dump(&self, query: &RecoveryQuery) -> RecoveryAnswer {
        if self.blocks.len() > DUMP_BLOCKS_MAX {
            let message = format!("{} blocks are stored, a dump holds at most {DUMP_BLOCKS_MAX}", self.blocks.len());
            return if query.supports_tree_dump_failed {
                RecoveryAnswer::TreeDumpFailed { last_event_id: self.last_event_id, message }
            } else {
                RecoveryAnswer::Error(message)
            };
        }
        let chains = self.chains().into_iter().zip(0..);
        let events = chains.map(|(stored, event_id)| {
            self.of_worker(KvEvent { event_id, data: KvChange::Stored(stored), dp_rank: self.worker.dp_rank })
        });
        RecoveryAnswer::TreeDump {
            events: events.collect(),
            last_event_id: self.last_event_id,
            reset_scope: Some("all".into()),
        }
    }

    /// The stored tree as straight chains, each after the one that it hangs on.
    ///
    /// A block whose parent is gone cannot be part of any hit, and a router could not hang it anywhere: it is left
    /// out until its parent comes back.
    fn chains(&self) -> Vec<StoredBlocks> {
        let mut children: HashMap<Option<BlockHash>, Vec<BlockHash>> = HashMap::new();
        for (&hash, block) in &self.blocks {
            children.entry(block.parent).or_default().push(hash);
        }
        // The map's order is random; a dump should not be.
        children.values_mut().for_each(|siblings| siblings.sort_unstable_by(|a, b| b.cmp(a)));
        let mut chains = Vec::new();
        let mut heads: Vec<(Option<BlockHash>, BlockHash)> = Vec::new();
        heads.extend(children.remove(&None).unwrap_or_default().into_iter().map(|hash| (None, hash)));
        while let Some((parent_hash, head)) = heads.pop() {
            let mut blocks = vec![self.block(head)];
            let mut tail = head;
            // A block is taken out of the map when its children are visited, so even a circle of parents ends.
            while let Some(mut next) = children.remove(&Some(tail)) {
                if next.len() > 1 {
                    heads.extend(next.into_iter().map(|hash| (Some(tail), hash)));
                    break;
                }
                let Some(only) = next.pop() else { break };
                blocks.push(self.block(only));
                tail = only;
            }
            chains.push(StoredBlocks { parent_hash, start_position: None, blocks });
        }
        chains
    }

    fn block(&self, hash: BlockHash) -> StoredBlock {
        let resident = &self.blocks[&hash];
        StoredBlock {
            block_hash: hash,
            tokens_hash: resident.tokens_hash,
            mm_extra_info: resident.mm_extra_info.clone(),
        }
    }

    fn of_worker(&self, event: KvEvent) -> WorkerKvEvent {
        WorkerKvEvent {
            worker_id: self.worker.worker_id,
            storage_tier: StorageTier::Device,
            residency_domain: Some(RESIDENCY.into()),
            event,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::ids::InstanceId;
    use protocol::kv::RemovedBlocks;
    use std::collections::BTreeSet;

    const WORKER: WorkerRank = WorkerRank { worker_id: InstanceId(7), dp_rank: 0 };

    fn stored(parent: Option<u64>, hashes: &[u64]) -> KvChange {
        let block = |&hash: &u64| StoredBlock {
            block_hash: BlockHash(hash),
            tokens_hash: TokensHash(hash + 1000),
            mm_extra_info: None,
        };
        KvChange::Stored(StoredBlocks {
            parent_hash: parent.map(BlockHash),
            start_position: None,
            blocks: hashes.iter().map(block).collect(),
        })
    }

    fn removed(hashes: &[u64]) -> KvChange {
        KvChange::Removed(RemovedBlocks { block_hashes: hashes.iter().copied().map(BlockHash).collect() })
    }

    fn query(start: Option<u64>, end: Option<u64>) -> RecoveryQuery {
        RecoveryQuery {
            worker_id: WORKER.worker_id,
            dp_rank: 0,
            start_event_id: start,
            end_event_id: end,
            supports_tree_dump_failed: true,
            kind: "recovery".into(),
        }
    }

    fn mirror(changes: impl IntoIterator<Item = KvChange>) -> Mirror {
        let mut mirror = Mirror::new(WORKER);
        for change in changes {
            mirror.apply(change);
        }
        mirror
    }

    /// Ids of the events answered, and the cursor.
    fn ids(answer: RecoveryAnswer) -> (Vec<u64>, u64) {
        match answer {
            RecoveryAnswer::Events { events, last_event_id } => {
                (events.iter().map(|e| e.event.event_id).collect(), last_event_id)
            }
            other => panic!("events expected, got {other:?}"),
        }
    }

    /// The blocks that a router would know after applying a dump, and the cursor.
    fn rebuilt(answer: RecoveryAnswer) -> (BTreeSet<u64>, u64) {
        let RecoveryAnswer::TreeDump { events, last_event_id, .. } = answer else {
            panic!("a dump expected, got {answer:?}")
        };
        let mut known = BTreeSet::new();
        for event in events {
            let KvChange::Stored(stored) = event.event.data else { panic!("a dump only stores") };
            if let Some(parent) = stored.parent_hash {
                assert!(known.contains(&parent.0), "the parent {parent:?} comes before its child");
            }
            for block in stored.blocks {
                assert_eq!(block.tokens_hash.0, block.block_hash.0 + 1000);
                assert!(known.insert(block.block_hash.0), "no block twice");
            }
        }
        (known, last_event_id)
    }

    #[test]
    fn an_empty_cache_dumps_nothing_and_its_cursor_is_zero() {
        assert_eq!(rebuilt(mirror([]).answer(&query(None, None))), (BTreeSet::new(), 0));
    }

    #[test]
    fn event_ids_start_at_one_and_go_up_by_one() {
        let mut mirror = Mirror::new(WORKER);
        let ids: Vec<u64> = (0..3).map(|n| mirror.apply(stored(None, &[n])).event.event_id).collect();
        assert_eq!(ids, [1, 2, 3]);
    }

    #[test]
    fn a_dump_holds_what_is_stored_and_the_cursor_of_the_last_event() {
        let mirror = mirror([stored(None, &[1, 2, 3]), stored(Some(2), &[4, 5]), removed(&[3]), stored(None, &[9])]);
        assert_eq!(rebuilt(mirror.answer(&query(None, None))), (BTreeSet::from([1, 2, 4, 5, 9]), 4));
    }

    #[test]
    fn a_cleared_cache_dumps_nothing_but_goes_on_counting() {
        let mirror = mirror([stored(None, &[1, 2]), KvChange::Cleared]);
        assert_eq!(rebuilt(mirror.answer(&query(None, None))), (BTreeSet::new(), 2));
    }

    #[test]
    fn an_orphan_waits_for_its_parent() {
        let mut mirror = mirror([stored(None, &[1, 2, 3]), removed(&[2])]);
        assert_eq!(rebuilt(mirror.answer(&query(None, None))).0, BTreeSet::from([1]));
        mirror.apply(stored(Some(1), &[2]));
        assert_eq!(rebuilt(mirror.answer(&query(None, None))).0, BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn a_hole_inside_the_ring_gets_just_the_hole() {
        let mirror = mirror((0..5).map(|n| stored(None, &[n])));
        assert_eq!(ids(mirror.answer(&query(Some(3), None))), (vec![3, 4, 5], 5));
        assert_eq!(ids(mirror.answer(&query(Some(2), Some(3)))), (vec![2, 3], 5));
        assert_eq!(ids(mirror.answer(&query(Some(0), Some(1)))), (vec![1], 5));
        assert_eq!(ids(mirror.answer(&query(Some(5), None))), (vec![5], 5));
    }

    #[test]
    fn a_start_that_the_ring_has_lost_gets_a_dump() {
        let count = RING_EVENTS as u64 + 10;
        let mirror = mirror((0..count).map(|n| stored(None, &[n])));
        assert_eq!(rebuilt(mirror.answer(&query(Some(10), None))).1, count);
        assert_eq!(ids(mirror.answer(&query(Some(11), None))).0.len(), RING_EVENTS);
    }

    #[test]
    fn impossible_ranges_are_named() {
        let mirror = mirror([stored(None, &[1])]);
        assert_eq!(
            mirror.answer(&query(Some(2), None)),
            RecoveryAnswer::TooNew { requested_start: Some(2), requested_end: None, newest_available: 1 }
        );
        assert_eq!(mirror.answer(&query(Some(5), Some(2))), RecoveryAnswer::InvalidRange { start_id: 5, end_id: 2 });
        let stranger = RecoveryQuery { worker_id: InstanceId(8), ..query(None, None) };
        assert!(matches!(mirror.answer(&stranger), RecoveryAnswer::Error(_)));
    }

    #[test]
    fn a_cache_too_big_for_one_frame_says_so() {
        let all: Vec<u64> = (0..=DUMP_BLOCKS_MAX as u64).collect();
        let mirror = mirror([stored(None, &all)]);
        assert!(matches!(mirror.answer(&query(None, None)), RecoveryAnswer::TreeDumpFailed { last_event_id: 1, .. }));
    }

    proptest! {
        /// Against a naive set of blocks with parents: a dump rebuilds all blocks whose chain to the root is whole.
        #[test]
        fn a_dump_equals_the_naive_tree(steps in prop::collection::vec((0u64..40, prop::option::of(0u64..40), any::<bool>()), 0..200)) {
            let mut mirror = Mirror::new(WORKER);
            let mut naive: HashMap<u64, Option<u64>> = HashMap::new();
            for (block, parent, store) in steps {
                // A parent is always a smaller number: engines have no circles.
                let parent = parent.filter(|&p| p < block);
                if store {
                    naive.insert(block, parent);
                    mirror.apply(stored(parent, &[block]));
                } else {
                    naive.remove(&block);
                    mirror.apply(removed(&[block]));
                }
            }
            let whole = |mut at: u64| loop {
                match naive.get(&at) {
                    None => return false,
                    Some(None) => return true,
                    Some(&Some(parent)) => at = parent,
                }
            };
            let expected: BTreeSet<u64> = naive.keys().copied().filter(|&block| whole(block)).collect();
            prop_assert_eq!(rebuilt(mirror.answer(&query(None, None))).0, expected);
        }
    }
}
