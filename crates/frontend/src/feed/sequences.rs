//! Follows one publisher of bookings: another frontend, which tells what it books, or a worker, which tells when a
//! prompt is computed.

use crate::models::Catalog;
use protocol::discovery::EventChannelRecord;
use protocol::dynamo::DecodeError;
use protocol::events::{ActiveSequenceEvent, ActiveSequencesMessage};
use runtime::event_plane::{Envelope, Subscriber};
use runtime::nats::Nats;
use runtime::world::World;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Wait before another try to subscribe.
const RETRY: Duration = Duration::from_secs(1);
/// Routers that one publisher may speak for. A frontend is one, a worker is one; more is a publisher that makes ids up,
/// and what it says is not taken.
const ROUTERS_A_PUBLISHER_MAX: usize = 16;

enum Event {
    Message(Envelope),
    Lost,
    Closed,
}

/// Takes over every event until the task is dropped.
pub(super) async fn follow(world: World, catalog: Arc<Catalog>, channel: EventChannelRecord, nats: Nats) {
    let publisher = channel.instance_id;
    loop {
        match Subscriber::follow(&world, &channel, &nats).await {
            Ok(subscriber) => Heard::new(catalog.clone()).listen(subscriber).await,
            Err(error) => tracing::debug!(%publisher, %error, "subscribe to bookings"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Who spoke on this channel, and how far it was heard. Dropping it forgets what they booked: the publisher has left
/// discovery.
struct Heard {
    catalog: Arc<Catalog>,
    routers: BTreeSet<u64>,
    place: Place,
}

/// How far a publisher was heard.
#[derive(Default)]
struct Place(Option<u64>);

impl Place {
    /// Whether nothing was missed before the message of this number.
    fn follows_on(&mut self, sequence: u64) -> bool {
        let expected = self.0.replace(sequence.wrapping_add(1));
        expected.is_none_or(|expected| expected == sequence)
    }
}

impl Heard {
    fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog, routers: BTreeSet::new(), place: Place::default() }
    }

    async fn listen(mut self, mut subscriber: Subscriber) {
        let mut losses = subscriber.losses();
        loop {
            let event = tokio::select! {
                // The rare before the frequent.
                biased;
                Ok(()) = losses.changed() => Event::Lost,
                envelope = subscriber.next() => envelope.map_or(Event::Closed, Event::Message),
            };
            match event {
                Event::Closed => return,
                // A dead process closes its connections long before its record expires, and its requests end with it.
                // One that only lost this connection tells its next bookings on the next one; ends may be missed.
                Event::Lost => {
                    self.forget("its connection is lost");
                    self.place = Place::default();
                }
                Event::Message(envelope) => self.take(&envelope),
            }
        }
    }

    fn take(&mut self, envelope: &Envelope) {
        if !self.place.follows_on(envelope.sequence) {
            self.forget("events of it were missed");
        }
        match events_of(envelope) {
            Ok(events) => events.iter().for_each(|event| self.apply(event)),
            Err(error) => tracing::debug!(%error, "a message of bookings does not decode"),
        }
    }

    fn apply(&mut self, event: &ActiveSequenceEvent) {
        let known = self.routers.contains(&event.router_id);
        if !known && self.routers.len() >= ROUTERS_A_PUBLISHER_MAX {
            return;
        }
        if self.catalog.take_booking(event) && !known {
            self.routers.insert(event.router_id);
        }
    }

    fn forget(&self, why: &str) {
        for &router_id in &self.routers {
            let ended = self.catalog.forget_router(router_id);
            if ended > 0 {
                tracing::info!(router_id, bookings = ended, why, "another frontend's bookings are forgotten");
            }
        }
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.forget("it has left");
    }
}

/// The events of a message: a list, or over NATS a single one.
fn events_of(envelope: &Envelope) -> Result<Vec<ActiveSequenceEvent>, DecodeError> {
    match envelope.decode::<ActiveSequencesMessage>() {
        Ok(message) => Ok(message.events),
        Err(error) => envelope.decode::<ActiveSequenceEvent>().map(|event| vec![event]).map_err(|_| error),
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, events_of};
    use bytes::Bytes;
    use protocol::discovery::Codec;
    use protocol::events::{ActiveSequenceChange, ActiveSequenceEvent, ActiveSequencesMessage};
    use protocol::ids::{InstanceId, PublisherId, WorkerRank};
    use runtime::event_plane::Envelope;

    #[test]
    fn a_hole_in_the_numbers_is_noticed_once_and_any_number_may_be_the_first() {
        let mut place = Place::default();
        let told = [7, 8, 9, 12, 13, 13, u64::MAX, 0].map(|sequence| place.follows_on(sequence));
        assert_eq!(told, [true, true, true, false, true, false, false, true]);
    }

    #[test]
    fn a_list_of_events_and_a_single_one_are_both_read() {
        let event = |request_id: &str| ActiveSequenceEvent {
            request_id: request_id.into(),
            worker: WorkerRank { worker_id: InstanceId(1), dp_rank: 0 },
            data: ActiveSequenceChange::Free,
            router_id: 4_711,
            lora_name: None,
        };
        let envelope = |payload: Bytes| Envelope {
            publisher_id: PublisherId(1),
            sequence: 0,
            published_at_ms: 0,
            topic: "active_sequences_events".into(),
            payload,
        };
        let list = Codec::Msgpack.encode(&ActiveSequencesMessage { events: vec![event("a"), event("b")] }).unwrap();
        assert_eq!(events_of(&envelope(list)).unwrap(), [event("a"), event("b")]);
        let single = Codec::Msgpack.encode(&event("c")).unwrap();
        assert_eq!(events_of(&envelope(single)).unwrap(), [event("c")]);
        assert!(events_of(&envelope(Bytes::from_static(b"\xc0"))).is_err());
    }
}
