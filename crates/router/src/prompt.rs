//! A prompt as the router sees it: hashes, made once per request.

use protocol::kv::{BlockHash, TokensHash, block_hashes};
use protocol::space::{Space, tokens_hashes_seeded};

/// Hashes of a prompt's full blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Tokens per block.
    pub block_size: u32,
    /// One per full block, in the request's space.
    pub tokens_hashes: Vec<TokensHash>,
    /// Rolling hashes of the same blocks.
    pub block_hashes: Vec<BlockHash>,
}

impl Prompt {
    /// Hashes `tokens` in blocks of `block_size`; a `block_size` of 0 gives no blocks.
    pub fn new(tokens: &[u32], block_size: u32, space: &Space) -> Self {
        Self::of_hashes(tokens.len(), block_size, Self::hash_tokens(tokens, block_size, space))
    }

    /// The first half of [`Prompt::new`]: one hash per full block, in the request's space. Most of the cost.
    pub fn hash_tokens(tokens: &[u32], block_size: u32, space: &Space) -> Vec<TokensHash> {
        let size = block_size as usize;
        if size == 0 { Vec::new() } else { tokens_hashes_seeded(tokens, size, space.seed()) }
    }

    /// The second half: the rolling hashes of `tokens_hashes`, the blocks of a prompt of so many tokens.
    pub fn of_hashes(tokens: usize, block_size: u32, tokens_hashes: Vec<TokensHash>) -> Self {
        let block_hashes = block_hashes(&tokens_hashes);
        Self { tokens, block_size, tokens_hashes, block_hashes }
    }

    /// Blocks that the prompt takes, the last one perhaps not full.
    pub fn blocks(&self) -> usize {
        self.tokens.div_ceil(self.block_size.max(1) as usize)
    }

    /// Blocks of the prompt that may be reused: the last token is always computed anew, so a prompt that is cached
    /// to its very end reuses one block less.
    pub fn reusable_blocks(&self) -> usize {
        self.tokens.saturating_sub(1) / self.block_size.max(1) as usize
    }
}
