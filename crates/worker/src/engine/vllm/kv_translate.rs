//! vLLM's KV events as changes in our words. Pure.
//!
//! A block keeps vLLM's name for it, whatever hash algorithm vLLM runs; what routers match on, the tokens hash, is
//! computed here by our rule. Blocks that our rule cannot name (multimodal items, an adapter without a name, another
//! memory or attention kind than the one that prefix hits need) are left out: a router may miss such a hit, it never
//! counts on one that is not there.

use super::kv_events::{Batch, Event, Stored};
use protocol::kv::{BlockHash, KvChange, RemovedBlocks, StoredBlock, StoredBlocks};
use protocol::space::{Space, tokens_hashes_seeded};
use std::collections::HashMap;

/// The blocks that vLLM has told of, and how it names them.
pub(crate) struct Translator {
    block_size: usize,
    /// The first group seen; the other groups of a hybrid model say the same of other layers.
    group: Option<u64>,
    next_seq: Option<u64>,
    blocks: HashMap<BlockHash, Known>,
}

/// A block that is stored at least once.
struct Known {
    /// vLLM may hold one block twice (two requests computed it side by side); it is gone when both are.
    copies: u32,
    /// Seed of the chain's tokens hashes: only a chain's first block tells its salt.
    seed: u64,
}

/// Where a message belongs among those that were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It comes next, or it is the first at all.
    Next,
    /// It was applied already.
    Known,
    /// Those from this number on are missing before it.
    After(u64),
}

impl Translator {
    /// Nothing known yet, of a server with blocks of `block_size` tokens.
    pub(crate) fn new(block_size: usize) -> Self {
        Self { block_size, group: None, next_seq: None, blocks: HashMap::new() }
    }

    /// Distinct blocks that are stored.
    pub(crate) fn stored_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Where the message with this number belongs.
    pub(crate) fn place(&self, seq: u64) -> Place {
        match self.next_seq {
            Some(next) if seq < next => Place::Known,
            Some(next) if seq > next => Place::After(next),
            _ => Place::Next,
        }
    }

    /// Forgets all: the next message may have any number.
    pub(crate) fn forget(&mut self) -> Vec<KvChange> {
        let mut changes = Vec::new();
        if self.next_seq.take().is_some() {
            self.clear(&mut changes);
        }
        changes
    }

    /// The changes of one message. A hole in `seq` (messages lost for good) makes all that was known doubtful: it is
    /// cleared, and what is stored from here on is told again.
    pub(crate) fn changes(&mut self, seq: u64, batch: Batch) -> Vec<KvChange> {
        let mut changes = Vec::new();
        if self.next_seq.is_some_and(|expected| expected != seq) {
            tracing::warn!(
                expected = self.next_seq,
                got = seq,
                "KV events of vLLM were lost; its cache counts as empty"
            );
            self.clear(&mut changes);
        }
        self.next_seq = Some(seq.wrapping_add(1));
        for event in batch.events {
            match event {
                Event::Stored(stored) => changes.extend(self.store(&stored)),
                Event::Removed { hashes, medium, group } => {
                    if on_device(medium.as_deref()) && self.group.is_none_or(|ours| ours == group) {
                        changes.extend(self.remove(hashes));
                    }
                }
                Event::Cleared => self.clear(&mut changes),
                Event::Unknown(kind) => tracing::debug!(kind, "a KV event of a kind that we do not know was skipped"),
            }
        }
        changes
    }

    fn clear(&mut self, changes: &mut Vec<KvChange>) {
        self.blocks.clear();
        changes.push(KvChange::Cleared);
    }

    fn store(&mut self, stored: &Stored) -> Option<KvChange> {
        if !on_device(stored.medium.as_deref())
            || stored.spec_kind.as_deref().is_some_and(|kind| kind != "full_attention")
            || *self.group.get_or_insert(stored.group) != stored.group
            || stored.block_size != self.block_size
        {
            return None;
        }
        let seed = self.seed(stored)?;
        // A later block with an extra of its own (an image, say) ends what the tokens alone can name.
        let plain = (0..stored.hashes.len()).take_while(|&at| at == 0 || extras(stored, at).next().is_none()).count();
        let hashes = tokens_hashes_seeded(&stored.token_ids, self.block_size, seed);
        let mut news = false;
        let mut blocks = Vec::with_capacity(plain);
        for (&block_hash, tokens_hash) in stored.hashes.iter().zip(hashes).take(plain) {
            let known = self.blocks.entry(block_hash).or_insert(Known { copies: 0, seed });
            known.copies += 1;
            news |= known.copies == 1;
            blocks.push(StoredBlock { block_hash, tokens_hash, mm_extra_info: None });
        }
        let change = StoredBlocks { parent_hash: stored.parent, start_position: None, blocks };
        news.then_some(KvChange::Stored(change))
    }

