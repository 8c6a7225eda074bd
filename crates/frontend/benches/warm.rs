//! How soon a frontend that comes later is useful, and how soon its index is warm: ten workers with 100,000 cached
//! blocks each, a million in all, and it asks each for a dump. `cargo bench -p frontend --bench warm`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints its figures")]
#![allow(dead_code, reason = "the tests' workers can do more than is asked of them here")]

#[path = "../tests/flow/scripted_worker.rs"]
mod scripted_worker;
#[path = "../tests/flow/stage.rs"]
mod stage;

use frontend::RouterMode;
use scripted_worker::{BLOCK_SIZE, ScriptedWorker, WorkerPlan};
use serde_json::json;
use stage::{Stage, ask};
use std::time::Instant;

const ROUNDS: usize = 5;
const WORKERS: u64 = 10;
const BLOCKS_A_WORKER: u32 = 100_000;
/// A sequence of 16,000 tokens in real blocks of 16.
const BLOCKS_A_SEQUENCE: u32 = 1_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut took: Vec<[f64; 3]> = Vec::new();
        let first = Stage::with(|config| config.router.mode = RouterMode::RoundRobin).await;
        let mut workers = Vec::new();
        for instance in 1..=WORKERS {
            let plan = WorkerPlan { instance, kv_events: true, ..WorkerPlan::default() };
            workers.push(ScriptedWorker::start(&first.discovery, plan).await);
        }
        for (number, worker) in workers.iter().enumerate() {
            for sequence in 0..BLOCKS_A_WORKER / BLOCKS_A_SEQUENCE {
                let from = (number as u32 * BLOCKS_A_WORKER + sequence * BLOCKS_A_SEQUENCE) * BLOCK_SIZE as u32;
                let tokens: Vec<u32> = (from..from + BLOCKS_A_SEQUENCE * BLOCK_SIZE as u32).collect();
                worker.cache(&tokens, true).await;
            }
        }
        for _ in 0..ROUNDS {
            took.push(round(&first).await);
        }
        let median = |at: usize| {
            let mut values: Vec<f64> = took.iter().map(|row| row[at]).collect();
            values.sort_by(f64::total_cmp);
            (values[ROUNDS / 2], values[0], values[ROUNDS - 1])
        };
        for (at, what) in ["the first answer", "the index is warm", "longest answer meanwhile"].iter().enumerate() {
            let (median, least, most) = median(at);
            println!("{what}: {median:.3} s ({least:.3}–{most:.3}), {WORKERS} workers, {BLOCKS_A_WORKER} blocks each, {ROUNDS} rounds");
        }
    });
}

/// A new frontend: seconds to its first answer, to its warm index, and of its slowest answer until then.
async fn round(first: &Stage) -> [f64; 3] {
    let started = Instant::now();
    let stage = Stage::beside(first, |config| config.router.mode = RouterMode::Kv).await;
    let mut answered = None;
    let mut slowest: f64 = 0.0;
    loop {
        let asked = Instant::now();
        let status = stage.chat(&ask("a short question", &json!({"max_tokens": 1}))).await.status();
        if status == 200 {
            answered.get_or_insert(started.elapsed().as_secs_f64());
            slowest = slowest.max(asked.elapsed().as_secs_f64());
        }
        let metrics = stage.metrics().await;
        let blocks = metrics.lines().filter(|line| line.starts_with("busbar_router_index_blocks{"));
        let blocks: f64 = blocks.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        if blocks >= (WORKERS * u64::from(BLOCKS_A_WORKER)) as f64 {
            return [answered.unwrap_or(f64::NAN), started.elapsed().as_secs_f64(), slowest];
        }
        assert!(started.elapsed().as_secs() < 120, "{blocks} blocks are known after two minutes");
    }
}
