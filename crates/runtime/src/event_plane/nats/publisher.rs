//! The publishing side: a queue, and one task that sends what is in it while there is a connection.

use super::outbox::Outbox;
use super::subject_of;
use crate::event_plane::{Envelope, EventError};
use crate::nats::{Nats, Session, next_session};
use crate::tasks::Tasks;
use bytes::Bytes;
use protocol::discovery::{Codec, EventScope};
use protocol::dynamo::{EncodeError, FRAME_BYTES_MAX, FrameError};
use protocol::ids::PublisherId;
use serde::Serialize;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// A publisher of one topic of one scope.
pub(in crate::event_plane) struct Publisher {
    id: PublisherId,
    topic: String,
    subject_prefix: String,
    subject: String,
    outbox: Arc<Outbox>,
    _tasks: Tasks,
    _nats: Nats,
}

impl Publisher {
    pub(in crate::event_plane) fn new(nats: &Nats, scope: &EventScope, topic: &str) -> Result<Self, EventError> {
        let subject_prefix = scope.subject_prefix();
        let subject = subject_of(&subject_prefix, topic)?;
        let outbox = Arc::new(Outbox::default());
        let tasks = Tasks::new();
        tasks.spawn("event publisher", send(nats.sessions(), subject.clone(), outbox.clone()));
        let id = PublisherId(rand::random_range(0..1 << 53));
        Ok(Self { id, topic: topic.to_owned(), subject_prefix, subject, outbox, _tasks: tasks, _nats: nats.clone() })
    }

    pub(in crate::event_plane) fn id(&self) -> PublisherId {
        self.id
    }

    pub(in crate::event_plane) fn topic(&self) -> &str {
        &self.topic
    }

    pub(in crate::event_plane) fn subject_prefix(&self) -> &str {
        &self.subject_prefix
    }

    pub(in crate::event_plane) fn subject(&self) -> &str {
        &self.subject
    }

    pub(in crate::event_plane) fn dropped(&self) -> u64 {
        self.outbox.dropped()
    }

    pub(in crate::event_plane) fn outbox(&self) -> Arc<Outbox> {
        self.outbox.clone()
    }

    pub(in crate::event_plane) fn publish<T: Serialize + ?Sized>(&self, payload: &T) -> Result<(), EventError> {
        self.outbox.put(|sequence| self.event(sequence, payload)).map_err(|cause| {
            let topic = self.topic.clone();
            EventError::Encode { topic, cause }
        })
    }

    fn event<T: Serialize + ?Sized>(&self, sequence: u64, payload: &T) -> Result<Bytes, EncodeError> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let envelope = Envelope {
            publisher_id: self.id,
            sequence,
            published_at_ms: since_1970.as_millis() as u64,
            topic: self.topic.clone(),
            payload: Codec::Msgpack.encode(payload)?,
        };
        let message = envelope.to_nats()?;
        if message.len() > FRAME_BYTES_MAX {
            let bytes = message.len() as u64;
            return Err(FrameError::TooLarge { part: "event", bytes, bytes_max: FRAME_BYTES_MAX }.into());
        }
        Ok(message)
    }
}

/// Sends in order for as long as it lives. An event that was given to a connection that is lost is lost with it.
async fn send(mut sessions: watch::Receiver<Option<Session>>, subject: String, outbox: Arc<Outbox>) {
    loop {
        // None means that the connection's owner is gone, and this publisher with it.
        let Some(session) = next_session(&mut sessions).await else { return };
        tokio::select! {
            () = send_in(&session, &subject, &outbox) => {}
            changed = sessions.changed() => if changed.is_err() { return },
        }
    }
}

async fn send_in(session: &Session, subject: &str, outbox: &Outbox) {
    let subject = async_nats::Subject::from(subject);
    loop {
        let event = outbox.take().await;
        let (bytes, bytes_max) = (event.len(), session.client().max_payload());
        if bytes > bytes_max {
            outbox.note_lost(1);
            tracing::warn!(
                %subject, bytes, bytes_max,
                "an event is over the NATS server's max_payload and is lost; routers ask for what they miss"
            );
        } else if session.client().publish(subject.clone(), event).await.is_err() {
            outbox.note_lost(1);
            // The client is closed, and its session about to end: the watch tells.
            return std::future::pending().await;
        }
    }
}
