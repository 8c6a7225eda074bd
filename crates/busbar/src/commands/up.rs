//! `busbar up`: a graph file becomes processes that serve on this machine.

use super::model::{bring, engine_kind, engine_word};
use super::worker::read_manifest;
use super::{runtime, vllm_share};
use crate::cli::{Output, UpFlags};
use crate::flags::discovery::DiscoveryBackend;
use crate::flags::worker::EngineChoice;
use crate::progress::Progress;
use crate::report::Failure;
use crate::{folders, shutdown};
use deploy::local::process::{EXIT_PERMANENT, ProcessSpec};
use deploy::local::run::{self, RunEvent, RunSpec, RunStop, fingerprint};
use deploy::local::state::RunFolder;
use deploy::local::{RunError, port, stop};
use graph::argv::{self, Module};
use graph::local::{BUILT_IN_GRAPH, LocalPlan, Process, Role, render};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use worker::model::{EngineKind, LocalModel, ModelSource};

const _: () = assert!(EXIT_PERMANENT == crate::report::EXIT_USAGE as i32);
/// A manifest larger than this is not read.
const MANIFEST_BYTES_MAX: u64 = 2 << 20;

/// Runs a graph until it is told to stop; with `--detach` until it serves.
pub(crate) fn run(flags: &UpFlags, output: Output) -> Result<(), Failure> {
    let started = Instant::now();
    let file = flags.file.as_deref().map_or("the built-in graph".to_owned(), |path| path.display().to_string());
    let graph = graph::parse(&read(flags.file.as_deref())?).map_err(|found| Failure::findings(&file, &found))?;
    let plan = render(&graph).map_err(|found| Failure::findings(&file, &found))?;
    check_bind(flags)?;
    let progress = Arc::new(Mutex::new(Progress::new(output == Output::Json)));
    let folder = RunFolder::new(&folders::state()?, &graph.name);
    if let Ok(progress) = progress.lock() {
        progress.line(&format!("{file}: graph {}, {} processes", graph.name, plan.processes.len()));
        for note in &plan.notes {
            progress.line(&format!("  note: {note}"));
        }
    }
    runtime(None)?.block_on(async {
        // A taken port is told before anything long begins.
        let addresses = addresses(flags, &plan);
        let ours = folder.read().filter(|run| run.supervisor.is_alive());
        for address in addresses.iter().filter(|_| ours.is_none()) {
            port::check_free(*address)?;
        }
        let shutdown =
            shutdown::listen().map_err(|error| Failure::new("listen for signals").cause(error.to_string()))?;
        let spec = tokio::select! {
            spec = specify(flags, &graph.name, &plan, &folder, addresses, &progress) => spec?,
            () = shutdown.first.cancelled() => return Err(Failure::new("interrupted before anything was started")),
        };
        if let Some(running) = ours {
            if running.spec == fingerprint(&spec) {
                announce(&spec, started, output, "runs already, unchanged");
                return Ok(());
            }
            replace(&running, &spec, &progress).await?;
        }
        if flags.detach && std::env::var_os(DETACHED).is_none() {
            return detach(&spec, &folder, started, output, &progress).await;
        }
        foreground(&folder, spec, shutdown, started, output, &progress).await
    })
}

/// Set in the process that keeps a detached run.
const DETACHED: &str = "BUSBAR_DETACHED";

fn read(path: Option<&Path>) -> Result<String, Failure> {
    let Some(path) = path else { return Ok(BUILT_IN_GRAPH.to_owned()) };
    let failed = |cause: String| {
        Failure::new(format!("read {}", path.display()))
            .cause(cause)
            .remedy("give the path of a graph file")
            .permanent()
    };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MANIFEST_BYTES_MAX {
        return Err(failed(format!("it has {size} bytes; a graph has at most {MANIFEST_BYTES_MAX}")));
    }
    std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}

