//! Plays the faults of a plan, and takes back those that do not last.

use super::deployment::Deployment;
use super::plan::Fault;
use super::run::Log;
use std::time::Duration;
use tokio::time::Instant;

/// What is done to the deployment, and when: a fault, or the end of one.
#[derive(Clone, Copy, Debug)]
enum Act {
    Begin(Fault),
    End(Fault),
}

/// Plays all faults, counted from `start`.
pub(super) async fn play(deployment: &mut Deployment, faults: &[(Duration, Fault)], start: Instant, log: &Log) {
    for (at, act) in acts(faults) {
        tokio::time::sleep_until(start + at).await;
        log.note(format!("{act:?}"));
        match act {
            Act::Begin(fault) => begin(deployment, fault, log).await,
            Act::End(fault) => end(deployment, fault),
        }
    }
}

fn acts(faults: &[(Duration, Fault)]) -> Vec<(Duration, Act)> {
    let begins = faults.iter().map(|&(at, fault)| (at, Act::Begin(fault)));
    let ends = faults.iter().filter_map(|&(at, fault)| match fault {
        Fault::Freeze { lasts, .. } | Fault::Hold { lasts, .. } => Some((at + lasts, Act::End(fault))),
        _ => None,
    });
    let mut acts: Vec<(Duration, Act)> = begins.chain(ends).collect();
    acts.sort_by_key(|&(at, _)| at);
    acts
}

async fn begin(deployment: &mut Deployment, fault: Fault, log: &Log) {
    match fault {
        Fault::Kill { worker, expires_in } => {
            log.death();
            deployment.kill_worker(worker, expires_in);
        }
        Fault::Leave { worker } => deployment.leave(worker),
        Fault::Start { worker, same_port } => {
            if deployment.workers[worker].running.is_none() {
                deployment.start_worker(worker, same_port).await;
            }
        }
        Fault::Freeze { worker, .. } => deployment.network.freeze(deployment.workers[worker].ip),
        Fault::Cut { frontend, worker } => {
            deployment.network.cut(deployment.frontends[frontend].ip, deployment.workers[worker].ip);
        }
        Fault::Hold { .. } => {
            let (from, to) = direction(deployment, fault);
            deployment.network.hold(from, to);
        }
        Fault::Expire { frontend, worker, lasts } => deployment.hide(frontend, worker, lasts).await,
    }
}

fn end(deployment: &Deployment, fault: Fault) {
    match fault {
        Fault::Freeze { worker, .. } => deployment.network.thaw(deployment.workers[worker].ip),
        _ => {
            let (from, to) = direction(deployment, fault);
            deployment.network.release(from, to);
        }
    }
}

fn direction(deployment: &Deployment, fault: Fault) -> (std::net::IpAddr, std::net::IpAddr) {
    let Fault::Hold { frontend, worker, towards_worker, .. } = fault else {
        unreachable!("only a hold has a direction")
    };
    let (frontend, worker) = (deployment.frontends[frontend].ip, deployment.workers[worker].ip);
    if towards_worker { (frontend, worker) } else { (worker, frontend) }
}
