//! The tasks that watch a server: its load, its progress, and its process.

use super::client::Client;
use super::process::Server;
use super::progress::{Hung, Look, Progress};
use super::scrape;
use super::server::State;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at `/metrics` (64 KiB of text).
const LOAD_INTERVAL: Duration = Duration::from_millis(500);

/// Between two looks at whether it goes forward: how late a hang may be noticed.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// A server that has not answered for this long, and from which no token came either, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Looks at `/metrics` until the server is silent for too long.
pub(super) async fn load(client: Client, total_kv_blocks: u64, state: Arc<State>) {
    let mut heard = Instant::now();
    let mut tokens_seen = 0;
    loop {
        let answer = client.metrics().await;
        // A server that is too busy with many streams to answer this page in time is there all the same.
        let tokens = state.tokens.load(Ordering::Relaxed);
        if std::mem::replace(&mut tokens_seen, tokens) != tokens {
            heard = Instant::now();
        }
        match answer {
            Ok(text) => {
                heard = Instant::now();
                *state.load.lock() = scrape::load(&text, total_kv_blocks);
                *state.engine_signs.lock() = (Some(scrape::counters(&text)), scrape::prefill_sums(&text));
            }
            Err(error) if heard.elapsed() > SILENCE_MAX => {
                tracing::error!(%error, seconds = SILENCE_MAX.as_secs(), "vLLM does not answer any more");
                return state.fail("vLLM does not answer any more");
            }
            Err(error) => tracing::debug!(%error, "vLLM did not answer"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOAD_INTERVAL) => {}
            () = state.doubted.notified() => {
                if let Some(why) = client.death().await {
                    tracing::error!(why, "vLLM broke off a sequence and does not serve any more");
                    return state.fail("vLLM does not serve any more");
                }
            }
        }
    }
}

/// Looks at what comes from the engine until it is seen to hang. `pace` is how fast it computed a prompt, tokens a
/// second; `step_tokens_max` what one step of it may take.
pub(super) async fn progress(pace: f64, step_tokens_max: u64, state: Arc<State>) {
    let start = Instant::now();
    let mut progress = Progress::new(pace, Duration::ZERO);
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let (counters, sums) = *state.engine_signs.lock();
        if let Some((tokens, seconds)) = sums {
            progress.learn(tokens, seconds);
        }
        let look = Look {
            in_flight: state.sequences.load(Ordering::Relaxed),
            tokens: state.tokens.load(Ordering::Relaxed),
            prefill_tokens: state.prefill_ahead(step_tokens_max),
            counters,
        };
        if let Err(Hung { silent, allowed }) = progress.look(look, start.elapsed()) {
            tracing::error!(
                sequences = look.in_flight,
                silent_ms = silent.as_millis(),
                allowed_ms = allowed.as_millis(),
                "vLLM hangs: it has work, and neither a token nor a step came; its requests go on elsewhere"
            );
            return state.fail("vLLM hangs");
        }
    }
}

/// Waits until the engine is stopped, then ends the child, at once where it failed; a child that ends by itself fails
/// the engine.
pub(super) async fn process(child: Option<Server>, state: Arc<State>) {
    let Some(mut child) = child else { return state.stopped.cancelled().await };
    tokio::select! {
        (status, why) = child.ended() => {
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            // A stopped engine's child may end before we ask it to.
            if !state.stopped.is_cancelled() {
                tracing::error!(how, why, "`vllm serve` ended by itself");
                state.fail("`vllm serve` ended by itself");
            }
            // What it left behind goes too.
            child.kill().await;
        }
        () = state.stopped.cancelled() => {
            if state.failed().is_some() { child.kill().await } else { child.end().await }
        }
    }
}
