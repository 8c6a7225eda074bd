//! Names of log fields: one name for one thing, in every process.

/// Id of a request over all processes.
pub const REQUEST_ID: &str = "request_id";
/// W3C trace id, 32 hex digits.
pub const TRACE_ID: &str = "trace_id";
/// W3C span id, 16 hex digits.
pub const SPAN_ID: &str = "span_id";
/// Served name of the model.
pub const MODEL: &str = "model";
/// Name of the API key, never the key.
pub const KEY: &str = "key";
/// A worker, lower-case hex.
pub const WORKER_ID: &str = "worker_id";
/// Data-parallel rank.
pub const DP_RANK: &str = "dp_rank";
/// Dynamo's namespace.
pub const NAMESPACE: &str = "namespace";
/// The component.
pub const COMPONENT: &str = "component";
/// The endpoint.
pub const ENDPOINT: &str = "endpoint";
/// HOST:PORT of a peer or of a listener.
pub const ADDRESS: &str = "address";
/// A file or folder.
pub const PATH: &str = "path";
/// A failure with its causes.
pub const ERROR: &str = "error";
/// What to do about it.
pub const REMEDY: &str = "remedy";
/// Time taken, milliseconds.
pub const ELAPSED_MS: &str = "elapsed_ms";
/// Tokens of the prompt.
pub const PROMPT_TOKENS: &str = "prompt_tokens";
/// Prompt tokens found in the cache.
pub const CACHED_TOKENS: &str = "cached_tokens";
/// Tokens made.
pub const COMPLETION_TOKENS: &str = "completion_tokens";
/// Why a sequence ended.
pub const FINISH_REASON: &str = "finish_reason";
/// HTTP status.
pub const STATUS: &str = "status";
/// Which try this is, from 1.
pub const ATTEMPT: &str = "attempt";
/// Process id.
pub const PID: &str = "pid";
/// Exit status or signal of a process.
pub const EXIT: &str = "exit";