    /// The seed of the event's blocks; `None` when they cannot be named by tokens, adapter and salt.
    fn seed(&self, stored: &Stored) -> Option<u64> {
        if let Some(parent) = stored.parent {
            // A parent that we never heard of hangs in the air, and so would its children.
            let seed = self.blocks.get(&parent)?.seed;
            return extras(stored, 0).next().is_none().then_some(seed);
        }
        if stored.lora_id.is_some() && stored.lora_name.is_none() {
            return None;
        }
        let mut extras = extras(stored, 0);
        let salt = match (extras.next(), extras.next()) {
            (None, _) => None,
            (Some(value), None) => Some(value.as_str()?.to_owned()),
            _ => return None,
        };
        Some(Space { lora: stored.lora_name.clone(), salt }.seed())
    }

    fn remove(&mut self, hashes: Vec<BlockHash>) -> Option<KvChange> {
        let gone = |hash: &BlockHash| {
            let Some(known) = self.blocks.get_mut(hash) else { return false };
            known.copies -= 1;
            if known.copies == 0 {
                self.blocks.remove(hash);
                return true;
            }
            false
        };
        let block_hashes: Vec<BlockHash> = hashes.into_iter().filter(gone).collect();
        (!block_hashes.is_empty()).then_some(KvChange::Removed(RemovedBlocks { block_hashes }))
    }
}

/// What distinguishes block `at` beside its tokens and its adapter.
fn extras(stored: &Stored, at: usize) -> impl Iterator<Item = &rmpv::Value> {
    let keys = stored.extra_keys.get(at).map(Vec::as_slice).unwrap_or_default();
    // The adapter's name comes first and is told by `lora_name` too.
    let adapter = stored.lora_name.as_deref();
    let skip = usize::from(adapter.is_some() && keys.first().and_then(rmpv::Value::as_str) == adapter);
    keys.iter().skip(skip)
}

fn on_device(medium: Option<&str>) -> bool {
    medium.is_none_or(|medium| medium == "GPU")
}

#[cfg(test)]
mod tests {
    use super::super::kv_events::{self, tests::recording};
    use super::*;
    use std::collections::BTreeMap;

    fn stored(parent: Option<u64>, hashes: &[u64], extra: &[&[&str]]) -> Stored {
        let keys = |block: &&[&str]| block.iter().map(|&key| key.into()).collect();
        Stored {
            hashes: hashes.iter().copied().map(BlockHash).collect(),
            parent: parent.map(BlockHash),
            token_ids: (0..hashes.len() as u32 * 2).collect(),
            block_size: 2,
            extra_keys: extra.iter().map(keys).collect(),
            ..Stored::default()
        }
    }

    fn removed(hash: u64) -> Event {
        Event::Removed { hashes: vec![BlockHash(hash)], medium: None, group: 0 }
    }

    /// Applies single-event messages; gives the names of what each change stored or removed.
    fn run(translator: &mut Translator, events: Vec<Event>) -> Vec<String> {
        let mut told = Vec::new();
        for event in events {
            let seq = translator.next_seq.unwrap_or(0);
            let changes = translator.changes(seq, Batch { events: vec![event], dp_rank: None });
            told.extend(changes.iter().map(name));
        }
        told
    }

    fn name(change: &KvChange) -> String {
        match change {
            KvChange::Stored(s) => format!("+{:?}", s.blocks.iter().map(|b| b.block_hash.0).collect::<Vec<_>>()),
            KvChange::Removed(r) => format!("-{:?}", r.block_hashes.iter().map(|h| h.0).collect::<Vec<_>>()),
            KvChange::Cleared => "cleared".into(),
        }
    }

    #[test]
    fn a_recording_replays_to_the_blocks_that_vllm_holds_at_its_end() {
        for (name, expected) in [("qwen3-tiny-sha256_cbor", 2), ("qwen3-tiny-sha256-evict-lora", 2)] {
            let mut translator = Translator::new(32);
            let mut held: BTreeMap<u64, u64> = BTreeMap::new();
            for (seq, frames) in (0..).zip(recording(name)) {
                for change in translator.changes(seq, kv_events::decode(&frames[2]).unwrap()) {
                    match change {
                        KvChange::Stored(stored) => {
                            held.extend(stored.blocks.iter().map(|b| (b.block_hash.0, b.tokens_hash.0)));
                        }
                        KvChange::Removed(removed) => removed.block_hashes.iter().for_each(|hash| {
                            assert!(held.remove(&hash.0).is_some(), "{name}: {hash:?} was not stored");
                        }),
                        KvChange::Cleared => held.clear(),
                    }
                }
                assert_eq!(held.len(), translator.stored_blocks());
            }
            assert_eq!(held.len(), expected, "{name}");
        }
    }

