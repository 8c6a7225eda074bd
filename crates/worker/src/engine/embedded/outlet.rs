//! One sequence's way out: a bounded channel, and what does not fit yet, merged into one output.

use protocol::output::EngineOutput;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// The sending side of one sequence.
pub(super) struct Outlet {
    sender: Sender<EngineOutput>,
    /// What the reader has no room for. At most one context of tokens.
    pending: Option<EngineOutput>,
}

/// What became of the pending output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Nothing is pending.
    Done,
    /// The reader is slow; try again.
    Waiting,
}

impl Outlet {
    /// An outlet with nothing pending.
    pub(super) fn new(sender: Sender<EngineOutput>) -> Self {
        Self { sender, pending: None }
    }

    /// Whether the reader is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Adds an output to what is pending.
    pub(super) fn push(&mut self, output: EngineOutput) {
        match &mut self.pending {
            Some(pending) => merge(pending, output),
            None => self.pending = Some(output),
        }
    }

    /// Sends what is pending if the reader has room; never waits.
    pub(super) fn flush(&mut self) -> Flushed {
        let Some(output) = self.pending.take() else { return Flushed::Done };
        match self.sender.try_send(output) {
            Ok(()) | Err(TrySendError::Closed(_)) => Flushed::Done,
            Err(TrySendError::Full(output)) => {
                self.pending = Some(output);
                Flushed::Waiting
            }
        }
    }
}

/// Appends `later` to `earlier`: tokens and their log-probabilities in order; of what is said once, the later counts.
fn merge(earlier: &mut EngineOutput, later: EngineOutput) {
    earlier.token_ids.extend(later.token_ids);
    if let Some(more) = later.log_probs {
        earlier.log_probs.get_or_insert_default().extend(more);
    }
    if let Some(more) = later.top_logprobs {
        earlier.top_logprobs.get_or_insert_default().extend(more);
    }
    earlier.cum_log_probs = later.cum_log_probs.or(earlier.cum_log_probs);
    earlier.finish_reason = later.finish_reason.or(earlier.finish_reason.take());
    earlier.completion_usage = later.completion_usage.or(earlier.completion_usage);
    earlier.stop_reason = later.stop_reason.or(earlier.stop_reason.take());
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::output::{CompletionUsage, FinishReason};
    use tokio::sync::mpsc;

    #[test]
    fn a_slow_reader_gets_every_token_in_order_in_fewer_outputs() {
        let (sender, mut receiver) = mpsc::channel(2);
        let mut outlet = Outlet::new(sender);
        for token in 0..6 {
            outlet.push(EngineOutput {
                log_probs: Some(vec![-f64::from(token)]),
                completion_usage: (token == 0).then(|| CompletionUsage::new(9, 1, 4)),
                ..EngineOutput::of_tokens(vec![token])
            });
            outlet.flush();
        }
        outlet.push(EngineOutput::finished(FinishReason::Length, CompletionUsage::new(9, 6, 4)));
        assert_eq!(outlet.flush(), Flushed::Waiting);

        let mut outputs = vec![receiver.try_recv().unwrap(), receiver.try_recv().unwrap()];
        assert_eq!(outlet.flush(), Flushed::Done);
        outputs.push(receiver.try_recv().unwrap());
        assert_eq!(outputs.iter().flat_map(|o| o.token_ids.clone()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        let logprobs: Vec<f64> = outputs.iter().flat_map(|o| o.log_probs.clone().unwrap()).collect();
        assert_eq!(logprobs, [-0.0, -1.0, -2.0, -3.0, -4.0, -5.0]);
        assert_eq!(outputs[0].completion_usage.map(|u| u.completion_tokens), Some(1));
        assert_eq!(outputs[2].finish_reason, Some(FinishReason::Length));
        assert_eq!(outputs[2].completion_usage.map(|u| u.completion_tokens), Some(6));
        assert!(receiver.try_recv().is_err());
    }

    #[test]
    fn a_reader_that_left_takes_the_pending_output_with_it() {
        let (sender, receiver) = mpsc::channel(1);
        let mut outlet = Outlet::new(sender);
        drop(receiver);
        assert!(outlet.is_closed());
        outlet.push(EngineOutput::of_tokens(vec![1]));
        assert_eq!(outlet.flush(), Flushed::Done);
    }
}
