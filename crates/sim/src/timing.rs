//! How long a step takes, by what is in it.

use std::time::Duration;

/// What a step computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Prompt tokens computed.
    pub prefill_tokens: usize,
    /// Sequences that prefill.
    pub prefill_sequences: usize,
    /// Sequences that decode one token each.
    pub decode_sequences: usize,
    /// Tokens of context over all decoding sequences: what attention reads.
    pub decode_context_tokens: usize,
}

/// A timing model. The real ones (by measured engines) come beside this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    /// No time at all: as fast as the machine can.
    #[default]
    Instant,
    /// Every step takes this long, whatever is in it.
    PerStep(Duration),
}

impl Timing {
    /// How long a step of this shape takes.
    pub fn step(self, shape: &StepShape) -> Duration {
        match self {
            Self::PerStep(interval) if shape.prefill_tokens + shape.decode_sequences > 0 => interval,
            Self::Instant | Self::PerStep(_) => Duration::ZERO,
        }
    }
}
