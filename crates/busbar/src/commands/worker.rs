//! `busbar worker`, and `python3 -m dynamo.vllm|mocker` of a manifest.

use super::model::{bring, engine_kind, engine_word};
use super::{discovery, runtime, vllm_worker};
use crate::cli::{self, Command};
use crate::flags::nats::{EventPlane, RequestPlane};
use crate::flags::worker::{EngineChoice, WorkerFlags};
use crate::flags::{manifest, mocker};
use crate::logging;
use crate::progress::Progress;
use crate::report::Failure;
use crate::shutdown::{self, Shutdown};
use ::runtime::discovery::{Discovery, DiscoveryError, KubernetesConfig};
use ::runtime::nats::Nats;
use ::runtime::request_plane::RequestServerConfig;
use ::runtime::system_server::SystemServerConfig;
use ::worker::card::ServedModel;
use ::worker::engine::{StartedEngine, mock};
use ::worker::model::{EngineKind, LocalModel, plain_tokens};
use ::worker::{Worker, WorkerConfig, WorkerError};
use graph::argv::Module;
use protocol::ids::EndpointId;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Tokens of a block of the engine that `dynamo.mocker` imitates without flags.
const MOCKER_BLOCK_SIZE: u32 = 64;

/// What a worker's command line says: ours, and what belongs to vLLM.
pub(crate) struct WorkerArgs {
    /// Our flags.
    pub(crate) flags: WorkerFlags,
    /// Flags that are not ours, in order.
    pub(crate) passthrough: Vec<String>,
}

/// Reads a manifest's arguments; `module` is what they were given to.
pub(crate) fn read_manifest(module: Module, args: &[String]) -> Result<WorkerArgs, Failure> {
    let mut read = read(args, true)?;
    if module == Module::Mocker && read.flags.engine.is_none() {
        read.flags.engine = Some(EngineChoice::Mock);
        read.flags.limits.block_size.get_or_insert(MOCKER_BLOCK_SIZE);
    }
    Ok(read)
}

fn read(args: &[String], environment_wins: bool) -> Result<WorkerArgs, Failure> {
    let command = cli::command();
    let own = command.find_subcommand("worker").expect("`worker` is one of our commands");
    let args: Vec<String> = args.iter().filter(|arg| *arg != "--").cloned().collect();
    let split = manifest::split(own, &args, environment_wins);
    let words = ["busbar", "worker"].map(str::to_owned).into_iter().chain(split.known).collect::<Vec<_>>();
    match cli::parse(&words)?.command {
        Command::Worker(flags) => Ok(WorkerArgs { flags: *flags, passthrough: split.unknown }),
        _ => unreachable!("the words begin with `worker`"),
    }
}

/// Runs with the arguments of a manifest, below the environment in rank.
pub(crate) fn from_manifest(module: Module, args: &[String]) -> Result<(), Failure> {
    let read = read_manifest(module, args)?;
    run(&read.flags, &read.passthrough, Some(module))
}

/// Runs `busbar worker …` as typed.
pub(crate) fn from_command_line(args: &[String]) -> Result<(), Failure> {
    let read = read(args, false)?;
    run(&read.flags, &read.passthrough, None)
}

/// Serves until told to stop.
pub(crate) fn run(flags: &WorkerFlags, passthrough: &[String], manifest: Option<Module>) -> Result<(), Failure> {
    logging::start();
    let kind = engine_kind(flags.engine.unwrap_or(EngineChoice::Auto));
    let own;
    let passthrough = if kind == EngineKind::Mock && manifest != Some(Module::Vllm) {
        own = mocker::check(passthrough).map_err(|(flag, why)| {
            Failure::new(format!("the mock engine cannot honour `{flag}`")).remedy(why).permanent()
        })?;
        own.as_slice()
    } else {
        passthrough
    };
    if kind != EngineKind::Vllm && !passthrough.is_empty() {
        let words = passthrough.join(" ");
        if manifest.is_none() {
            return Err(Failure::new(format!("`{words}` is not for the {} engine", engine_word(kind)))
                .remedy("remove it, or use --engine vllm; `busbar worker --help` lists the flags")
                .permanent());
        }
        tracing::warn!(
            flags = words,
            engine = engine_word(kind),
            "flags of the manifest that this engine does not have"
        );
    }
    runtime(None)?.block_on(serve(flags, passthrough, kind))
}

async fn serve(flags: &WorkerFlags, passthrough: &[String], kind: EngineKind) -> Result<(), Failure> {
    let shutdown = shutdown::listen().map_err(|error| Failure::new("listen for signals").cause(error.to_string()))?;
    let field_manager = KubernetesConfig::WORKER;
    let ways = discovery::Ways { etcd: &flags.etcd, kubernetes: &flags.kubernetes, field_manager };
    let discovery = discovery::join(flags.discovery_backend, ways).await?;
    let ended = if kind == EngineKind::Vllm {
        vllm_worker::serve(flags, passthrough, &discovery, &shutdown).await
    } else {
        serve_own(flags, kind, &discovery, &shutdown).await
    };
    tokio::select! {
        () = discovery.leave() => {}
        () = shutdown.second.cancelled() => {}
    }
    ended
}

