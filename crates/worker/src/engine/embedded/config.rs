//! Settings of the embedded engine: what may be asked for, and what it becomes once the model is known.

use super::error::EmbeddedError;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Sequences at once, unless told. Throughput stops growing at 8 on two cores.
pub const DEFAULT_MAX_NUM_SEQS: u32 = 8;

/// Tokens of KV pool for each sequence that may run, unless told: 8 × 1,024 tokens are 8,192 tokens, 180 MiB for
/// SmolLM2-135M, and as much again at most for what is cached but not in use.
pub const DEFAULT_POOL_TOKENS_PER_SEQ: u32 = 1024;

/// Tokens of one step when nothing decodes. A step is how long a cancellation or a new request may wait: half a second
/// for SmolLM2-135M on two cores.
pub const DEFAULT_MAX_NUM_BATCHED_TOKENS: u32 = 256;

/// Prompt tokens of one step while other sequences decode: bounds the gap between two of their tokens.
pub const DEFAULT_PREFILL_CHUNK: u32 = 48;

/// Tokens of one KV block, unless told.
pub const DEFAULT_BLOCK_SIZE: u32 = 16;

/// Requests that may wait for a place. Beyond, a request is refused at once, so that a router can try another worker.
pub const DEFAULT_MAX_WAITING: u32 = 256;

/// Most sequences at once: llama.cpp has 256 ids in one context, and each running sequence needs a second one that holds
/// its cached blocks.
const MAX_NUM_SEQS: u32 = 120;

/// What the embedded engine is asked to be. `None` takes the default.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// The GGUF file.
    pub model: PathBuf,
    /// Most tokens of prompt and answer together; the least of this, the model's own and the pool counts.
    pub context_length: Option<u32>,
    /// Tokens of KV cache over all sequences, cached blocks included; rounded up to 256.
    pub kv_pool_tokens: Option<u32>,
    /// Sequences that run at once, 1 to 120.
    pub max_num_seqs: Option<u32>,
    /// Tokens of one step while nothing decodes.
    pub max_num_batched_tokens: Option<u32>,
    /// Prompt tokens of one step while something decodes.
    pub prefill_chunk: Option<u32>,
    /// Tokens of one KV block.
    pub block_size: Option<u32>,
    /// Requests that may wait for a place.
    pub max_waiting: Option<u32>,
    /// Threads of ggml; see [`threads_for`]. `None`: every core that this process may use.
    pub threads: Option<NonZeroU32>,
    /// Layers on the GPU; needs feature `cuda` or `vulkan`. `None` or 0: all on the CPU.
    pub n_gpu_layers: Option<u32>,
}

impl EmbeddedConfig {
    /// Every default for the GGUF file `model`.
    pub fn of(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            context_length: None,
            kv_pool_tokens: None,
            max_num_seqs: None,
            max_num_batched_tokens: None,
            prefill_chunk: None,
            block_size: None,
            max_waiting: None,
            threads: None,
            n_gpu_layers: None,
        }
    }
}

/// Threads for each of `workers` engines that share `cores` cores: an equal share, at least one.
///
/// ggml's threads meet at a barrier several hundred times a step and spin there, so a thread without a core of its own
/// stalls all others: with three busy neighbours a batch of 16 fell from 170 to 30 tokens/s.
pub fn threads_for(cores: u32, workers: u32) -> NonZeroU32 {
    NonZeroU32::new(cores / workers.max(1)).unwrap_or(NonZeroU32::MIN)
}

/// Limits that hold: every one checked against the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Tokens of a sequence.
    pub(super) context_length: u32,
    /// Cells of the KV pool.
    pub(super) pool_tokens: u32,
    /// Sequences at once.
    pub(super) max_num_seqs: u32,
    /// Tokens of one step while nothing decodes.
    pub(super) max_num_batched_tokens: u32,
    /// Prompt tokens of one step while something decodes.
    pub(super) prefill_chunk: u32,
    /// Tokens of one block.
    pub(super) block_size: u32,
    /// Requests that may wait.
    pub(super) max_waiting: u32,
    /// Threads of ggml.
    pub(super) threads: u32,
    /// Layers on the GPU.
    pub(super) n_gpu_layers: u32,
}

