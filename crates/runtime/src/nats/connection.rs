//! The connection itself: one task makes it, watches it, and makes it again.

use super::config::{self, Checked, NatsAuth, NatsConfig, NatsConfigError};
use super::failure::NatsFailure;
use crate::event_plane::Hub;
use crate::tasks::Tasks;
use async_nats::connection::State;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Longest wait for one connection, its greeting included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A sign of life is asked for after so much silence; a server that stands still is given up after three, so after
/// 6 s. Requests wait longer than that for their acknowledgement, or they would blame the worker.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// First pause between two tries, and the longest. A server that restarts is back in a second or two; one that stays
/// away costs a try in two seconds.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A failure that does not change is told again after this time, so that the end of any log shows it.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Messages of one subscription that were read and not yet taken. Whoever subscribes takes them at once and has a
/// queue of its own; this is for the moment between.
const SUBSCRIPTION_CAPACITY: usize = 4_096;

/// Commands that wait for the connection's task.
const COMMAND_CAPACITY: usize = 2_048;

/// How often the state of the connection is looked at beside its events.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Events of the library that wait for us; it makes a handful an hour.
const EVENTS_MAX: usize = 64;

/// A handle on the process's connection. Clones are cheap and share it; it is closed with the last of them.
#[derive(Clone)]
pub struct Nats {
    shared: Arc<Shared>,
    /// Who follows which subject: one subscription serves all followers of it.
    hub: Arc<Hub>,
    /// Holds the one task, which ends with the last handle.
    tasks: Arc<Tasks>,
}

struct Shared {
    checked: Checked,
    wanted: AtomicBool,
    session: watch::Sender<Option<Session>>,
    counts: NatsCounts,
}

/// One connection, from its greeting to its loss. What was subscribed in it is gone with it.
#[derive(Clone)]
pub struct Session {
    client: Client,
    number: u64,
    since: Instant,
}

impl Session {
    /// The library's client. It does not connect again by itself.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// When it was made.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// From 1, one up for each connection.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// The connection, waited for. `None` when its owner is gone. Cancel-safe.
pub(crate) async fn next_session(sessions: &mut watch::Receiver<Option<Session>>) -> Option<Session> {
    sessions.wait_for(Option::is_some).await.ok().and_then(|session| session.clone())
}

/// What happened to the connection, counted since the start.
#[derive(Debug, Default)]
pub struct NatsCounts {
    sessions: AtomicU64,
    /// Messages that a subscription of the library had no room for.
    slow: AtomicU64,
    failures: parking_lot::Mutex<BTreeMap<&'static str, u64>>,
}

impl NatsCounts {
    /// Connections made; each one after the first follows a loss.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Tries that failed and errors that the server sent, by [`NatsFailure::label`] or `server`.
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.failures.lock().clone()
    }

    fn failed(&self, label: &'static str) {
        *self.failures.lock().entry(label).or_default() += 1;
    }
}

impl Nats {
    /// Checks the configuration. Nothing is dialled before something wants the connection: see [`Nats::connect`].
    ///
    /// # Errors
    /// [`NatsConfigError`]: what can never work. A server that is not there is no error.
    pub fn new(config: &NatsConfig) -> Result<Self, NatsConfigError> {
        let shared = Arc::new(Shared {
            checked: config::check(config)?,
            wanted: AtomicBool::new(false),
            session: watch::Sender::new(None),
            counts: NatsCounts::default(),
        });
        Ok(Self { shared, hub: Arc::default(), tasks: Arc::new(Tasks::new()) })
    }

    /// Wants the connection from now on. Returns at once.
    pub fn connect(&self) {
        if !self.shared.wanted.swap(true, Ordering::AcqRel) {
            self.tasks.spawn("nats", keep(self.shared.clone()));
        }
    }

    /// The connection as it comes and goes; `None` while there is none. Asking for it makes it wanted.
    pub fn sessions(&self) -> watch::Receiver<Option<Session>> {
        self.connect();
        self.shared.session.subscribe()
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.shared.session.borrow().is_some()
    }

    /// Whether anything ever wanted the connection.
    pub fn is_wanted(&self) -> bool {
        self.shared.wanted.load(Ordering::Acquire)
    }

    /// What happened so far.
    pub fn counts(&self) -> &NatsCounts {
        &self.shared.counts
    }

    /// Messages that came faster than this process took them, and were dropped.
    pub fn unread(&self) -> u64 {
        self.shared.counts.slow.load(Ordering::Relaxed) + self.hub.dropped()
    }

    /// The servers' addresses, for messages.
    pub fn address(&self) -> String {
        self.shared.checked.address()
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats").field("address", &self.address()).field("connected", &self.is_connected()).finish()
    }
}

