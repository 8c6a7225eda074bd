//! The frontend's side: send a request, get its stream.

use super::call_home::{Arrival, CallHomeListener, Expected, WAITING_MAX};
use super::error::{ErrorClass, RequestError};
use super::pool::{Connection, Lost, Pool};
use super::response_stream::ResponseStream;
use super::traffic::Traffic;
use crate::world::World;
use bytes::{Bytes, BytesMut};
use protocol::discovery::{Codec, EndpointRecord, RequestTransport};
use protocol::dynamo::control::StreamType;
use protocol::dynamo::request_frame::{ENDPOINT_PATH, FRONTEND_SEND_TS_NS, REQUEST_ID};
use protocol::dynamo::{Ack, CallHome, EncodeError, Headers, RequestControl, RequestFrame, TwoPart};
use serde::Serialize;
use std::io;
use std::sync::Arc;
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: RequestClientConfig,
    listener: CallHomeListener,
    pool: Pool,
    traffic: Arc<Traffic>,
}

impl RequestClient {
    /// Opens the response listener.
    ///
    /// # Errors
    /// When its address cannot be bound.
    pub async fn start(config: RequestClientConfig) -> io::Result<Self> {
        let advertise = config.advertise_host.as_deref();
        let traffic = Arc::new(Traffic::default());
        let (host, port) = (&config.response_host, config.response_port);
        let listener = CallHomeListener::bind(&config.world, host, port, advertise, traffic.clone()).await?;
        let pool = Pool::new(config.world.clone(), config.connect_timeout, traffic.clone());
        Ok(Self { shared: Arc::new(Shared { config, listener, pool, traffic }) })
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
        let (address, path) = address_of(target)?;
        let codec = target.codec();
        let call_home = CallHome {
            address: self.shared.listener.address().to_owned(),
            subject: uuid::Uuid::new_v4().to_string(),
            context: request_id.to_owned(),
            stream_type: StreamType::Response,
        };
        let frame = encode(path, headers, codec, &call_home, body)?;
        let full =
            || RequestError::new(ErrorClass::CapacityExhausted, format!("{WAITING_MAX} requests wait for workers"));
        let mut expected = self.shared.listener.expect(call_home.subject).ok_or_else(full)?;
        let sending = Instant::now();
        let connection = self.submit(address, frame).await.inspect_err(|_| self.shared.traffic.failed())?;
        let sent_in = sending.elapsed();
        let arrival = self.arrival(&mut expected, &connection, path, address).await?;
        let mut stream = ResponseStream::new(arrival, codec, format!("{path} at {address}"), sent_in);
        stream.accepted().await?;
        Ok(stream)
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
fn address_of(target: &EndpointRecord) -> Result<(&str, &str), RequestError> {
    match &target.transport {
        RequestTransport::Tcp(transport) => transport.split_once('/').ok_or_else(|| {
            let why = format!("the transport `{transport}` of {} is not HOST:PORT/PATH", target.endpoint_id());
            RequestError::new(ErrorClass::BackendProtocol, why)
        }),
        RequestTransport::NatsTcp(subject) => Err(RequestError::new(
            ErrorClass::NotImplemented,
            format!("requests over NATS ({subject}) are not spoken here; start the worker with --request-plane tcp"),
        )),
    }
}

fn encode<B: Serialize + ?Sized>(
    path: &str,
    headers: &[(&str, &str)],
    codec: Codec,
    call_home: &CallHome,
    body: &B,
) -> Result<Bytes, RequestError> {
    let internal = |error: String| RequestError::new(ErrorClass::Internal, error);
    let body = codec.encode(body).map_err(|error| internal(error.to_string()))?;
    let control = RequestControl::new(codec, call_home);
    let header = serde_json::to_vec(&control).map_err(|error| internal(error.to_string()))?;
    let sent_at_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()).to_string();
    let own = [(FRONTEND_SEND_TS_NS, sent_at_ns.as_str()), (ENDPOINT_PATH, path), (REQUEST_ID, &call_home.context)];
    let headers: Headers = headers.iter().copied().chain(own).collect();
    let encoded = || -> Result<Bytes, EncodeError> {
        let mut payload = BytesMut::new();
        TwoPart { header: header.into(), body }.encode_into(&mut payload)?;
        let mut frame = BytesMut::new();
        RequestFrame { path: path.to_owned(), headers, payload: payload.freeze() }.encode_into(&mut frame)?;
        Ok(frame.freeze())
    };
    encoded().map_err(|error| {
        let public = "the request is larger than a worker takes".to_owned();
        RequestError { class: ErrorClass::PayloadTooLarge, message: error.to_string(), public: Some(public) }
    })
}