fn check_bind(flags: &UpFlags) -> Result<(), Failure> {
    if flags.host.is_loopback() || flags.api_keys.is_some() {
        return Ok(());
    }
    Err(Failure::new(format!("--host {} would serve the model to anyone who reaches this machine", flags.host))
        .cause("no API keys are given")
        .remedy("make a key with `busbar keys add NAME` and give --api-keys FILE")
        .permanent())
}

fn addresses(flags: &UpFlags, plan: &LocalPlan) -> Vec<SocketAddr> {
    let frontends = plan.processes.iter().filter(|process| process.role == Role::Frontend).count();
    (0..u16::try_from(frontends).unwrap_or(u16::MAX))
        .map(|i| SocketAddr::new(flags.host, flags.port.saturating_add(i)))
        .collect()
}

/// Everything that the run needs to know: models are on this machine when it returns.
async fn specify(
    flags: &UpFlags,
    graph: &str,
    plan: &LocalPlan,
    folder: &RunFolder,
    addresses: Vec<SocketAddr>,
    progress: &Arc<Mutex<Progress>>,
) -> Result<RunSpec, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::new("find this program").cause(e.to_string()))?;
    let backend = discovery_backend(plan)?;
    let workers = plan.processes.iter().filter(|process| process.role == Role::Worker).count();
    let mut models: BTreeMap<String, LocalModel> = BTreeMap::new();
    let (mut processes, mut served, mut engines) = (Vec::new(), Vec::new(), Vec::new());
    let mut free = addresses.iter();
    for process in &plan.processes {
        let mut env = process.env.clone();
        // One machine: everything is found in a folder of this run, unless the graph has an etcd, and travels over
        // loopback.
        set(&mut env, "DYN_DISCOVERY_BACKEND", backend.word());
        set(&mut env, "DYN_FILE_KV", &folder.discovery().to_string_lossy());
        for host in ["DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST"] {
            set(&mut env, host, "127.0.0.1");
        }
        match process.role {
            Role::Frontend => {
                let address = free.next().expect("there is an address for each frontend");
                frontend_env(&mut env, flags, *address);
            }
            Role::Worker => {
                let (model, kind) = worker_model(flags, process, &mut models, progress).await?;
                worker_env(&mut env, kind, &model, flags, process, workers);
                served.push(model.served_name);
                engines.push(engine_word(kind));
            }
        }
        processes.push(ProcessSpec {
            name: process.name.clone(),
            component: process.component.clone(),
            role: process.role,
            program: program.clone(),
            argv: process.argv.clone(),
            env,
        });
    }
    engines.dedup();
    served.dedup();
    Ok(RunSpec {
        graph: graph.to_owned(),
        model: served.join(", "),
        engine: engines.join(", "),
        endpoints: addresses,
        processes,
        ready_timeout: flags.ready_timeout.map_or_else(|| ready_timeout(&engines), Duration::from_secs),
        drain_timeout: Duration::from_secs(flags.drain_timeout),
    })
}

/// Where the processes of a graph find each other: in an etcd when the environment or the manifest asks for one, in a
/// folder of the run for everything else (a manifest's `kubernetes` included: this is no cluster).
fn discovery_backend(plan: &LocalPlan) -> Result<DiscoveryBackend, Failure> {
    const NAME: &str = "DYN_DISCOVERY_BACKEND";
    let etcd = DiscoveryBackend::Etcd.word();
    let of_environment = std::env::var(NAME).ok().filter(|word| !word.is_empty());
    let asked = |process: &Process| {
        let of_manifest = process.env.iter().find(|(name, _)| name == NAME).map(|(_, value)| value.as_str());
        // As the process itself reads it: its environment, then its arguments.
        let of_arguments =
            process.argv.iter().any(|word| {
                word.contains(&format!("--discovery-backend {etcd}")) || word == &format!("--discovery-backend={etcd}")
            }) || process.argv.windows(2).any(|pair| pair[0] == "--discovery-backend" && pair[1] == etcd);
        match of_environment.as_deref().or(of_manifest) {
            Some(word) => word == etcd,
            None => of_arguments,
        }
    };
    let (in_etcd, elsewhere): (Vec<_>, Vec<_>) = plan.processes.iter().partition(|process| asked(process));
    match (in_etcd.first(), elsewhere.first()) {
        (Some(one), Some(other)) => Err(Failure::new("find out where the processes find each other")
            .cause(format!("{} is told to use etcd and {} is not", one.name, other.name))
            .remedy(format!("give every service {NAME}=etcd and the same ETCD_ENDPOINTS, or none"))
            .permanent()),
        (Some(_), None) => Ok(DiscoveryBackend::Etcd),
        _ => Ok(DiscoveryBackend::File),
    }
}

