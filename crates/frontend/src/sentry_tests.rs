//! A sentry before a port that answers, refuses, is silent or belongs to somebody else, in paused time.

use super::{Report, Watch};
use crate::health::Fault;
use crate::lifeline::Lifeline;
use bytes::BytesMut;
use parking_lot::Mutex;
use protocol::dynamo::{Ack, RequestFrame};
use runtime::request_plane::WatchLine;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
const PATH: &str = "7/dynamo/backend/generate";

/// What is behind the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// A worker that is well.
    Answers,
    /// Nobody: what was connected is closed, and nobody accepts.
    Refuses,
    /// A process that is stopped: its kernel accepts, and that is all.
    Stopped,
    /// A worker of ours with another instance.
    Another,
    /// A stock worker.
    Stock,
}

struct Scene {
    port: watch::Sender<Port>,
    line: Arc<Lifeline>,
    kick: Arc<Notify>,
    reports: Arc<Mutex<Vec<(Instant, Report)>>>,
    dials: Arc<AtomicUsize>,
    pings: Arc<AtomicUsize>,
    _sentry: tokio::task::JoinHandle<()>,
}

impl Scene {
    /// A sentry that has been before this port for ten seconds.
    async fn with(port: Port) -> Self {
        let (port, line) = (watch::Sender::new(port), Arc::new(Lifeline::new()));
        let (kick, reports) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
        let (dials, pings) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let told = reports.clone();
        let report = move |report| told.lock().push((Instant::now(), report));
        let watch = Watch { report, line: line.clone(), kick: kick.clone() };
        let (state, dialled, pinged) = (port.clone(), dials.clone(), pings.clone());
        let sentry = tokio::spawn(async move {
            let dial = || {
                dialled.fetch_add(1, Ordering::Relaxed);
                let refused = *state.borrow() == Port::Refuses;
                let (near, far) = tokio::io::duplex(4096);
                tokio::spawn(behind(far, state.subscribe(), pinged.clone()));
                async move {
                    if refused {
                        return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                    }
                    WatchLine::over(near, PATH, "a frontend")
                }
            };
            watch.keep(dial).await;
        });
        tokio::time::sleep(Duration::from_secs(10)).await;
        Self { port, line, kick, reports, dials, pings, _sentry: sentry }
    }

    /// What is reported within `span` from now, and how long after.
    async fn within(&self, span: Duration) -> Vec<(Duration, Report)> {
        let start = Instant::now();
        self.reports.lock().clear();
        tokio::time::sleep(span).await;
        self.reports.lock().drain(..).map(|(at, report)| (at - start, report)).collect()
    }

    /// The first report of `kind` within a minute, and how long after.
    async fn first(&self, kind: impl Fn(&Report) -> bool) -> Duration {
        let reports = self.within(Duration::from_secs(60)).await;
        reports.iter().find(|(_, report)| kind(report)).unwrap_or_else(|| panic!("none: {reports:?}")).0
    }
}

/// The worker's end of one connection.
async fn behind(mut stream: DuplexStream, mut port: watch::Receiver<Port>, pings: Arc<AtomicUsize>) {
    let (mut inbox, mut owed) = (BytesMut::new(), 0);
    loop {
        let now = *port.borrow_and_update();
        if now == Port::Refuses {
            return;
        }
        while let Ok(Some(frame)) = RequestFrame::decode(&mut inbox) {
            assert_eq!(frame.path, format!("busbar.ping/{PATH}"));
            pings.fetch_add(1, Ordering::Relaxed);
            owed += 1;
        }
        let ack = match now {
            Port::Answers => Some(Ack::Taken),
            Port::Stock => Some(Ack::Unavailable(format!("unknown endpoint busbar.ping/{PATH}"))),
            Port::Another => Some(Ack::Unavailable("busbar.ping: another instance".into())),
            Port::Stopped | Port::Refuses => None,
        };
        if let Some(ack) = ack {
            let mut out = BytesMut::new();
            (0..owed).for_each(|_| ack.encode_into(&mut out));
            owed = 0;
            if stream.write_all(&out).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = port.changed() => if changed.is_err() { return },
            read = stream.read_buf(&mut inbox) => if read.is_ok_and(|read| read == 0) { return },
        }
    }
}

