//! Flags of a worker: those of `dynamo.vllm` and `dynamo.mocker` that apply, and ours.

use super::discovery::{DiscoveryBackend, EtcdFlags, KubernetesFlags};
use super::nats::{EventPlane, NatsFlags, RequestPlane};
use crate::report::Failure;
use clap::{Args, ValueEnum};
use runtime::nats::Nats;
use std::num::NonZeroU32;

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// vLLM where a GPU and vLLM are, else the embedded engine.
    Auto,
    /// llama.cpp in this process.
    Embedded,
    /// A stock vLLM beside this process.
    Vllm,
    /// Deterministic tokens without a model.
    Mock,
}

/// Flags of `busbar worker`, `python3 -m dynamo.vllm` and `python3 -m dynamo.mocker`.
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkerFlags {
    /// Engine that makes the tokens; mock under dynamo.mocker, auto elsewhere.
    #[arg(long, env = "BUSBAR_ENGINE", value_enum)]
    pub(crate) engine: Option<EngineChoice>,
    /// FILE.gguf, a folder in Hugging Face layout, hf:OWNER/NAME, or smollm2.
    #[arg(long, env = "BUSBAR_MODEL", visible_alias = "model-path")]
    pub(crate) model: Option<String>,
    /// Name that clients ask for.
    #[arg(long, env = "BUSBAR_MODEL_NAME", visible_alias = "model-name")]
    pub(crate) served_model_name: Option<String>,
    /// Dynamo namespace.
    #[arg(long, env = "DYN_NAMESPACE", default_value = "dynamo")]
    pub(crate) namespace: String,
    /// Generation of this worker, put behind the namespace with a hyphen: workers of two generations never mix.
    #[arg(long, env = "DYN_NAMESPACE_WORKER_SUFFIX")]
    pub(crate) namespace_worker_suffix: Option<String>,
    /// Endpoint to serve, dyn://NAMESPACE.COMPONENT.NAME.
    #[arg(long, env = "DYN_ENDPOINT")]
    pub(crate) endpoint: Option<String>,
    /// Where this worker is announced; `file` is a folder on this machine (DYN_FILE_KV).
    #[arg(long, env = "DYN_DISCOVERY_BACKEND", value_enum, default_value = "file")]
    pub(crate) discovery_backend: DiscoveryBackend,
    /// How requests travel to this worker.
    #[arg(long, env = "DYN_REQUEST_PLANE", default_value = "tcp", value_enum)]
    pub(crate) request_plane: RequestPlane,
    /// How this worker's events travel.
    #[arg(long, env = "DYN_EVENT_PLANE", default_value = "zmq", value_enum)]
    pub(crate) event_plane: EventPlane,
    /// Address on which requests are taken; all when absent.
    #[arg(long, env = "DYN_TCP_RPC_HOST")]
    pub(crate) tcp_host: Option<String>,
    /// Port on which requests are taken; 0 is any.
    #[arg(long, env = "DYN_TCP_RPC_PORT", default_value_t = 0)]
    pub(crate) tcp_port: u16,
    /// Address on which events are published; all when absent.
    #[arg(long, env = "DYN_EVENT_PLANE_HOST")]
    pub(crate) event_host: Option<String>,
    /// Host by which frontends reach this worker, where it is not an address that is bound here: a DNS name, or the
    /// address in front of a NAT. Ports stay the same.
    #[arg(long, value_name = "HOST", env = "BUSBAR_ADVERTISE_HOST")]
    pub(crate) advertise_host: Option<String>,
    /// Port of /health, /live and /metrics; 0 is any, -1 is off.
    #[arg(long, env = "DYN_SYSTEM_PORT", default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) system_port: i32,
    /// Address of that port.
    #[arg(long, env = "DYN_SYSTEM_HOST", default_value = "0.0.0.0")]
    pub(crate) system_host: String,
    /// How often a broken stream of this model may go on at another worker.
    #[arg(long, env = "DYN_MIGRATION_LIMIT", default_value_t = worker::card::DEFAULT_MIGRATION_LIMIT)]
    pub(crate) migration_limit: u32,
    /// Jinja file to use in place of the model's chat template.
    #[arg(long, value_name = "FILE", env = "DYN_CUSTOM_JINJA_TEMPLATE")]
    pub(crate) custom_jinja_template: Option<std::path::PathBuf>,
    /// How long running streams may finish at shutdown, seconds.
    #[arg(long, env = "DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT", default_value_t = 8)]
    pub(crate) drain_timeout_secs: u64,
    #[command(flatten)]
    pub(crate) nats: NatsFlags,
    #[command(flatten)]
    pub(crate) limits: EngineLimits,
    #[command(flatten)]
    pub(crate) embedded: EmbeddedFlags,
    #[command(flatten)]
    pub(crate) mock: MockFlags,
    #[command(flatten)]
    pub(crate) vllm: VllmFlags,
    #[command(flatten)]
    pub(crate) etcd: EtcdFlags,
    #[command(flatten)]
    pub(crate) kubernetes: KubernetesFlags,
}

