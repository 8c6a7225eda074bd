//! Answers of a worker that is well.

use crate::scripted_worker::{WorkerPlan, expected_text};
use crate::stage::{Stage, ask, events, text_of};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_unary_chat_has_the_workers_text_usage_and_the_requests_id() {
    let stage = Stage::new().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let id = "198982c6-dfc9-4a9e-b333-35415ccd1cef";
    let request = stage.http.post(stage.url("/v1/chat/completions")).header("x-dynamo-request-id", id);
    let response = request.header("x-request-id", "mine-7").json(&ask("hello", &json!({}))).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-request-id"], "mine-7");
    let body: Value = response.json().await.unwrap();
    let prompt = worker.requests()[0].token_ids.clone();
    assert_eq!(body["id"], format!("chatcmpl-{id}"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["message"]["content"], expected_text(&prompt, 16));
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    let usage = &body["usage"];
    assert_eq!(usage["prompt_tokens"], prompt.len());
    assert_eq!(usage["completion_tokens"], 16);
    assert_eq!(usage["total_tokens"], prompt.len() + 16);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_chat_says_role_once_and_ends_with_reason_usage_and_done() {
    let stage = Stage::new().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let more = json!({ "stream": true, "stream_options": { "include_usage": true }, "nvext": { "extra_fields": ["worker_id", "timing"] } });
    let events = events(stage.chat(&ask("hello", &more)).await).await;
    let prompt = worker.requests()[0].token_ids.clone();
    assert_eq!(text_of(&events, 0), expected_text(&prompt, 16));
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> = events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let roles = chunks.iter().filter(|chunk| chunk["choices"][0]["delta"]["role"] == "assistant").count();
    assert_eq!(roles, 1);
    let usage = chunks.last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 16);
    let last = &chunks[chunks.len() - 2];
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!(last["nvext"]["worker_id"]["decode_worker_id"], 1);
    assert!(last["nvext"]["timing"]["total_time_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn n_answers_run_side_by_side_with_their_own_seeds_and_one_prompt_in_usage() {
    let stage = Stage::new().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let body: Value = stage.chat(&ask("hello", &json!({ "n": 3, "seed": 40 }))).await.json().await.unwrap();
    let indices: Vec<u64> = body["choices"].as_array().unwrap().iter().map(|c| c["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2]);
    let requests = worker.requests();
    let mut seeds: Vec<i64> = requests.iter().map(|request| request.sampling_options.seed.unwrap()).collect();
    seeds.sort_unstable();
    assert_eq!(seeds, [40, 41, 42]);
    assert_eq!(body["usage"]["prompt_tokens"], requests[0].token_ids.len());
    assert_eq!(body["usage"]["completion_tokens"], 48);
    let streamed = events(stage.chat(&ask("hello", &json!({ "n": 2, "stream": true }))).await).await;
    for index in [0, 1] {
        assert_eq!(text_of(&streamed, index), expected_text(&requests[0].token_ids, 16));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_take_several_prompts_and_number_the_choices_through() {
    let stage = Stage::new().await;
    let _worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let body = json!({ "model": "m", "prompt": ["one", "two and more"], "n": 2, "max_tokens": 3 });
    let body: Value = stage.post("/v1/completions", &body).await.json().await.unwrap();
    assert_eq!(body["object"], "text_completion");
    assert_eq!(body["choices"].as_array().unwrap().len(), 4);
    assert_eq!(body["choices"][0]["text"], body["choices"][1]["text"]);
    assert_ne!(body["choices"][1]["text"], body["choices"][2]["text"]);
    assert_eq!(body["usage"]["completion_tokens"], 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_ends_the_answer_here_and_stops_the_engine() {
    let stage = Stage::new().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    stage.chat(&ask("hello", &json!({}))).await;
    let text = expected_text(&worker.requests()[0].token_ids, 16);
    let stop = &text[4..7];
    let at = text.find(stop).unwrap();
    let body: Value =
        stage.chat(&ask("hello", &json!({ "stop": stop, "max_tokens": 900 }))).await.json().await.unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], text[..at]);
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    stage.until("the engine has stopped", || async { (worker.running() == 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn annotations_come_before_the_first_chunk() {
    let stage = Stage::new().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let more = json!({ "stream": true, "nvext": { "annotations": ["token_ids"] } });
    let text = stage.chat(&ask("hello", &more)).await.text().await.unwrap();
    let ids = format!("{:?}", worker.requests()[0].token_ids).replace(' ', "");
    let first = text.split("\n\n").next().unwrap();
    assert!(first.starts_with("event: token_ids\n: ") && first.replace(' ', "").contains(&ids), "{first}");
}
