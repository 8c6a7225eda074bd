//! How to route: modes and weights, with Dynamo's defaults.
//!
//! Source: Dynamo 1.6.1, `dynamo.frontend --help` and crate dynamo-kv-router, scheduling configuration.

use std::fmt;
use std::str::FromStr;

/// What one more copy of a cached block costs, in blocks of prefill. With 3 a conversation stays where it is unless that
/// worker has a load of more than four times its history beyond the others: 0.98 of the oracle's hits on the trace of
/// `sim`'s routing test, where 0 gives 0.84.
pub const COPY_WEIGHT: f64 = 3.0;

/// Rule by which a worker is chosen (`--router-mode`, `DYN_ROUTER_MODE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterMode {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Any.
    Random,
    /// The less busy of two random ones.
    PowerOfTwo,
    /// The one with the fewest active requests.
    LeastLoaded,
    /// The cheapest by cached prefix and load.
    Kv,
    /// The one that the request names.
    Direct,
}

impl RouterMode {
    /// Every mode, in the order of the help text.
    pub const ALL: [Self; 6] =
        [Self::RoundRobin, Self::Random, Self::PowerOfTwo, Self::Kv, Self::Direct, Self::LeastLoaded];

    /// The name that flags and labels use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::PowerOfTwo => "power-of-two",
            Self::LeastLoaded => "least-loaded",
            Self::Kv => "kv",
            Self::Direct => "direct",
        }
    }
}

impl fmt::Display for RouterMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A router mode that does not exist here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("router mode {0:?} is unknown; take one of round-robin, random, power-of-two, kv, direct, least-loaded")]
pub struct UnknownMode(pub String);

impl FromStr for RouterMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| UnknownMode(text.into()))
    }
}

/// Weights and thresholds. `Default` is Dynamo's, with [`RouterConfig::copy_weight`] beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterConfig {
    /// Rule by which a worker is chosen.
    pub mode: RouterMode,
    /// What a cached block on the device is worth, in blocks of prefill: 0 ignores the cache, 1 trusts it fully.
    pub overlap_score_credit: f64,
    /// How fast that credit fades on a worker with more prefill work than the least loaded one; 0 is never.
    pub overlap_score_credit_decay: f64,
    /// Weight of prefill work against decode work.
    pub prefill_load_scale: f64,
    /// Blocks that every active request of a worker costs.
    pub decode_active_request_weight: f64,
    /// What a cached block in host memory is worth.
    pub host_cache_hit_weight: f64,
    /// What a cached block on disk is worth.
    pub disk_cache_hit_weight: f64,
    /// What a block of a cache outside the worker is worth, beyond the device's. Dynamo: 0 without a shared cache,
    /// 0.5 with one.
    pub shared_cache_multiplier: f64,
    /// What one more copy of a cached block costs, in blocks of prefill, see [`crate::copies`]. Above 0 the blocks of
    /// running prompts count as cached, too. 0 is Dynamo's formula.
    pub copy_weight: f64,
    /// 0 takes the cheapest; more spreads the choice by softmax over the costs.
    pub temperature: f64,
    /// Count prompt tokens that are booked and not yet computed as load.
    pub track_prefill_tokens: bool,
    /// Count blocks of active requests as load.
    pub track_active_blocks: bool,
    /// Count the blocks of answers as they grow.
    pub track_output_blocks: bool,
    /// A block that an active request of the worker already has costs nothing again.
    pub assume_kv_reuse: bool,
    /// A worker whose active blocks exceed this share of its blocks is busy. `None` never.
    pub active_decode_blocks_threshold: Option<f64>,
    /// A worker with more prompt tokens than this to compute is busy. `None` never.
    pub active_prefill_tokens_threshold: Option<u64>,
    /// The same as a multiple of `max_num_batched_tokens`. `None` never.
    pub active_prefill_tokens_threshold_frac: Option<f64>,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            mode: RouterMode::RoundRobin,
            overlap_score_credit: 1.0,
            overlap_score_credit_decay: 0.0,
            prefill_load_scale: 1.0,
            decode_active_request_weight: 0.0,
            host_cache_hit_weight: 0.75,
            disk_cache_hit_weight: 0.25,
            shared_cache_multiplier: 0.0,
            copy_weight: COPY_WEIGHT,
            temperature: 0.0,
            track_prefill_tokens: true,
            track_active_blocks: true,
            track_output_blocks: false,
            assume_kv_reuse: true,
            active_decode_blocks_threshold: None,
            active_prefill_tokens_threshold: None,
            active_prefill_tokens_threshold_frac: None,
        }
    }
}

/// A weight that makes no sense; the text names the field.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}; it must be a number of at least 0{limit}")]
pub struct BadWeight {
    /// The field of [`RouterConfig`].
    pub field: &'static str,
    /// What it was.
    pub value: f64,
    /// More of the rule, such as ` and at most 1`.
    pub limit: &'static str,
}

impl RouterConfig {
    /// Every weight that is out of its range; empty when all is well. Negative or infinite weights would make the
    /// cost negative or incomparable.
    pub fn violations(&self) -> Vec<BadWeight> {
        let open = [
            ("overlap_score_credit", self.overlap_score_credit),
            ("overlap_score_credit_decay", self.overlap_score_credit_decay),
            ("prefill_load_scale", self.prefill_load_scale),
            ("decode_active_request_weight", self.decode_active_request_weight),
            ("host_cache_hit_weight", self.host_cache_hit_weight),
            ("disk_cache_hit_weight", self.disk_cache_hit_weight),
            ("shared_cache_multiplier", self.shared_cache_multiplier),
            ("copy_weight", self.copy_weight),
            ("temperature", self.temperature),
            ("active_prefill_tokens_threshold_frac", self.active_prefill_tokens_threshold_frac.unwrap_or(0.0)),
        ];
        let wrong = |value: f64| !value.is_finite() || value < 0.0;
        let mut found: Vec<BadWeight> = open
            .into_iter()
            .filter(|&(_, value)| wrong(value))
            .map(|(field, value)| BadWeight { field, value, limit: "" })
            .collect();
        let share = self.active_decode_blocks_threshold.unwrap_or(0.0);
        if wrong(share) || share > 1.0 {
            found.push(BadWeight { field: "active_decode_blocks_threshold", value: share, limit: " and at most 1" });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{RouterConfig, RouterMode};

    #[test]
    fn every_mode_reads_back_from_its_name_and_others_are_refused_by_name() {
        for mode in RouterMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "device-aware-weighted".parse::<RouterMode>().expect_err("we do not have that mode");
        assert!(error.to_string().contains("device-aware-weighted"), "{error}");
    }

    #[test]
    fn all_bad_weights_are_reported_at_once() {
        let config = RouterConfig {
            temperature: f64::NAN,
            prefill_load_scale: -1.0,
            active_decode_blocks_threshold: Some(1.5),
            ..RouterConfig::default()
        };
        let fields: Vec<&str> = config.violations().iter().map(|bad| bad.field).collect();
        assert_eq!(fields, ["prefill_load_scale", "temperature", "active_decode_blocks_threshold"]);
        assert_eq!(RouterConfig::default().violations(), []);
    }
}
