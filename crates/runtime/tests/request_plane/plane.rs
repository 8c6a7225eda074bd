//! The stage of these tests: a server with one handler, a client, and sockets to play a stranger with.

use bytes::{Buf, BytesMut};
use futures::future::BoxFuture;
use protocol::discovery::{Codec, EndpointRecord, RequestTransport};
use protocol::dynamo::{Ack, CallHome, RequestControl, RequestFrame, TwoPart};
use protocol::ids::InstanceId;
use protocol::output::{Annotated, EngineOutput};
use runtime::request_plane::{
    Handler, Incoming, RequestClient, RequestClientConfig, RequestError, RequestServer, RequestServerConfig, Responder,
    ResponseStream,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Nothing here takes as long; what does has hung.
pub(crate) const CAP: Duration = Duration::from_secs(60);

pub(crate) const PATH: &str = "8efc80f73ac882a4/dynamo/backend/generate";

pub(crate) fn target(address: &str, codec: Codec) -> EndpointRecord {
    EndpointRecord {
        component: "backend".into(),
        endpoint: "generate".into(),
        namespace: "dynamo".into(),
        instance_id: InstanceId(0x8efc_80f7_3ac8_82a4),
        transport: RequestTransport::Tcp(format!("{address}/{PATH}")),
        device_type: None,
        request_plane_codec: Some(codec),
    }
}

pub(crate) fn local_server() -> RequestServerConfig {
    RequestServerConfig { host: "127.0.0.1".into(), ..RequestServerConfig::default() }
}

pub(crate) async fn server_with(config: RequestServerConfig, handler: Arc<dyn Handler>) -> RequestServer {
    let server = RequestServer::bind(config).await.unwrap();
    server.serve(PATH.into(), handler);
    server
}

pub(crate) async fn client() -> RequestClient {
    let config = RequestClientConfig { response_host: "127.0.0.1".into(), ..RequestClientConfig::default() };
    RequestClient::start(config).await.unwrap()
}

/// A server with one handler, a client, and the record that leads from one to the other.
pub(crate) async fn plane<F, R>(handler: F) -> (RequestServer, RequestClient, EndpointRecord)
where
    F: Fn(Incoming, Responder) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let server = server_with(local_server(), handler_of(handler)).await;
    let target = target(&server.address(), Codec::Msgpack);
    (server, client().await, target)
}

pub(crate) fn handler_of<F, R>(handler: F) -> Arc<dyn Handler>
where
    F: Fn(Incoming, Responder) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |incoming: Incoming, out: Responder| -> BoxFuture<'static, ()> { Box::pin(handler(incoming, out)) })
}

pub(crate) fn token(id: u32) -> Annotated<EngineOutput> {
    Annotated::of(EngineOutput::of_tokens(vec![id]))
}

/// Sends as many tokens as the body (a number) asks for.
pub(crate) async fn count(incoming: Incoming, mut out: Responder) {
    for id in 0..incoming.decode::<u32>().unwrap() {
        out.item(&token(id)).await.unwrap();
    }
    out.finish().await;
}

/// All tokens, and how the stream ended.
pub(crate) async fn tokens(stream: &mut ResponseStream) -> (Vec<u32>, Option<RequestError>) {
    let mut ids = Vec::new();
    loop {
        match within(stream.next::<EngineOutput>()).await {
            Some(Ok(item)) => ids.extend(item.data.unwrap().token_ids),
            Some(Err(error)) => return (ids, Some(error)),
            None => return (ids, None),
        }
    }
}

/// The result, or a failure of the test when there is none within [`CAP`].
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(CAP, future).await.expect("an end within the cap")
}

/// A worker that the test plays: it listens for requests, and dials the client.
pub(crate) struct FakeWorker {
    pub(crate) listener: TcpListener,
}

impl FakeWorker {
    pub(crate) async fn new() -> (Self, EndpointRecord) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = target(&listener.local_addr().unwrap().to_string(), Codec::Msgpack);
        (Self { listener }, target)
    }

    pub(crate) async fn connection(&self) -> Peer {
        Peer::new(within(self.listener.accept()).await.unwrap().0)
    }

    /// Takes one request, acknowledges it and dials home, up to the handshake.
    pub(crate) async fn called(&self) -> (Peer, Peer) {
        let mut requests = self.connection().await;
        let (_, call_home) = requests.request().await;
        requests.ack(&Ack::Taken).await;
        let mut home = Peer::dial(&call_home.address).await;
        let hello = format!(r#"{{"subject":"{}","stream_type":"response"}}"#, call_home.subject);
        home.control(&hello).await;
        (requests, home)
    }
}

/// A socket that the test reads and writes frame by frame.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) inbox: BytesMut,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, inbox: BytesMut::new() }
    }

    pub(crate) async fn dial(address: &str) -> Self {
        Self::new(within(TcpStream::connect(address)).await.unwrap())
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn control(&mut self, json: &str) {
        let mut out = BytesMut::new();
        TwoPart::control(json.as_bytes().to_vec()).encode_into(&mut out).unwrap();
        self.write(&out).await;
    }

    pub(crate) async fn data<T: serde::Serialize>(&mut self, value: &T) {
        let mut out = BytesMut::new();
        protocol::dynamo::two_part::encode_data(Codec::Msgpack, value, &mut out).unwrap();
        self.write(&out).await;
    }

    pub(crate) async fn ack(&mut self, ack: &Ack) {
        let mut out = BytesMut::new();
        ack.encode_into(&mut out);
        self.write(&out).await;
    }

    /// `false` at the end of the stream.
    pub(crate) async fn read(&mut self) -> bool {
        within(self.stream.read_buf(&mut self.inbox)).await.is_ok_and(|read| read > 0)
    }

    pub(crate) async fn request(&mut self) -> (RequestFrame, CallHome) {
        loop {
            if let Some(frame) = RequestFrame::decode(&mut self.inbox).unwrap() {
                let message = TwoPart::decode(&mut BytesMut::from(&frame.payload[..])).unwrap().unwrap();
                let control: RequestControl = serde_json::from_slice(&message.header).unwrap();
                return (frame, control.connection_info.call_home().unwrap());
            }
            assert!(self.read().await, "closed before a request");
        }
    }

    /// `None` at the end of the stream.
    pub(crate) async fn message(&mut self) -> Option<TwoPart> {
        loop {
            if let Some(message) = TwoPart::decode(&mut self.inbox).unwrap() {
                return Some(message);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    pub(crate) async fn next_ack(&mut self) -> Option<Ack> {
        loop {
            if let Some(ack) = Ack::decode(&mut self.inbox).unwrap() {
                return Some(ack);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// Exactly `len` bytes.
    pub(crate) async fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.inbox.remaining() < len {
            assert!(self.read().await, "closed after {} of {len} bytes", self.inbox.remaining());
        }
        self.inbox.split_to(len).to_vec()
    }
}