/// How long workers with these engines may take to be there, unless told.
fn ready_timeout(engines: &[&str]) -> Duration {
    const USUAL: Duration = Duration::from_secs(120);
    let vllm = engines.contains(&engine_word(EngineKind::Vllm));
    if vllm { worker::engine::vllm::DEFAULT_READY_WITHIN } else { USUAL }
}

fn set(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    env.retain(|(known, _)| known != name);
    env.push((name.to_owned(), value.to_owned()));
}

fn frontend_env(env: &mut Vec<(String, String)>, flags: &UpFlags, address: SocketAddr) {
    set(env, "DYN_HTTP_HOST", &address.ip().to_string());
    set(env, "DYN_HTTP_PORT", &address.port().to_string());
    if let Some(keys) = &flags.api_keys {
        set(env, "BUSBAR_API_KEYS", &absolute(keys).to_string_lossy());
    }
}

fn worker_env(
    env: &mut Vec<(String, String)>,
    kind: EngineKind,
    model: &LocalModel,
    flags: &UpFlags,
    process: &Process,
    workers: usize,
) {
    set(env, "BUSBAR_ENGINE", engine_word(kind));
    set(env, "BUSBAR_MODEL_NAME", &model.served_name);
    let asked = asked_for(flags, process);
    match (&asked, &model.gguf) {
        // The default model, under whatever name: the worker finds it in the cache by the same name.
        (None, _) => {}
        (Some(text), _) if is_packaged(text) => set(env, "BUSBAR_MODEL", text),
        (Some(_), Some(gguf)) if kind == EngineKind::Embedded => set(env, "BUSBAR_MODEL", &gguf.to_string_lossy()),
        (Some(_), _) => set(env, "BUSBAR_MODEL", &model.hf_folder.to_string_lossy()),
    }
    if !env.iter().any(|(name, _)| name == "DYN_SYSTEM_PORT") {
        set(env, "DYN_SYSTEM_PORT", "0");
    }
    if kind == EngineKind::Embedded && !env.iter().any(|(name, _)| name == "BUSBAR_ENGINE_THREADS") {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        set(env, "BUSBAR_ENGINE_THREADS", &(cores / workers.max(1)).max(1).to_string());
    }
    if kind == EngineKind::Vllm && !worker::engine::vllm::gpu_available() {
        share_cpus(env, process, workers);
    }
}

/// Tells a vLLM on CPUs its part of this machine, where neither the manifest nor who calls has told it.
fn share_cpus(env: &mut Vec<(String, String)>, process: &Process, workers: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| vllm_share::memory(&text));
    for (name, value) in vllm_share::environment(workers, cores, memory.unwrap_or(0), &process.argv) {
        if std::env::var_os(name).is_none() && !env.iter().any(|(known, _)| known == name) {
            set(env, name, &value);
        }
    }
}

