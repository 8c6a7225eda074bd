//! A graph: its components, what belongs to it as a whole, the update of its workers, its status.

use super::generations::{again, component_name, observed, request, workers};
use super::told::{fail, refuse, tell};
use super::{Context, ReconcileError, STEADY_AGAIN, now, report, status_of, typed};
use crate::apply::WriteError;
use crate::kinds::{self, COMPONENT, GRAPH, Kind, PROGRESS_DEADLINE};
use crate::restart::{Restarting, restart};
use crate::rollout::{Decision, Phase, Request, plan};
use crate::status::cut;
use crate::status::graph::{self as status, Facts, Update};
use crds::v1beta1::{DynamoGraphDeployment, GraphStatus};
use graph::cluster::{check, component_name as object_name, components, graph_objects, labels, worker_hash};
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Kinds that are not deleted when a graph no longer names them: what they hold cannot be made again. They go with the
/// graph.
const KEPT_KINDS: [&str; 1] = ["PersistentVolumeClaim"];

/// One graph in one reconcile.
struct Work<'a> {
    object: &'a DynamicObject,
    graph: &'a DynamoGraphDeployment,
    context: &'a Context,
    /// Its components as they were seen.
    seen: Vec<Arc<DynamicObject>>,
    request: Request,
    decision: Decision,
    restarting: Restarting,
}

/// Makes the graph's objects what it says, one step, and its status what is seen.
pub(super) async fn reconcile(object: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    // What is about to go is left alone; the API server deletes what it owns.
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let before: Option<GraphStatus> = status_of(&object);
    let graph = match typed::<DynamoGraphDeployment>(&object) {
        Ok(graph) => graph,
        Err(why) => return refuse(&object, &context, why, before.as_ref()).await,
    };
    let findings = check(&graph);
    if !findings.is_empty() {
        return refuse(&object, &context, status::refused(&findings), before.as_ref()).await;
    }
    let work = Work::begin(&object, &graph, &context, before.as_ref());
    match work.write().await {
        Ok(written) => work.tell(&written, before.as_ref()).await?,
        Err(error) => return fail(&object, &context, error, before.as_ref()).await,
    }
    Ok(Action::requeue(STEADY_AGAIN))
}

impl<'a> Work<'a> {
    fn begin(
        object: &'a DynamicObject,
        graph: &'a DynamoGraphDeployment,
        context: &'a Context,
        before: Option<&GraphStatus>,
    ) -> Self {
        let seen = context.cache.components_of(object.metadata.uid.as_deref().unwrap_or_default());
        let request = request(object, graph);
        let workers = workers(&seen);
        let decision = plan(&request, &workers.iter().map(|(key, object)| (key.clone(), observed(object))).collect());
        let hash = worker_hash(graph);
        let restart_seen = graph.spec.components.iter().map(|component| {
            let name = object_name(kinds::name(object), component, &hash);
            let child = |kind| context.cache.child(kind, kinds::k8s_namespace(object), &name);
            let (own, deployment) = (child(COMPONENT), child(kinds::DEPLOYMENT));
            (component.name.clone(), report::restart_seen(own.as_deref(), deployment.as_deref()))
        });
        let is_updating = decision.phase != Phase::Steady;
        let earlier = before.and_then(|before| before.restart.as_ref());
        let restarting = restart(graph.spec.restart.as_ref(), &restart_seen.collect(), is_updating, earlier);
        Self { object, graph, context, seen, request, decision, restarting }
    }

    /// All writes but the status, in an order in which being cut off between two of them loses nothing: what was learnt
    /// stands on the graph before it is acted on, what is needed is there before what needs it, and what is no longer
    /// needed goes last. Returns the components that were written, by name.
    async fn write(&self) -> Result<BTreeMap<String, DynamicObject>, WriteError> {
        self.annotate().await?;
        let kept = self.write_graph_objects().await?;
        let written = self.write_components().await?;
        self.prune(&kept).await?;
        Ok(written)
    }

    async fn annotate(&self) -> Result<(), WriteError> {
        let mut wanted = Vec::new();
        let serving = match &self.decision.phase {
            Phase::Steady => Some(self.request.hash.clone()),
            _ => self.request.serving.clone(),
        };
        if let Some(hash) = serving {
            wanted.push((labels::CURRENT_WORKER_HASH, hash.clone()));
            wanted.push((labels::CURRENT_WORKER_HASH_V2, hash));
        }
        if let Phase::RolledBack(why) = &self.decision.phase {
            wanted.push((kinds::FAILED_WORKER_HASH, self.request.hash.clone()));
            wanted.push((kinds::ROLLOUT_FAILURE, cut(why.clone())));
        }
        let is_there = |key: &str, value: &str| kinds::annotation(self.object, key) == Some(value);
        let is_stale = |key: &str| {
            kinds::annotation(self.object, key).is_some() && !wanted.iter().any(|(wanted, _)| *wanted == key)
        };
        let stale = [kinds::FAILED_WORKER_HASH, kinds::ROLLOUT_FAILURE].into_iter().any(is_stale);
        if !stale && wanted.iter().all(|(key, value)| is_there(key, value)) {
            return Ok(());
        }
        self.context.writes.annotate(GRAPH, self.object, &wanted).await
    }

