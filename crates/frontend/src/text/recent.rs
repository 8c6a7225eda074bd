//! Tokens of texts, as many as fit into a bound of bytes; the least recently used go first.

use std::collections::HashMap;
use std::sync::Arc;

/// What an entry takes beside its tokens: key and slot, the place in the map, and the head of its allocation, each with
/// the slack that growing by doubling leaves.
const ENTRY_BYTES: usize = 192;
/// The largest share of the bound that one entry may take: one long text must not drive out everything else.
const ENTRY_SHARE_MAX: usize = 8;
/// No slot.
const NONE: u32 = u32::MAX;

/// Hash of a text. 256 bits of BLAKE3: no two texts of the same hash are known or can be made, so none is compared.
pub(crate) type Key = [u8; 32];

/// The entries, in a list from the newest to the oldest. Every operation takes constant time.
#[derive(Debug)]
pub(crate) struct Recent {
    bytes_max: usize,
    bytes: usize,
    by_key: HashMap<Key, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    tokens: Arc<[u32]>,
    newer: u32,
    older: u32,
}

impl Recent {
    /// Empty; never over so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let (by_key, slots, free) = (HashMap::new(), Vec::new(), Vec::new());
        Self { bytes_max, bytes: 0, by_key, slots, free, newest: NONE, oldest: NONE }
    }

    /// The tokens of a text, which is the newest from now on.
    pub(crate) fn get(&mut self, key: &Key) -> Option<Arc<[u32]>> {
        let at = *self.by_key.get(key)?;
        self.unlink(at);
        self.link_newest(at);
        Some(self.slots[at as usize].tokens.clone())
    }

    /// Keeps the tokens of a text, in place of the oldest where there is no room. Not if they are too many.
    pub(crate) fn put(&mut self, key: Key, tokens: Arc<[u32]>) {
        let bytes = bytes_of(&tokens);
        if bytes > self.bytes_max / ENTRY_SHARE_MAX || self.by_key.contains_key(&key) {
            return;
        }
        while self.bytes + bytes > self.bytes_max {
            self.drop_oldest();
        }
        self.bytes += bytes;
        let slot = Slot { key, tokens, newer: NONE, older: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                // `bytes_max` would have to be over 800 GB.
                u32::try_from(self.slots.len() - 1).expect("fewer entries than 2^32")
            }
        };
        self.by_key.insert(key, at);
        self.link_newest(at);
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn drop_oldest(&mut self) {
        let at = self.oldest;
        self.unlink(at);
        let slot = &mut self.slots[at as usize];
        self.bytes -= bytes_of(&slot.tokens);
        slot.tokens = Arc::default();
        self.by_key.remove(&slot.key);
        self.free.push(at);
    }

    fn unlink(&mut self, at: u32) {
        let Slot { newer, older, .. } = self.slots[at as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let older = std::mem::replace(&mut self.newest, at);
        let slot = &mut self.slots[at as usize];
        (slot.newer, slot.older) = (NONE, older);
        match older {
            NONE => self.oldest = at,
            older => self.slots[older as usize].newer = at,
        }
    }
}

fn bytes_of(tokens: &[u32]) -> usize {
    ENTRY_BYTES + size_of_val(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8) -> Key {
        [name; 32]
    }

    /// Room for so many entries of two tokens.
    fn room_for(entries: usize) -> Recent {
        Recent::new(entries * (ENTRY_BYTES + 8))
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut recent = room_for(8);
        for name in 0..8 {
            recent.put(key(name), [u32::from(name); 2].into());
        }
        assert!(recent.get(&key(0)).is_some() && recent.get(&key(3)).is_some());
        for name in 8..11 {
            recent.put(key(name), [0; 2].into());
        }
        let kept: Vec<u8> = (0..11).filter(|&name| recent.by_key.contains_key(&key(name))).collect();
        assert_eq!(kept, [0, 3, 5, 6, 7, 8, 9, 10], "1, 2 and 4 were the oldest");
        assert_eq!(recent.get(&key(3)).as_deref(), Some([3, 3].as_slice()));
    }

    #[test]
    fn it_is_never_over_its_bound_and_lets_everything_go_in_the_order_of_use() {
        let mut recent = room_for(20);
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (name, tokens) = ((state >> 33) as u8 % 64, (state >> 45) as usize % 30);
            match recent.get(&key(name)) {
                Some(found) => assert!(found.iter().all(|&token| token == u32::from(name))),
                None => recent.put(key(name), vec![u32::from(name); tokens].into()),
            }
            assert!(recent.bytes() <= recent.bytes_max);
        }
        let held: usize = recent.by_key.values().map(|&at| bytes_of(&recent.slots[at as usize].tokens)).sum();
        assert_eq!(recent.bytes(), held);
        assert!(recent.slots.len() <= 21, "slots are used again: {}", recent.slots.len());
        while !recent.by_key.is_empty() {
            recent.drop_oldest();
        }
        assert_eq!((recent.bytes(), recent.newest, recent.oldest), (0, NONE, NONE));
    }

    #[test]
    fn a_text_too_long_for_its_share_is_not_kept() {
        let mut recent = room_for(8);
        recent.put(key(1), [7; 2].into());
        recent.put(key(2), vec![7; 3].into());
        assert!(recent.get(&key(1)).is_some() && recent.get(&key(2)).is_none());
        let mut none = Recent::new(0);
        none.put(key(1), [7; 2].into());
        assert_eq!((none.get(&key(1)), none.bytes()), (None, 0));
    }
}
