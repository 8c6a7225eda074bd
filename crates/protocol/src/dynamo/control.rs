//! Control headers: JSON in the header part of two-part messages.
//!
//! Source: Dynamo 1.6.1 on the wire, §4.3 and §4.5. Field order is the stock order.

use super::DecodeError;
use crate::discovery::Codec;
use crate::output::WireError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The header of a request: what it is, and where its answer goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestControl {
    /// The request's id, a UUID.
    pub id: String,
    /// One body, or a stream of them.
    pub request_type: RequestType,
    /// One answer, or a stream of them. `many_out` in every recording, for unary HTTP too.
    pub response_type: ResponseType,
    /// Codec of the body **and of the answer**; absent means JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_codec: Option<Codec>,
    /// Where the worker calls home.
    pub connection_info: ConnectionInfo,
    /// Free texts; carried, not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// Time of sending, nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend_send_ts_ns: Option<u64>,
    /// With `many_in`: where the worker fetches the request's items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_stream_connection_info: Option<ConnectionInfo>,
}

impl RequestControl {
    /// A request of one body whose answer is a stream to `call_home`, in `codec`.
    pub fn new(codec: Codec, call_home: &CallHome) -> Self {
        Self {
            id: call_home.context.clone(),
            request_type: RequestType::SingleIn,
            response_type: ResponseType::ManyOut,
            payload_codec: Some(codec),
            connection_info: ConnectionInfo::tcp(call_home),
            metadata: None,
            frontend_send_ts_ns: None,
            request_stream_connection_info: None,
        }
    }

    /// Codec of the body and of the answer.
    pub fn codec(&self) -> Codec {
        self.payload_codec.unwrap_or(Codec::Json)
    }
}

/// How many bodies a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestType {
    /// One.
    SingleIn,
    /// A stream; our workers refuse it.
    ManyIn,
}

/// How many items an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseType {
    /// One.
    SingleOut,
    /// A stream.
    ManyOut,
}

/// A way back. `info` is JSON text whose form `transport` decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// `tcp_server`, or `quic_response…`, which we do not speak.
    pub transport: String,
    /// A [`CallHome`] as JSON text, for `tcp_server`.
    pub info: String,
}

/// The transport of [`ConnectionInfo`] that we speak.
pub const TCP_SERVER: &str = "tcp_server";

impl ConnectionInfo {
    /// A way back over TCP.
    pub fn tcp(call_home: &CallHome) -> Self {
        let info = serde_json::to_string(call_home).expect("a struct of strings always has a JSON form");
        Self { transport: TCP_SERVER.into(), info }
    }

    /// Where to call home.
    ///
    /// # Errors
    /// When the transport is not TCP or the nested text does not decode.
    pub fn call_home(&self) -> Result<CallHome, DecodeError> {
        if self.transport != TCP_SERVER {
            return Err(DecodeError::Json(format!(
                "connection_info.transport is `{}`; only `{TCP_SERVER}` is spoken here",
                self.transport
            )));
        }
        serde_json::from_str(&self.info).map_err(|e| DecodeError::Json(format!("connection_info.info: {e}")))
    }
}

/// The response listener of a frontend and the stream that it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallHome {
    /// `HOST:PORT`.
    pub address: String,
    /// Names the stream; a fresh UUID for each request, retries included.
    pub subject: String,
    /// The request's id; a worker refuses another.
    pub context: String,
    /// Which way items go.
    pub stream_type: StreamType,
}

/// Which way the items of a called-home connection go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamType {
    /// From the worker.
    Response,
    /// To the worker (`many_in`).
    Request,
}

/// The first frame on a response connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    /// The subject that the request named.
    pub subject: String,
    /// As in the request.
    pub stream_type: StreamType,
}

/// The second frame: whether the request is accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prologue {
    /// `None`: accepted. Else what an operator reads.
    #[serde(default)]
    pub error: Option<String>,
    /// The same for programs; its class decides the HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typed_error: Option<WireError>,
    /// Ours, and only to a frontend that asked: an empty item follows at least so often, milliseconds, while the engine
    /// goes forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat_ms: Option<u64>,
}

impl Prologue {
    /// The request is refused.
    pub fn refused(error: WireError) -> Self {
        Self { error: Some(error.message.clone()), typed_error: Some(error), beat_ms: None }
    }
}

/// A control message of one word: a JSON string, quotes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlWord {
    /// Frontend to worker: give up at once. Every cancel of the stock frontend is this.
    Kill,
    /// Frontend to worker: end the stream.
    Stop,
    /// Worker to frontend: nothing more comes.
    Sentinel,
}

impl ControlWord {
    /// The word in a header; `None` when it is none of ours.
    pub fn of_header(header: &[u8]) -> Option<Self> {
        serde_json::from_slice(header).ok()
    }

    /// The header, quotes included.
    pub fn header(self) -> &'static [u8] {
        match self {
            Self::Kill => b"\"kill\"",
            Self::Stop => b"\"stop\"",
            Self::Sentinel => b"\"sentinel\"",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call_home() -> CallHome {
        CallHome {
            address: "127.0.0.1:46005".into(),
            subject: "cfcb20bf".into(),
            context: "198982c6".into(),
            stream_type: StreamType::Response,
        }
    }

    #[test]
    fn a_request_control_has_the_stock_bytes() {
        let control = RequestControl::new(Codec::Msgpack, &call_home());
        let json = serde_json::to_string(&control).unwrap();
        let expected = concat!(
            r#"{"id":"198982c6","request_type":"single_in","response_type":"many_out","payload_codec":"msgpack","#,
            r#""connection_info":{"transport":"tcp_server","info":"{\"address\":\"127.0.0.1:46005\","#,
            r#"\"subject\":\"cfcb20bf\",\"context\":\"198982c6\",\"stream_type\":\"response\"}"}}"#,
        );
        assert_eq!(json, expected);
        assert_eq!(control.connection_info.call_home().unwrap(), call_home());
    }

    #[test]
    fn an_absent_codec_means_json() {
        let mut control = RequestControl::new(Codec::Msgpack, &call_home());
        control.payload_codec = None;
        let back: RequestControl = serde_json::from_str(&serde_json::to_string(&control).unwrap()).unwrap();
        assert_eq!(back.codec(), Codec::Json);
    }

    #[test]
    fn another_transport_is_refused_by_name() {
        let quic = ConnectionInfo { transport: "quic_response".into(), info: "{}".into() };
        assert!(quic.call_home().unwrap_err().to_string().contains("`quic_response`"));
    }

    #[test]
    fn control_words_are_json_strings() {
        for word in [ControlWord::Kill, ControlWord::Stop, ControlWord::Sentinel] {
            assert_eq!(serde_json::to_vec(&word).unwrap(), word.header());
            assert_eq!(ControlWord::of_header(word.header()), Some(word));
        }
        assert_eq!(ControlWord::of_header(b"kill"), None);
        assert_eq!(ControlWord::of_header(b"\"pause\""), None);
    }

    #[test]
    fn an_accepting_prologue_is_error_null() {
        assert_eq!(serde_json::to_string(&Prologue::default()).unwrap(), r#"{"error":null}"#);
        assert_eq!(serde_json::from_str::<Prologue>(r#"{"error":null}"#).unwrap(), Prologue::default());
    }
}
