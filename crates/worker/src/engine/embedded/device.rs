//! llama.cpp's context as the engine uses it: a batch of rows, their logits, and cells named by sequence and position.

use super::backend::{backend, with_reason};
use super::config::Limits;
use super::error::EmbeddedError;
use super::prefix::Place;
use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::Path;

/// A sequence id of llama.cpp. Those below `max_num_seqs` run; then come the holders of cached blocks, and one id through
/// which blocks are copied out and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeqId(pub(super) u32);

/// A row of the batch, for its logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row(i32);

/// The cells of one block outside of llama.cpp's KV memory.
pub(super) struct Parked(SeqState);

/// Why a step did not run.
#[derive(Debug)]
pub(super) enum StepError {
    /// The pool has no cells left; nothing was computed.
    NoCells,
    /// llama.cpp failed; the batch's sequences cannot go on.
    Failed(String),
}

/// The context and the batch of one engine. Stays on one thread.
pub(super) struct Device<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    first_holder: u32,
    ferry: u32,
    block_size: u32,
}

impl<'m> Device<'m> {
    /// A context over `model` with `holders` sequence ids beside those that run.
    ///
    /// # Errors
    /// [`EmbeddedError::Context`]: mostly too little memory for the pool.
    pub(super) fn new(
        model: &'m LlamaModel,
        path: &Path,
        limits: &Limits,
        holders: u32,
    ) -> Result<Self, EmbeddedError> {
        let ferry = limits.max_num_seqs + holders;
        let sequences = ferry + 1;
        // llama.cpp aborts the process when a batch could hold fewer rows than there are sequence ids.
        let rows = limits.batch_rows().max(sequences);
        let threads = i32::try_from(limits.threads).unwrap_or(i32::MAX);
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(limits.pool_tokens))
            .with_n_batch(rows)
            // One micro-batch a step: a step then has all of its cells or none.
            .with_n_ubatch(rows)
            .with_n_seq_max(sequences)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            // One pool for all sequences. With the split one, copying a part of a sequence aborts the process.
            .with_kv_unified(true)
            .with_no_perf(true);
        let context = with_reason(|| model.new_context(backend(), params)).map_err(|reason| {
            EmbeddedError::Context { path: path.into(), kv_pool_tokens: limits.pool_tokens, reason }
        })?;
        let batch = LlamaBatch::new(rows as usize, 1);
        Ok(Self { context, batch, first_holder: limits.max_num_seqs, ferry, block_size: limits.block_size })
    }

    /// Cells of the pool.
    pub(super) fn cells(&self) -> u32 {
        self.context.n_ctx()
    }

    /// The sequence that holds the cells at `place`.
    fn holder(&self, place: Place) -> u32 {
        self.first_holder + place.holder
    }

    fn positions(&self, place: Place) -> Range<u32> {
        let start = place.depth * self.block_size;
        start..start + self.block_size
    }

    /// Starts an empty batch.
    pub(super) fn begin(&mut self) {
        self.batch.clear();
    }

    /// Adds a row: `token` at `position` of a sequence, with logits or without.
    pub(super) fn add(&mut self, seq: SeqId, position: u32, token: u32, logits: bool) -> Row {
        let row = self.batch.n_tokens();
        let added = self.batch.add(LlamaToken(token.cast_signed()), position.cast_signed(), &[signed(seq)], logits);
        added.expect("a plan has at most `batch_rows` rows");
        Row(row)
    }

    /// Computes the batch.
    pub(super) fn run(&mut self) -> Result<(), StepError> {
        let Self { context, batch, .. } = self;
        let mut no_cells = false;
        let done = with_reason(|| {
            context.decode(batch).inspect_err(|error| no_cells = matches!(error, DecodeError::NoKvCacheSlot))
        });
        done.map_err(|reason| if no_cells { StepError::NoCells } else { StepError::Failed(reason) })
    }

    /// The logits of a row of the last batch that asked for them.
    pub(super) fn logits(&self, row: Row) -> &[f32] {
        self.context.get_logits_ith(row.0)
    }

    /// Gives sequence `seq` the cached block at `place`; no cell is copied.
    pub(super) fn share(&mut self, place: Place, seq: SeqId) {
        self.copy(self.holder(place), seq.0, self.positions(place));
    }

    /// Gives the holder at `place` the block that `seq` has computed.
    pub(super) fn hold(&mut self, seq: SeqId, place: Place) {
        self.copy(seq.0, self.holder(place), self.positions(place));
    }

    /// Copies the cells at `place` out.
    pub(super) fn save(&mut self, place: Place) -> Parked {
        self.copy(self.holder(place), self.ferry, self.positions(place));
        let state = self.context.state_seq_get(self.ferry.cast_signed(), LlamaStateSeqFlags::empty());
        self.remove(self.ferry, None);
        Parked(state.expect("llama.cpp writes as many bytes as it says"))
    }

    /// Copies the cells of a block back, to `place`. The pool has room for them.
    pub(super) fn restore(&mut self, block: &Parked, place: Place) {
        let restored = self.context.state_seq_set(&block.0, self.ferry.cast_signed());
        restored.expect("the pool counts its free cells");
        self.copy(self.ferry, self.holder(place), self.positions(place));
        self.remove(self.ferry, None);
    }

    /// Drops the cells at `place`. A cell is free once no sequence has it.
    pub(super) fn evict(&mut self, place: Place) {
        self.remove(self.holder(place), Some(self.positions(place)));
    }

    /// Swaps the block that `seq` has computed for the same block at `place`, which frees its own cells.
    pub(super) fn swap_for_shared(&mut self, seq: SeqId, place: Place) {
        self.remove(seq.0, Some(self.positions(place)));
        self.share(place, seq);
    }

    /// Drops the cells of a sequence from `position` on.
    pub(super) fn forget_from(&mut self, seq: SeqId, position: u32) {
        self.remove(seq.0, Some(position..i32::MAX.cast_unsigned()));
    }

    /// Drops all cells of a sequence.
    pub(super) fn forget(&mut self, seq: SeqId) {
        self.remove(seq.0, None);
    }

    /// Drops every cell.
    pub(super) fn clear(&mut self) {
        self.context.clear_kv_cache();
    }

    fn copy(&mut self, from: u32, to: u32, positions: Range<u32>) {
        let copied = self.context.copy_kv_cache_seq(
            from.cast_signed(),
            to.cast_signed(),
            Some(positions.start),
            Some(positions.end),
        );
        copied.expect("positions are below the context length");
    }

    fn remove(&mut self, seq: u32, positions: Option<Range<u32>>) {
        let (start, end) = positions.map_or((None, None), |range| (Some(range.start), Some(range.end)));
        let removed = self.context.clear_kv_cache_seq(Some(seq), start, end);
        // Only recurrent models refuse to drop a part of a sequence, and they have no prefix cache.
        assert!(removed.is_ok_and(|done| done), "cells of an attention model can always be dropped");
    }
}

fn signed(seq: SeqId) -> i32 {
    seq.0.cast_signed()
}
