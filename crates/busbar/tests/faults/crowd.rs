//! Many clients at once, watched while they are answered.

use crate::machine::{CAP, Streamed, client, stream_on};
use crate::stage::{Frontend, Stage, Worker, undisturbed};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// What is known of a client's present answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Events with text so far.
    pub(crate) deltas: usize,
    /// The worker that it comes from.
    pub(crate) worker: Option<u64>,
    /// The client has all its answers.
    pub(crate) over: bool,
    last: Option<Instant>,
    longest_gap: Duration,
}

/// Clients that run.
pub(crate) struct Crowd {
    runtime: Runtime,
    clients: Vec<JoinHandle<Vec<(usize, Streamed)>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    enough: Arc<AtomicBool>,
    bodies: Vec<Value>,
}

/// `count` chats that differ, each long enough to be in its middle when something happens.
pub(crate) fn chats(count: usize) -> Vec<Value> {
    let body = |at: usize| {
        let text = format!("Question {at}: {}", "what do the rivers say to the sea? ".repeat(1 + at % 4));
        chat(&text, 70 + at * 7 % 60)
    };
    (0..count).map(body).collect()
}

/// One chat that is answered with exactly so many tokens.
pub(crate) fn chat(text: &str, tokens: usize) -> Value {
    json!({"model": "mock", "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": true,
           "stream_options": {"include_usage": true}, "nvext": {"extra_fields": ["worker_id"]}})
}

impl Crowd {
    /// One client for each of `bodies`, all at once, spread over `frontends`. A client that one frontend does not let
    /// in goes to the next, as a load balancer would; nothing else is tried again.
    pub(crate) fn start(frontends: &[&Frontend], bodies: &[Value]) -> Self {
        // Known before, so that its making is no load of the scenario.
        undisturbed(bodies);
        Self::unchecked(frontends, bodies)
    }

    /// The same for answers that nobody compares.
    pub(crate) fn unchecked(frontends: &[&Frontend], bodies: &[Value]) -> Self {
        Self::begin(frontends, bodies, bodies.len(), &Arc::new(AtomicBool::new(true)))
    }

    /// So many clients, who ask one of `bodies` after the other until the crowd is told to finish.
    pub(crate) fn keep(frontends: &[&Frontend], bodies: &[Value], clients: usize) -> Self {
        undisturbed(bodies);
        Self::begin(frontends, bodies, clients, &Arc::new(AtomicBool::new(false)))
    }

