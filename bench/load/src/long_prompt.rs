//! The engine seen through HTTP: streams at once, a long prompt alone, and a long prompt among streams.

use crate::http::{Answer, Connection};
use crate::{Options, prompts};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

/// Tokens of a stream that must outlast a long prompt.
const BACKGROUND_TOKENS: usize = 400;

const PATH: &str = "/v1/completions";

async fn answer_of(connection: &mut Connection, body: &Value, on_event: impl FnMut(usize)) -> Result<Answer, String> {
    let answer = connection.post(PATH, body, on_event).await.map_err(|e| e.to_string())?;
    if answer.status == 200 { Ok(answer) } else { Err(format!("{PATH} answered {}", answer.status)) }
}

async fn open(options: &Options) -> Result<Connection, String> {
    Connection::open(&options.address).await.map_err(|e| e.to_string())
}

/// Tokens a second from when the last stream has its first token to when the first stream has its last one.
pub async fn streams(options: &Options) -> Result<Value, String> {
    let local = LocalSet::new();
    let answers = local.run_until(async {
        let mut running = JoinSet::new();
        for number in 0..options.streams {
            let mut connection = open(options).await?;
            let body = prompts::completion(options, number as u64, options.prompt_tokens, options.max_tokens);
            running.spawn_local(async move { answer_of(&mut connection, &body, |_| {}).await });
        }
        let mut answers = Vec::new();
        while let Some(answer) = running.join_next().await {
            answers.push(answer.map_err(|e| e.to_string())??);
        }
        Ok::<_, String>(answers)
    });
    let answers = answers.await?;
    let from = answers.iter().map(|answer| answer.first).max().ok_or("no streams")?;
    let to = answers.iter().filter_map(|answer| answer.events.last()).min().ok_or("no events")?;
    let within = |answer: &Answer| {
        let events = answer.events.iter().filter(|&&at| at > from && at <= *to).count();
        // An event has more than one token where a character took several.
        events as f64 * answer.tokens as f64 / answer.events.len() as f64
    };
    let window_s = to.saturating_duration_since(from).as_secs_f64();
    let tokens: u64 = answers.iter().map(|answer| answer.tokens).sum();
    let events: usize = answers.iter().map(|answer| answer.events.len()).sum();
    Ok(json!({
        "tokens_per_second": answers.iter().map(within).sum::<f64>() / window_s,
        "tokens": tokens, "events": events, "window_s": window_s,
    }))
}

/// Prompt tokens a second: `--prompt-tokens` over the time to the first token.
pub async fn prefill(options: &Options) -> Result<Value, String> {
    let mut connection = open(options).await?;
    let body = prompts::completion(options, 0, options.prompt_tokens, 1);
    let answer = answer_of(&mut connection, &body, |_| {}).await?;
    let first = answer.first - answer.sent;
    Ok(json!({
        "tokens_per_second": options.prompt_tokens as f64 / first.as_secs_f64(),
        "first_ms": first.as_secs_f64() * 1e3, "tokens": answer.tokens,
    }))
}

/// What the background streams tell the one who watches.
#[derive(Default)]
struct Watched {
    last: RefCell<Vec<Option<Instant>>>,
    all_run: Notify,
    watching: Cell<bool>,
    worst: Cell<Duration>,
}

impl Watched {
    fn event(&self, stream: usize) {
        let now = Instant::now();
        let mut last = self.last.borrow_mut();
        if let Some(before) = last[stream].replace(now)
            && self.watching.get()
        {
            self.worst.set(self.worst.get().max(now - before));
        }
        if last.iter().all(Option::is_some) {
            self.all_run.notify_one();
        }
    }
}

/// The worst gap between two events of any stream, from the send of the long prompt to its first token.
pub async fn gap(options: &Options) -> Result<Value, String> {
    let watched = Rc::new(Watched { last: RefCell::new(vec![None; options.streams]), ..Watched::default() });
    LocalSet::new()
        .run_until(async {
            let mut running = JoinSet::new();
            for number in 0..options.streams {
                let (mut connection, watched) = (open(options).await?, watched.clone());
                let body = prompts::completion(options, 1 + number as u64, 64, BACKGROUND_TOKENS);
                running.spawn_local(async move { answer_of(&mut connection, &body, |_| watched.event(number)).await });
            }
            let mut connection = open(options).await?;
            let body = prompts::completion(options, 0, options.prompt_tokens, 1);
            watched.all_run.notified().await;
            watched.watching.set(true);
            let answer = answer_of(&mut connection, &body, |_| {}).await?;
            // A stall that the prompt caused ends at the first event after it.
            for last in watched.last.borrow().iter().flatten() {
                watched.worst.set(watched.worst.get().max(answer.first.saturating_duration_since(*last)));
            }
            let ended_early = running.try_join_next().is_some();
            // Dropping the streams closes their connections: the worker stops them.
            running.abort_all();
            if ended_early {
                return Err("a stream ended before the long prompt had its first token".into());
            }
            Ok(json!({
                "worst_gap_ms": watched.worst.get().as_secs_f64() * 1e3,
                "first_ms": (answer.first - answer.sent).as_secs_f64() * 1e3,
            }))
        })
        .await
}