/// Serves with engines of this process.
async fn serve_own(
    flags: &WorkerFlags,
    kind: EngineKind,
    discovery: &Discovery,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let nats = flags.nats()?;
    let progress = Arc::new(Mutex::new(Progress::new(false)));
    // A fetch may last longer than whoever asks us to stop will wait.
    let model = tokio::select! {
        model = bring(flags.model.as_deref(), kind, &progress) => model?,
        () = shutdown.first.cancelled() => return Ok(()),
    };
    let mut workers = Vec::new();
    let count = if kind == EngineKind::Mock { flags.mock.num_workers } else { 1 };
    for index in 0..count {
        tokio::time::sleep(if index == 0 { Duration::ZERO } else { stagger(flags, count) }).await;
        let started = start_engine(kind, flags, &model).await?;
        let config = worker_config(flags, index, nats.as_ref())?;
        let served = served_model(flags, &model);
        let start = Worker::start(config, started, served, discovery.member());
        // A store that is away is waited for, but not against the will of who started us.
        let worker = tokio::select! {
            started = start => started.map_err(|error| failed(&error))?,
            () = shutdown.first.cancelled() => return Ok(()),
        };
        tracing::info!(
            instance = %worker.instance_id(), address = worker.request_address(), engine = engine_word(kind),
            model = flags.served_model_name.as_deref().unwrap_or(&model.served_name), "worker serves"
        );
        workers.push(worker);
    }
    let tasks = workers.into_iter().map(|worker| worker.run_until(shutdown.first.clone()));
    let all = futures::future::try_join_all(tasks);
    tokio::select! {
        ended = all => ended.map(|_| ()).map_err(|error| failed(&error)),
        () = shutdown.second.cancelled() => Ok(()),
    }
}

pub(super) fn failed(error: &WorkerError) -> Failure {
    let failure = Failure::new("run the worker").chain(error);
    match error {
        WorkerError::Announce(DiscoveryError::Register { source, .. }) => {
            let failure = failure.remedy(source.remedy());
            if source.may_heal() { failure } else { failure.permanent() }
        }
        _ => failure,
    }
}

pub(super) fn served_model(flags: &WorkerFlags, model: &LocalModel) -> ServedModel {
    let name = flags.served_model_name.clone().unwrap_or_else(|| model.served_name.clone());
    let mut served = ServedModel::new(name, &model.hf_folder);
    served.migration_limit = flags.migration_limit;
    served.chat_template = flags.custom_jinja_template.clone();
    served
}

pub(super) fn worker_config(flags: &WorkerFlags, index: u32, nats: Option<&Nats>) -> Result<WorkerConfig, Failure> {
    let endpoint = match &flags.endpoint {
        None => EndpointId::new(flags.generation_namespace(), "backend", "generate"),
        Some(text) => EndpointId::parse(text).ok_or_else(|| {
            Failure::new(format!("`{text}` is no endpoint"))
                .remedy("write dyn://NAMESPACE.COMPONENT.NAME, such as dyn://dynamo.backend.generate")
                .permanent()
        })?,
    };
    let local = ::runtime::local_host().to_string();
    let advertised = |bound: Option<&String>| flags.advertise_host.as_ref().or(bound).unwrap_or(&local).clone();
    let mut config = WorkerConfig { endpoint, ..WorkerConfig::default() };
    config.request_server = RequestServerConfig {
        host: flags.tcp_host.clone().unwrap_or_else(|| "0.0.0.0".into()),
        // Several workers of one process each need a port of their own.
        port: if index == 0 { flags.tcp_port } else { 0 },
        advertise_host: Some(advertised(flags.tcp_host.as_ref())),
        ..RequestServerConfig::default()
    };
    config.event_host = flags.event_host.clone().unwrap_or_else(|| "0.0.0.0".into());
    config.event_advertise_host = Some(advertised(flags.event_host.as_ref()));
    config.events_over = nats.filter(|_| flags.event_plane == EventPlane::Nats).cloned();
    config.requests_over = nats.filter(|_| flags.request_plane == RequestPlane::Nats).cloned();
    // As with stock workers, one process has one system port: its first worker's.
    config.system = u16::try_from(flags.system_port)
        .ok()
        .filter(|_| index == 0)
        .map(|port| SystemServerConfig { host: flags.system_host.clone(), port });
    config.drain_timeout = Duration::from_secs(flags.drain_timeout_secs);
    Ok(config)
}