fn is_packaged(text: &str) -> bool {
    let here = std::env::current_dir().unwrap_or_default();
    matches!(ModelSource::parse(Some(text), &here), Ok(ModelSource::Packaged { .. }))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The model that is asked for: by `--model`, else by the manifest's own arguments.
fn asked_for(flags: &UpFlags, process: &Process) -> Option<String> {
    if flags.model.is_some() {
        return flags.model.clone();
    }
    let launch = argv::recognise(&process.argv).ok()?;
    let of_env = process.env.iter().find(|(name, _)| name == "BUSBAR_MODEL").map(|(_, value)| value.clone());
    of_env.or(read_manifest(launch.module, &launch.args).ok()?.flags.model)
}

async fn worker_model(
    flags: &UpFlags,
    process: &Process,
    models: &mut BTreeMap<String, LocalModel>,
    progress: &Arc<Mutex<Progress>>,
) -> Result<(LocalModel, EngineKind), Failure> {
    let launch = argv::recognise(&process.argv).map_err(|error| {
        Failure::new(format!("read the command of {}", process.component)).chain(&error).permanent()
    })?;
    let read = read_manifest(launch.module, &launch.args)?;
    let choice = flags.engine.or(read.flags.engine).unwrap_or(match launch.module {
        Module::Mocker => EngineChoice::Mock,
        Module::Frontend | Module::Vllm | Module::Worker => EngineChoice::Auto,
    });
    let kind = engine_kind(choice);
    let asked = asked_for(flags, process);
    let key = format!("{}:{}", engine_word(kind), asked.as_deref().unwrap_or_default());
    if !models.contains_key(&key) {
        let mut model = bring(asked.as_deref(), kind, progress).await?;
        if let Some(name) = read.flags.served_model_name.filter(|_| flags.model.is_none()) {
            model.served_name = name;
        }
        models.insert(key.clone(), model);
    }
    Ok((models[&key].clone(), kind))
}

/// Another graph of the same name runs: says what differs and stops it.
async fn replace(
    running: &deploy::local::state::RunState,
    spec: &RunSpec,
    progress: &Arc<Mutex<Progress>>,
) -> Result<(), Failure> {
    const TIMEOUT: Duration = Duration::from_secs(45);
    let wanted = fingerprint(spec);
    if let Ok(progress) = progress.lock() {
        progress.line(&format!(
            "{} runs already (supervisor pid {}); what changes:",
            running.graph, running.supervisor.pid
        ));
        running
            .spec
            .iter()
            .filter(|word| !wanted.contains(word))
            .for_each(|word| progress.line(&format!("  - {word}")));
        wanted
            .iter()
            .filter(|word| !running.spec.contains(word))
            .for_each(|word| progress.line(&format!("  + {word}")));
        progress.line("draining the running one");
    }
    stop::stop(&folders::state()?, running, TIMEOUT).await?;
    Ok(())
}

async fn foreground(
    folder: &RunFolder,
    spec: RunSpec,
    shutdown: shutdown::Shutdown,
    started: Instant,
    output: Output,
    progress: &Arc<Mutex<Progress>>,
) -> Result<(), Failure> {
    let told = RunStop { drain: shutdown.first, kill: shutdown.second };
    let shown = spec.clone();
    let on_event = |event: RunEvent| {
        if event == RunEvent::Ready {
            if let Ok(mut progress) = progress.lock() {
                progress.done();
            }
            announce(&shown, started, output, "serves");
        } else if let Ok(mut progress) = progress.lock() {
            show(&event, &mut progress);
        }
    };
    run::run(folder, spec, told, on_event).await?;
    Ok(())
}

fn show(event: &RunEvent, progress: &mut Progress) {
    match event {
        RunEvent::Started { name, pid, restarts: 0 } => progress.line(&format!("  ✓ {name} started (pid {pid})")),
        RunEvent::Started { name, pid, restarts } => {
            progress.line(&format!("  ✓ {name} started again (pid {pid}, restart {restarts})"));
        }
        RunEvent::Ended { name, reason, restart_in: Some(pause) } => {
            progress.line(&format!("  ✗ {name} ended: {reason}; starts again in {:.1} s", pause.as_secs_f64()));
        }
        RunEvent::Ended { name, reason, restart_in: None } => {
            progress.line(&format!("  ✗ {name} ended: {reason}; a restart cannot help"));
        }
        RunEvent::Progress { workers, workers_wanted, listed } => {
            let model = if *listed { "model listed" } else { "waiting for the model" };
            progress.stage(&format!("starting: {workers} of {workers_wanted} workers registered, {model}"), None, None);
        }
        RunEvent::Ready => {}
        RunEvent::Draining => progress.line("draining (once more to stop at once)"),
        RunEvent::Stopped { name, killed: false } => progress.line(&format!("  ✓ {name} stopped")),
        RunEvent::Stopped { name, killed: true } => {
            progress.line(&format!("  ✗ {name} did not stop in time and was killed"));
        }
    }
}

/// The endpoint, one curl line and the status page.
fn announce(spec: &RunSpec, started: Instant, output: Output, what: &str) {
    let base_url = spec.endpoints.first().map_or(String::new(), |address| format!("http://{address}"));
    let name = spec.model.split(", ").next().unwrap_or_default();
    if output == Output::Json {
        let endpoints: Vec<_> = spec.endpoints.iter().map(|address| format!("http://{address}")).collect();
        println!(
            "{}",
            serde_json::json!({
                "graph": spec.graph, "model": name, "engine": spec.engine, "endpoints": endpoints, "status_page": base_url,
                "state": what, "seconds": started.elapsed().as_secs_f64(),
            })
        );
        return;
    }
    let keys = spec.processes.iter().any(|process| process.env.iter().any(|(name, _)| name == "BUSBAR_API_KEYS"));
    let key = if keys { " -H \"authorization: Bearer $KEY\"" } else { "" };
    let body = serde_json::json!({
        "model": name, "messages": [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}], "temperature": 0,
    });
    println!("{} {what} ({:.1} s): model {name}, engine {}", spec.graph, started.elapsed().as_secs_f64(), spec.engine);
    println!();
    println!("  endpoint     {base_url}/v1");
    println!("  status page  {base_url}/");
    println!(
        "  try it       curl -s {base_url}/v1/chat/completions -H 'content-type: application/json'{key} -d '{body}'"
    );
    println!();
}