fn is_out(fault: Fault) -> impl Fn(&Report) -> bool {
    move |report| matches!(report, Report::Out(found, _) if *found == fault)
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_well_is_reached_once_and_never_reported_again() {
    for port in [Port::Answers, Port::Stock] {
        let scene = Scene::with(port).await;
        assert_eq!(
            scene.reports.lock().iter().map(|(_, report)| report.clone()).collect::<Vec<_>>(),
            [Report::Answers]
        );
        assert_eq!(scene.within(Duration::from_secs(3_600)).await, []);
        assert_eq!(scene.dials.load(Ordering::Relaxed), 1);
        let pings = scene.pings.load(Ordering::Relaxed);
        assert!((7_000..7_300).contains(&pings), "two a second: {pings}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_connection_closes_is_lost_at_once_and_back_within_a_second_of_its_return() {
    let scene = Scene::with(Port::Answers).await;
    scene.port.send_replace(Port::Refuses);
    let running = scene.line.cut();
    let lost = scene.first(is_out(Fault::Lost)).await;
    assert!(lost < 500 * MS, "{lost:?}");
    assert!(!running.is_cancelled(), "a stream of its own connection may bring what lies in its buffers");
    scene.port.send_replace(Port::Answers);
    let back = scene.first(|report| *report == Report::Answers).await;
    assert!(back <= Duration::from_secs(1), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_worker_hangs_within_five_seconds_though_its_kernel_accepts_and_is_back_when_it_goes_on() {
    let scene = Scene::with(Port::Answers).await;
    let running = scene.line.cut();
    scene.port.send_replace(Port::Stopped);
    let hung = scene.first(is_out(Fault::Hung)).await;
    assert!(running.is_cancelled(), "its streams go on elsewhere");
    let opened_since = scene.line.cut();
    assert!(hung < Duration::from_secs(5), "{hung:?}");
    assert!(hung > Duration::from_secs(3), "{hung:?}");
    let reports = scene.within(Duration::from_secs(600)).await;
    assert!(reports.iter().all(|(_, report)| is_out(Fault::Hung)(report)), "{reports:?}");
    assert!(!opened_since.is_cancelled(), "there was nobody else: it waits");
    scene.port.send_replace(Port::Answers);
    let back = scene.first(|report| *report == Report::Answers).await;
    assert!(back <= Duration::from_secs(1), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_streams_bring_items_does_not_hang_however_long_its_pings_wait() {
    let scene = Scene::with(Port::Answers).await;
    scene.port.send_replace(Port::Stopped);
    for _ in 0..600 {
        scene.line.hear(Instant::now(), true);
        assert_eq!(scene.within(Duration::from_secs(1)).await, []);
    }
    assert!(scene.first(is_out(Fault::Hung)).await < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_successor_on_the_same_port_is_not_taken_for_the_worker() {
    let scene = Scene::with(Port::Answers).await;
    scene.port.send_replace(Port::Refuses);
    assert!(scene.first(is_out(Fault::Lost)).await < 500 * MS);
    scene.port.send_replace(Port::Another);
    let reports = scene.within(Duration::from_secs(60)).await;
    assert!(!reports.is_empty());
    assert!(reports.iter().all(|(_, report)| is_out(Fault::Lost)(report)), "{reports:?}");
    // Taken over while the connection stood, as by a proxy: the same.
    let scene = Scene::with(Port::Answers).await;
    scene.port.send_replace(Port::Another);
    assert!(scene.first(is_out(Fault::Lost)).await <= 500 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_kick_looks_at_once_and_a_well_worker_answers_it() {
    let scene = Scene::with(Port::Answers).await;
    scene.kick.notify_one();
    let answered = scene.first(|report| *report == Report::Answers).await;
    assert!(answered <= 100 * MS, "{answered:?}");
    assert_eq!(scene.dials.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_never_answered_is_lost_when_it_refuses_and_hangs_when_it_does_not() {
    let refused = Scene::with(Port::Refuses).await;
    assert!(is_out(Fault::Lost)(&refused.reports.lock()[0].1));
    let dials = refused.dials.load(Ordering::Relaxed);
    assert!((10..20).contains(&dials), "{dials} in ten seconds");
    let stopped = Scene::with(Port::Stopped).await;
    assert!(is_out(Fault::Hung)(&stopped.reports.lock()[0].1));
}
