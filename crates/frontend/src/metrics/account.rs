//! The account of one HTTP request: opened when its model is known, closed once, and a client that leaves closes it too.

use super::{Metrics, ModelMetrics};
use crate::keys::Caller;
use protocol::output::CompletionUsage;
use std::sync::Arc;
use tokio::time::Instant;

/// What was asked, as the labels say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestKind {
    /// `chat_completions` or `completions`.
    pub(crate) endpoint: &'static str,
    pub(crate) stream: bool,
}

impl RequestKind {
    fn request_type(self) -> &'static str {
        if self.stream { "stream" } else { "unary" }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// With this HTTP status, sent or not.
    Failed(u16),
    /// The client left.
    Cancelled,
}

impl Outcome {
    /// The value of the `error_type` label.
    pub(crate) fn error_type(self) -> &'static str {
        match self {
            Self::Success => "",
            Self::Cancelled => "cancelled",
            Self::Failed(400 | 401 | 413 | 415 | 422) => "validation",
            Self::Failed(404) => "not_found",
            Self::Failed(429 | 529) => "overload",
            Self::Failed(503) => "unavailable",
            Self::Failed(504) => "response_timeout",
            Self::Failed(501) => "not_implemented",
            Self::Failed(_) => "internal",
        }
    }

    /// Values of the `class` and `reason` labels.
    fn class_and_reason(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Success | Self::Cancelled => return None,
            Self::Failed(401) => ("Unauthenticated", "request.unauthenticated"),
            Self::Failed(404) => ("NotFound", "request.not_found"),
            Self::Failed(413) => ("PayloadTooLarge", "request.payload_too_large"),
            Self::Failed(415) => ("UnsupportedMedia", "request.unsupported_media"),
            Self::Failed(400 | 422) => ("InvalidRequest", "request.invalid"),
            Self::Failed(429) => ("RateLimited", "request.rate_limited"),
            Self::Failed(529) => ("WorkerOverloaded", "capacity.worker_overloaded"),
            Self::Failed(503) => ("Unavailable", "backend.unavailable"),
            Self::Failed(504) => ("DeadlineExceeded", "request.deadline_exceeded"),
            Self::Failed(501) => ("NotImplemented", "runtime.not_implemented"),
            Self::Failed(_) => ("Internal", "runtime.internal"),
        })
    }
}

/// Counts one request from its acceptance to its end.
pub(crate) struct Account {
    metrics: Arc<Metrics>,
    model: Arc<ModelMetrics>,
    kind: RequestKind,
    caller: Caller,
    request_id: uuid::Uuid,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Instant,
    tokens: u64,
    closed: bool,
}

