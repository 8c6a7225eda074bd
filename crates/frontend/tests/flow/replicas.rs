//! Several frontends before the same workers: what one books, the others count.

use crate::scripted_worker::{ScriptedWorker, WorkerPlan};
use crate::stage::{Stage, ask, until};
use frontend::RouterMode;
use protocol::discovery::{EventChannelRecord, EventScope, EventTransport, Record};
use protocol::events::{
    ACTIVE_SEQUENCES_EVENTS, ActiveSequenceChange, ActiveSequenceEvent, ActiveSequencesMessage, PrefillLoadHint,
};
use protocol::ids::EndpointId;
use protocol::kv::BlockHash;
use runtime::discovery::{Discovery, RecordKey};
use runtime::event_plane::Publisher;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const REMOTE: &str = "busbar_router_remote_bookings{model=\"m\"}";

/// A worker whose tokens wait for permits.
fn gated(instance: u64) -> (WorkerPlan, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    (WorkerPlan { instance, gate: Some(gate.clone()), ..WorkerPlan::default() }, gate)
}

/// Two frontends with KV routing; the second is told of every worker, too.
async fn two() -> (Stage, Stage) {
    let first = Stage::kv().await;
    let second = Stage::beside(&first, |config| config.router.mode = RouterMode::Kv).await;
    (first, second)
}

fn start_chat(stage: &Stage, content: &str) -> JoinHandle<u16> {
    let request = stage.http.post(stage.url("/v1/chat/completions")).json(&ask(content, &json!({})));
    tokio::spawn(async move { request.send().await.map_or(0, |answer| answer.status().as_u16()) })
}

/// Waits until `stage` serves so many workers, whoever started them.
async fn serves(stage: &Stage, workers: usize) {
    until("the frontend serves the workers", || async {
        let snapshot = stage.snapshot().await;
        let here = snapshot["workers"].as_array().unwrap().len() == workers;
        (here && snapshot["models"][0]["ready"] == true).then_some(())
    })
    .await;
}

async fn remote_is(stage: &Stage, count: f64) {
    until(&format!("{count} bookings of others count"), || async {
        (stage.metric(REMOTE).await == Some(count)).then_some(())
    })
    .await;
}

fn channels(discovery: &Discovery) -> Vec<EventChannelRecord> {
    let records = discovery.snapshot().into_iter().filter_map(|(_, record)| match &*record {
        Record::EventChannel(channel) if channel.topic == ACTIVE_SEQUENCES_EVENTS => Some(channel.clone()),
        _ => None,
    });
    records.collect()
}

