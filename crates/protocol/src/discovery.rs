//! Discovery records: what is written to files, etcd keys or Kubernetes objects.
//!
//! Source: Dynamo 1.6.1 on the wire, §2. Keys are `v1/{bucket}/{name}`; [`Record::key`] gives bucket and name.

use crate::card::ModelCard;
use crate::ids::{EndpointId, InstanceId, PublisherId, WorkerRank};
use serde::{Deserialize, Serialize};

/// A record, tagged by `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
#[expect(clippy::large_enum_variant, reason = "a process holds a handful of records; a box would cost every reader")]
pub enum Record {
    /// An instance of an endpoint and how to reach it.
    Endpoint(EndpointRecord),
    /// The model that an instance serves.
    Model(ModelRecord),
    /// A publisher of one topic and how to subscribe.
    EventChannel(EventChannelRecord),
    /// Whose KV state a `kv-events` publisher tells, and where to ask for the rest.
    EventSource(EventSourceRecord),
}

/// See [`Record::Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Component.
    pub component: String,
    /// Endpoint.
    pub endpoint: String,
    /// Namespace.
    pub namespace: String,
    /// Instance.
    pub instance_id: InstanceId,
    /// How to reach it.
    pub transport: RequestTransport,
    /// `cpu` or `cuda`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_type: Option<String>,
    /// Absent means JSON, in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_plane_codec: Option<Codec>,
}

impl EndpointRecord {
    /// The NATS subject of an instance's endpoint: `{ns}_{comp}.{ep}-{instance:x}`.
    ///
    /// Source: Dynamo 1.6.1 on the wire, §6.
    pub fn nats_subject(endpoint: &EndpointId, instance: InstanceId) -> String {
        format!("{}_{}.{}-{instance}", endpoint.namespace, endpoint.component, endpoint.name)
    }

    /// The endpoint without the instance.
    pub fn endpoint_id(&self) -> EndpointId {
        EndpointId::new(&self.namespace, &self.component, &self.endpoint)
    }

    /// The codec that the instance reads; JSON when the record does not tell.
    pub fn codec(&self) -> Codec {
        self.request_plane_codec.unwrap_or(Codec::Json)
    }
}

/// Codec of request and answer bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// JSON: what an absent field means.
    #[default]
    Json,
    /// MessagePack, structs as maps.
    Msgpack,
}

/// How an instance is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestTransport {
    /// `HOST:PORT/{instance:x}/{namespace}/{component}/{endpoint}`; what follows the first `/` is the path.
    Tcp(String),
    /// A NATS subject; the answer still comes over TCP.
    NatsTcp(String),
}

/// See [`Record::Model`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Namespace.
    pub namespace: String,
    /// Component.
    pub component: String,
    /// Endpoint.
    pub endpoint: String,
    /// Instance.
    pub instance_id: InstanceId,
    /// The card, as an object.
    pub card_json: ModelCard,
    /// LoRA suffix of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_suffix: Option<String>,
}

/// See [`Record::EventChannel`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventChannelRecord {
    /// Whom the topic is about.
    pub scope: EventScope,
    /// Topic.
    pub topic: String,
    /// The publisher.
    pub instance_id: PublisherId,
    /// How to subscribe.
    pub transport: EventTransport,
}

/// Whom a topic is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventScope {
    /// A namespace.
    Namespace {
        /// Its name.
        namespace: String,
    },
    /// A component.
    Component {
        /// Its namespace.
        namespace: String,
        /// Its name.
        component: String,
    },
    /// An endpoint.
    Endpoint {
        /// Which.
        endpoint: EndpointId,
    },
}

impl EventScope {
    /// The NATS subject of the scope's topics, without the topic: `namespace.{ns}.component.{comp}.endpoint.{ep}`.
    ///
    /// Source: Dynamo 1.6.1 on the wire, §5.2. Only the form with an endpoint was seen there.
    pub fn subject_prefix(&self) -> String {
        match self {
            Self::Namespace { namespace } => format!("namespace.{namespace}"),
            Self::Component { namespace, component } => format!("namespace.{namespace}.component.{component}"),
            Self::Endpoint { endpoint: e } => {
                format!("namespace.{}.component.{}.endpoint.{}", e.namespace, e.component, e.name)
            }
        }
    }
}

/// How to subscribe to a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "config")]
pub enum EventTransport {
    /// A ZMQ PUB socket.
    Zmq {
        /// `tcp://HOST:PORT`.
        endpoint: String,
    },
    /// NATS core subjects.
    Nats {
        /// The subject without its topic.
        subject_prefix: String,
    },
}

/// See [`Record::EventSource`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSourceRecord {
    /// Whom the topic is about.
    pub scope: EventScope,
    /// `kv-events`.
    pub topic: String,
    /// The publisher.
    pub publisher_id: PublisherId,
    /// Whose state, and where to ask.
    pub metadata: EventSourceMetadata,
}

/// Whose state a publisher tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSourceMetadata {
    /// The endpoint whose KV state it is.
    pub kv_state_endpoint: EndpointId,
    /// The worker and rank.
    pub worker: WorkerRank,
    /// The publisher again.
    pub publisher_id: PublisherId,
    /// The recovery endpoint; what is dialled is this copy.
    pub recovery_target: EndpointRecord,
}

impl Record {
    /// Bucket and name, unescaped: `("instances", "dynamo/backend/generate/8efc…")`.
    pub fn key(&self) -> (&'static str, String) {
        match self {
            Self::Endpoint(r) => {
                ("instances", format!("{}/{}/{}/{}", r.namespace, r.component, r.endpoint, r.instance_id))
            }
            Self::Model(r) => {
                let base = format!("{}/{}/{}/{}", r.namespace, r.component, r.endpoint, r.instance_id);
                ("mdc", r.model_suffix.as_ref().map_or(base.clone(), |suffix| format!("{base}/{suffix}")))
            }
            Self::EventChannel(r) => ("event_channels", topic_key(&r.scope, &r.topic, r.instance_id)),
            Self::EventSource(r) => ("event_sources", topic_key(&r.scope, &r.topic, r.publisher_id)),
        }
    }
}

fn topic_key(scope: &EventScope, topic: &str, publisher: PublisherId) -> String {
    let scope = match scope {
        EventScope::Namespace { namespace } => format!("namespace/{namespace}"),
        EventScope::Component { namespace, component } => format!("namespace/{namespace}/component/{component}"),
        EventScope::Endpoint { endpoint: e } => {
            format!("namespace/{}/component/{}/endpoint/{}", e.namespace, e.component, e.name)
        }
    };
    format!("{scope}/topic/{topic}/{publisher}")
}
