//! Conversations in turns: each client asks, waits for the answer, thinks, and asks on with all that was said so far.
//!
//! A conversation begins with one of [`GROUPS`] long system prompts. The same seed gives the same conversations, whoever
//! answers: the reply that goes into the next prompt is the trace's own, not the engine's. Lengths are those of the
//! trace on which stock Dynamo's routers were first measured, so that the figures can be set beside it.

use crate::http::Connection;
use crate::{Options, percentile};
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::{JoinSet, LocalSet};

/// Different system prompts, and words of each.
const GROUPS: u64 = 8;
const SYSTEM_WORDS: u64 = 800;
/// A question has between half and one and a half times as many words.
const USER_WORDS: u64 = 64;
const REPLY_WORDS: u64 = 64;
/// A conversation has 1 to twice as many turns less 1.
const TURNS: u64 = 5;
/// Mean of the exponential pause between an answer and the next question.
const THINK_MS: f64 = 150.0;

/// Each is one token, or two, of every common vocabulary.
const WORDS: &str = "river stone cloud garden window market winter letter bridge forest candle harbor table summer \
    island mirror copper silver bottle engine planet shadow circle corner number ladder butter pepper cotton ribbon \
    rocket saddle tunnel valley anchor basket button camera carpet castle cheese coffee dragon eagle feather finger \
    hammer helmet jacket kettle lemon magnet monkey needle orange paper pencil pillow pocket potato rabbit school \
    shovel singer spider sugar temple ticket tiger tomato turtle violin wagon walnut weather whistle yellow zebra \
    morning evening people water story music doctor teacher village kitchen hospital mountain train station street";

#[derive(Default)]
struct Tally {
    first_ms: Vec<f64>,
    total_ms: Vec<f64>,
    prompt_tokens: u64,
    cached_tokens: u64,
    errors: usize,
}

/// Numbers that depend on their seed alone: splitmix64, Steele, Lea and Flood 2014.
struct Dice(u64);

impl Dice {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn words(&mut self, count: u64) -> String {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let picked: Vec<&str> = (0..count).map(|_| words[(self.draw() % words.len() as u64) as usize]).collect();
        picked.join(" ")
    }

    fn pause(&mut self) -> Duration {
        let unit = (self.draw() >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - unit).ln() * THINK_MS / 1e3)
    }
}

/// `--requests` conversations, `--concurrency` at once.
pub async fn run(options: &Options) -> Result<Value, String> {
    let next = Rc::new(Cell::new(0));
    let started = Instant::now();
    let local = LocalSet::new();
    let tallies = local.run_until(async {
        let mut clients = JoinSet::new();
        for _ in 0..options.concurrency {
            clients.spawn_local(client(options.clone(), next.clone()));
        }
        let mut tallies = Vec::new();
        while let Some(outcome) = clients.join_next().await {
            tallies.push(outcome.map_err(|e| e.to_string())??);
        }
        Ok::<_, String>(tallies)
    });
    let tallies = tallies.await?;
    Ok(figures(tallies, started.elapsed().as_secs_f64()))
}

async fn client(options: Options, next: Rc<Cell<usize>>) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let mut connection = Connection::open(&options.address).await.map_err(|e| e.to_string())?;
    loop {
        let number = next.replace(next.get() + 1);
        if number >= options.requests {
            return Ok(tally);
        }
        converse(&options, number as u64, &mut connection, &mut tally).await?;
    }
}

async fn converse(
    options: &Options,
    number: u64,
    connection: &mut Connection,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut dice = Dice(options.seed.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ (number << 20));
    let group = dice.draw() % GROUPS;
    let system = Dice(options.seed.wrapping_mul(7_919) ^ (group + 1)).words(SYSTEM_WORDS);
    let mut messages = vec![json!({"role": "system", "content": system})];
    for turn in 0..1 + dice.draw() % (2 * TURNS - 1) {
        if turn > 0 {
            tokio::time::sleep(dice.pause()).await;
        }
        let length = USER_WORDS / 2 + dice.draw() % USER_WORDS;
        messages.push(json!({"role": "user", "content": dice.words(length)}));
        let body = json!({
            "model": options.model, "messages": messages, "max_tokens": options.max_tokens, "ignore_eos": true,
            "stream": true, "stream_options": {"include_usage": true},
        });
        let answer = connection.post("/v1/chat/completions", &body, |_| {}).await.map_err(|e| e.to_string())?;
        if answer.status == 200 && answer.tokens > 0 {
            tally.first_ms.push((answer.first - answer.sent).as_secs_f64() * 1e3);
            tally.total_ms.push((answer.last - answer.sent).as_secs_f64() * 1e3);
            tally.prompt_tokens += answer.prompt_tokens;
            tally.cached_tokens += answer.cached_tokens;
        } else {
            tally.errors += 1;
        }
        messages.push(json!({"role": "assistant", "content": dice.words(REPLY_WORDS)}));
    }
    Ok(())
}

fn figures(tallies: Vec<Tally>, seconds: f64) -> Value {
    let mut all = Tally::default();
    for tally in tallies {
        all.first_ms.extend(tally.first_ms);
        all.total_ms.extend(tally.total_ms);
        all.prompt_tokens += tally.prompt_tokens;
        all.cached_tokens += tally.cached_tokens;
        all.errors += tally.errors;
    }
    all.first_ms.sort_by(f64::total_cmp);
    all.total_ms.sort_by(f64::total_cmp);
    json!({
        "requests": all.first_ms.len(), "errors": all.errors, "seconds": seconds,
        "prompt_tokens": all.prompt_tokens, "cached_tokens": all.cached_tokens,
        "hit_rate": all.cached_tokens as f64 / all.prompt_tokens.max(1) as f64,
        "first_ms_p50": percentile(&all.first_ms, 0.5), "first_ms_p90": percentile(&all.first_ms, 0.9),
        "first_ms_p99": percentile(&all.first_ms, 0.99), "total_ms_p50": percentile(&all.total_ms, 0.5),
    })
}
