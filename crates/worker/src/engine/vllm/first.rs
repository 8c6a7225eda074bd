//! The first sequences of a server, which nobody asked for: they show that it makes tokens, how fast it computes a
//! prompt, and make it compile what it compiles at first use.

use super::VllmError;
use super::answer::Answer;
use super::client::Client;
use super::completion::{self, Dialect};
use futures::StreamExt;
use protocol::request::{PreprocessedRequest, RoutingHints};
use std::time::Duration;
use tokio::time::Instant;

/// Prompt tokens by which the pace is measured.
const PACED_PROMPT_TOKENS: u32 = 256;

/// Prompt tokens of a sequence that only warms up.
const WARMING_PROMPT_TOKENS: u32 = 8;

/// Time for the sequence that is timed. A large model on a CPU computes such a prompt in less.
const FIRST_TOKEN_WITHIN: Duration = Duration::from_secs(120);

/// Time for the warm-up: a C++ compiler runs a few times, on a machine that others may keep busy.
const WARM_UP_WITHIN: Duration = Duration::from_secs(600);

/// Lets the server make tokens in every way that it compiles something for at first use: sampled ones with their
/// alternatives, of one sequence and of several at once.
///
/// vLLM 0.32.0 compiles its sampler's functions (`torch.compile` in `v1/sample/ops`) when the first such request comes,
/// once for one row and once for any number. Its engine stands still meanwhile, for longer on a CPU than it takes to
/// count as hung.
///
/// # Errors
/// A server that does not get through it in time. One that refuses a parameter is taken all the same.
pub(super) async fn warm_up(client: &Client, dialect: &Dialect) -> Result<(), VllmError> {
    let request = || {
        let mut request = request(dialect, WARMING_PROMPT_TOKENS, 2);
        let sampling = &mut request.sampling_options;
        (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) =
            (Some(0.7), Some(0.9), Some(20), Some(0.01));
        (sampling.presence_penalty, sampling.frequency_penalty) = (Some(0.1), Some(0.1));
        sampling.repetition_penalty = Some(1.1);
        request.output_options.logprobs = Some(1);
        request
    };
    let (alone, one, other) = (request(), request(), request());
    let all = async {
        sequence(client, dialect, &alone).await?;
        tokio::try_join!(sequence(client, dialect, &one), sequence(client, dialect, &other)).map(|_| ())
    };
    match within(client, WARM_UP_WITHIN, all).await? {
        Ok(()) => Ok(()),
        Err(why) => {
            tracing::warn!(url = client.url(), why, "vLLM could not be warmed up; its first requests may be slow");
            Ok(())
        }
    }
}

/// Lets the server make one token, which `/health` says nothing of; gives how fast it computed the prompt, tokens a
/// second.
///
/// # Errors
/// [`VllmError::NoToken`].
pub(super) async fn token(client: &Client, dialect: &Dialect) -> Result<f64, VllmError> {
    let request = request(dialect, PACED_PROMPT_TOKENS, 1);
    let begun = Instant::now();
    let ended = within(client, FIRST_TOKEN_WITHIN, sequence(client, dialect, &request)).await?;
    ended.map_err(|why| VllmError::NoToken { url: client.url().to_owned(), why })?;
    Ok(request.token_ids.len() as f64 / begun.elapsed().as_secs_f64().max(1e-6))
}

/// A prompt that is in no cache, however often somebody attaches: it is computed.
fn request(dialect: &Dialect, prompt_tokens: u32, max_tokens: u32) -> PreprocessedRequest {
    let prompt_tokens = prompt_tokens.min(dialect.context_length / 2).max(1);
    // Ids that every vocabulary has.
    let token_ids = (0..prompt_tokens).map(|at| at % 128).collect();
    let cache_salt = Some(uuid::Uuid::new_v4().to_string());
    let routing = Some(RoutingHints { cache_salt, ..RoutingHints::default() });
    let mut request = PreprocessedRequest { token_ids, routing, ..PreprocessedRequest::default() };
    request.stop_conditions.max_tokens = Some(max_tokens);
    request
}

/// One sequence to its end, or why it has none.
async fn sequence(client: &Client, dialect: &Dialect, request: &PreprocessedRequest) -> Result<(), String> {
    let body = completion::request_body(request, dialect).map_err(|error| error.to_string())?;
    let mut chunks = client.complete(dialect.api, &body).await.map_err(|error| error.to_string())?;
    let mut answer = Answer::to(request);
    while let Some(chunk) = chunks.next().await {
        answer.chunk(chunk.map_err(|error| error.to_string())?);
    }
    match answer.finish() {
        Some(_) => Ok(()),
        None => Err(answer.broken().unwrap_or("its stream ended without an end").to_owned()),
    }
}

async fn within<T>(client: &Client, time: Duration, task: impl Future<Output = T>) -> Result<T, VllmError> {
    let late =
        |_| VllmError::NoToken { url: client.url().to_owned(), why: format!("nothing came in {} s", time.as_secs()) };
    tokio::time::timeout(time, task).await.map_err(late)
}