impl Account {
    /// Opens the account of a request that arrived at `started`.
    pub(crate) fn open(
        metrics: &Arc<Metrics>,
        model: Arc<ModelMetrics>,
        kind: RequestKind,
        caller: Caller,
        (request_id, started): (uuid::Uuid, Instant),
    ) -> Self {
        metrics.requests_started.with(&[&model.name, kind.endpoint, kind.request_type()]).inc();
        if let Caller::Named(key) = &caller {
            metrics.requests_by_key.with(&[key, &model.name]).inc();
        }
        model.active.inc();
        model.inflight.inc();
        model.queued.inc();
        let metrics = metrics.clone();
        Self {
            metrics,
            model,
            kind,
            caller,
            request_id,
            started,
            first_token: None,
            last_token: started,
            tokens: 0,
            closed: false,
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// When the first token came.
    pub(crate) fn first_token(&self) -> Option<Instant> {
        self.first_token
    }

    /// Mean gap between tokens so far, seconds.
    pub(crate) fn mean_gap_seconds(&self) -> Option<f64> {
        let first = self.first_token?;
        (self.tokens > 1).then(|| (self.last_token - first).as_secs_f64() / (self.tokens - 1) as f64)
    }

    /// Counts the length of a prompt.
    pub(crate) fn prompt(&self, tokens: u32) {
        self.model.input_tokens.observe(f64::from(tokens));
    }

    /// Counts `count` tokens that came together at `now`.
    pub(crate) fn tokens(&mut self, count: u32, now: Instant) {
        if count == 0 {
            return;
        }
        let count = u64::from(count);
        if self.first_token.is_none() {
            self.first_token = Some(now);
            self.model.queued.dec();
            self.model.ttft.observe((now - self.started).as_secs_f64());
        } else {
            // Tokens of one chunk share the gap before it, as in the stock frontend.
            let gap = now.saturating_duration_since(self.last_token).as_secs_f64() / count as f64;
            self.model.itl.observe_many(gap, count);
        }
        self.last_token = now;
        self.tokens += count;
        self.model.output_tokens.inc_by(count);
    }

    /// Closes the account. The first call counts, later ones do nothing.
    pub(crate) fn close(&mut self, outcome: Outcome, usage: Option<&CompletionUsage>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let (model, kind) = (&self.model, self.kind);
        let status = if outcome == Outcome::Success { "success" } else { "error" };
        let labels = [&model.name, kind.endpoint, kind.request_type(), status, outcome.error_type()];
        self.metrics.requests.with(&labels).inc();
        count_failure(&self.metrics, outcome);
        tracing::info!(
            request_id = %self.request_id,
            model = model.name,
            endpoint = kind.endpoint,
            key = self.caller.name(),
            status,
            error_type = outcome.error_type(),
            completion_tokens = self.tokens,
            elapsed_ms = self.started.elapsed().as_millis() as u64,
            "a request ended"
        );
        match outcome {
            Outcome::Cancelled => {
                self.metrics.cancellations.with(&[&model.name, kind.endpoint, kind.request_type()]).inc();
                self.metrics.disconnected_clients.with(&[]).inc();
            }
            Outcome::Failed(429 | 503 | 529) => {
                self.metrics.rejections.with(&[&model.name, kind.endpoint]).inc();
            }
            Outcome::Success | Outcome::Failed(_) => {}
        }
        if self.first_token.is_none() {
            model.queued.dec();
        }
        model.active.dec();
        model.inflight.dec();
        model.duration.observe(self.started.elapsed().as_secs_f64());
        if self.tokens > 0 {
            model.output_sequence_tokens.observe(self.tokens as f64);
        }
        if let Some(usage) = usage {
            let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
            model.cached_tokens.observe(f64::from(cached));
            if let Caller::Named(key) = &self.caller {
                self.metrics.tokens_by_key.with(&[key, &model.name]).inc_by(u64::from(usage.total_tokens));
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Nobody closed it: the answer was dropped, and only a client that left does that.
        self.close(Outcome::Cancelled, None);
    }
}

/// Counts a failure of a request that never had an account, or closes the books of one that had.
pub(crate) fn count_failure(metrics: &Metrics, outcome: Outcome) {
    if let Some((class, reason)) = outcome.class_and_reason() {
        metrics.failures.with(&[class, reason]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn open(metrics: &Arc<Metrics>) -> Account {
        let kind = RequestKind { endpoint: "chat_completions", stream: true };
        Account::open(
            metrics,
            metrics.model("m"),
            kind,
            Caller::Named("alice".into()),
            (uuid::Uuid::nil(), Instant::now()),
        )
    }

    #[test]
    fn an_account_that_nobody_closes_is_a_client_that_left() {
        let metrics = Arc::new(Metrics::new(1, None));
        drop(open(&metrics));
        let text = metrics.render();
        for line in [
            "dynamo_frontend_inflight_requests{model=\"m\"} 0",
            "dynamo_frontend_queued_requests{model=\"m\"} 0",
            "dynamo_frontend_model_cancellation_total{model=\"m\",endpoint=\"chat_completions\",request_type=\"stream\"} 1",
            "status=\"error\",error_type=\"cancelled\"} 1",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn tokens_of_one_chunk_share_the_gap_before_it() {
        let metrics = Arc::new(Metrics::new(1, None));
        let mut account = open(&metrics);
        let start = account.started();
        account.tokens(1, start + Duration::from_millis(500));
        account.tokens(4, start + Duration::from_millis(900));
        account.close(Outcome::Success, Some(&CompletionUsage::new(7, 5, 3)));
        drop(account);
        let text = metrics.render();
        for line in [
            "dynamo_frontend_time_to_first_token_seconds_sum{model=\"m\"} 0.5",
            "dynamo_frontend_inter_token_latency_seconds_sum{model=\"m\"} 0.4",
            "dynamo_frontend_inter_token_latency_seconds_count{model=\"m\"} 4",
            "dynamo_frontend_output_tokens_total{model=\"m\"} 5",
            "dynamo_frontend_cached_tokens_sum{model=\"m\"} 3",
            "busbar_frontend_tokens_by_key_total{key=\"alice\",model=\"m\"} 12",
            "request_type=\"stream\",status=\"success\",error_type=\"\"} 1",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn the_prefix_that_the_user_chose_replaces_the_stock_one() {
        let metrics = Arc::new(Metrics::new(1, Some("acme")));
        drop(open(&metrics));
        assert!(metrics.render().contains("acme_inflight_requests{model=\"m\"} 0"));
        assert!(!metrics.render().contains("dynamo_frontend_"));
    }
}
