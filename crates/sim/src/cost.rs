//! What an engine's prompts and decoding sequences cost, in milliseconds of a step.

use crate::profile::Profile;
use crate::timing::StepShape;
use std::sync::Arc;

/// A step that gives tokens takes at least this long before any speed-up, as with `dynamo.mocker`: two tokens of one
/// sequence never carry one time.
const DECODE_MS_MIN: f64 = 1.0;

pub(crate) fn decode_ms_min(milliseconds: f64) -> f64 {
    milliseconds.max(DECODE_MS_MIN)
}

/// Where the costs come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Cost {
    /// The curve of `dynamo.mocker` without a profile.
    MockerCurve,
    /// A profile of a real engine.
    Profile(Arc<Profile>),
}

impl Cost {
    /// Time of the prompt tokens of a step, in ms. They are one batch: their number counts, not their sequences'.
    ///
    /// [`Cost::MockerCurve`]: 4.209989·10⁻⁷·t² + 0.01518344·t + 16.50142 for t tokens.
    ///
    /// Source: Dynamo, lib/mocker, and measured on 1.6.1 (TTFT at 512 and 2,048 tokens).
    pub fn prefill_ms(&self, shape: &StepShape) -> f64 {
        let tokens = shape.prefill_tokens as f64;
        match self {
            Self::MockerCurve => polynomial([4.209_989e-7, 1.518_344e-2, 16.501_42], tokens),
            Self::Profile(profile) => profile.prefill_ms(tokens),
        }
    }

    /// Time of the decoding sequences of a step, in ms, by their number and their contexts.
    ///
    /// [`Cost::MockerCurve`]: −25.74·p² + 54.01·p + 5.74, p being the share of the pool that their contexts fill,
    /// shared blocks counted for each (at most 1).
    ///
    /// Source: Dynamo, lib/mocker, and measured on 1.6.1 (ITL at 1, 8 and 32 sequences).
    pub fn decode_ms(&self, shape: &StepShape) -> f64 {
        let contexts = &shape.decode_contexts;
        match self {
            Self::MockerCurve => {
                let share = contexts.sum() as f64 / shape.kv_tokens_max.max(1) as f64;
                polynomial([-25.74, 54.01, 5.74], share.min(1.0))
            }
            Self::Profile(profile) => profile.decode_ms(contexts.sum() as f64, contexts.mean()),
        }
    }
}

fn polynomial([square, linear, constant]: [f64; 3], x: f64) -> f64 {
    (square * x + linear) * x + constant
}
