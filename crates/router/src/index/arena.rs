//! Blocks by small stable ids, so that tables hold 4 bytes where a pointer would take 8 and splitting a run moves no
//! table entry.

/// Id of a block.
pub(super) type BlockId = u32;
/// Id of a run of blocks.
pub(super) type RunId = u32;
/// No run, no block; as a run's parent: the root.
pub(super) const NONE: u32 = u32::MAX;

/// Blocks per allocation: growth costs no copy and at most 64 KiB of slack.
const CHUNK_BLOCKS: usize = 4096;
/// Flag in [`Block::depth`]: no name of this block is in the shared table.
const UNNAMED: u32 = 1 << 31;

/// One block of one prefix: 16 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// The engines' name for it, if [`Block::is_named`].
    name: u64,
    /// The run that it is in; [`NONE`] when free.
    pub(super) run: RunId,
    /// Blocks before it, and the flag.
    depth: u32,
}

impl Block {
    /// Blocks between the root and this one.
    pub(super) fn depth(self) -> u32 {
        self.depth & !UNNAMED
    }

    /// The name under which the shared table finds it.
    pub(super) fn name(self) -> Option<u64> {
        (self.depth & UNNAMED == 0).then_some(self.name)
    }
}

/// All blocks.
#[derive(Debug, Default)]
pub(super) struct Arena {
    chunks: Vec<Vec<Block>>,
    free: Vec<BlockId>,
    live: usize,
}

impl Arena {
    /// A new block without a name.
    pub(super) fn add(&mut self, run: RunId, depth: u32) -> BlockId {
        self.live += 1;
        let block = Block { name: 0, run, depth: depth | UNNAMED };
        if let Some(id) = self.free.pop() {
            *self.get_mut(id) = block;
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_BLOCKS) {
            self.chunks.push(Vec::with_capacity(CHUNK_BLOCKS));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        chunk.push(block);
        u32::try_from(last * CHUNK_BLOCKS + chunk.len() - 1).expect("the byte cap keeps blocks far below 2^32")
    }

    pub(super) fn release(&mut self, id: BlockId) {
        self.get_mut(id).run = NONE;
        self.free.push(id);
        self.live -= 1;
    }

    pub(super) fn is_free(&self, id: BlockId) -> bool {
        self.get(id).run == NONE
    }

    pub(super) fn get(&self, id: BlockId) -> Block {
        self.chunks[id as usize / CHUNK_BLOCKS][id as usize % CHUNK_BLOCKS]
    }

    pub(super) fn move_to(&mut self, id: BlockId, run: RunId) {
        self.get_mut(id).run = run;
    }

    pub(super) fn set_name(&mut self, id: BlockId, name: u64) {
        let block = self.get_mut(id);
        block.name = name;
        block.depth &= !UNNAMED;
    }

    /// Blocks in use.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    fn get_mut(&mut self, id: BlockId) -> &mut Block {
        &mut self.chunks[id as usize / CHUNK_BLOCKS][id as usize % CHUNK_BLOCKS]
    }
}
