//! Caches told over a real NATS server, and what the router makes of its absence.

use crate::nats_server::NatsServer;
use crate::scripted_worker::{ScriptedWorker, WorkerPlan};
use crate::stage::{Stage, ask, until};
use runtime::nats::{Nats, NatsConfig};
use serde_json::json;

fn config(server: &NatsServer) -> NatsConfig {
    NatsConfig { servers: server.url(), ..NatsConfig::default() }
}

async fn stage(server: &NatsServer) -> Stage {
    Stage::with(|frontend| {
        frontend.router.mode = frontend::RouterMode::Kv;
        frontend.nats = config(server);
    })
    .await
}

fn plan(instance: u64, server: &NatsServer) -> WorkerPlan {
    let nats = Some(Nats::new(&config(server)).unwrap());
    WorkerPlan { instance, kv_events: true, nats, ..WorkerPlan::default() }
}

async fn blocks(stage: &Stage, worker: &ScriptedWorker, expected: f64) {
    let series = format!("busbar_router_index_blocks{{model=\"m\",worker_id=\"{}\"", worker.instance);
    let what = format!("{expected} blocks are in the index");
    until(&what, || async { (stage.metric(&series).await == Some(expected)).then_some(()) }).await;
}

async fn connected(stage: &Stage, expected: bool) {
    let wanted = Some(f64::from(u8::from(expected)));
    until("the connection comes or goes", || async {
        (stage.metric("busbar_nats_connected").await == wanted).then_some(())
    })
    .await;
}

fn tokens(from: u32, blocks: u32) -> Vec<u32> {
    (from..from + 4 * blocks).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_on_one_subject_are_told_apart_and_their_loads_too() {
    let Some(server) = NatsServer::start("") else { return };
    let stage = stage(&server).await;
    let (one, two) = (stage.worker(plan(1, &server)).await, stage.worker(plan(2, &server)).await);
    connected(&stage, true).await;
    one.cache(&tokens(100, 3), false).await;
    two.cache(&tokens(200, 5), false).await;
    blocks(&stage, &one, 3.0).await;
    blocks(&stage, &two, 5.0).await;
    until("the reports are in", || async {
        one.tell_load(11).await;
        two.tell_load(22).await;
        let used = async |id| {
            stage.metric(&format!("busbar_frontend_worker_kv_used_blocks{{model=\"m\",worker_id=\"{id}\"")).await
        };
        (used(1).await == Some(11.0) && used(2).await == Some(22.0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_lost_on_the_way_is_seen_by_the_next_and_one_lost_at_the_end_once_it_is_quiet() {
    let Some(server) = NatsServer::start("") else { return };
    let stage = stage(&server).await;
    let worker = stage.worker(plan(1, &server)).await;
    connected(&stage, true).await;
    worker.cache(&tokens(100, 1), false).await;
    blocks(&stage, &worker, 1.0).await;
    worker.cache(&tokens(200, 1), true).await;
    worker.cache(&tokens(300, 1), false).await;
    blocks(&stage, &worker, 3.0).await;
    worker.cache(&tokens(400, 2), true).await;
    blocks(&stage, &worker, 5.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_the_worker_serves_and_is_asked_and_after_it_all_is_as_it_was() {
    let Some(mut server) = NatsServer::start("") else { return };
    let stage = stage(&server).await;
    let worker = stage.worker(plan(1, &server)).await;
    connected(&stage, true).await;
    worker.cache(&tokens(100, 2), false).await;
    blocks(&stage, &worker, 2.0).await;
    server.kill();
    server.wipe();
    connected(&stage, false).await;
    assert_eq!(stage.chat(&ask("hello", &json!({}))).await.status(), 200);
    assert_eq!(stage.snapshot().await["workers"][0]["state"], "ready", "a server that dies is no worker that dies");
    worker.cache(&tokens(200, 2), true).await;
    blocks(&stage, &worker, 4.0).await;
    // Published while nobody can hear it, and told by the worker itself.
    worker.cache(&tokens(300, 1), false).await;
    blocks(&stage, &worker, 5.0).await;
    server.run();
    connected(&stage, true).await;
    worker.cache(&tokens(400, 1), false).await;
    blocks(&stage, &worker, 6.0).await;
    let errors = stage.metric("dynamo_transport_nats_errors_total{error_type=\"unreachable\"").await;
    assert!(errors > Some(0.0), "{errors:?}");
}
