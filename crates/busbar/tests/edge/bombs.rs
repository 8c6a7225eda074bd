//! Scenario 58: texts and grammars that mean to cost much. Others are served meanwhile.

use crate::at;
use crate::machine::{CAP, Machine, block_on, part};
use serde_json::{Value, json};
use std::time::Instant;

async fn chat(client: &reqwest::Client, url: &str, body: Value) -> (u16, Value) {
    let request = client.post(format!("{url}/v1/chat/completions")).header("content-type", "application/json");
    let answer = request.body(body.to_string()).timeout(CAP).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// Seconds of each of `count` small requests, one after another.
async fn small_ones(client: &reqwest::Client, url: &str, model: &str, count: usize) -> Vec<f64> {
    let mut took = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
        let (status, answer) = chat(client, url, body).await;
        assert_eq!(status, 200, "{answer}");
        took.push(started.elapsed().as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    took
}

#[test]
fn texts_that_are_costly_to_tokenize_hold_nobody_else_up() {
    let machine = Machine::new();
    let url = machine.up(&["--engine", "mock"]);
    block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let alone = small_ones(&client, &url, "mock", 100).await;
        let bombs: Vec<_> = ["x", " ", "e\u{301}\u{302}\u{303}", "\n", "0"]
            .into_iter()
            .cycle()
            .take(20)
            .map(|piece| {
                let (client, url) = (client.clone(), url.clone());
                let content = piece.repeat(4_000_000 / piece.len());
                let body =
                    json!({"model": "mock", "messages": [{"role": "user", "content": content}], "max_tokens": 1});
                tokio::spawn(async move { chat(&client, &url, body).await.0 })
            })
            .collect();
        let beside = small_ones(&client, &url, "mock", 100).await;
        let mut statuses = std::collections::BTreeMap::new();
        for bomb in bombs {
            *statuses.entry(bomb.await.unwrap()).or_insert(0) += 1;
        }
        eprintln!(
            "a small request: p50 {:.1} ms, p99 {:.1} ms alone; p50 {:.1} ms, p99 {:.1} ms beside 20 texts of 4 MB ({statuses:?})",
            at(&alone, 0.5) * 1e3,
            at(&alone, 0.99) * 1e3,
            at(&beside, 0.5) * 1e3,
            at(&beside, 0.99) * 1e3
        );
        assert!(statuses.keys().all(|status| [200, 400, 413, 503].contains(status)), "{statuses:?}");
    });
}

#[test]
fn grammars_that_explode_are_refused_or_bounded_and_the_engine_serves_on() {
    let Some(cache) = part("BUSBAR_TEST_CACHE") else { return };
    let machine = Machine::new();
    let url = machine.up_with(&["--engine", "embedded"], &[("BUSBAR_CACHE_DIR", &cache)]);
    let model = "SmolLM2-135M-Instruct";
    let deep = (0..60).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let wide: serde_json::Map<String, Value> =
        (0..3000).map(|n| (format!("field_{n}"), json!({"type": "string", "pattern": "^(a|b|ab)*$"}))).collect();
    let bombs = [
        ("nested counts", json!({"guided_regex": "((((a{1,500}){1,500}){1,500}){1,500})"})),
        ("a large count", json!({"guided_regex": "(.{0,100000}x){100000}"})),
        ("ambiguous", json!({"guided_regex": "(a|a|aa|aaa)*(a|aa)*(a|aaa)*$b"})),
        ("an exponential automaton", json!({"guided_regex": "(a|b)*a(a|b){400}"})),
        ("a recursive grammar", json!({"guided_grammar": "start: start start | \"a\" | \"\""})),
        ("many ways", json!({"guided_grammar": "start: a+\na: b+\nb: c+\nc: \"x\"+"})),
        ("unbalanced", json!({"guided_regex": "(".repeat(10_000)})),
        ("a deep schema", json!({"guided_json": deep})),
        ("a wide schema", json!({"guided_json": {"type": "object", "properties": wide}})),
        ("a schema of itself", json!({"guided_json": {"$ref": "#"}})),
        ("a schema elsewhere", json!({"guided_json": {"$ref": "http://169.254.169.254/latest"}})),
        ("many choices", json!({"guided_choice": (0..20_000).map(|n| format!("c{n}")).collect::<Vec<_>>()})),
    ];
    block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for (what, constraint) in bombs {
            let mut body = json!({"model": model, "messages": [{"role": "user", "content": "go on"}], "max_tokens": 8});
            body.as_object_mut().unwrap().extend(constraint.as_object().unwrap().clone());
            let started = Instant::now();
            let asked = chat(&client, &url, body);
            let others = small_ones(&client, &url, model, 2);
            let ((status, answer), others) = tokio::join!(asked, others);
            eprintln!(
                "{what}: {status} after {:.2} s, a small request beside it {:.2} s; {:.120}",
                started.elapsed().as_secs_f64(),
                others.last().unwrap(),
                answer["error"]["message"].as_str().unwrap_or("answered")
            );
            assert!([200, 400, 500].contains(&status), "{what}: {status} {answer}");
        }
    });
    assert_eq!(machine.status()["runs"][0]["processes"].as_array().unwrap().len(), 3);
    for process in machine.status()["runs"][0]["processes"].as_array().unwrap() {
        assert_eq!(process["restarts"], 0, "no process died of it: {process}");
    }
}
