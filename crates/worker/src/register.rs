//! What discovery sees of a worker, and in which order.

use protocol::card::ModelCard;
use protocol::discovery::{
    Codec, EndpointRecord, EventChannelRecord, EventScope, EventSourceMetadata, EventSourceRecord, EventTransport,
    ModelRecord, Record, RequestTransport,
};
use protocol::events::{ACTIVE_SEQUENCES_EVENTS, KV_EVENTS, KV_METRICS};
use protocol::ids::{EndpointId, InstanceId, PublisherId, WorkerRank};

/// A publisher as it is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedPublisher {
    /// Its id.
    pub id: PublisherId,
    /// How to subscribe.
    pub transport: EventTransport,
}

/// A worker, as far as discovery is concerned.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The worker's endpoint, `dynamo.backend.generate` unless told.
    pub endpoint: EndpointId,
    /// Its instance.
    pub instance_id: InstanceId,
    /// `HOST:PORT` of its request server.
    pub address: String,
    /// Whether requests are to come over NATS, and not to that address.
    pub requests_over_nats: bool,
    /// `cpu` or `cuda`.
    pub device: &'static str,
    /// Publisher of [`KV_EVENTS`].
    pub kv_events: AnnouncedPublisher,
    /// Publisher of [`KV_METRICS`].
    pub kv_metrics: AnnouncedPublisher,
    /// Publisher of [`ACTIVE_SEQUENCES_EVENTS`].
    pub active_sequences: AnnouncedPublisher,
    /// The card.
    pub card: ModelCard,
}

impl Announcement {
    /// Path of an endpoint of this instance on the request plane: `{instance:x}/{ns}/{comp}/{endpoint}`.
    pub fn path(&self, endpoint: &str) -> String {
        format!("{}/{}/{}/{endpoint}", self.instance_id, self.endpoint.namespace, self.endpoint.component)
    }

    /// NATS subject of an endpoint of this instance: `{ns}_{comp}.{endpoint}-{instance:x}`.
    pub fn nats_subject(&self, endpoint: &str) -> String {
        let EndpointId { namespace, component, .. } = &self.endpoint;
        EndpointRecord::nats_subject(&EndpointId::new(namespace, component, endpoint), self.instance_id)
    }

    /// Name of the endpoint that answers recovery queries.
    pub fn query_endpoint(&self) -> String {
        format!("worker_kv_query_source_{}", self.kv_events.id)
    }

    /// All records. Register them in this order and withdraw them in the reverse one: the model comes last and goes
    /// first, so nobody sees a model that cannot be reached or whose cache cannot be asked for.
    pub fn records(&self) -> Vec<Record> {
        let scope = || EventScope::Endpoint { endpoint: self.endpoint.clone() };
        let channel = |topic: &str, publisher: &AnnouncedPublisher| {
            Record::EventChannel(EventChannelRecord {
                scope: scope(),
                topic: topic.into(),
                instance_id: publisher.id,
                transport: publisher.transport.clone(),
            })
        };
        let query = self.endpoint_record(&self.query_endpoint());
        let source = EventSourceRecord {
            scope: scope(),
            topic: KV_EVENTS.into(),
            publisher_id: self.kv_events.id,
            metadata: EventSourceMetadata {
                kv_state_endpoint: self.endpoint.clone(),
                worker: WorkerRank { worker_id: self.instance_id, dp_rank: 0 },
                publisher_id: self.kv_events.id,
                recovery_target: query.clone(),
            },
        };
        let model = ModelRecord {
            namespace: self.endpoint.namespace.clone(),
            component: self.endpoint.component.clone(),
            endpoint: self.endpoint.name.clone(),
            instance_id: self.instance_id,
            card_json: self.card.clone(),
            model_suffix: None,
        };
        vec![
            Record::Endpoint(self.endpoint_record(&self.endpoint.name)),
            Record::Endpoint(query),
            channel(KV_EVENTS, &self.kv_events),
            channel(KV_METRICS, &self.kv_metrics),
            channel(ACTIVE_SEQUENCES_EVENTS, &self.active_sequences),
            Record::EventSource(source),
            Record::Model(model),
        ]
    }

    fn endpoint_record(&self, endpoint: &str) -> EndpointRecord {
        EndpointRecord {
            component: self.endpoint.component.clone(),
            endpoint: endpoint.into(),
            namespace: self.endpoint.namespace.clone(),
            instance_id: self.instance_id,
            transport: if self.requests_over_nats {
                RequestTransport::NatsTcp(self.nats_subject(endpoint))
            } else {
                RequestTransport::Tcp(format!("{}/{}", self.address, self.path(endpoint)))
            },
            device_type: Some(self.device.into()),
            request_plane_codec: Some(Codec::Msgpack),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement() -> Announcement {
        let publisher = |id| AnnouncedPublisher {
            id: PublisherId(id),
            transport: EventTransport::Zmq { endpoint: format!("tcp://192.0.2.2:{}", 7000 + id) },
        };
        Announcement {
            endpoint: EndpointId::new("dynamo", "backend", "generate"),
            instance_id: InstanceId(0x8efc_80f7_3ac8_82a4),
            address: "192.0.2.2:6000".into(),
            requests_over_nats: false,
            device: "cpu",
            kv_events: publisher(0xcef),
            kv_metrics: publisher(2),
            active_sequences: publisher(3),
            card: serde_json::from_str(include_str!("../tests/data/stock-mocker-card.json")).unwrap(),
        }
    }

    #[test]
    fn the_model_is_announced_last_and_all_keys_are_the_stock_ones() {
        let keys: Vec<String> =
            announcement().records().iter().map(|r| format!("{}/{}", r.key().0, r.key().1)).collect();
        let topic = "namespace/dynamo/component/backend/endpoint/generate/topic";
        assert_eq!(
            keys,
            [
                "instances/dynamo/backend/generate/8efc80f73ac882a4".to_owned(),
                "instances/dynamo/backend/worker_kv_query_source_cef/8efc80f73ac882a4".to_owned(),
                format!("event_channels/{topic}/kv-events/cef"),
                format!("event_channels/{topic}/kv_metrics/2"),
                format!("event_channels/{topic}/active_sequences_events/3"),
                format!("event_sources/{topic}/kv-events/cef"),
                "mdc/dynamo/backend/generate/8efc80f73ac882a4".to_owned(),
            ]
        );
    }

    #[test]
    fn over_nats_both_endpoints_have_the_stock_subjects() {
        let records = Announcement { requests_over_nats: true, ..announcement() }.records();
        let subjects = records.iter().filter_map(|record| match record {
            Record::Endpoint(EndpointRecord { transport: RequestTransport::NatsTcp(subject), .. }) => {
                Some(subject.as_str())
            }
            _ => None,
        });
        let expected =
            ["dynamo_backend.generate-8efc80f73ac882a4", "dynamo_backend.worker_kv_query_source_cef-8efc80f73ac882a4"];
        assert_eq!(subjects.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_recovery_target_is_the_query_endpoint_of_the_same_instance() {
        let records = announcement().records();
        let (Record::Endpoint(query), Record::EventSource(source)) = (&records[1], &records[5]) else {
            panic!("a query endpoint and an event source")
        };
        assert_eq!(&source.metadata.recovery_target, query);
        assert_eq!(
            query.transport,
            RequestTransport::Tcp("192.0.2.2:6000/8efc80f73ac882a4/dynamo/backend/worker_kv_query_source_cef".into())
        );
    }
}
