//! One leader at a time, whatever the API server and the clocks do. In paused time, against an API server that keeps one
//! lease with its version and can be slow, deaf or away.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use futures::future::BoxFuture;
use kube::Client;
use kube::client::Body;
use operator::leader::{Candidate, LeaderConfig, LeaderError, Seen, Step, Term, elect};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
/// Longer than anything here takes; in paused time it costs nothing.
const CAP: Duration = Duration::from_secs(600);

/// How the API server behaves toward one client.
#[derive(Clone, Copy, Default)]
enum Line {
    #[default]
    Good,
    /// Refuses connections.
    Down,
    /// Takes requests and never answers; with `true` it acts on them first.
    Deaf(bool),
    /// Refuses every write with a conflict.
    Conflicts,
}

#[derive(Default)]
struct Store {
    lease: Option<Value>,
    version: u64,
    writes: u64,
}

impl Store {
    fn answer(&mut self, method: &str, body: &[u8]) -> (u16, Value) {
        let failure = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": reason, "reason": reason, "code": code}),
            )
        };
        match (method, &self.lease) {
            ("GET", Some(lease)) => (200, lease.clone()),
            ("POST", Some(_)) => failure(409, "AlreadyExists"),
            ("GET" | "PUT", None) => failure(404, "NotFound"),
            ("POST" | "PUT", lease) => {
                let mut given: Value = serde_json::from_slice(body).unwrap();
                let known = lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
                if known.is_some_and(|known| known != given["metadata"]["resourceVersion"]) {
                    return failure(409, "Conflict");
                }
                self.version += 1;
                self.writes += 1;
                given["metadata"]["resourceVersion"] = json!(self.version.to_string());
                self.lease = Some(given.clone());
                (200, given)
            }
            other => panic!("{other:?}"),
        }
    }
}

/// An API server and the lines to it.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Store>>);

impl Server {
    fn client(&self, line: &Arc<Mutex<Line>>) -> Client {
        let (store, line) = (self.0.clone(), line.clone());
        let service = tower::service_fn(move |request: axum::http::Request<Body>| {
            let (store, line) = (store.clone(), line.clone());
            let answer: BoxFuture<'static, Result<axum::http::Response<Body>, tower::BoxError>> =
                Box::pin(async move {
                    let method = request.method().to_string();
                    let body = request.into_body().collect_bytes().await.unwrap();
                    // A call takes a while, so that others come in between a read and a write.
                    sleep(Duration::from_millis(20)).await;
                    let at = *line.lock();
                    let (code, value) = match at {
                        Line::Down => return Err(tower::BoxError::from("connection refused")),
                        Line::Deaf(acts) => {
                            if acts {
                                store.lock().answer(&method, &body);
                            }
                            std::future::pending().await
                        }
                        Line::Conflicts if method != "GET" => {
                            (409, json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409}))
                        }
                        Line::Good | Line::Conflicts => store.lock().answer(&method, &body),
                    };
                    let body = Body::from(serde_json::to_vec(&value).unwrap());
                    Ok(axum::http::Response::builder()
                        .status(code)
                        .header("content-type", "application/json")
                        .body(body)
                        .unwrap())
                });
            answer
        });
        Client::new(service, "default")
    }

    fn holder(&self) -> Value {
        self.0.lock().lease.as_ref().map_or(Value::Null, |lease| lease["spec"]["holderIdentity"].clone())
    }
}

struct Person {
    line: Arc<Mutex<Line>>,
    client: Client,
    config: LeaderConfig,
    stop: CancellationToken,
}

impl Person {
    fn new(server: &Server, name: &str) -> Self {
        let line = Arc::<Mutex<Line>>::default();
        let client = server.client(&line);
        Self {
            line,
            client,
            config: LeaderConfig::new("busbar-operator", "default", name),
            stop: CancellationToken::new(),
        }
    }

    async fn elect(&self) -> Term {
        timeout(CAP, elect(&self.client, &self.config, &self.stop)).await.unwrap().unwrap()
    }
}

fn two(server: &Server) -> (Person, Person) {
    (Person::new(server, "a"), Person::new(server, "b"))
}

