//! A closed loop: each of `concurrency` connections sends its next request when the last one is answered.

use crate::http::{Answer, Connection};
use crate::{Options, percentile, prompts};
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;
use tokio::task::{JoinSet, LocalSet};

#[derive(Default)]
struct Tally {
    first_ms: Vec<f64>,
    total_ms: Vec<f64>,
    tokens: u64,
    prompt_tokens: u64,
    events: usize,
    errors: usize,
}

impl Tally {
    fn add(&mut self, answer: &Answer) {
        if answer.status != 200 {
            self.errors += 1;
            return;
        }
        self.first_ms.push((answer.first - answer.sent).as_secs_f64() * 1e3);
        self.total_ms.push((answer.last - answer.sent).as_secs_f64() * 1e3);
        self.tokens += answer.tokens;
        self.prompt_tokens += answer.prompt_tokens;
        self.events += answer.events.len();
    }
}

pub async fn run(options: &Options) -> Result<Value, String> {
    let mut connections = Vec::new();
    for _ in 0..options.concurrency {
        connections.push(Connection::open(&options.address).await.map_err(|e| e.to_string())?);
    }
    let next = Rc::new(Cell::new(0));
    let started = Instant::now();
    let local = LocalSet::new();
    let tallies = local.run_until(async {
        let mut loops = JoinSet::new();
        for connection in connections {
            loops.spawn_local(one_connection(options.clone(), connection, next.clone()));
        }
        let mut tallies = Vec::new();
        while let Some(outcome) = loops.join_next().await {
            tallies.push(outcome.map_err(|e| e.to_string())??);
        }
        Ok::<_, String>(tallies)
    });
    let tallies = tallies.await?;
    Ok(figures(tallies, started.elapsed().as_secs_f64()))
}

async fn one_connection(options: Options, mut connection: Connection, next: Rc<Cell<usize>>) -> Result<Tally, String> {
    let mut tally = Tally::default();
    loop {
        let number = next.replace(next.get() + 1);
        if number >= options.requests {
            return Ok(tally);
        }
        let body = prompts::chat(&options, number);
        let answer = connection.post("/v1/chat/completions", &body, |_| {}).await;
        tally.add(&answer.map_err(|e| e.to_string())?);
    }
}

fn figures(tallies: Vec<Tally>, seconds: f64) -> Value {
    let mut all = Tally::default();
    for tally in tallies {
        all.first_ms.extend(tally.first_ms);
        all.total_ms.extend(tally.total_ms);
        all.tokens += tally.tokens;
        all.prompt_tokens += tally.prompt_tokens;
        all.events += tally.events;
        all.errors += tally.errors;
    }
    all.first_ms.sort_by(f64::total_cmp);
    all.total_ms.sort_by(f64::total_cmp);
    let answered = all.total_ms.len();
    json!({
        "requests": answered, "errors": all.errors, "seconds": seconds, "tokens": all.tokens,
        "prompt_tokens": all.prompt_tokens, "events": all.events,
        "requests_per_second": answered as f64 / seconds, "tokens_per_second": all.tokens as f64 / seconds,
        "first_ms_p50": percentile(&all.first_ms, 0.5), "first_ms_p99": percentile(&all.first_ms, 0.99),
        "total_ms_p50": percentile(&all.total_ms, 0.5), "total_ms_p99": percentile(&all.total_ms, 0.99),
    })
}
