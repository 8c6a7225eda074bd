//! The frontend's side: send a request, get its stream.

use super::call_home::{Arrival, CallHomeListener, Expected, WAITING_MAX};
use super::error::{ErrorClass, RequestError};
use super::nats_client::NatsLine;
use super::pool::{Connection, Lost, Pool};
use super::response_stream::ResponseStream;
use super::traffic::Traffic;
use super::watch::{CALLER, WatchLine};
use crate::nats::Nats;
use crate::world::World;
use bytes::{Bytes, BytesMut};
use protocol::discovery::{Codec, EndpointRecord, RequestTransport};
use protocol::dynamo::control::StreamType;
use protocol::dynamo::request_frame::{ENDPOINT_PATH, FRONTEND_SEND_TS_NS, REQUEST_ID};
use protocol::dynamo::{Ack, CallHome, Headers, RequestControl, RequestFrame, TwoPart};
use serde::Serialize;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a call-home may still arrive after the request connection was lost: a worker that closes the one may have
/// dialled the other. A dead worker is so noticed long before the call-home time-out.
const LOST_GRACE: Duration = Duration::from_secs(1);

/// How a frontend sends requests.
#[derive(Clone, Debug)]
pub struct RequestClientConfig {
    /// Address of the response listener.
    pub response_host: String,
    /// Port of the response listener, 0 for any.
    pub response_port: u16,
    /// Host that workers dial; when absent, `response_host`, or the machine's address when that means any.
    pub advertise_host: Option<String>,
    /// How long dialling a worker may take.
    pub connect_timeout: Duration,
    /// How long a worker may take to acknowledge.
    pub ack_timeout: Duration,
    /// How long a worker may take to call home after its ack.
    pub call_home_timeout: Duration,
    /// The machine that it runs on.
    pub world: World,
}

impl Default for RequestClientConfig {
    /// Dynamo's times: 5 s to connect, 5 s to acknowledge; and 10 s to call home, where Dynamo waits for ever.
    fn default() -> Self {
        Self {
            response_host: "0.0.0.0".into(),
            response_port: 0,
            advertise_host: None,
            connect_timeout: Duration::from_secs(5),
            ack_timeout: Duration::from_secs(5),
            call_home_timeout: Duration::from_secs(10),
            world: World::default(),
        }
    }
}

/// Sends requests to workers: kept connections, and one listener for all answers. Clones are cheap and share both.
#[derive(Clone, Debug)]
pub struct RequestClient {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: RequestClientConfig,
    listener: CallHomeListener,
    pool: Pool,
    pub(super) traffic: Arc<Traffic>,
    /// Names this client to workers: its pings vouch for the requests that it has running.
    pub(super) caller: String,
    pub(super) nats: Option<Nats>,
    /// Made for the first worker that takes requests over NATS.
    pub(super) nats_line: OnceLock<NatsLine>,
}

impl Shared {
    /// A place for the call-home of `subject`.
    pub(super) fn expect(&self, subject: String) -> Result<Expected, RequestError> {
        let full =
            || RequestError::new(ErrorClass::CapacityExhausted, format!("{WAITING_MAX} requests wait for workers"));
        self.listener.expect(subject).ok_or_else(full)
    }

    /// `more` headers and ours; over NATS there is no path.
    pub(super) fn headers(&self, more: &[(&str, &str)], path: Option<&str>, request_id: &str) -> Headers {
        let sent_at_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()).to_string();
        let own = [(FRONTEND_SEND_TS_NS, sent_at_ns.as_str()), (REQUEST_ID, request_id), (CALLER, &self.caller)];
        let path = path.map(|path| (ENDPOINT_PATH, path));
        more.iter().copied().chain(own).chain(path).collect()
    }
}

impl RequestClient {
    /// Opens the response listener. Workers that take requests over NATS cannot be reached.
    ///
    /// # Errors
    /// When its address cannot be bound.
    pub async fn start(config: RequestClientConfig) -> io::Result<Self> {
        Self::start_with(config, None).await
    }

