//! Scenarios 53 and 54: more requests than can be served. Every one ends, the excess is sent away with different times to
//! come back, and afterwards all is as before.

use crate::at;
use crate::machine::{CAP, Machine, block_on, post};
use futures::future::join_all;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Places and queue of the frontend, and tokens of 20 ms: an answer of 25 takes half a second, so 32 a second at best.
const PLACES: usize = 16;
const SETTINGS: &[(&str, &str)] = &[
    ("BUSBAR_MOCK_SPEEDUP_RATIO", "0.285"),
    ("BUSBAR_CONCURRENT_REQUESTS_MAX", "16"),
    ("BUSBAR_QUEUED_REQUESTS_MAX", "16"),
];

fn body() -> Value {
    json!({"model": "mock", "messages": [{"role": "user", "content": "more than can be served"}], "max_tokens": 25})
}

struct Ended {
    status: u16,
    retry_after: Option<u64>,
    took: Duration,
    tokens: u64,
}

async fn ask(client: &reqwest::Client, url: &str) -> Ended {
    let started = Instant::now();
    let request = client.post(format!("{url}/v1/chat/completions")).header("content-type", "application/json");
    let answer = request.body(body().to_string()).timeout(CAP).send().await.unwrap();
    let status = answer.status().as_u16();
    let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let tokens = answer["usage"]["completion_tokens"].as_u64().unwrap_or(0);
    Ended { status, retry_after, took: started.elapsed(), tokens }
}

#[test]
fn every_request_of_an_overload_ends_and_the_excess_is_sent_away_with_a_time_to_come_back() {
    let machine = Machine::new();
    let url = machine.up_with(&["--engine", "mock"], SETTINGS);
    block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for times in [1, 2, 5] {
            // Three waves, a second apart, each of `times` what fits at once.
            let mut asked = Vec::new();
            let started = Instant::now();
            for _ in 0..3 {
                asked.extend((0..PLACES * 2 * times).map(|_| {
                    let (client, url) = (client.clone(), url.clone());
                    tokio::spawn(async move { ask(&client, &url).await })
                }));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let ended: Vec<Ended> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
            judge(times, &ended, started.elapsed());
        }
    });
    assert_eq!(post(&format!("{url}/v1/chat/completions"), &body()).0, 200, "afterwards all is as before");
}

fn judge(times: usize, ended: &[Ended], took: Duration) {
    let mut counts = BTreeMap::new();
    for one in ended {
        *counts.entry(one.status).or_insert(0) += 1;
        match one.status {
            200 => assert_eq!(one.tokens, 25, "an answer is whole"),
            429 | 503 => assert!(one.retry_after.is_some_and(|seconds| seconds >= 1), "{}", one.status),
            other => panic!("an answer of status {other}"),
        }
    }
    let sorted = |status: u16| {
        let mut took: Vec<f64> =
            ended.iter().filter(|one| one.status == status).map(|one| one.took.as_secs_f64()).collect();
        took.sort_by(f64::total_cmp);
        took
    };
    let (answered, refused) = (sorted(200), sorted(429));
    eprintln!(
        "load {times}x for 3 s: {counts:?} in {:.1} s; answered p50 {:.2} s p99 {:.2} s; 429 p50 {:.0} ms p99 {:.0} ms",
        took.as_secs_f64(),
        at(&answered, 0.5),
        at(&answered, 0.99),
        at(&refused, 0.5) * 1e3,
        at(&refused, 0.99) * 1e3,
    );
    assert!(!answered.is_empty());
    if times >= 2 {
        assert!(!refused.is_empty(), "the excess is refused");
        let come_back: BTreeSet<u64> = ended.iter().filter_map(|one| one.retry_after).collect();
        assert!(come_back.len() > 1, "clients refused together are told different times: {come_back:?}");
    }
}