/// Starts this command again in the background and waits until that one serves.
async fn detach(
    spec: &RunSpec,
    folder: &RunFolder,
    started: Instant,
    output: Output,
    progress: &Arc<Mutex<Progress>>,
) -> Result<(), Failure> {
    const POLL: Duration = Duration::from_millis(50);
    folder.create()?;
    let log_path = folder.supervisor_log();
    let log = std::fs::File::create(&log_path)
        .map_err(|error| Failure::new(format!("write {}", log_path.display())).cause(error.to_string()))?;
    let log_too = log.try_clone().map_err(|error| Failure::new("open the log").cause(error.to_string()))?;
    let failed = |error: std::io::Error| Failure::new("start the supervisor").cause(error.to_string());
    let mut child = tokio::process::Command::new(std::env::current_exe().map_err(failed)?)
        .args(std::env::args().skip(1))
        .env(DETACHED, "1")
        .stdin(std::process::Stdio::null())
        .stdout(log)
        .stderr(log_too)
        // A group of its own: what the terminal sends its foreground group (Ctrl-C, hang-up) does not reach it.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    if let Ok(mut progress) = progress.lock() {
        progress.stage("starting in the background", None, None);
    }
    let deadline = tokio::time::Instant::now() + spec.ready_timeout + Duration::from_secs(5);
    loop {
        if folder.read().is_some_and(|run| run.ready && run.supervisor.is_alive()) {
            break;
        }
        if let Ok(Some(status)) = child.try_wait() {
            let words = deploy::local::logs::tail(&log_path, 30).unwrap_or_default();
            let mut failure = Failure::of_text(&words).unwrap_or_else(|| Failure::new("it ended"));
            failure.exit_code = u8::try_from(status.code().unwrap_or(1)).unwrap_or(1).max(1);
            return Err(failure);
        }
        if tokio::time::Instant::now() > deadline {
            let _ = child.start_kill();
            return Err(
                RunError::NotReady { seconds: spec.ready_timeout.as_secs(), missing: "the supervisor".into() }.into()
            );
        }
        tokio::time::sleep(POLL).await;
    }
    if let Ok(mut progress) = progress.lock() {
        progress.done();
    }
    announce(spec, started, output, "serves in the background");
    if output == Output::Text {
        println!("  status: busbar status · logs: busbar logs COMPONENT · stop: busbar down");
    }
    Ok(())
}