    #[test]
    fn salt_and_adapter_change_the_tokens_hash_of_the_whole_chain() {
        let hashes = |lora: Option<&str>, extra: &[&[&str]]| {
            let mut translator = Translator::new(2);
            let first = Stored { lora_name: lora.map(Into::into), ..stored(None, &[1], extra) };
            let then = Stored { lora_name: lora.map(Into::into), ..stored(Some(1), &[2], &[]) };
            let batch = Batch { events: vec![Event::Stored(first), Event::Stored(then)], dp_rank: None };
            let of = |change: &KvChange| match change {
                KvChange::Stored(stored) => stored.blocks[0].tokens_hash,
                other => panic!("{other:?}"),
            };
            translator.changes(0, batch).iter().map(of).collect::<Vec<_>>()
        };
        let expected = |lora: Option<&str>, salt: Option<&str>| {
            let space = Space { lora: lora.map(Into::into), salt: salt.map(Into::into) };
            let one = tokens_hashes_seeded(&[0, 1], 2, space.seed())[0];
            vec![one, one]
        };
        assert_eq!(hashes(None, &[]), expected(None, None));
        assert_eq!(hashes(None, &[&["tenant-1"]]), expected(None, Some("tenant-1")));
        assert_eq!(hashes(Some("l"), &[&["l"]]), expected(Some("l"), None));
        assert_eq!(hashes(Some("l"), &[&["l", "tenant-1"]]), expected(Some("l"), Some("tenant-1")));
        assert_ne!(expected(None, None), expected(None, Some("tenant-1")));
    }

    #[test]
    fn a_block_held_twice_is_gone_when_both_copies_are() {
        let mut translator = Translator::new(2);
        let twice =
            vec![Event::Stored(stored(None, &[1, 2], &[])), Event::Stored(stored(None, &[1, 2], &[])), removed(2)];
        assert_eq!(run(&mut translator, twice), ["+[1, 2]"]);
        assert_eq!(run(&mut translator, vec![removed(2)]), ["-[2]"]);
        assert!(run(&mut translator, vec![removed(2)]).is_empty(), "gone already");
    }

    #[test]
    fn what_tokens_cannot_name_is_left_out_with_its_children() {
        let mut translator = Translator::new(2);
        let events = vec![
            Event::Stored(stored(None, &[1], &[&["image", "salt"]])),
            Event::Stored(stored(Some(1), &[2], &[])),
            Event::Stored(stored(None, &[3, 4, 5], &[&[], &["image"], &[]])),
            Event::Stored(Stored { lora_id: Some(1), ..stored(None, &[6], &[]) }),
            Event::Stored(Stored { medium: Some("CPU".into()), ..stored(None, &[7], &[]) }),
            Event::Stored(Stored { spec_kind: Some("sliding_window".into()), ..stored(None, &[8], &[]) }),
            Event::Stored(Stored { block_size: 4, ..stored(None, &[9], &[]) }),
            Event::Stored(Stored { group: 1, ..stored(None, &[10], &[]) }),
        ];
        assert_eq!(run(&mut translator, events), ["+[3]"]);
    }

    #[test]
    fn a_hole_in_the_sequence_empties_the_cache() {
        let mut translator = Translator::new(2);
        run(&mut translator, vec![Event::Stored(stored(None, &[1], &[]))]);
        let late = Batch { events: vec![Event::Stored(stored(None, &[2], &[]))], dp_rank: None };
        let told: Vec<String> = translator.changes(5, late).iter().map(name).collect();
        assert_eq!(told, ["cleared", "+[2]"]);
        assert_eq!(translator.stored_blocks(), 1);
        let on = Batch { events: vec![removed(2)], dp_rank: None };
        assert_eq!(translator.changes(6, on).iter().map(name).collect::<Vec<_>>(), ["-[2]"]);
    }

    #[test]
    fn a_message_has_its_place_and_after_forgetting_any_may_come() {
        let mut translator = Translator::new(2);
        assert_eq!((translator.place(7), translator.forget().len()), (Place::Next, 0));
        translator.changes(7, Batch { events: Vec::new(), dp_rank: None });
        let places = [6, 7, 8, 9].map(|seq| translator.place(seq));
        assert_eq!(places, [Place::Known, Place::Known, Place::Next, Place::After(8)]);
        assert_eq!(translator.forget().iter().map(name).collect::<Vec<_>>(), ["cleared"]);
        assert_eq!(translator.place(0), Place::Next);
    }
}