/// Waits until every frontend follows every other: a request at each is seen by all others.
async fn all_follow_each_other(stages: &[&Stage], gate: &Semaphore) {
    for (number, stage) in stages.iter().enumerate() {
        let others = stages.iter().enumerate().filter(|(at, _)| *at != number);
        until("the others count a request", || async {
            let chat = start_chat(stage, "are you there");
            let mut seen = true;
            for (_, other) in others.clone() {
                let start = std::time::Instant::now();
                while other.metric(REMOTE).await != Some(1.0) && start.elapsed().as_millis() < 300 {
                    tokio::task::yield_now().await;
                }
                seen &= other.metric(REMOTE).await == Some(1.0);
            }
            gate.add_permits(16);
            assert_eq!(chat.await.unwrap(), 200);
            seen.then_some(())
        })
        .await;
        for (_, other) in others {
            remote_is(other, 0.0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_one_frontend_is_load_at_the_other_from_its_booking_to_its_end() {
    let (first, second) = two().await;
    let (plan, gate) = gated(1);
    let worker = first.worker(plan).await;
    serves(&second, 1).await;
    all_follow_each_other(&[&first, &second], &gate).await;

    let chat = start_chat(&first, "a question about something");
    remote_is(&second, 1.0).await;
    let decode = "dynamo_frontend_worker_active_decode_blocks{";
    let prefill = "dynamo_frontend_worker_active_prefill_tokens{";
    assert_eq!(first.metric(decode).await, second.metric(decode).await, "both see the same load");
    assert_eq!(first.metric(prefill).await, second.metric(prefill).await);
    assert!(second.metric(prefill).await > Some(0.0));
    // The first token: the prompt is computed, at both.
    gate.add_permits(1);
    until("the prompt is computed", || async { (second.metric(prefill).await == Some(0.0)).then_some(()) }).await;
    assert!(second.metric(decode).await > Some(0.0));
    gate.add_permits(15);
    assert_eq!(chat.await.unwrap(), 200);
    remote_is(&second, 0.0).await;
    assert_eq!((second.metric(decode).await, first.metric(REMOTE).await), (Some(0.0), Some(0.0)));
    assert_eq!(worker.running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_frontends_do_not_choose_the_same_idle_worker() {
    let (first, second) = two().await;
    let ((plan_one, gate), (plan_two, _)) = (gated(1), gated(2));
    let plan_two = WorkerPlan { gate: Some(gate.clone()), ..plan_two };
    let (one, two) = (first.worker(plan_one).await, first.worker(plan_two).await);
    serves(&second, 2).await;
    all_follow_each_other(&[&first, &second], &gate).await;

    let busy = |worker: &ScriptedWorker| worker.running();
    for round in 0..4 {
        let (a, b) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        // Long beside the system prompt that they share: short ones would stay together for its sake.
        let mut chats = vec![start_chat(a, &format!("{round} is what I ask about, ").repeat(12))];
        remote_is(b, 1.0).await;
        chats.push(start_chat(b, &format!("and something else, {round} times. ").repeat(12)));
        until("both requests run", || async { (busy(&one) + busy(&two) == 2).then_some(()) }).await;
        assert_eq!((busy(&one), busy(&two)), (1, 1), "round {round}");
        gate.add_permits(32);
        for chat in chats {
            assert_eq!(chat.await.unwrap(), 200);
        }
        remote_is(a, 0.0).await;
        remote_is(b, 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frontend_that_is_gone_had_booked_is_no_load_any_more() {
    let (first, second) = two().await;
    let (plan, gate) = gated(1);
    let _worker = first.worker(plan).await;
    serves(&second, 1).await;
    all_follow_each_other(&[&first, &second], &gate).await;
    let chat = start_chat(&second, "a question about something");
    remote_is(&first, 1.0).await;
    drop(second);
    remote_is(&first, 0.0).await;
    assert_eq!(chat.await.unwrap(), 0, "its client sees a closed connection");
    assert_eq!(channels(&first.discovery).len(), 1, "its record is withdrawn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_announces_one_channel_in_the_scope_of_the_workers_and_none_where_load_does_not_count() {
    let first = Stage::kv().await;
    let off = Stage::beside(&first, |config| {
        config.router.mode = RouterMode::Kv;
        config.replica_sync = false;
    })
    .await;
    let in_turn = Stage::beside(&first, |config| config.router.mode = RouterMode::RoundRobin).await;
    let (plan, gate) = gated(1);
    let _worker = first.worker(plan).await;
    for stage in [&off, &in_turn] {
        serves(stage, 1).await;
    }
    until("the channel is announced", || async { (!channels(&first.discovery).is_empty()).then_some(()) }).await;
    gate.add_permits(48);
    for stage in [&first, &off, &in_turn] {
        assert_eq!(start_chat(stage, "a question").await.unwrap(), 200);
    }
    let found = channels(&first.discovery);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].scope, EventScope::Endpoint { endpoint: EndpointId::new("dynamo", "backend", "generate") });
    assert!(matches!(found[0].transport, EventTransport::Zmq { .. }));
}

/// A frontend that is not ours.
struct Stranger {
    publisher: Publisher,
    key: RecordKey,
    discovery: Discovery,
}

impl Stranger {
    async fn join(store: &Discovery) -> Self {
        let publisher = Publisher::bind("127.0.0.1", "127.0.0.1", ACTIVE_SEQUENCES_EVENTS).await.unwrap();
        let record = Record::EventChannel(EventChannelRecord {
            scope: EventScope::Endpoint { endpoint: EndpointId::new("dynamo", "backend", "generate") },
            topic: ACTIVE_SEQUENCES_EVENTS.into(),
            instance_id: publisher.id(),
            transport: EventTransport::Zmq { endpoint: publisher.endpoint() },
        });
        let discovery = store.member();
        discovery.register(&record).await.unwrap();
        until("it is followed", || async { (publisher.subscribers() > 0).then_some(()) }).await;
        Self { publisher, key: RecordKey::of(&record), discovery }
    }

    async fn says(&self, request_id: &str, worker: &ScriptedWorker, data: ActiveSequenceChange) {
        let event = ActiveSequenceEvent {
            request_id: request_id.into(),
            worker: worker.rank(),
            data,
            router_id: 4_711,
            lora_name: None,
        };
        self.publisher.publish(&ActiveSequencesMessage { events: vec![event] }).await.unwrap();
    }
}

fn added(blocks: u64) -> ActiveSequenceChange {
    ActiveSequenceChange::AddRequest {
        token_sequence: Some((0..blocks).map(BlockHash).collect()),
        track_prefill_tokens: true,
        expected_output_tokens: None,
        prefill_load_hint: Some(PrefillLoadHint {
            initial_effective_prefill_tokens: 9,
            expected_prefill_duration: None,
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_bookings_count_until_it_ends_them_loses_its_connection_or_leaves() {
    let stage = Stage::kv().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let stranger = Stranger::join(&stage.discovery).await;
    stranger.says("a", &worker, added(5)).await;
    stranger.says("b", &worker, added(5)).await;
    remote_is(&stage, 2.0).await;
    stranger.says("a", &worker, ActiveSequenceChange::Free).await;
    remote_is(&stage, 1.0).await;
    // Its process dies: the connection closes, its record is still there.
    let Stranger { publisher, key, discovery } = stranger;
    drop(publisher);
    remote_is(&stage, 0.0).await;
    discovery.withdraw(&key).await.unwrap();

    let next = Stranger::join(&stage.discovery).await;
    next.says("c", &worker, added(5)).await;
    remote_is(&stage, 1.0).await;
    next.discovery.withdraw(&next.key).await.unwrap();
    remote_is(&stage, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_comes_later_serves_at_once_and_knows_who_has_what() {
    let first = Stage::kv().await;
    let plan = |instance| WorkerPlan { instance, kv_events: true, ..WorkerPlan::default() };
    let (cold, warm) = (first.worker(plan(1)).await, first.worker(plan(2)).await);
    let pinned = json!({ "nvext": { "backend_instance_id": warm.instance.0 } });
    assert_eq!(first.chat(&ask("a question about something", &pinned)).await.status(), 200);
    let tokens = warm.requests().pop().unwrap().token_ids;
    until("both are followed", || async { (cold.subscribers() > 0 && warm.subscribers() > 0).then_some(()) }).await;
    warm.cache(&tokens, false).await;

    let second = Stage::beside(&first, |config| config.router.mode = RouterMode::Kv).await;
    // The very first request waits for the model's files at most, and is answered.
    until("the model is known", || async {
        let models = second.http.get(second.url("/v1/models")).send().await.unwrap().text().await.unwrap();
        models.contains("\"m\"").then_some(())
    })
    .await;
    assert_eq!(second.chat(&ask("some other question", &json!({}))).await.status(), 200);
    let blocks = "busbar_router_index_blocks{model=\"m\",worker_id=\"2\"";
    until("its index is warm", || async { second.metric(blocks).await.filter(|&blocks| blocks > 0.0) }).await;
    let before = (cold.requests().len(), warm.requests().len());
    for _ in 0..5 {
        assert_eq!(second.chat(&ask("a question about something", &json!({}))).await.status(), 200);
    }
    assert_eq!((cold.requests().len() - before.0, warm.requests().len() - before.1), (0, 5));
}
