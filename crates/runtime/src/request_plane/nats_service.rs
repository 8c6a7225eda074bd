//! What `nats micro ls`, `info` and `stats` show of a worker: Dynamo's workers register themselves as NATS services.
//!
//! Source: NATS ADR-32 (service API); the subjects are those that Dynamo 1.6.1 subscribes (on the wire, §6).

use crate::nats::{Nats, Session, next_session};
use crate::tasks::Tasks;
use async_nats::Message;
use futures::StreamExt;
use futures::stream::select_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Characters of a service's id, as in NATS's own.
const ID_CHARS: usize = 22;

/// Pause before subscriptions that the client refused are tried again.
const RETRY: Duration = Duration::from_millis(500);

/// `{namespace}_{component}`: the name of a service, one token of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName(String);

impl ServiceName {
    /// The service of a component.
    pub fn of(namespace: &str, component: &str) -> Self {
        Self(format!("{namespace}_{component}"))
    }
}

/// A registered service. Clones share it; it leaves with the last.
#[derive(Clone)]
pub(super) struct NatsService {
    card: Arc<Card>,
    _tasks: Arc<Tasks>,
}

struct Card {
    name: ServiceName,
    id: String,
    started: String,
    endpoints: Mutex<Vec<Arc<EndpointStats>>>,
}

/// One endpoint of a service, counted.
pub(super) struct EndpointStats {
    name: String,
    subject: String,
    queue_group: &'static str,
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<String>,
}

impl EndpointStats {
    pub(super) fn count(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, why: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        why.clone_into(&mut self.last_error.lock());
    }

    fn info(&self) -> Value {
        json!({"name": self.name, "subject": self.subject, "queue_group": self.queue_group, "metadata": {}})
    }

    /// Processing times are 0: a request is answered elsewhere.
    fn stats(&self) -> Value {
        json!({
            "name": self.name, "subject": self.subject, "queue_group": self.queue_group,
            "num_requests": self.requests.load(Ordering::Relaxed), "num_errors": self.errors.load(Ordering::Relaxed),
            "last_error": *self.last_error.lock(), "processing_time": 0, "average_processing_time": 0,
            "data": {"request_bytes": self.bytes.load(Ordering::Relaxed)},
        })
    }
}

/// What is asked of a service.
#[derive(Clone, Copy)]
enum Question {
    Ping,
    Info,
    Stats,
}

impl NatsService {
    pub(super) fn start(nats: &Nats, name: ServiceName) -> Self {
        let id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(ID_CHARS).collect();
        let started = rfc3339(SystemTime::now());
        let card = Arc::new(Card { name, id, started, endpoints: Mutex::default() });
        let tasks = Tasks::new();
        tasks.spawn("nats service", answer(nats.sessions(), card.clone()));
        Self { card, _tasks: Arc::new(tasks) }
    }

    pub(super) fn name(&self) -> &ServiceName {
        &self.card.name
    }

    /// Adds an endpoint; `path` ends with its name.
    pub(super) fn endpoint(&self, path: &str, subject: &str, queue_group: &'static str) -> Arc<EndpointStats> {
        let endpoint = Arc::new(EndpointStats {
            name: path.rsplit('/').next().unwrap_or(path).to_owned(),
            subject: subject.to_owned(),
            queue_group,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: Mutex::default(),
        });
        self.card.endpoints.lock().push(endpoint.clone());
        endpoint
    }
}

impl Card {
    /// Every subject on which the service answers: to all, to its name, to its id.
    fn subjects(&self) -> Vec<(Question, String)> {
        let of = |question: Question, word: &str| {
            let (name, id) = (&self.name.0, &self.id);
            [format!("$SRV.{word}"), format!("$SRV.{word}.{name}"), format!("$SRV.{word}.{name}.{id}")]
                .map(|subject| (question, subject))
        };
        let questions = [(Question::Ping, "PING"), (Question::Info, "INFO"), (Question::Stats, "STATS")];
        questions.iter().flat_map(|&(question, word)| of(question, word)).collect()
    }

    fn reply(&self, question: Question) -> Value {
        let mut reply = json!({
            "name": self.name.0, "id": self.id, "version": env!("CARGO_PKG_VERSION"), "metadata": {},
        });
        let endpoints = self.endpoints.lock();
        let (kind, more) = match question {
            Question::Ping => ("ping", vec![]),
            Question::Info => {
                let endpoints: Value = endpoints.iter().map(|endpoint| endpoint.info()).collect();
                ("info", vec![("description", json!("Busbar worker")), ("endpoints", endpoints)])
            }
            Question::Stats => {
                let endpoints: Value = endpoints.iter().map(|endpoint| endpoint.stats()).collect();
                ("stats", vec![("started", json!(self.started)), ("endpoints", endpoints)])
            }
        };
        reply["type"] = json!(format!("io.nats.micro.v1.{kind}_response"));
        more.into_iter().for_each(|(key, value)| reply[key] = value);
        reply
    }
}

/// Answers in each connection that comes, until its task is dropped.
async fn answer(mut sessions: watch::Receiver<Option<Session>>, card: Arc<Card>) {
    loop {
        let Some(session) = next_session(&mut sessions).await else { return };
        tokio::select! {
            () = answer_in(&session, &card) => {}
            changed = sessions.changed() => if changed.is_err() { return },
        }
    }
}

async fn answer_in(session: &Session, card: &Card) {
    let mut asked = Vec::new();
    for (question, subject) in card.subjects() {
        match session.client().subscribe(subject).await {
            Ok(messages) => asked.push(messages.map(move |message| (question, message))),
            Err(error) => tracing::debug!(%error, "register as a NATS service"),
        }
    }
    let mut asked = select_all(asked);
    while let Some((question, Message { reply: Some(reply), .. })) = asked.next().await {
        let text = card.reply(question).to_string();
        let _ = session.client().publish(reply, text.into()).await;
    }
    tokio::time::sleep(RETRY).await;
}

/// `2026-11-23T20:37:24Z`.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, of_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Days since 0000-03-01, where each era of 400 years has the same length and leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_start_is_written_as_the_tools_read_it() {
        let written = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(written(0), "1970-01-01T00:00:00Z");
        assert_eq!(written(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(written(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(written(1_795_466_244), "2026-11-23T20:37:24Z");
    }

    #[test]
    fn the_subjects_are_those_of_a_stock_worker() {
        let card = Card {
            name: ServiceName::of("dynamo", "backend"),
            id: "sbGM5ARMqmlwbA1teyEEdF".into(),
            started: String::new(),
            endpoints: Mutex::default(),
        };
        let subjects: Vec<String> = card.subjects().into_iter().map(|(_, subject)| subject).collect();
        let of = |word: &str| {
            let name = format!("$SRV.{word}.dynamo_backend");
            [format!("$SRV.{word}"), name.clone(), format!("{name}.sbGM5ARMqmlwbA1teyEEdF")]
        };
        assert_eq!(subjects, [of("PING"), of("INFO"), of("STATS")].concat());
    }
}