    /// Opens the response listener; workers that take requests over NATS are reached through `nats`, which is dialled
    /// for the first of them.
    ///
    /// # Errors
    /// When its address cannot be bound.
    pub async fn start_with(config: RequestClientConfig, nats: Option<Nats>) -> io::Result<Self> {
        let advertise = config.advertise_host.as_deref();
        let traffic = Arc::new(Traffic::default());
        let (host, port) = (&config.response_host, config.response_port);
        let world = &config.world;
        let listener = CallHomeListener::bind(world, host, port, advertise, traffic.clone()).await?;
        let pool = Pool::new(world.clone(), config.connect_timeout, traffic.clone());
        let caller = uuid::Uuid::from_u64_pair(world.random(), world.random()).to_string();
        let nats_line = OnceLock::new();
        Ok(Self { shared: Arc::new(Shared { config, listener, pool, traffic, caller, nats, nats_line }) })
    }

    /// The machine that it runs on.
    pub fn world(&self) -> &World {
        &self.shared.config.world
    }

    /// What went over the request connections since the start.
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// `HOST:PORT` that workers call home to.
    pub fn response_address(&self) -> &str {
        self.shared.listener.address()
    }

    /// Dials a watch connection to `target`. There is no limit on the wait; the caller has one.
    ///
    /// # Errors
    /// Those of connecting, and [`io::ErrorKind::InvalidInput`] for a record that cannot be dialled.
    pub async fn watch(&self, target: &EndpointRecord) -> io::Result<WatchLine> {
        WatchLine::dial(self.world(), target, &self.shared.caller).await
    }

    /// Sends `body` to `target`, in the codec of its record. Resolves when the worker has taken the request: after its
    /// ack, its call-home and its prologue. There is no limit on the wait for the prologue, in which a request may
    /// queue; the caller has the deadline. Dropping the future cancels the request at the worker.
    ///
    /// # Errors
    /// [`RequestError`]; nothing was answered yet, so a retryable one may go to another worker.
    pub async fn send<B: Serialize + ?Sized>(
        &self,
        target: &EndpointRecord,
        request_id: &str,
        body: &B,
    ) -> Result<ResponseStream, RequestError> {
        self.send_with(target, request_id, &[], body).await
    }

    /// Like [`RequestClient::send`], with more headers, such as `traceparent`.
    ///
    /// # Errors
    /// As [`RequestClient::send`].
    pub async fn send_with<B: Serialize + ?Sized>(
        &self,
        target: &EndpointRecord,
        request_id: &str,
        headers: &[(&str, &str)],
        body: &B,
    ) -> Result<ResponseStream, RequestError> {
        if let RequestTransport::NatsTcp(subject) = &target.transport {
            return self.send_over_nats(target, subject, request_id, headers, body).await;
        }
        let (address, path) = address_of(target)?;
        let codec = target.codec();
        let call_home = self.call_home(request_id);
        let frame = encode(path, self.shared.headers(headers, Some(path), request_id), codec, &call_home, body)?;
        let mut expected = self.shared.expect(call_home.subject)?;
        let sending = Instant::now();
        let connection = self.submit(address, frame).await.inspect_err(|_| self.shared.traffic.failed())?;
        let sent_in = sending.elapsed();
        let arrival = self.arrival(&mut expected, &connection, path, address).await?;
        let mut stream = ResponseStream::new(arrival, codec, format!("{path} at {address}"), sent_in);
        stream.accepted().await?;
        Ok(stream)
    }

    /// Where a worker is to bring the answer of a new request.
    pub(super) fn call_home(&self, request_id: &str) -> CallHome {
        CallHome {
            address: self.shared.listener.address().to_owned(),
            subject: uuid::Uuid::new_v4().to_string(),
            context: request_id.to_owned(),
            stream_type: StreamType::Response,
        }
    }