    fn begin(frontends: &[&Frontend], bodies: &[Value], clients: usize, enough: &Arc<AtomicBool>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let seen = Arc::new(Mutex::new(vec![Seen::default(); clients]));
        let client = |number: usize| {
            let mut urls: Vec<String> = frontends.iter().map(|frontend| frontend.url.clone()).collect();
            urls.rotate_left(number % frontends.len());
            let lane: Vec<_> = bodies.iter().cloned().enumerate().skip(number).step_by(clients).collect();
            runtime.spawn(ask_all(urls, lane, number, seen.clone(), enough.clone()))
        };
        let clients = (0..clients).map(client).collect();
        Self { runtime, clients, seen, enough: enough.clone(), bodies: bodies.to_vec() }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until every client has had so many events with text.
    pub(crate) fn all_have(&self, stage: &Stage, deltas: usize) {
        stage.until(&format!("all streams to have {deltas} deltas"), || {
            self.seen().iter().all(|seen| seen.deltas >= deltas || seen.over).then_some(())
        });
        assert!(self.seen().iter().any(|seen| !seen.over), "the answers were over too soon to be disturbed");
    }

    /// The worker that most of the running answers come from.
    pub(crate) fn busiest<'a>(&self, workers: &'a [Worker]) -> &'a Worker {
        let seen = self.seen();
        let running = |w: &&Worker| seen.iter().filter(|seen| !seen.over && seen.worker == Some(w.instance)).count();
        let busiest = workers.iter().max_by_key(running).unwrap();
        assert!(running(&busiest) > 0, "nothing runs that could be disturbed: {seen:?}");
        busiest
    }

    /// Waits for the end of all clients; gives each answer with the number of its body.
    pub(crate) fn finish(self) -> Vec<(usize, Streamed)> {
        self.enough.store(true, Ordering::SeqCst);
        let all = async {
            let mut answers = Vec::new();
            for client in self.clients {
                answers.extend(client.await.unwrap());
            }
            answers
        };
        let answers = self.runtime.block_on(async { tokio::time::timeout(CAP, all).await });
        answers.unwrap_or_else(|_| panic!("the clients were not answered in {CAP:?}: {:?}", self.seen.lock().unwrap()))
    }

    /// Waits for the end, and holds every answer against the undisturbed one: byte for byte, once in usage, whole.
    pub(crate) fn finish_whole(self, stage: &Stage) -> Vec<Streamed> {
        let (expected, seen) = (undisturbed(&self.bodies), self.seen.clone());
        let answers = self.finish();
        let wrong: Vec<String> = answers.iter().filter_map(|(at, answer)| fault(answer, &expected[*at])).collect();
        let gap = seen.lock().unwrap().iter().map(|seen| seen.longest_gap).max().unwrap_or_default();
        eprintln!("{} failed or truncated of {} requests; longest gap {gap:?}", wrong.len(), answers.len());
        assert!(wrong.is_empty(), "{} of {}:\n{}\n{}", wrong.len(), answers.len(), wrong.join("\n"), stage.logs());
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

/// What is wrong with an answer, if anything is.
pub(crate) fn fault(answer: &Streamed, expected: &Streamed) -> Option<String> {
    let tokens = |answer: &Streamed| {
        let usage = answer.usage.clone().unwrap_or_default();
        (usage["prompt_tokens"].clone(), usage["completion_tokens"].clone())
    };
    let wrong = if answer.status != 200 || answer.broken.is_some() {
        format!("status {}, broken: {:?}", answer.status, answer.broken)
    } else if !answer.errors.is_empty() {
        format!("an error event after {} deltas: {:?}", answer.deltas, answer.errors)
    } else if !answer.done {
        "no [DONE]".to_owned()
    } else if answer.text != expected.text {
        let at = answer.text.bytes().zip(expected.text.bytes()).take_while(|(a, b)| a == b).count();
        format!("differs from byte {at}: {:?} is not {:?}", answer.text, expected.text)
    } else if answer.finish != expected.finish {
        format!("finish {:?}, not {:?}", answer.finish, expected.finish)
    } else if tokens(answer) != tokens(expected) {
        format!("usage {:?}, not {:?}", tokens(answer), tokens(expected))
    } else {
        return None;
    };
    Some(wrong)
}

async fn ask_all(
    urls: Vec<String>,
    lane: Vec<(usize, Value)>,
    number: usize,
    seen: Arc<Mutex<Vec<Seen>>>,
    enough: Arc<AtomicBool>,
) -> Vec<(usize, Streamed)> {
    let mut answers = Vec::new();
    for (at, body) in lane.iter().cycle() {
        {
            let mut seen = seen.lock().unwrap();
            seen[number] = Seen { longest_gap: seen[number].longest_gap, ..Seen::default() };
        }
        answers.push((*at, ask(&urls, body, |so_far| note(&mut seen.lock().unwrap()[number], so_far)).await));
        if enough.load(Ordering::SeqCst) {
            break;
        }
    }
    seen.lock().unwrap()[number].over = true;
    answers
}

async fn ask(urls: &[String], body: &Value, mut each: impl FnMut(&Streamed)) -> Streamed {
    let mut answer = Streamed::default();
    for url in urls {
        answer = stream_on(client(), url, body, &mut each).await;
        if answer.status != 0 {
            break;
        }
    }
    answer
}

fn note(seen: &mut Seen, so_far: &Streamed) {
    seen.worker = so_far.workers.last().copied();
    if so_far.deltas > seen.deltas {
        let now = Instant::now();
        seen.deltas = so_far.deltas;
        seen.longest_gap = seen.longest_gap.max(seen.last.replace(now).map_or(Duration::ZERO, |last| now - last));
    }
}
