//! A cluster in memory with faults to order: its API server is away, hangs, or comes back without data.

use super::api::{Cluster, Feed, Object, Readiness, Seen, Target};
use super::error::{KubernetesError, KubernetesFault};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Up,
    /// Connections are refused, and those that were open are closed.
    Down,
    /// Nothing is answered.
    Hangs,
}

/// Something that is listed and watched.
trait Named {
    fn name(&self) -> &str;
}

impl Named for Readiness {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Object {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Objects of one kind, and what happened to them.
#[derive(Debug)]
struct Shelf<T> {
    there: BTreeMap<String, T>,
    history: Vec<Seen<T>>,
}

impl<T: Named + Clone> Shelf<T> {
    fn new() -> Self {
        Self { there: BTreeMap::new(), history: Vec::new() }
    }

    fn put(&mut self, one: T) {
        self.there.insert(one.name().to_owned(), one.clone());
        self.history.push(Seen::Put(one));
    }

    fn remove(&mut self, name: &str) {
        if self.there.remove(name).is_some() {
            self.history.push(Seen::Gone(name.to_owned()));
        }
    }
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Grows when open watches break.
    life: u64,
    refuses: Option<KubernetesFault>,
    calls: u64,
    generation: i64,
    objects: Shelf<Object>,
    readiness: Shelf<Readiness>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct MemoryCluster {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

/// One pod's way to it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) cluster: Arc<MemoryCluster>,
    pub(super) pod: String,
    pub(super) uid: String,
}

impl MemoryCluster {
    pub(super) fn start() -> Arc<Self> {
        let state = State {
            mode: Mode::Up,
            life: 0,
            refuses: None,
            calls: 0,
            generation: 0,
            objects: Shelf::new(),
            readiness: Shelf::new(),
        };
        Arc::new(Self { state: Mutex::new(state), changed: watch::Sender::new(()) })
    }

    fn order(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.send_replace(());
    }

    pub(super) fn go_down(&self) {
        self.order(|state| (state.mode, state.life) = (Mode::Down, state.life + 1));
    }

    pub(super) fn hang(&self) {
        self.order(|state| state.mode = Mode::Hangs);
    }

    pub(super) fn come_up(&self) {
        self.order(|state| state.mode = Mode::Up);
    }

    /// Comes up without any object.
    pub(super) fn come_up_empty(&self) {
        self.order(|state| {
            state.objects = Shelf::new();
            state.readiness = Shelf::new();
            (state.mode, state.life) = (Mode::Up, state.life + 1);
        });
    }

    pub(super) fn refuse(&self, fault: Option<KubernetesFault>) {
        self.order(|state| state.refuses = fault);
    }

    /// Breaks connections without being away.
    pub(super) fn cut(&self) {
        self.order(|state| state.life += 1);
    }

    /// The EndpointSlice `name` has these pods as ready, each with the UID `uid-POD`.
    pub(super) fn ready(&self, name: &str, pods: &[&str]) {
        let target = |pod: &&str| Target { object: (*pod).to_owned(), pod_uid: format!("uid-{pod}") };
        let ready = pods.iter().map(target).collect();
        self.order(|state| state.readiness.put(Readiness { name: name.to_owned(), ready }));
    }

    /// A stranger deletes an object.
    pub(super) fn delete_by_hand(&self, name: &str) {
        self.order(|state| state.objects.remove(name));
    }

    pub(super) fn object(&self, name: &str) -> Option<Object> {
        self.state.lock().objects.there.get(name).cloned()
    }

    /// Writes so far.
    pub(super) fn writes(&self) -> u64 {
        self.state.lock().calls
    }

    async fn call<T>(&self, work: impl FnOnce(&mut State) -> T) -> Result<T, KubernetesError> {
        let mode = self.state.lock().mode;
        match mode {
            Mode::Down => return Err(fault(KubernetesFault::Unavailable)),
            Mode::Hangs => return std::future::pending().await,
            Mode::Up => {}
        }
        let outcome = {
            let mut state = self.state.lock();
            state.calls += 1;
            match state.refuses {
                Some(refused) => Err(fault(refused)),
                None => Ok(work(&mut state)),
            }
        };
        self.changed.send_replace(());
        outcome
    }

    /// What a watch in `life` that has told `next` events says now; first everything.
    fn news<T: Named + Clone>(
        &self,
        life: u64,
        next: Option<usize>,
        shelf: fn(&State) -> &Shelf<T>,
    ) -> Result<Option<(Seen<T>, usize)>, KubernetesError> {
        let state = self.state.lock();
        if state.life != life || state.mode == Mode::Down {
            return Err(fault(KubernetesFault::Unavailable));
        }
        if state.mode == Mode::Hangs {
            return Ok(None);
        }
        if let Some(refused) = state.refuses {
            return Err(fault(refused));
        }
        let shelf = shelf(&state);
        Ok(match next {
            None => Some((Seen::All(shelf.there.values().cloned().collect()), shelf.history.len())),
            Some(next) => shelf.history.get(next).map(|seen| (seen.clone(), next + 1)),
        })
    }

    fn feed<T: Named + Clone + Send + 'static>(self: &Arc<Self>, shelf: fn(&State) -> &Shelf<T>) -> Feed<T> {
        let life = self.state.lock().life;
        let start = Some((self.clone(), self.changed.subscribe(), None));
        let events = stream::unfold(start, move |open| async move {
            let (cluster, mut changed, next) = open?;
            loop {
                changed.mark_unchanged();
                match cluster.news(life, next, shelf) {
                    Err(error) => return Some((Err(error), None)),
                    Ok(Some((seen, next))) => return Some((Ok(seen), Some((cluster, changed, Some(next))))),
                    Ok(None) => changed.changed().await.ok()?,
                }
            }
        });
        events.boxed()
    }
}

fn fault(fault: KubernetesFault) -> KubernetesError {
    KubernetesError::new(fault, "memory", "as ordered")
}

/// What server-side apply by the only field manager makes of `data`: a map that loses its last record becomes null.
fn applied(before: Option<&Value>, data: &Value) -> Value {
    let empty = Map::new();
    let maps = data.as_object().unwrap_or(&empty).iter().map(|(name, records)| {
        let had = before.and_then(|data| data[name].as_object()).is_some_and(|records| !records.is_empty());
        let has = records.as_object().is_some_and(|records| !records.is_empty());
        (name.clone(), if had && !has { Value::Null } else { records.clone() })
    });
    Value::Object(maps.collect())
}

impl Cluster for Seat {
    fn readiness(&self) -> Feed<Readiness> {
        self.cluster.feed(|state| &state.readiness)
    }

    fn objects(&self) -> Feed<Object> {
        self.cluster.feed(|state| &state.objects)
    }

    async fn apply(&self, data: &Value) -> Result<Object, KubernetesError> {
        self.cluster
            .call(|state| {
                state.generation += 1;
                let before = state.objects.there.get(&self.pod).map(|object| &object.data);
                let object = Object {
                    name: self.pod.clone(),
                    uid: format!("of {}", self.pod),
                    generation: state.generation,
                    owners: vec![self.uid.clone()],
                    data: applied(before, data),
                };
                state.objects.put(object.clone());
                object
            })
            .await
    }

    async fn delete(&self) -> Result<(), KubernetesError> {
        self.cluster.call(|state| state.objects.remove(&self.pod)).await
    }
}