    async fn write_graph_objects(&self) -> Result<BTreeSet<(&'static str, String)>, WriteError> {
        let k8s_namespace = kinds::k8s_namespace(self.object);
        let mut kept = BTreeSet::new();
        for intent in graph_objects(self.graph, &self.context.settings) {
            let Some(kind) = Kind::of(&intent) else { continue };
            let name = intent["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let live = self.context.cache.child(kind, k8s_namespace, &name);
            kept.insert((kind.kind, name.clone()));
            // An adapter's replicas belong to whoever scales; the rest of it never changes.
            if kind.kind == crds::SCALING_ADAPTER {
                if live.is_none() {
                    self.context.writes.create(intent).await?;
                }
                continue;
            }
            let applied = self.context.writes.apply(intent, live.as_deref()).await?;
            self.context.events.restored(self.object, GRAPH, kind, &name, &applied.restored).await;
        }
        Ok(kept)
    }

    async fn write_components(&self) -> Result<BTreeMap<String, DynamicObject>, WriteError> {
        let k8s_namespace = kinds::k8s_namespace(self.object);
        let mut written = BTreeMap::new();
        for intent in self.component_intents() {
            let name = intent["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let live = self.context.cache.child(COMPONENT, k8s_namespace, &name);
            let applied = self.context.writes.apply(intent, live.as_deref()).await?;
            self.context.events.restored(self.object, GRAPH, COMPONENT, &name, &applied.restored).await;
            if let Some(object) = applied.written {
                written.insert(name, object);
            }
        }
        Ok(written)
    }

    /// The components that should be there now, of all generations.
    fn component_intents(&self) -> Vec<Value> {
        let mut intents = Vec::new();
        for component in components(self.graph, &self.context.settings) {
            let name = component.spec.component.name.clone();
            let is_worker = component.metadata.labels.iter().flatten().any(|(key, _)| key == labels::WORKER_HASH);
            let mut intent = serde_json::to_value(&component).unwrap_or_default();
            if is_worker {
                let key = (self.request.hash.clone(), name.clone());
                let Some(replicas) = self.decision.replicas.get(&key) else { continue };
                intent["spec"]["replicas"] = json!(replicas);
            }
            if let Some(told) = self.restarting.tell.get(&name).cloned().flatten() {
                intent["metadata"]["annotations"][labels::RESTART_AT] = json!(told);
            }
            if let Some(seconds) = kinds::annotation(self.object, PROGRESS_DEADLINE) {
                intent["metadata"]["annotations"][PROGRESS_DEADLINE] = json!(seconds);
            }
            intents.push(intent);
        }
        let earlier = workers(&self.seen);
        for ((hash, name), replicas) in
            self.decision.replicas.iter().filter(|((hash, _), _)| *hash != self.request.hash)
        {
            if let Some(component) = earlier.get(&(hash.clone(), name.clone())) {
                intents.push(again(component, *replicas));
            }
        }
        intents
    }

    async fn prune(&self, kept: &BTreeSet<(&'static str, String)>) -> Result<(), WriteError> {
        let names: BTreeSet<String> = self.graph.spec.components.iter().map(|c| c.name.clone()).collect();
        for component in &self.seen {
            let is_done = match kinds::label(component, labels::WORKER_HASH) {
                Some(hash) => self.decision.delete.contains(&(hash.to_owned(), component_name(component).to_owned())),
                None => !names.contains(component_name(component)),
            };
            if is_done {
                self.context.writes.delete(COMPONENT, component).await?;
            }
        }
        let uid = self.object.metadata.uid.as_deref().unwrap_or_default();
        for (kind, child) in self.context.cache.owned_by(uid) {
            let is_ours = kinds::label(&child, labels::MANAGED_BY) == Some(labels::MANAGER);
            let is_kept =
                kept.contains(&(kind.kind, kinds::name(&child).to_owned())) || KEPT_KINDS.contains(&kind.kind);
            if is_ours && !is_kept {
                self.context.writes.delete(kind, &child).await?;
            }
        }
        Ok(())
    }

    async fn tell(
        &self,
        written: &BTreeMap<String, DynamicObject>,
        before: Option<&GraphStatus>,
    ) -> Result<(), ReconcileError> {
        let hash = worker_hash(self.graph);
        let components = self.graph.spec.components.iter().map(|component| {
            let name = object_name(kinds::name(self.object), component, &hash);
            let all = report::of_component(&component.name, &self.seen);
            let seen = all.iter().find(|object| kinds::name(object) == name).map(|object| &**object);
            report::component(&component.name, written.get(&name).or(seen), &all)
        });
        let facts = Facts {
            components: components.collect(),
            update: match &self.decision.phase {
                Phase::Steady => Update::None,
                Phase::Rolling(done) => Update::Rolling(done.clone()),
                Phase::RolledBack(why) => Update::RolledBack(why.clone()),
            },
            restart: self.restarting.status.clone(),
        };
        let status = status::status(facts, before, self.object.metadata.generation, &now());
        let is_ready = status.state.as_deref() == Some("successful");
        tell(self.object, self.context, &status, before).await?;
        if is_ready {
            self.context.revisions.record(&self.context.writes, self.object).await?;
        }
        Ok(())
    }
}
