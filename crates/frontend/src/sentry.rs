//! One task for each worker that hears whether it lives: it holds a watch connection to the worker's request port,
//! pings over it, and reports what it learns.
//!
//! A connection that the worker's kernel closes is a process that died: the worker is out of routing in that moment.
//! Silence is a worker that hangs, see [`crate::pulse`]. Either way the task dials again until the worker *answers*: a
//! stopped process still accepts connections, so accepting proves nothing.

use crate::health::Fault;
use crate::lifeline::Lifeline;
use crate::pulse::{Beat, HUNG_AFTER, Pulse};
use protocol::discovery::{EndpointRecord, RequestTransport};
use runtime::request_plane::{Pong, RequestClient, WatchLine};
use runtime::tasks::Tasks;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Waits between two tries to reach a worker; doubles from the first to the last. A worker that restarts is chosen
/// again within a second; a dead one costs one refused connection a second until its record goes.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Longest time for one try, from dialling to the first answer.
const REACH_MAX: Duration = Duration::from_secs(2);

/// What a sentry has learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The worker answers.
    Answers,
    /// It is lost, or hangs, and why that is thought. Said again while it lasts.
    Out(Fault, String),
}

/// A worker's sentry. It ends with its last holder: the worker's record, or the last stream that runs there. A worker
/// that leaves has no record any more, and must still hear that its streams are wanted.
#[derive(Debug)]
pub(crate) struct Sentry {
    pub(crate) line: Arc<Lifeline>,
    kick: Arc<Notify>,
    _task: Tasks,
}

impl Sentry {
    /// Watches the worker behind `endpoint`; `report` is told what is learnt.
    pub(crate) fn post(
        client: RequestClient,
        endpoint: Arc<EndpointRecord>,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (line, kick, task) = (Arc::new(Lifeline::new()), Arc::new(Notify::new()), Tasks::new());
        let watch = Watch { report, line: line.clone(), kick: kick.clone() };
        task.spawn("watch a worker", async move {
            match endpoint.transport {
                RequestTransport::Tcp(_) => watch.keep(|| client.watch(&endpoint)).await,
                RequestTransport::NatsTcp(_) => watch.trust().await,
            }
        });
        Arc::new(Self { line, kick, _task: task })
    }

    /// Somebody has reason to think that the worker is not well, or well again: look at once.
    pub(crate) fn kick(&self) {
        self.kick.notify_one();
    }
}

/// How a watch connection ended.
enum Ended {
    /// The worker, or its kernel, closed it.
    Lost(io::Error),
    /// Nothing came any more.
    Hung,
    /// Somebody wants to know anew.
    Kicked,
}

/// What a try to reach the worker came to.
enum Reached<S> {
    /// It answers on this connection.
    Yes(WatchLine<S>),
    /// Nobody is there, or somebody else.
    Nobody(String),
    /// Nothing can be said: no answer in time, or a fault on this side.
    Unknown(String),
}

struct Watch<R> {
    report: R,
    line: Arc<Lifeline>,
    kick: Arc<Notify>,
}

impl<R: Fn(Report)> Watch<R> {
    /// A worker that takes requests over NATS has no port to watch. Its requests tell of a loss, by the server's word
    /// that nobody listens; it is tried again a moment later, until its record goes.
    async fn trust(&self) {
        loop {
            self.line.answer();
            (self.report)(Report::Answers);
            self.kick.notified().await;
            tokio::time::sleep(RETRY_MAX).await;
        }
    }

    /// Watches until the task is dropped.
    async fn keep<S, D, F>(&self, mut dial: D)
    where
        S: AsyncRead + AsyncWrite + Unpin,
        D: FnMut() -> F,
        F: Future<Output = io::Result<WatchLine<S>>>,
    {
        let (mut wait, mut hangs) = (RETRY_FIRST, false);
        loop {
            let tried = tokio::time::timeout(REACH_MAX, reach(dial())).await;
            match tried.unwrap_or_else(|_| Reached::Unknown("it does not answer".into())) {
                Reached::Yes(line) => {
                    (wait, hangs) = (RETRY_FIRST, false);
                    self.line.answer();
                    (self.report)(Report::Answers);
                    match self.listen(line).await {
                        Ended::Lost(error) => self.lost(error.to_string()),
                        Ended::Hung => self.hung(&mut hangs, "it answers nothing".into()),
                        Ended::Kicked => {}
                    }
                }
                Reached::Nobody(why) => self.lost(why),
                Reached::Unknown(why) => {
                    if Instant::now() >= self.line.last_heard() + HUNG_AFTER {
                        self.hung(&mut hangs, why);
                    }
                }
            }
            tokio::select! {
                biased;
                () = self.kick.notified() => wait = RETRY_FIRST,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            }
        }
    }

    /// The streams of a worker that hangs are cut, so that they go on elsewhere; those of a lost one have connections of
    /// their own that tell. Once for each time: what is sent there while it hangs, because there is nobody else, waits.
    fn hung(&self, hangs: &mut bool, why: String) {
        self.out(Fault::Hung, why);
        if !std::mem::replace(hangs, true) {
            self.line.cut_streams();
        }
    }

    fn lost(&self, why: String) {
        self.line.lose();
        self.out(Fault::Lost, why);
    }

    fn out(&self, fault: Fault, why: String) {
        (self.report)(Report::Out(fault, why));
    }

    /// Pings and listens until the connection is of no more use.
    async fn listen<S: AsyncRead + AsyncWrite + Unpin>(&self, mut line: WatchLine<S>) -> Ended {
        let mut pulse = Pulse::default();
        loop {
            let until = match pulse.next(Instant::now(), self.line.last_heard()) {
                Beat::Hung => return Ended::Hung,
                Beat::Wait(until) => until,
                Beat::Ping => {
                    if let Err(error) = line.ping().await {
                        return Ended::Lost(error);
                    }
                    pulse.pinged(Instant::now());
                    continue;
                }
            };
            tokio::select! {
                biased;
                pong = line.pong() => match pong {
                    Ok(Pong::AnotherInstance) => {
                        return Ended::Lost(io::Error::other("its port belongs to another instance"));
                    }
                    Ok(Pong::Serves | Pong::Alive) => self.line.hear(Instant::now(), false),
                    Err(error) => return Ended::Lost(error),
                },
                () = self.kick.notified() => return Ended::Kicked,
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// Dials and waits for the first answer.
async fn reach<S, F>(dialled: F) -> Reached<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = io::Result<WatchLine<S>>>,
{
    let asked = async {
        let mut line = dialled.await?;
        line.ping().await?;
        let pong = line.pong().await?;
        Ok((line, pong))
    };
    match asked.await {
        Ok((line, Pong::Serves | Pong::Alive)) => Reached::Yes(line),
        Ok((_, Pong::AnotherInstance)) => Reached::Nobody("its port belongs to another instance".into()),
        Err(error) if is_the_workers(&error) => Reached::Nobody(error.to_string()),
        Err(error) => Reached::Unknown(error.to_string()),
    }
}

/// Whether a failure to connect says something of the worker. A frontend that has no descriptors or ports left must not
/// take every worker for dead.
fn is_the_workers(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionRefused
            | K::ConnectionReset
            | K::ConnectionAborted
            | K::BrokenPipe
            | K::UnexpectedEof
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::InvalidData
    )
}

#[cfg(test)]
#[path = "sentry_tests.rs"]
mod tests;
