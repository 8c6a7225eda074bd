//! What the tests of the stores share.

use protocol::discovery::{Codec, EndpointRecord, Record, RequestTransport};
use protocol::ids::InstanceId;

/// The record of an endpoint.
pub(in crate::discovery) fn endpoint(instance: u64, port: u16) -> Record {
    Record::Endpoint(EndpointRecord {
        component: "backend".into(),
        endpoint: "generate".into(),
        namespace: "dynamo".into(),
        instance_id: InstanceId(instance),
        transport: RequestTransport::Tcp(format!("127.0.0.1:{port}/{instance:x}/dynamo/backend/generate")),
        device_type: Some("cpu".into()),
        request_plane_codec: Some(Codec::Msgpack),
    })
}