    /// Sends the frame and gets its ack. A kept connection that turns out to be closed is replaced once.
    async fn submit(&self, address: &str, frame: Bytes) -> Result<Arc<Connection>, RequestError> {
        let failed = |class, why: &str| RequestError::new(class, format!("worker {address}: {why}"));
        for _attempt in 0..2 {
            let connection = self.shared.pool.connection(address).await?;
            let limit = self.shared.config.ack_timeout;
            match tokio::time::timeout(limit, connection.send(frame.clone())).await {
                Ok(Ok(Ack::Overloaded(why))) => return Err(failed(ErrorClass::WorkerOverloaded, &why)),
                Ok(Ok(Ack::Unavailable(why))) => return Err(failed(ErrorClass::WorkerUnavailable, &why)),
                Ok(Ok(Ack::Taken | Ack::Other(_))) => return Ok(connection),
                Ok(Err(Lost::Unsent)) => {}
                Ok(Err(Lost::Unacknowledged)) => {
                    return Err(failed(ErrorClass::Disconnected, "the connection was lost before the ack"));
                }
                Err(_) => {
                    connection.retire();
                    let why = format!("no ack in {} s", limit.as_secs_f32());
                    return Err(failed(ErrorClass::ResponseTimeout, &why));
                }
            }
        }
        Err(failed(ErrorClass::CannotConnect, "two connections were closed before the request could be written"))
    }

    async fn arrival(
        &self,
        expected: &mut Expected,
        connection: &Connection,
        path: &str,
        address: &str,
    ) -> Result<Arrival, RequestError> {
        let limit = self.shared.config.call_home_timeout;
        let lost = async {
            connection.lost().await;
            tokio::time::sleep(LOST_GRACE).await;
        };
        tokio::select! {
            biased;
            arrival = expected.arrival() => Ok(arrival),
            () = lost => Err(RequestError::new(
                ErrorClass::Disconnected,
                format!("worker {path} at {address}: the connection was lost between its ack and its answer"),
            )),
            () = tokio::time::sleep(limit) => Err(RequestError::new(
                ErrorClass::ResponseTimeout,
                format!(
                    "worker {path} at {address} acknowledged, but did not call home to {} in {} s: it cannot reach \
                     that address, or it could not decode the request",
                    self.response_address(),
                    limit.as_secs_f32()
                ),
            )),
        }
    }
}

/// `HOST:PORT` and path of an endpoint.
pub(super) fn address_of(target: &EndpointRecord) -> Result<(&str, &str), RequestError> {
    match &target.transport {
        RequestTransport::Tcp(transport) => transport.split_once('/').ok_or_else(|| {
            let why = format!("the transport `{transport}` of {} is not HOST:PORT/PATH", target.endpoint_id());
            RequestError::new(ErrorClass::BackendProtocol, why)
        }),
        RequestTransport::NatsTcp(subject) => {
            Err(RequestError::new(ErrorClass::Internal, format!("{subject} is a NATS subject and has no address")))
        }
    }
}

fn encode<B: Serialize + ?Sized>(
    path: &str,
    headers: Headers,
    codec: Codec,
    call_home: &CallHome,
    body: &B,
) -> Result<Bytes, RequestError> {
    let payload = payload(codec, call_home, body)?;
    let mut frame = BytesMut::new();
    RequestFrame { path: path.to_owned(), headers, payload }
        .encode_into(&mut frame)
        .map_err(|error| too_large(error.to_string()))?;
    Ok(frame.freeze())
}

/// The two-part message of a request: where the answer goes, and the body.
pub(super) fn payload<B: Serialize + ?Sized>(
    codec: Codec,
    call_home: &CallHome,
    body: &B,
) -> Result<Bytes, RequestError> {
    let internal = |error: String| RequestError::new(ErrorClass::Internal, error);
    let body = codec.encode(body).map_err(|error| internal(error.to_string()))?;
    let control = RequestControl::new(codec, call_home);
    let header = serde_json::to_vec(&control).map_err(|error| internal(error.to_string()))?;
    let mut payload = BytesMut::new();
    TwoPart { header: header.into(), body }.encode_into(&mut payload).map_err(|error| too_large(error.to_string()))?;
    Ok(payload.freeze())
}

fn too_large(message: String) -> RequestError {
    let public = Some("the request is larger than a worker takes".to_owned());
    RequestError { class: ErrorClass::PayloadTooLarge, message, public }
}
