//! Scenarios 60 and 61: names and addresses that mean to reach something else than a model.

use crate::scripted_worker::WorkerPlan;
use crate::stage::{Stage, ask, error_of};
use serde_json::json;
use std::io::ErrorKind;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_message_names_is_fetched() {
    let stage = Stage::new().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let url = format!("http://{}/secret", trap.local_addr().unwrap());
    for part in [
        json!({ "type": "image_url", "image_url": { "url": url } }),
        json!({ "type": "video_url", "video_url": { "url": url } }),
        json!({ "type": "audio_url", "audio_url": { "url": url } }),
        json!({ "type": "text", "text": "look", "image_url": { "url": url } }),
    ] {
        let messages = json!([{ "role": "user", "content": [part] }]);
        stage.chat(&ask("x", &json!({ "messages": messages }))).await;
    }
    for field in ["media_io_kwargs", "metadata"] {
        stage.chat(&ask("x", &json!({ field: { "url": url } }))).await;
    }
    // The answers are in: whoever would fetch for them has done so.
    assert_eq!(trap.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody came");
    assert!(worker.requests().iter().all(|request| !format!("{request:?}").contains("secret")));
}

/// Names that would leave the folder of models, were there one.
const PATHS: [&str; 8] = [
    "../../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\etc\\passwd",
    "file:///etc/passwd",
    "m/../../../etc/passwd",
    "....//....//etc/passwd",
    "%2e%2e%2fetc%2fpasswd",
    "m\u{0}.gguf",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_model_name_is_looked_up_and_never_opened() {
    let stage = Stage::new().await;
    let _worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    for name in PATHS {
        let (status, error) = error_of(stage.chat(&ask("x", &json!({ "model": name }))).await).await;
        assert_eq!((status, error["code"].as_str()), (404, Some("model_not_found")), "{name}: {error}");
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let one = stage.http.get(stage.url(&format!("/v1/models/{encoded}"))).send().await.unwrap();
        let (status, error) = error_of(one).await;
        assert_eq!(status, 404, "{name}: {error}");
        assert!(!error.to_string().contains("root:"), "{error}");
    }
    let (_, error) = error_of(stage.chat(&ask("x", &json!({ "model": "a".repeat(100_000) }))).await).await;
    assert!(error.to_string().len() < 1000, "a long name is not echoed whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_make_no_series_of_metrics() {
    let stage = Stage::new().await;
    let _worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let attack = async |round: usize| {
        for number in 0..50 {
            let name = format!("model-{round}-{number}\"}} 1\nforged_total 7\n{{x=\"");
            stage.chat(&ask("x", &json!({ "model": name, "user": name }))).await;
            let path = format!("/v1/models/{round}-{number}");
            stage
                .http
                .get(stage.url(&path))
                .header("user-agent", format!("agent-{round}-{number}"))
                .send()
                .await
                .unwrap();
        }
        stage.metrics().await
    };
    // The first round makes the series that refusals have.
    let first = attack(0).await;
    let second = attack(1).await;
    assert_eq!(first.lines().count(), second.lines().count(), "the series grew with the names");
    assert!(!second.contains("model-") && !second.contains("forged_total") && !second.contains("agent-"));
}
