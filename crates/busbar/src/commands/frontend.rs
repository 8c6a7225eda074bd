//! `busbar frontend`, and `python3 -m dynamo.frontend` of a manifest.

use super::{discovery, runtime};
use crate::cli::{self, Command};
use crate::flags::frontend::FrontendFlags;
use crate::flags::manifest;
use crate::report::Failure;
use crate::{logging, shutdown};
use ::frontend::FrontendError;
use ::runtime::discovery::KubernetesConfig;

/// Every container of a Kubernetes pod has it.
const IN_A_POD: &str = "KUBERNETES_SERVICE_HOST";

/// Runs with the arguments of a manifest, below the environment in rank.
pub(crate) fn from_manifest(args: &[String]) -> Result<(), Failure> {
    let command = cli::command();
    let own = command.find_subcommand("frontend").expect("`frontend` is one of our commands");
    let split = manifest::split(own, args, true);
    if let Some(flag) = split.unknown.first() {
        return Err(Failure::new(format!("`{flag}` is no flag of a frontend here"))
            .remedy("remove it; `busbar frontend --help` lists the flags")
            .permanent());
    }
    let more = if std::env::var_os(IN_A_POD).is_some() { for_a_pod(&split.known) } else { Vec::new() };
    let words = ["busbar", "frontend"].map(str::to_owned).into_iter().chain(split.known).chain(more);
    let words = words.collect::<Vec<_>>();
    match cli::parse(&words)?.command {
        Command::Frontend(flags) => run(*flags),
        _ => unreachable!("the words begin with `frontend`"),
    }
}

/// What a manifest's command means in a pod beyond what it says.
///
/// Stock frontends serve on all addresses, and a pod that did not would fail its probes and be no part of its Service; so
/// manifests count on it. Who reaches the pod is decided by the Service, the Ingress and the NetworkPolicy before it. A
/// set variable wins: `DYN_HTTP_HOST`, or `BUSBAR_ALLOW_OPEN=false`, with which a frontend without keys does not start.
fn for_a_pod(args: &[String]) -> Vec<String> {
    let is_set = |flag: &str, variable: &str| {
        let given = args.iter().any(|arg| arg == flag || arg.strip_prefix(flag).is_some_and(|v| v.starts_with('=')));
        given || std::env::var_os(variable).is_some()
    };
    let mut more = Vec::new();
    if !is_set("--http-host", "DYN_HTTP_HOST") {
        more.extend(["--http-host", "0.0.0.0"].map(str::to_owned));
    }
    // Where Dynamo's scrape configurations look for them.
    if !is_set("--metrics-with-api", "BUSBAR_METRICS_WITH_API") {
        more.push("--metrics-with-api".to_owned());
    }
    let keyed = is_set("--api-keys", "BUSBAR_API_KEYS");
    if !keyed && !is_set("--allow-open", "BUSBAR_ALLOW_OPEN") {
        logging::start();
        tracing::warn!(
            "in a pod, under a manifest's command: the API is served without keys to whoever reaches the pod; a \
             NetworkPolicy says who does, and BUSBAR_API_KEYS asks for keys"
        );
        more.push("--allow-open".to_owned());
    }
    more
}

/// Serves until told to stop.
pub(crate) fn run(flags: FrontendFlags) -> Result<(), Failure> {
    logging::start();
    let (backend, etcd, kubernetes) = (flags.discovery_backend, flags.etcd.clone(), flags.kubernetes.clone());
    let io_threads = flags.io_threads;
    let config = flags.config();
    runtime(io_threads)?.block_on(async {
        let shutdown =
            shutdown::listen().map_err(|error| Failure::new("listen for signals").cause(error.to_string()))?;
        let field_manager = KubernetesConfig::FRONTEND;
        let ways = discovery::Ways { etcd: &etcd, kubernetes: &kubernetes, field_manager };
        let discovery = discovery::join(backend, ways).await?;
        let frontend = ::frontend::start(config, discovery.clone()).await.map_err(|error| failed(&error))?;
        tracing::info!(address = %frontend.address(), admin = %frontend.admin_address(), "serving");
        shutdown.first.cancelled().await;
        tracing::info!("draining");
        let left = async {
            frontend.shutdown().await;
            discovery.leave().await;
        };
        tokio::select! {
            () = left => {}
            () = shutdown.second.cancelled() => {}
        }
        Ok(())
    })
}

fn failed(error: &FrontendError) -> Failure {
    let failure = Failure::new("start the frontend").chain(error);
    match error {
        // Another program may let go of the port.
        FrontendError::Listen { .. } | FrontendError::Responses(_) => failure,
        _ => failure.permanent(),
    }
}
