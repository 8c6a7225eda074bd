//! A worker whose engine is vLLM: started beside this process or attached to, and started again when it fails.

use super::model::bring;
use super::worker::{failed, served_model, worker_config};
use crate::flags::dynamo_vllm;
use crate::flags::worker::WorkerFlags;
use crate::progress::Progress;
use crate::report::Failure;
use crate::shutdown::Shutdown;
use ::runtime::discovery::Discovery;
use ::runtime::nats::Nats;
use ::worker::Worker;
use ::worker::engine::{StartedEngine, vllm};
use ::worker::model::{EngineKind, LocalModel};
use deploy::local::process::SUPERVISED;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// First pause before a failed vLLM is started again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// One that served this long begins again with the shortest pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(300);

/// Failures one after another, none of which served for [`HEALTHY_AFTER`], after which the process ends: whoever
/// supervises it shows that, and may start it elsewhere.
const FAILURES_MAX: u32 = 5;

/// Runs the rest of the command line and ends it with our standard input; see [`vllm::KEEP_VERB`].
pub(crate) fn keep(command: &[String]) -> Result<ExitCode, Failure> {
    /// What a shell adds to the number of the signal that ended a program.
    const SIGNALLED: i32 = 128;
    let status = vllm::keep(command).map_err(|error| Failure::new("start vLLM").cause(error.to_string()))?;
    let code = match status.signal() {
        None => status.code(),
        Some(signal) => {
            // The worker reads this as vLLM's own last line, which a killed vLLM has not written.
            eprintln!("vLLM was killed by signal {signal}");
            Some(SIGNALLED + signal)
        }
    };
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::report::EXIT_FAILED)))
}

/// Serves until told to stop, over as many lives of vLLM as it takes.
pub(super) async fn serve(
    flags: &WorkerFlags,
    passthrough: &[String],
    discovery: &Discovery,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let arguments = sorted(passthrough)?;
    let nats = flags.nats()?;
    let mut failures = 0;
    let mut pause = PAUSES.0;
    loop {
        let mut served_since = None;
        let ended = tokio::select! {
            ended = one_life(flags, &arguments, nats.as_ref(), discovery, shutdown, &mut served_since) => ended,
            () = shutdown.second.cancelled() => return Ok(()),
        };
        let Err(failure) = ended else { return Ok(()) };
        let healthy = served_since.is_some_and(|since: Instant| since.elapsed() > HEALTHY_AFTER);
        (failures, pause) = if healthy { (1, PAUSES.0) } else { (failures + 1, pause) };
        // What never served is wrong from the start, and its user is there to read why.
        let never = served_since.is_none() && failures == 1;
        if never || failures >= FAILURES_MAX || failure.exit_code == crate::report::EXIT_USAGE {
            return Err(failure);
        }
        tracing::error!(failures, pause_ms = pause.as_millis(), "{}; vLLM is started again", failure.line());
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSES.1),
            () = shutdown.first.cancelled() => return Ok(()),
        }
    }
}

/// From the start of an engine to its end; `served_since` is set once the worker is announced.
async fn one_life(
    flags: &WorkerFlags,
    arguments: &[String],
    nats: Option<&Nats>,
    discovery: &Discovery,
    shutdown: &Shutdown,
    served_since: &mut Option<Instant>,
) -> Result<(), Failure> {
    // A start that is not wanted any more is dropped, and what was started goes with it.
    let (started, model) = tokio::select! {
        started = start(flags, arguments) => started?,
        () = shutdown.first.cancelled() => return Ok(()),
    };
    let config = worker_config(flags, 0, nats)?;
    let served = served_model(flags, &model);
    // A store that is away is waited for, but not against the will of who started us.
    let worker = tokio::select! {
        started = Worker::start(config, started, served, discovery.member()) => started.map_err(|e| failed(&e))?,
        () = shutdown.first.cancelled() => return Ok(()),
    };
    *served_since = Some(Instant::now());
    tracing::info!(
        instance = %worker.instance_id(), address = worker.request_address(), engine = "vllm",
        model = flags.served_model_name.as_deref().unwrap_or(&model.served_name), "worker serves"
    );
    worker.run_until(shutdown.first.clone()).await.map_err(|error| failed(&error))
}

