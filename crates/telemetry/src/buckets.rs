//! Histogram buckets: upper bounds, `+Inf` left out. They are the stock ones, so that dashboards and alerts agree.
//!
//! Source: `/metrics` of ai-dynamo 1.6.1, recorded; `tests/stock.rs` compares.

/// Buckets for prompt lengths, tokens.
pub const TOKENS_IN: &[f64] =
    &[0.0, 100.0, 210.0, 430.0, 870.0, 1800.0, 3600.0, 7400.0, 15000.0, 31000.0, 63000.0, 130000.0];
/// Buckets for answer lengths, tokens.
pub const TOKENS_OUT: &[f64] = &[0.0, 100.0, 210.0, 430.0, 880.0, 1800.0, 3700.0, 7600.0, 16000.0, 32000.0];
/// Buckets for time to the first token, seconds.
pub const TTFT_SECONDS: &[f64] =
    &[0.0, 0.0022, 0.0047, 0.01, 0.022, 0.047, 0.1, 0.22, 0.47, 1.0, 2.2, 4.7, 10.0, 22.0, 48.0, 100.0, 220.0, 480.0];
/// Buckets for time between tokens, seconds.
pub const ITL_SECONDS: &[f64] = &[
    0.0, 0.0018, 0.0033, 0.0059, 0.011, 0.02, 0.035, 0.064, 0.12, 0.21, 0.38, 0.69, 1.2, 2.3, 4.1, 7.4, 13.0, 24.0,
    44.0, 80.0,
];
/// Buckets for time between tokens as the router sees it, seconds.
pub const ROUTER_ITL_SECONDS: &[f64] =
    &[0.0, 0.0019, 0.0035, 0.0067, 0.013, 0.024, 0.045, 0.084, 0.16, 0.3, 0.56, 1.1, 2.0];
/// Buckets for whole requests at the frontend, seconds.
pub const REQUEST_SECONDS: &[f64] = &[0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 130.0, 260.0, 510.0];
/// Buckets for one stage of the pipeline, seconds.
pub const STAGE_SECONDS: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0];
/// Buckets for chat templates, seconds.
pub const TEMPLATE_SECONDS: &[f64] = &[0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05];
/// Buckets for short steps (tokenizing, sending, transit), seconds.
pub const SHORT_SECONDS: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
/// Buckets for tokenizer calls, milliseconds.
pub const TOKENIZER_MS: &[f64] = &[0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// Buckets for recovery of a broken stream, seconds.
pub const MIGRATION_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0];
/// Buckets for request sent to first answer, seconds.
pub const ROUNDTRIP_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Buckets for hashing of blocks, milliseconds.
pub const HASHING_MS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
/// Buckets for choice of a worker, milliseconds.
pub const ROUTING_MS: &[f64] = &[
    0.01,
    0.03,
    0.09,
    0.27,
    0.81,
    2.43,
    7.290000000000001,
    21.870000000000005,
    65.61000000000001,
    196.83000000000004,
    590.4900000000001,
    1771.4700000000003,
    5314.410000000001,
    15943.230000000003,
    47829.69000000001,
    143489.07000000004,
    430467.2100000001,
];
/// Buckets for a share from 0 to 1.
pub const RATIO: &[f64] = &[
    0.0,
    0.05,
    0.1,
    0.15000000000000002,
    0.2,
    0.25,
    0.30000000000000004,
    0.35000000000000003,
    0.4,
    0.45,
    0.5,
    0.55,
    0.6000000000000001,
    0.65,
    0.7000000000000001,
    0.75,
    0.8,
    0.8500000000000001,
    0.9,
    0.9500000000000001,
    1.0,
];
/// Buckets for requests at the work handler, seconds.
pub const HANDLER_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Buckets for wait for a permit, seconds.
pub const PERMIT_SECONDS: &[f64] = &[0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];
/// Buckets for request read to prologue sent, seconds.
pub const FIRST_RESPONSE_SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
