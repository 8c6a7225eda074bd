//! What a container gets for what it runs: command, ports and probes.
//!
//! Source: Dynamo, deploy/operator, component_*.go; where its documentation says otherwise the code counts.

use super::environment::{EPP_HEALTH_PORT, EPP_PORT, HTTP_PORT, NIXL_PORT, PLANNER_PORT, SYSTEM_PORT};
use crate::component::ComponentKind;
use k8s_openapi::api::core::v1::{Container, ContainerPort, GRPCAction, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Name of the frontend's port.
pub(super) const HTTP: &str = "http";
/// Name of the port of a system server.
pub(super) const SYSTEM: &str = "system";
/// Name of the endpoint picker's port.
pub(super) const GRPC: &str = "grpc";
/// Service that the endpoint picker's health server answers for.
const EPP_HEALTH_SERVICE: &str = "inference-extension";

/// Fills in command, ports and probes of a container of kind `kind`; what the user gave stays.
pub(super) fn equip(container: &mut Container, kind: Option<ComponentKind>) {
    set_command(container, kind);
    let mut ports = container.ports.take().unwrap_or_default();
    for port in default_ports(kind) {
        let is_taken = |own: &ContainerPort| own.name == port.name || own.container_port == port.container_port;
        if !ports.iter().any(is_taken) {
            ports.push(port);
        }
    }
    container.ports = (!ports.is_empty()).then_some(ports);
    let probes = default_probes(kind);
    container.liveness_probe = container.liveness_probe.take().or(probes.liveness);
    container.readiness_probe = container.readiness_probe.take().or(probes.readiness);
    container.startup_probe = container.startup_probe.take().or(probes.startup);
}

/// Without a command, a frontend runs the frontend; arguments alone are one line for a shell, or flags for Python. With
/// neither, the image's own entrypoint decides.
fn set_command(container: &mut Container, kind: Option<ComponentKind>) {
    if container.command.as_ref().is_some_and(|command| !command.is_empty()) {
        return;
    }
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    let first = container.args.as_ref().and_then(|args| args.first());
    let is_flag = first.is_some_and(|first| first.starts_with('-'));
    match (kind, first) {
        (Some(ComponentKind::Frontend), None) => {
            container.command = words(&["python3"]);
            container.args = words(&["-m", "dynamo.frontend"]);
        }
        (Some(ComponentKind::Frontend), Some(_)) if is_flag => container.command = words(&["python3"]),
        // The endpoint picker's image has an entrypoint, and takes flags.
        (Some(ComponentKind::Epp), _) | (_, None) => {}
        (_, Some(_)) => container.command = words(&["/bin/sh", "-c"]),
    }
}

fn default_ports(kind: Option<ComponentKind>) -> Vec<ContainerPort> {
    match kind {
        Some(ComponentKind::Frontend) => vec![port(HTTP, HTTP_PORT)],
        Some(ComponentKind::Worker | ComponentKind::Prefill | ComponentKind::Decode) => {
            vec![port(SYSTEM, SYSTEM_PORT), port("nixl", NIXL_PORT)]
        }
        Some(ComponentKind::Planner) => vec![port("metrics", PLANNER_PORT), port(SYSTEM, SYSTEM_PORT)],
        Some(ComponentKind::Epp) => {
            vec![port(GRPC, EPP_PORT), port("grpc-health", EPP_HEALTH_PORT), port("metrics", SYSTEM_PORT)]
        }
        None => Vec::new(),
    }
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        container_port: number,
        name: Some(name.to_owned()),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// The three probes of a container.
#[derive(Default)]
struct Probes {
    liveness: Option<Probe>,
    readiness: Option<Probe>,
    startup: Option<Probe>,
}

/// When a probe runs, in seconds and failures in a row.
#[derive(Clone, Copy)]
struct Schedule {
    delay: Option<i32>,
    period: i32,
    timeout: i32,
    failures: i32,
}

fn default_probes(kind: Option<ComponentKind>) -> Probes {
    match kind {
        Some(ComponentKind::Frontend) => Probes {
            liveness: get("/live", HTTP, Schedule { delay: Some(15), period: 10, timeout: 1, failures: 3 }),
            readiness: get("/health", HTTP, Schedule { delay: Some(10), period: 10, timeout: 3, failures: 3 }),
            startup: get("/live", HTTP, Schedule { delay: None, period: 10, timeout: 1, failures: 30 }),
        },
        // Two hours to start: a large model that is fetched and compiled for the first time.
        Some(ComponentKind::Worker | ComponentKind::Prefill | ComponentKind::Decode | ComponentKind::Planner) => {
            Probes {
                liveness: get("/live", SYSTEM, Schedule { delay: None, period: 5, timeout: 4, failures: 1 }),
                readiness: get("/health", SYSTEM, Schedule { delay: None, period: 10, timeout: 4, failures: 3 }),
                startup: get("/live", SYSTEM, Schedule { delay: None, period: 10, timeout: 5, failures: 720 }),
            }
        }
        Some(ComponentKind::Epp) => Probes {
            liveness: grpc(Schedule { delay: Some(5), period: 10, timeout: 1, failures: 3 }),
            readiness: grpc(Schedule { delay: Some(5), period: 10, timeout: 1, failures: 3 }),
            startup: grpc(Schedule { delay: None, period: 10, timeout: 1, failures: 180 }),
        },
        None => Probes::default(),
    }
}

fn get(path: &str, port: &str, schedule: Schedule) -> Option<Probe> {
    let action = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::String(port.to_owned()),
        ..HTTPGetAction::default()
    };
    Some(Probe { http_get: Some(action), ..timed(schedule) })
}

fn grpc(schedule: Schedule) -> Option<Probe> {
    let action = GRPCAction { port: EPP_HEALTH_PORT, service: Some(EPP_HEALTH_SERVICE.to_owned()) };
    Some(Probe { grpc: Some(action), ..timed(schedule) })
}

fn timed(schedule: Schedule) -> Probe {
    Probe {
        failure_threshold: Some(schedule.failures),
        initial_delay_seconds: schedule.delay,
        period_seconds: Some(schedule.period),
        timeout_seconds: Some(schedule.timeout),
        ..Probe::default()
    }
}

/// Seconds after which the kubelet gives up on a container's start; none without a startup probe.
pub(super) fn startup_seconds(container: &Container) -> Option<i32> {
    // Kubernetes' defaults of a probe: every 10 seconds, 3 failures.
    let probe = container.startup_probe.as_ref()?;
    let tries = probe.failure_threshold.unwrap_or(3);
    Some(
        probe
            .initial_delay_seconds
            .unwrap_or(0)
            .saturating_add(probe.period_seconds.unwrap_or(10).saturating_mul(tries)),
    )
}