async fn start_engine(kind: EngineKind, flags: &WorkerFlags, model: &LocalModel) -> Result<StartedEngine, Failure> {
    match kind {
        EngineKind::Mock => start_mock(flags, model).await,
        EngineKind::Embedded => start_embedded(flags, model).await,
        EngineKind::Vllm => unreachable!("`vllm_worker` serves it"),
    }
}

/// Time between the starts of two workers.
fn stagger(flags: &WorkerFlags, workers: u32) -> Duration {
    let seconds = match (flags.mock.stagger_delay, workers) {
        (delay, _) if delay >= 0.0 => delay,
        (_, 0..=32) => 0.0,
        (_, 33..=128) => 0.1,
        _ => 0.2,
    };
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

async fn start_mock(flags: &WorkerFlags, model: &LocalModel) -> Result<StartedEngine, Failure> {
    let config = mock_config(flags, model)?;
    let seconds = flags.mock.startup_time;
    let startup = Duration::try_from_secs_f64(seconds).map_err(|error| {
        let failure = Failure::new(format!("--startup-time {seconds}")).cause(error.to_string());
        failure.remedy("give seconds, 0 or more").permanent()
    })?;
    tokio::time::sleep(startup).await;
    mock::start(&config).map_err(|error| Failure::new("start the mock engine").chain(&error).permanent())
}

fn mock_config(flags: &WorkerFlags, model: &LocalModel) -> Result<mock::MockConfig, Failure> {
    let tokens = match flags.model {
        // Letters and spaces of the byte model.
        None => vec![97..=122, 32..=32],
        Some(_) => {
            plain_tokens(&model.hf_folder).map_err(|e| Failure::new(e.to_string()).remedy(e.remedy()).permanent())?
        }
    };
    let (limits, mock) = (&flags.limits, &flags.mock);
    let defaults = mock::MockConfig::default();
    let cost = match &mock.planner_profile_data {
        None => mock::Cost::MockerCurve,
        Some(path) => mock::Cost::Profile(Arc::new(
            mock::read_profile(path)
                .map_err(|error| Failure::new("start the mock engine").chain(&error).permanent())?,
        )),
    };
    let speedup = mock::Speedup { all: mock.speedup_ratio, decode: mock.decode_speedup_ratio };
    Ok(mock::MockConfig {
        block_size: limits.block_size.unwrap_or(defaults.block_size),
        total_kv_blocks: limits.num_gpu_blocks_override.unwrap_or(defaults.total_kv_blocks),
        max_num_seqs: limits.max_num_seqs.unwrap_or(defaults.max_num_seqs),
        max_num_batched_tokens: limits.max_num_batched_tokens.unwrap_or(defaults.max_num_batched_tokens),
        context_length: limits.max_model_len.unwrap_or(model.context_length),
        seed: mock.mock_seed,
        tokens,
        prefix_caching: !limits.no_enable_prefix_caching,
        chunked_prefill: !limits.no_enable_chunked_prefill,
        watermark: mock.watermark,
        victim: if mock.preemption_mode == "fifo" { mock::Victim::Oldest } else { mock::Victim::Youngest },
        timing: if mock.speedup_ratio == 0.0 { mock::Timing::Instant } else { mock::Timing::Modelled(cost, speedup) },
        ..defaults
    })
}

#[cfg(feature = "engine-llama")]
async fn start_embedded(flags: &WorkerFlags, model: &LocalModel) -> Result<StartedEngine, Failure> {
    use ::worker::engine::embedded::{self, EmbeddedConfig};
    let gguf = model.gguf.clone().ok_or_else(|| {
        Failure::new("start the embedded engine")
            .cause("the model has no GGUF file")
            .remedy("give --model FILE.gguf")
            .permanent()
    })?;
    let limits = &flags.limits;
    let mut config = EmbeddedConfig::of(gguf);
    config.context_length = limits.max_model_len;
    config.kv_pool_tokens = limits
        .num_gpu_blocks_override
        .map(|blocks| blocks.saturating_mul(limits.block_size.unwrap_or(embedded::config::DEFAULT_BLOCK_SIZE)));
    config.max_num_seqs = limits.max_num_seqs;
    config.max_num_batched_tokens = limits.max_num_batched_tokens;
    config.block_size = limits.block_size;
    config.prefill_chunk = flags.embedded.prefill_chunk;
    config.threads = flags.embedded.threads;
    config.n_gpu_layers = flags.embedded.gpu_layers;
    let started = tokio::task::spawn_blocking(move || embedded::start(config))
        .await
        .map_err(|error| Failure::new("start the embedded engine").cause(error.to_string()))?;
    started.map_err(|error| Failure::new("start the embedded engine").chain(&error).permanent())
}

#[cfg(not(feature = "engine-llama"))]
async fn start_embedded(_: &WorkerFlags, _: &LocalModel) -> Result<StartedEngine, Failure> {
    Err(Failure::new("start the embedded engine")
        .cause("this binary was built without it")
        .remedy("build with the feature engine-llama, or use --engine mock or vllm")
        .permanent())
}