fn seen(holder: Option<&str>, mark: &str) -> Seen {
    Seen { holder: holder.map(str::to_owned), duration: 15 * SECOND, mark: mark.to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_candidate_counts_from_the_change_that_it_saw_and_never_reads_anothers_clock() {
    let start = Instant::now();
    let mut b = Candidate::new("b");
    let mut check = |found: Option<Seen>, after_s: u32, step: Step| {
        assert_eq!(b.step(found.as_ref(), start + after_s * SECOND), step, "{found:?} after {after_s} s");
    };
    check(None, 0, Step::Create);
    check(Some(seen(None, "released")), 0, Step::Take);
    check(Some(seen(Some("b"), "mine")), 0, Step::Take);
    // The marks hold times of a clock that is an hour behind, then a day ahead: only that they differ counts.
    check(Some(seen(Some("a"), "05:00")), 0, Step::Wait);
    check(Some(seen(Some("a"), "05:00")), 14, Step::Wait);
    check(Some(seen(Some("a"), "+1d 06:00")), 14, Step::Wait);
    check(Some(seen(Some("a"), "+1d 06:00")), 28, Step::Wait);
    check(Some(seen(Some("a"), "+1d 06:00")), 29, Step::Take);
    // Someone else was quicker.
    check(Some(seen(Some("c"), "06:01")), 29, Step::Wait);
    check(Some(seen(Some("c"), "06:01")), 43, Step::Wait);
    check(Some(seen(Some("c"), "06:01")), 44, Step::Take);
}

#[tokio::test(start_paused = true)]
async fn times_that_cannot_keep_two_apart_are_refused() {
    let mut person = Person::new(&Server::default(), "a");
    person.config.give_up = person.config.duration;
    let refused = elect(&person.client, &person.config, &person.stop).await.unwrap_err();
    assert_eq!(refused, LeaderError::Times);
}

#[tokio::test(start_paused = true)]
async fn a_term_that_is_dropped_frees_the_lease_for_the_next_at_once() {
    let server = Server::default();
    let (a, b) = two(&server);
    let term = a.elect().await;
    assert_eq!((server.holder(), term.transitions, term.is_held()), (json!("a"), 0, true));
    term.release().await;
    assert_eq!(server.holder(), Value::Null);
    let before = Instant::now();
    let term = b.elect().await;
    assert!(before.elapsed() < 3 * SECOND, "{:?}", before.elapsed());
    assert_eq!((term.transitions, server.holder()), (1, json!("b")));
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_kept_after_stop_until_the_last_write_is_over() {
    let server = Server::default();
    let (a, b) = two(&server);
    let term = a.elect().await;
    a.stop.cancel();
    timeout(CAP, term.lost.cancelled()).await.unwrap();
    // The work takes a minute to end; nobody else begins before.
    assert!(timeout(60 * SECOND, elect(&b.client, &b.config, &b.stop)).await.is_err());
    assert_eq!(server.holder(), "a");
    drop(term);
    b.elect().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_told_to_stop_waits_no_longer() {
    let server = Server::default();
    let (a, b) = two(&server);
    let _term = a.elect().await;
    let waiting = tokio::spawn(async move { elect(&b.client, &b.config, &b.stop.clone()).await.map(|_| b.stop) });
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    waiting.abort();
    let c = Person::new(&server, "c");
    c.stop.cancel();
    assert_eq!(elect(&c.client, &c.config, &c.stop).await.unwrap_err(), LeaderError::Stopped);
}

/// The leader's line breaks at some moment between two renewals; it must be out before the other is in.
async fn no_two_terms_meet(broken: Line, after: Duration) {
    let server = Server::default();
    let (a, b) = two(&server);
    let first = a.elect().await;
    let rival = tokio::spawn(async move {
        let term = elect(&b.client, &b.config, &b.stop).await.unwrap();
        (Instant::now(), term, b)
    });
    sleep(30 * SECOND + after).await;
    assert!(!rival.is_finished() && first.is_held(), "a healthy leader stays");
    *a.line.lock() = broken;
    timeout(CAP, first.lost.cancelled()).await.unwrap();
    let lost_at = Instant::now();
    assert!(!first.is_held());
    let (won_at, second, _b) = timeout(CAP, rival).await.unwrap().unwrap();
    assert!(lost_at + 2 * SECOND < won_at, "lost at {lost_at:?}, won at {won_at:?}");
    assert!(second.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_from_the_api_server_is_out_seconds_before_the_next_is_in() {
    for broken in [Line::Down, Line::Deaf(false), Line::Deaf(true), Line::Conflicts] {
        for after_ms in [0, 330, 990, 1400, 1990] {
            no_two_terms_meet(broken, Duration::from_millis(after_ms)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_for_a_while_costs_no_leader() {
    let server = Server::default();
    let a = Person::new(&server, "a");
    let term = a.elect().await;
    for away in [Line::Down, Line::Conflicts] {
        *a.line.lock() = away;
        sleep(6 * SECOND).await;
        *a.line.lock() = Line::Good;
        sleep(60 * SECOND).await;
        assert!(term.is_held());
    }
    // Someone puts a label on it: another version, the same holder.
    server.0.lock().version += 1;
    let version = server.0.lock().version.to_string();
    server.0.lock().lease.as_mut().unwrap()["metadata"]["resourceVersion"] = json!(version);
    sleep(60 * SECOND).await;
    assert!(term.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_taken_away_ends_the_term_at_the_next_renewal() {
    let server = Server::default();
    let a = Person::new(&server, "a");
    let term = a.elect().await;
    let mut thief = server.0.lock().lease.clone().unwrap();
    thief["spec"]["holderIdentity"] = json!("thief");
    server.0.lock().answer("PUT", &serde_json::to_vec(&thief).unwrap());
    let before = Instant::now();
    timeout(CAP, term.lost.cancelled()).await.unwrap();
    assert!(before.elapsed() < 3 * SECOND, "{:?}", before.elapsed());
    drop(term);
    sleep(60 * SECOND).await;
    assert_eq!(server.holder(), "thief", "what was taken is not released");
}

#[tokio::test(start_paused = true)]
async fn of_ten_that_ask_at_once_one_leads_and_each_has_its_turn() {
    let server = Server::default();
    let leading = Arc::new(Mutex::new((0_u32, Vec::new())));
    let mut all = Vec::new();
    for name in 0..10 {
        let (person, leading) = (Person::new(&server, &format!("operator-{name}")), leading.clone());
        all.push(tokio::spawn(async move {
            let term = person.elect().await;
            {
                let mut leading = leading.lock();
                leading.0 += 1;
                assert_eq!(leading.0, 1, "two lead");
                leading.1.push(term.transitions);
            }
            sleep(20 * SECOND).await;
            leading.lock().0 -= 1;
            term.release().await;
        }));
    }
    for one in all {
        timeout(CAP, one).await.unwrap().unwrap();
    }
    assert_eq!(leading.lock().1, (0..10).collect::<Vec<_>>());
}
