//! Bookings of one worker set on their way to the other frontends: made in the request's path without waiting, sent by
//! one task, as many to a message as have gathered.

use crate::metrics::Metrics;
use prometheus_client::metrics::counter::Counter;
use protocol::events::{ActiveSequenceChange, ActiveSequenceEvent, ActiveSequencesMessage, PrefillLoadHint};
use protocol::ids::WorkerRank;
use protocol::kv::BlockHash;
use runtime::event_plane::Publisher;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events that wait to be sent: what 2,048 requests at once make in a few ms, some hundred bytes each. A request whose
/// beginning finds half of it taken is not told at all, so that the ends of those that were told have room.
const WAITING_MAX: usize = 16_384;
/// Events in one message: about 25 kB, so that one message never holds a subscriber for long.
const EVENTS_A_MESSAGE: usize = 64;

/// Takes what is booked; see the module.
pub(crate) struct Outbox {
    router_id: u64,
    publisher: Arc<Publisher>,
    waiting: mpsc::Sender<ActiveSequenceEvent>,
    untold: Counter,
}

/// What waits to be sent.
pub(crate) struct Waiting(mpsc::Receiver<ActiveSequenceEvent>);

impl Outbox {
    pub(crate) fn new(publisher: Arc<Publisher>, metrics: &Metrics, model: &str) -> (Self, Waiting) {
        let (waiting, received) = mpsc::channel(WAITING_MAX);
        let untold = metrics.bookings_untold.with(&[model]);
        (Self { router_id: metrics.router_id, publisher, waiting, untold }, Waiting(received))
    }

    /// Tells of a booking, if anybody listens. True if its end is to be told, too.
    pub(crate) fn booked(
        &self,
        request_id: &str,
        worker: WorkerRank,
        blocks: &[BlockHash],
        prefill_tokens: Option<u64>,
    ) -> bool {
        if self.publisher.subscribers() == 0 {
            return false;
        }
        if self.waiting.capacity() < WAITING_MAX / 2 {
            self.untold.inc();
            return false;
        }
        let hint =
            |tokens| PrefillLoadHint { initial_effective_prefill_tokens: tokens, expected_prefill_duration: None };
        let added = ActiveSequenceChange::AddRequest {
            token_sequence: Some(blocks.to_vec()),
            track_prefill_tokens: prefill_tokens.is_some(),
            expected_output_tokens: None,
            prefill_load_hint: prefill_tokens.map(hint),
        };
        self.send(request_id, worker, added)
    }

    /// Tells that the prompt of a booking that was told is computed.
    pub(crate) fn prefill_completed(&self, request_id: &str, worker: WorkerRank) {
        self.send(request_id, worker, ActiveSequenceChange::MarkPrefillCompleted);
    }

    /// Tells the end of a booking that was told.
    pub(crate) fn freed(&self, request_id: &str, worker: WorkerRank) {
        self.send(request_id, worker, ActiveSequenceChange::Free);
    }

    fn send(&self, request_id: &str, worker: WorkerRank, data: ActiveSequenceChange) -> bool {
        let router_id = self.router_id;
        let event = ActiveSequenceEvent { request_id: request_id.to_owned(), worker, data, router_id, lora_name: None };
        let sent = self.waiting.try_send(event).is_ok();
        if !sent {
            self.untold.inc();
        }
        sent
    }
}

impl Waiting {
    /// Sends until the outbox is gone.
    pub(crate) async fn publish_all(mut self, publisher: &Publisher) {
        let mut events = Vec::with_capacity(EVENTS_A_MESSAGE);
        while self.0.recv_many(&mut events, EVENTS_A_MESSAGE).await > 0 {
            let message = ActiveSequencesMessage { events: std::mem::take(&mut events) };
            if let Err(error) = publisher.publish(&message).await {
                tracing::warn!(%error, "bookings are not told to the other frontends");
            }
        }
    }
}
