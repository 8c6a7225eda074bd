//! A follower of one publisher, as the event plane sees it.

use super::hub::{Followed, Hub};
use super::subject_of;
use crate::event_plane::{Envelope, EventError};
use crate::nats::Nats;
use protocol::ids::PublisherId;
use tokio::sync::watch;

/// See [`crate::event_plane::Subscriber`].
pub(in crate::event_plane) struct Subscriber {
    followed: Followed,
    /// Never changes.
    losses: watch::Sender<u64>,
    _nats: Nats,
}

impl Subscriber {
    pub(in crate::event_plane) fn new(
        nats: &Nats,
        subject_prefix: &str,
        topic: &str,
        publisher: PublisherId,
    ) -> Result<Self, EventError> {
        let subject = subject_of(subject_prefix, topic)?;
        let followed = Hub::follow(nats, &subject, topic, publisher);
        Ok(Self { followed, losses: watch::Sender::new(0), _nats: nats.clone() })
    }

    pub(in crate::event_plane) async fn next(&mut self) -> Option<Envelope> {
        self.followed.events.recv().await.map(|(envelope, _room)| envelope)
    }

    pub(in crate::event_plane) fn subscriptions(&self) -> watch::Receiver<u64> {
        self.followed.subscriptions.clone()
    }

    pub(in crate::event_plane) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    pub(in crate::event_plane) fn links(&self) -> watch::Receiver<bool> {
        self.followed.linked.clone()
    }
}
