//! Label names. Values are bounded sets: ids of workers that live, names of models and keys that exist, closed enums.

/// Dynamo's namespace.
pub const DYNAMO_NAMESPACE: &str = "dynamo_namespace";
/// The component.
pub const DYNAMO_COMPONENT: &str = "dynamo_component";
/// The endpoint.
pub const DYNAMO_ENDPOINT: &str = "dynamo_endpoint";
/// The served name of the model.
pub const MODEL: &str = "model";
/// The HTTP endpoint: `chat_completions`, `completions`.
pub const ENDPOINT: &str = "endpoint";
/// `stream` or `unary`.
pub const REQUEST_TYPE: &str = "request_type";
/// `success` or `error`; the outcome of an event at the index.
pub const STATUS: &str = "status";
/// Empty on success, else `validation`, `not_found`, `overload`, `unavailable`, `cancelled`, `response_timeout`, `internal`, `not_implemented`.
pub const ERROR_TYPE: &str = "error_type";
/// A worker: decimal in `dynamo_frontend_worker_*`, lower-case hex on component metrics, as the stock ones are.
pub const WORKER_ID: &str = "worker_id";
/// A worker that the router knows, decimal.
pub const ROUTER_WORKER_ID: &str = "router_worker_id";
/// Data-parallel rank.
pub const DP_RANK: &str = "dp_rank";
/// `prefill` or `decode`; an aggregated worker is `decode`.
pub const WORKER_TYPE: &str = "worker_type";
/// The router, decimal.
pub const ROUTER_ID: &str = "router_id";
/// Class of the queue policy.
pub const POLICY_CLASS: &str = "policy_class";
/// `prefill`, `decode`, `aggregated` or empty.
pub const PHASE: &str = "phase";
/// `preprocess`, `route`, `dispatch`, `transport_roundtrip`, `postprocess`.
pub const STAGE: &str = "stage";
/// `tokenize` or `detokenize`.
pub const OPERATION: &str = "operation";
/// `new_request` or `ongoing_request`.
pub const MIGRATION_TYPE: &str = "migration_type";
/// `success` or `failure`.
pub const OUTCOME: &str = "outcome";
/// Class of a failure, such as `InvalidRequest`.
pub const CLASS: &str = "class";
/// Dotted key of a failure, such as `request.not_found`; or why something was refused.
pub const REASON: &str = "reason";
/// `stored`, `removed` or `cleared`.
pub const EVENT_TYPE: &str = "event_type";
/// Namespace of the workers meant.
pub const TARGET_NAMESPACE: &str = "target_namespace";
/// Component of the workers meant.
pub const TARGET_COMPONENT: &str = "target_component";
/// Endpoint of the workers meant.
pub const TARGET_ENDPOINT: &str = "target_endpoint";
/// Name of an API key, never the key; empty without keys.
pub const KEY: &str = "key";
/// Router mode.
pub const MODE: &str = "mode";
/// Topic of the event plane.
pub const TOPIC: &str = "topic";
/// Version of this binary.
pub const VERSION: &str = "version";
/// `embedded`, `vllm` or `mock`.
pub const ENGINE: &str = "engine";
/// Upper bound of a histogram bucket.
pub const LE: &str = "le";
