//! What must be true once everything has come to rest.

use super::deployment::{Deployment, Running};
use super::run::Log;
use crate::workers::WorkerSet;
use protocol::events::{RecoveryAnswer, RecoveryQuery};
use protocol::ids::WorkerRank;
use protocol::kv::{BlockHash, KvChange, TokensHash};
use runtime::world::MemoryNetwork;
use std::collections::{BTreeMap, BTreeSet};

/// No load is booked, the engines are idle, and every index says what the workers' caches hold.
pub(super) fn at_rest(deployment: &Deployment, log: &Log) {
    for (number, front) in deployment.frontends.iter().enumerate() {
        for set in front.sets() {
            let booked = set.booked();
            if booked > 0 {
                log.violation(format!("frontend {number} holds {booked} bookings of requests that are over"));
            }
            for worker in deployment.living() {
                if let Err(why) = agrees(&set, worker) {
                    log.violation(format!("frontend {number}, index of worker {}: {why}", worker.instance));
                }
            }
            let known: BTreeSet<_> = set.with_index(|index| index.known_ranks().map(|rank| rank.worker_id).collect());
            for gone in known.into_iter().filter(|id| deployment.living().all(|worker| worker.instance != *id)) {
                log.violation(format!("frontend {number}: the index still knows worker {gone}, which is gone"));
            }
        }
    }
    for engine in deployment.living().map(|worker| &worker.engine).chain(deployment.leaving_engines()) {
        let load = engine.load();
        if (load.running, load.waiting, load.active_decode_blocks) != (0, 0, 0) {
            log.violation(format!("an engine still works: {load:?}"));
        }
    }
}

/// Nothing is left of the deployment.
pub(super) fn gone(network: &MemoryNetwork, log: &Log) {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    if tasks > 0 {
        log.violation(format!("{tasks} tasks outlive everything"));
    }
    let connections = network.connections();
    if connections > 0 {
        log.violation(format!("{connections} connections outlive everything"));
    }
}

/// Whether the index has exactly what the worker's mirror has.
fn agrees(set: &WorkerSet, worker: &Running) -> Result<(), String> {
    let rank = WorkerRank { worker_id: worker.instance, dp_rank: 0 };
    let paths = paths(worker, rank);
    let indexed = set.with_index(|index| index.blocks_of(rank));
    if indexed != paths.len() {
        return Err(format!("{indexed} blocks, the worker has {}", paths.len()));
    }
    for path in paths.values() {
        let found = set.with_index(|index| index.overlap(path)).of(rank).total() as usize;
        if found != path.len() {
            return Err(format!("{found} of the {} blocks of a prefix that the worker has", path.len()));
        }
    }
    Ok(())
}

/// Each block that the worker stores, with the hashes of its prefix, its own included.
fn paths(worker: &Running, rank: WorkerRank) -> BTreeMap<BlockHash, Vec<TokensHash>> {
    let query = RecoveryQuery {
        worker_id: rank.worker_id,
        dp_rank: rank.dp_rank,
        start_event_id: None,
        end_event_id: None,
        supports_tree_dump_failed: true,
        kind: "recovery".into(),
    };
    let RecoveryAnswer::TreeDump { events, .. } = worker.mirror.lock().answer(&query) else {
        unreachable!("a query without a start is answered by a dump")
    };
    let mut paths: BTreeMap<BlockHash, Vec<TokensHash>> = BTreeMap::new();
    for event in events {
        let KvChange::Stored(stored) = event.event.data else { unreachable!("a dump stores") };
        let mut path = stored.parent_hash.map(|parent| paths[&parent].clone()).unwrap_or_default();
        for block in stored.blocks {
            path.push(block.tokens_hash);
            paths.insert(block.block_hash, path.clone());
        }
    }
    paths
}