impl Shared {
    fn client(&self) -> Option<Client> {
        self.session.borrow().as_ref().map(|session| session.client.clone())
    }
}

impl Checked {
    fn address(&self) -> String {
        self.servers.iter().map(|server| server.as_url_str()).collect::<Vec<_>>().join(",")
    }

    /// The library's options for one connection. The events of it go to `events`.
    async fn options(&self, events: mpsc::Sender<Event>) -> Result<ConnectOptions, ConnectError> {
        let unreadable = |error| ConnectError::with_source(ConnectErrorKind::Authentication, error);
        let options = match &self.auth {
            NatsAuth::None => ConnectOptions::new(),
            NatsAuth::UserPassword { user, password } => {
                ConnectOptions::with_user_and_password(user.clone(), password.clone())
            }
            NatsAuth::Token(token) => ConnectOptions::with_token(token.clone()),
            NatsAuth::Nkey(seed) => ConnectOptions::with_nkey(seed.clone()),
            NatsAuth::CredentialsFile(path) => ConnectOptions::with_credentials_file(path).await.map_err(unreadable)?,
        };
        Ok(options
            .name(&self.client_name)
            .tls_client_config(self.tls.clone())
            .require_tls(self.tls_required)
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .client_capacity(COMMAND_CAPACITY)
            .ignore_discovered_servers()
            // A lost connection is ours to make again, with subscriptions and waiting requests in step. A try of each
            // server is the least that the library takes; what comes of it is dropped with the client.
            .max_reconnects(self.servers.len())
            .event_callback(move |event| {
                let _ = events.try_send(event);
                std::future::ready(())
            }))
    }
}

/// Makes the connection, waits for its loss, and begins again.
async fn keep(shared: Arc<Shared>) {
    let mut pause = BACKOFF_MIN;
    let mut told: Option<(NatsFailure, Instant)> = None;
    loop {
        let (events, mut heard) = mpsc::channel(EVENTS_MAX);
        match connect(&shared.checked, events).await {
            Ok(client) => {
                let number = shared.counts.sessions.fetch_add(1, Ordering::Relaxed) + 1;
                let server = client.server_info();
                tracing::info!(
                    address = shared.checked.address(),
                    server = server.server_name,
                    version = server.version,
                    max_payload = server.max_payload,
                    connection = number,
                    "connected to NATS"
                );
                let since = Instant::now();
                shared.session.send_replace(Some(Session { client, number, since }));
                let client = shared.client();
                tokio::select! {
                    () = until_lost(&shared, &mut heard) => {}
                    () = until_disconnected(client) => {}
                }
                shared.session.send_replace(None);
                tracing::warn!(address = shared.checked.address(), "the connection to NATS is lost; making it again");
                told = None;
                if since.elapsed() > BACKOFF_MAX {
                    pause = BACKOFF_MIN;
                }
            }
            Err(error) => {
                let (failure, words) = NatsFailure::of(&error);
                shared.counts.failed(failure.label());
                if told.is_none_or(|(last, at)| last != failure || at.elapsed() > TELL_AGAIN) {
                    told = Some((failure, Instant::now()));
                    tell(&shared.checked, failure, &words);
                }
            }
        }
        // Spread over half the pause, so that clients who lost the same server do not return as one.
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

async fn connect(checked: &Checked, events: mpsc::Sender<Event>) -> Result<Client, ConnectError> {
    checked.options(events).await?.connect(checked.servers.as_slice()).await
}

/// Until the connection is lost. Its events are counted meanwhile.
async fn until_lost(shared: &Shared, events: &mut mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Disconnected | Event::Closed => return,
            Event::SlowConsumer(_) => {
                shared.counts.slow.fetch_add(1, Ordering::Relaxed);
            }
            Event::ServerError(error) => {
                shared.counts.failed("server");
                tracing::warn!(%error, "the NATS server reports an error");
            }
            Event::LameDuckMode => tracing::info!("the NATS server is about to shut down"),
            Event::Connected | Event::Draining | Event::ClientError(_) => {}
        }
    }
}

/// The same, looked for: the library drops an event when too many come at once.
async fn until_disconnected(client: Option<Client>) {
    let Some(client) = client else { return };
    while client.connection_state() == State::Connected {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn tell(checked: &Checked, failure: NatsFailure, words: &str) {
    let (address, auth) = (checked.address(), checked.auth.described());
    let (what, remedy) = (failure.what(), failure.remedy());
    // What a restart of the server cannot heal is an error; what it can is a warning.
    if matches!(failure, NatsFailure::Unreachable | NatsFailure::Silent | NatsFailure::Broken) {
        tracing::warn!(address, cause = words, remedy, "{what}; trying again until it does");
    } else {
        tracing::error!(address, auth, cause = words, remedy, "{what}; trying again until it does");
    }
}