async fn start(flags: &WorkerFlags, arguments: &[String]) -> Result<(StartedEngine, LocalModel), Failure> {
    let progress = Arc::new(Mutex::new(Progress::new(false)));
    if let Some(url) = &flags.vllm.attach {
        return attach(flags, arguments, url, &progress).await;
    }
    let model = bring(flags.model.as_deref(), EngineKind::Vllm, &progress).await?;
    let mut config = vllm::SpawnConfig::new(model.hf_folder.to_string_lossy());
    config.program.clone_from(&flags.vllm.vllm_program);
    config.served_name = Some(flags.served_model_name.clone().unwrap_or_else(|| model.served_name.clone()));
    config.arguments = arguments.to_vec();
    // By this link and not by its path, at which an upgrade may have put another program since.
    config.keeper = Some("/proc/self/exe".into());
    config.shares_machine = std::env::var_os(SUPERVISED).is_some();
    config.api_key = api_key();
    // Our own names for vLLM's limits were taken out of its command line: they go back in.
    let limits = &flags.limits;
    for (flag, value) in [
        ("--max-model-len", limits.max_model_len),
        ("--block-size", limits.block_size),
        ("--num-gpu-blocks-override", limits.num_gpu_blocks_override),
        ("--max-num-seqs", limits.max_num_seqs),
        ("--max-num-batched-tokens", limits.max_num_batched_tokens),
    ] {
        config.arguments.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value.to_string()]));
    }
    for (flag, is_set) in [
        ("--enable-prefix-caching", limits.enable_prefix_caching),
        ("--no-enable-prefix-caching", limits.no_enable_prefix_caching),
        ("--enable-chunked-prefill", limits.enable_chunked_prefill),
        ("--no-enable-chunked-prefill", limits.no_enable_chunked_prefill),
    ] {
        config.arguments.extend(is_set.then(|| flag.to_owned()));
    }
    let started = vllm::spawn(config).await.map_err(|error| not_there("start vLLM", &error))?;
    Ok((started, model))
}

/// Takes a server that runs. Its weights are its own: only the files of the tokenizer are needed here.
async fn attach(
    flags: &WorkerFlags,
    arguments: &[String],
    url: &str,
    progress: &Arc<Mutex<Progress>>,
) -> Result<(StartedEngine, LocalModel), Failure> {
    let no_attach = |error: vllm::VllmError| not_there("attach to vLLM", &error);
    let mut config = vllm::AttachConfig::new(url);
    config.max_num_seqs = flags.limits.max_num_seqs;
    config.max_num_batched_tokens = flags.limits.max_num_batched_tokens;
    config.events = vllm::events_at(url, arguments);
    config.api_key = api_key();
    let model = match &flags.model {
        Some(text) => {
            let model = bring(Some(text), EngineKind::Mock, progress).await?;
            config.wanted = vec![text.clone(), model.served_name.clone()];
            config.wanted.extend(flags.served_model_name.clone());
            model
        }
        None => {
            let served = vllm::served(&config).await.map_err(no_attach)?;
            let root = served.root.clone().ok_or_else(|| {
                Failure::new(format!("vLLM at {url} does not tell where its model comes from"))
                    .remedy("give --model FOLDER with its tokenizer")
                    .permanent()
            })?;
            let mut model = bring(Some(&root), EngineKind::Mock, progress).await?;
            if served.name != root {
                model.served_name = served.name;
            }
            model
        }
    };
    let started = vllm::attach(config).await.map_err(no_attach)?;
    Ok((started, model))
}

/// What vLLM itself reads its key from: who starts it and who asks it then need to be told only once.
fn api_key() -> Option<vllm::ApiKey> {
    std::env::var("VLLM_API_KEY").ok().filter(|key| !key.is_empty()).map(vllm::ApiKey)
}

/// A manifest's arguments without what is not vLLM's.
fn sorted(passthrough: &[String]) -> Result<Vec<String>, Failure> {
    let sorted = dynamo_vllm::sort(passthrough);
    if !sorted.refused.is_empty() {
        let mut failure = Failure::new("read the worker's arguments").permanent();
        for (flag, what) in &sorted.refused {
            failure = failure.cause(format!("`{flag}` asks for {what}, which this worker does not do"));
        }
        return Err(failure.remedy("remove it, or run this component with its own image"));
    }
    if !sorted.left_out.is_empty() {
        tracing::warn!(
            flags = sorted.left_out.join(" "),
            "arguments of dynamo.vllm that mean nothing here are left out"
        );
    }
    Ok(sorted.vllm)
}

fn not_there(act: &str, error: &vllm::VllmError) -> Failure {
    let failure = Failure::new(act).chain(error).remedy(error.remedy());
    if error.is_permanent() { failure.permanent() } else { failure }
}