impl Limits {
    /// The limits that `config` asks for, before the model is known: `context_length` is the wish or `u32::MAX`.
    ///
    /// # Errors
    /// [`EmbeddedError::Setting`] names the first setting that cannot be.
    pub(super) fn of(config: &EmbeddedConfig) -> Result<Self, EmbeddedError> {
        let max_num_seqs = config.max_num_seqs.unwrap_or(DEFAULT_MAX_NUM_SEQS);
        in_range("max_num_seqs", max_num_seqs, 1, MAX_NUM_SEQS, "it must be 1 to 120")?;
        let block_size = config.block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
        in_range("block_size", block_size, 1, 1024, "it must be 1 to 1024")?;
        let wish = config.kv_pool_tokens.unwrap_or(max_num_seqs * DEFAULT_POOL_TOKENS_PER_SEQ);
        in_range("kv_pool_tokens", wish, 1, 1 << 24, "it must be 1 to 16777216")?;
        let step = config.max_num_batched_tokens.unwrap_or(DEFAULT_MAX_NUM_BATCHED_TOKENS);
        in_range("max_num_batched_tokens", step, 1, 8192, "it must be 1 to 8192")?;
        let chunk = config.prefill_chunk.unwrap_or(DEFAULT_PREFILL_CHUNK).min(step);
        in_range("prefill_chunk", chunk, 1, step, "it must be over 0")?;
        let max_waiting = config.max_waiting.unwrap_or(DEFAULT_MAX_WAITING);
        in_range("max_waiting", max_waiting, 1, 65_536, "it must be 1 to 65536")?;
        let context_length = config.context_length.unwrap_or(u32::MAX);
        in_range("context_length", context_length, 2, u32::MAX, "it must be at least 2")?;
        Ok(Self {
            context_length,
            // llama.cpp rounds up to 256 itself; doing it here keeps our count of cells equal to its own.
            pool_tokens: wish.next_multiple_of(256),
            max_num_seqs,
            max_num_batched_tokens: step,
            prefill_chunk: chunk,
            block_size,
            max_waiting,
            threads: config.threads.map_or_else(cores, NonZeroU32::get),
            n_gpu_layers: config.n_gpu_layers.unwrap_or(0),
        })
    }

    /// The same limits for a model that was trained on `trained_context` tokens and a pool of `pool_tokens` cells.
    pub(super) fn with_model(self, trained_context: u32, pool_tokens: u32) -> Self {
        let context_length = self.context_length.min(trained_context).min(pool_tokens);
        Self { context_length, pool_tokens, ..self }
    }

    /// Most rows of one batch: a full prefill step, or every sequence decoding beside a chunk.
    pub(super) fn batch_rows(&self) -> u32 {
        self.max_num_batched_tokens.max(self.max_num_seqs + self.prefill_chunk)
    }
}

fn in_range(field: &'static str, value: u32, least: u32, most: u32, rule: &'static str) -> Result<(), EmbeddedError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(EmbeddedError::Setting { field, value: u64::from(value), rule })
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: impl FnOnce(&mut EmbeddedConfig)) -> Result<Limits, String> {
        let mut config = EmbeddedConfig::of("m.gguf");
        change(&mut config);
        Limits::of(&config).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_hold_eight_sequences_and_a_context_within_the_pool() {
        let limits = limits(|_| ()).unwrap();
        assert_eq!((limits.max_num_seqs, limits.pool_tokens, limits.block_size), (8, 8192, 16));
        assert_eq!(limits.with_model(131_072, 8192).context_length, 8192);
        assert_eq!(limits.with_model(2048, 8192).context_length, 2048);
    }

    #[test]
    fn a_setting_that_cannot_be_is_named_with_its_rule() {
        assert_eq!(limits(|c| c.block_size = Some(0)).unwrap_err(), "block_size is 0, but it must be 1 to 1024");
        assert!(limits(|c| c.max_num_seqs = Some(200)).unwrap_err().starts_with("max_num_seqs is 200"));
        assert!(limits(|c| c.context_length = Some(1)).unwrap_err().starts_with("context_length is 1"));
    }

    #[test]
    fn two_workers_on_two_cores_get_one_thread_each_and_nobody_gets_none() {
        let shares = [(2, 1), (2, 2), (2, 3), (16, 2), (1, 1)].map(|(c, w)| threads_for(c, w).get());
        assert_eq!(shares, [2, 1, 1, 8, 1]);
    }
}