impl WorkerFlags {
    /// The namespace with the generation of this worker behind it.
    pub(crate) fn generation_namespace(&self) -> String {
        match self.namespace_worker_suffix.as_deref().filter(|suffix| !suffix.is_empty()) {
            Some(suffix) => format!("{}-{suffix}", self.namespace),
            None => self.namespace.clone(),
        }
    }

    /// The connection to NATS, when events or requests of this process go over it.
    pub(crate) fn nats(&self) -> Result<Option<Nats>, Failure> {
        let needed = self.event_plane == EventPlane::Nats || self.request_plane == RequestPlane::Nats;
        if needed { self.nats.connection("busbar worker").map(Some) } else { Ok(None) }
    }
}

/// Limits that every engine has, by vLLM's names.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits of the engine")]
pub(crate) struct EngineLimits {
    /// Most tokens of prompt and answer together.
    #[arg(long, env = "BUSBAR_MAX_MODEL_LEN")]
    pub(crate) max_model_len: Option<u32>,
    /// Tokens per KV block.
    #[arg(long, env = "BUSBAR_BLOCK_SIZE")]
    pub(crate) block_size: Option<u32>,
    /// KV blocks in all.
    #[arg(long, env = "BUSBAR_NUM_GPU_BLOCKS")]
    pub(crate) num_gpu_blocks_override: Option<u32>,
    /// Sequences at once.
    #[arg(long, env = "BUSBAR_MAX_NUM_SEQS")]
    pub(crate) max_num_seqs: Option<u32>,
    /// Tokens a step.
    #[arg(long, env = "BUSBAR_MAX_NUM_BATCHED_TOKENS")]
    pub(crate) max_num_batched_tokens: Option<u32>,
    /// Share KV blocks between requests with the same beginning (the default; not of the embedded engine to choose).
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub(crate) enable_prefix_caching: bool,
    /// Share none.
    #[arg(long, overrides_with = "enable_prefix_caching")]
    pub(crate) no_enable_prefix_caching: bool,
    /// Compute long prompts over several steps (the default; not of the embedded engine to choose).
    #[arg(long, overrides_with = "no_enable_chunked_prefill")]
    pub(crate) enable_chunked_prefill: bool,
    /// Compute each prompt in one step.
    #[arg(long, overrides_with = "enable_chunked_prefill")]
    pub(crate) no_enable_chunked_prefill: bool,
}

/// The embedded engine alone.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Embedded engine")]
pub(crate) struct EmbeddedFlags {
    /// CPU threads; every core when absent. Several workers on one machine must share the cores.
    #[arg(long, env = "BUSBAR_ENGINE_THREADS")]
    pub(crate) threads: Option<NonZeroU32>,
    /// Layers on the GPU; needs a build with the feature cuda or vulkan.
    #[arg(long, env = "BUSBAR_GPU_LAYERS")]
    pub(crate) gpu_layers: Option<u32>,
    /// Prompt tokens of one step while other answers are being made: bounds how long they stall.
    #[arg(long, env = "BUSBAR_PREFILL_CHUNK")]
    pub(crate) prefill_chunk: Option<u32>,
}

/// The mock engine alone; names and defaults of `dynamo.mocker`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Mock engine")]
pub(crate) struct MockFlags {
    /// How much faster than the modelled engine; 0 is as fast as possible.
    #[arg(long, env = "BUSBAR_MOCK_SPEEDUP_RATIO", default_value_t = 1.0)]
    pub(crate) speedup_ratio: f64,
    /// How much faster decoding is on top, as with speculative decoding.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) decode_speedup_ratio: f64,
    /// Which sequence gives way when KV blocks run out: the newest (lifo) or the oldest (fifo).
    #[arg(long, default_value = "lifo", value_parser = ["lifo", "fifo"])]
    pub(crate) preemption_mode: String,
    /// Share of the KV blocks that new sequences leave to running ones.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) watermark: f64,
    /// Times of a real engine, an .npz file of Dynamo's profiler; a built-in curve when absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) planner_profile_data: Option<std::path::PathBuf>,
    /// Seconds until the engine is there.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub(crate) startup_time: f64,
    /// Workers in this process.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) num_workers: u32,
    /// Seconds between the starts of these; -1 is 0.1 for 33 to 128 workers, 0.2 for more, else 0.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) stagger_delay: f64,
    /// Seed of the tokens: equal seeds give equal answers at every worker.
    #[arg(long, env = "BUSBAR_MOCK_SEED", default_value_t = 0)]
    pub(crate) mock_seed: u64,
}

/// vLLM alone.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "vLLM")]
pub(crate) struct VllmFlags {
    /// Use a vLLM that runs already, at this URL, in place of starting one.
    #[arg(long, value_name = "URL", env = "BUSBAR_VLLM_URL")]
    pub(crate) attach: Option<String>,
    /// The `vllm` command to start, where PATH has it not.
    #[arg(long, value_name = "FILE", env = "BUSBAR_VLLM_PROGRAM", default_value = "vllm")]
    pub(crate) vllm_program: std::path::PathBuf,
}
