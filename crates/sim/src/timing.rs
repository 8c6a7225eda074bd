//! How long a step takes, by what is in it.

use crate::cost::{Cost, decode_ms_min};
use crate::spread::Spread;
use std::time::Duration;

/// What a step computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Prompt tokens computed; tokens that a preempted sequence computes again are among them.
    pub prefill_tokens: usize,
    /// Tokens of the same sequences that stand before these: cached, or computed in earlier steps.
    pub prefill_context_tokens: usize,
    /// Whole lengths of the sequences that prefill, in tokens.
    pub prefill_lengths: Spread,
    /// Contexts of the sequences that decode one token each, in tokens: what attention reads.
    pub decode_contexts: Spread,
    /// Tokens that the whole pool has room for.
    pub kv_tokens_max: usize,
}

impl StepShape {
    /// Tokens computed: the prompts' and one of each decoding sequence.
    pub fn computed_tokens(&self) -> usize {
        self.prefill_tokens + self.decode_contexts.count()
    }
}

/// How much faster than the modelled engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speedup {
    /// Of every step; above 0.
    pub all: f64,
    /// Of what decodes, on top: speculative decoding raises it alone; above 0.
    pub decode: f64,
}

impl Default for Speedup {
    fn default() -> Self {
        Self { all: 1.0, decode: 1.0 }
    }
}

/// A timing model.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Timing {
    /// No time at all: as fast as the machine can.
    #[default]
    Instant,
    /// Every step takes this long, whatever is in it.
    PerStep(Duration),
    /// As long as an engine would take: the time of its prompts and then of its decoding sequences.
    Modelled(Cost, Speedup),
}

impl Timing {
    /// How long a step of this shape takes; nothing, when nothing is in it.
    pub fn step(&self, shape: &StepShape) -> Duration {
        match self {
            Self::PerStep(interval) if shape.computed_tokens() > 0 => *interval,
            Self::Instant | Self::PerStep(_) => Duration::ZERO,
            Self::Modelled(cost, speedup) => {
                let prefill = if shape.prefill_tokens > 0 { cost.prefill_ms(shape).max(0.0) } else { 0.0 };
                let decodes = shape.decode_contexts.count() > 0;
                let decode = if decodes { decode_ms_min(cost.decode_ms(shape)) } else { 0.0 };
                let milliseconds = (prefill + decode / speedup.decode) / speedup.all;
                Duration::try_from_secs_f64(milliseconds / 1e3).unwrap_or(STEP_MAX).min(STEP_MAX)
            }
        }
    }
}

/// A step that would take longer has a model or a ratio that is wrong; an engine that hangs for ever helps nobody.
const STEP_MAX: Duration = Duration::from_secs(3600);
