//! Events on graphs and components, for `kubectl describe`.

use crate::kinds::Kind;
use graph::cluster::labels::MANAGER;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::api::DynamicObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Longest note that the API server takes, in bytes.
const NOTE_BYTES_MAX: usize = 1024;

/// Writes events; one that cannot be written is only logged, nothing waits for it.
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events of this process.
    pub fn new(client: Client, identity: String) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(identity) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// What conditions say anew: one event for each whose status or reason is another.
    pub async fn changed(&self, object: &DynamicObject, kind: Kind, before: &[Condition], now: &[Condition]) {
        for condition in now {
            let same = before.iter().find(|before| before.type_ == condition.type_);
            let is_same = same.is_some_and(|same| same.status == condition.status && same.reason == condition.reason);
            if !is_same {
                let is_good = condition.status == "True" || condition.reason == "updating";
                let note = format!("{}={}: {}", condition.type_, condition.status, condition.message);
                self.publish(object, kind, (is_good, &condition.reason, "Reconcile"), note).await;
            }
        }
    }

    /// Fields that someone changed and that were put back.
    pub async fn restored(&self, object: &DynamicObject, kind: Kind, child: Kind, name: &str, fields: &[String]) {
        if fields.is_empty() {
            return;
        }
        let note = format!(
            "{} {name} was changed by someone else and put back: {}; change the graph instead",
            child.kind,
            fields.join(", ")
        );
        self.publish(object, kind, (false, "DriftRestored", "Apply"), note).await;
    }

    /// One event: whether it is good news, its reason, the action.
    pub async fn publish(&self, object: &DynamicObject, kind: Kind, what: (bool, &str, &str), note: String) {
        let (is_good, reason, action) = what;
        let mut note = note;
        let mut end = note.len().min(NOTE_BYTES_MAX);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        let event = Event {
            type_: if is_good { EventType::Normal } else { EventType::Warning },
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        let reference = ObjectReference {
            api_version: Some(kind.api_version()),
            kind: Some(kind.kind.to_owned()),
            name: object.metadata.name.clone(),
            namespace: object.metadata.namespace.clone(),
            uid: object.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::debug!(reason, error = %error, "an event was not written");
        }
    }
}
