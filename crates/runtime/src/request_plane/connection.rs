//! One request connection of a worker, and each request that came over it.

use super::callers::Caller;
use super::error::{ErrorClass, wire_error};
use super::incoming::{Handler, Incoming};
use super::responder::Responder;
use super::server::Shared;
use super::watch::{ANOTHER_INSTANCE, CALLER, PING};
use crate::world::{ReadHalf, Stream, World};
use bytes::BytesMut;
use protocol::dynamo::control::{RequestType, StreamType};
use protocol::dynamo::two_part::encode_control;
use protocol::dynamo::{Ack, CallHome, ControlWord, FrameError, Handshake, RequestControl, RequestFrame, TwoPart};
use protocol::output::WireError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Room for a typical request (1.4 KB and 2–3 bytes a token); more is reserved as bytes arrive.
const READ_BYTES: usize = 16 * 1024;

/// A buffer that grew beyond this for one large request is given back.
const INBOX_KEPT_BYTES_MAX: usize = 1024 * 1024;

/// How long the rest of a frame may take: a peer that stops in the middle holds up to 32 MiB of ours.
const FRAME_REST_MAX: Duration = Duration::from_secs(30);

/// How long a frontend may take to close after the end of a stream. Dynamo's workers wait as long.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// A request that was taken.
pub(super) struct Job {
    handler: Arc<dyn Handler>,
    incoming: Incoming,
    call_home: CallHome,
    many_in: bool,
    taken: OwnedSemaphorePermit,
}

/// Reads requests, acknowledges them in order, and starts them, until the peer closes or breaks the protocol.
pub(super) async fn serve(shared: Arc<Shared>, mut stream: Stream, peer: SocketAddr) {
    let mut inbox = BytesMut::new();
    // Who pings on it, if it is a watch connection.
    let mut caller = None;
    loop {
        let (outcome, acks, jobs) = take_requests(&shared, &mut inbox, &mut caller);
        if !acks.is_empty()
            && let Err(error) = stream.write_all(&acks).await
        {
            tracing::debug!(%peer, %error, "a frontend was gone before its ack");
            return;
        }
        for job in jobs {
            start(&shared, job);
        }
        if let Err(error) = outcome {
            tracing::warn!(%peer, %error, "closing a request connection");
            return;
        }
        if inbox.is_empty() && inbox.capacity() > INBOX_KEPT_BYTES_MAX {
            inbox = BytesMut::new();
        }
        inbox.reserve(READ_BYTES);
        let rest_max = if inbox.is_empty() { None } else { Some(FRAME_REST_MAX) };
        match read_within(&mut stream, &mut inbox, rest_max).await {
            Ok(0) if inbox.is_empty() => return,
            Ok(0) => tracing::warn!(%peer, bytes = inbox.len(), "a request connection closed in the middle of a frame"),
            Ok(_) => continue,
            Err(error) => tracing::debug!(%peer, %error, "a request connection broke"),
        }
        return;
    }
}

async fn read_within(stream: &mut Stream, inbox: &mut BytesMut, limit: Option<Duration>) -> io::Result<usize> {
    match limit {
        None => stream.read_buf(inbox).await,
        Some(limit) => tokio::time::timeout(limit, stream.read_buf(inbox)).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the rest of a request frame did not come in time"))
        }),
    }
}

/// All whole frames: the acks in order, and the requests behind them.
fn take_requests(
    shared: &Shared,
    inbox: &mut BytesMut,
    caller: &mut Option<Arc<Caller>>,
) -> (Result<(), FrameError>, BytesMut, Vec<Job>) {
    let (mut acks, mut jobs) = (BytesMut::new(), Vec::new());
    let outcome = loop {
        match RequestFrame::decode(inbox) {
            Ok(None) => break Ok(()),
            Ok(Some(frame)) => {
                if let Some(pong) = answer_ping(shared, &frame, caller) {
                    pong.encode_into(&mut acks);
                    continue;
                }
                match admit(shared, frame) {
                    Ok(job) => {
                        Ack::Taken.encode_into(&mut acks);
                        jobs.push(job);
                    }
                    Err(refusal) => refusal.encode_into(&mut acks),
                }
            }
            Err(error) => {
                // Where the next frame begins is not known. Say why, then close.
                Ack::Unavailable(error.to_string()).encode_into(&mut acks);
                break Err(error);
            }
        }
    };
    (outcome, acks, jobs)
}

/// What is said to a ping; `None` for a request. A worker that drains lives, so it says the same as ever.
fn answer_ping(shared: &Shared, frame: &RequestFrame, caller: &mut Option<Arc<Caller>>) -> Option<Ack> {
    let path = frame.path.strip_prefix(PING)?.strip_prefix('/')?;
    if caller.is_none() {
        *caller = frame.headers.get(CALLER).and_then(|name| shared.callers.named(name));
    }
    if let Some(caller) = caller {
        caller.pinged();
    }
    Some(match shared.handler(path) {
        Some(_) => Ack::Taken,
        None => Ack::Unavailable(ANOTHER_INSTANCE.into()),
    })
}

/// Whether a request is taken. A refusal must begin with one of the two texts that a frontend understands.
pub(super) fn admit(shared: &Shared, frame: RequestFrame) -> Result<Job, Ack> {
    if shared.is_draining() {
        return Err(Ack::Unavailable("draining".into()));
    }
    let path = frame.path;
    let handler = shared.handler(&path).ok_or_else(|| Ack::Unavailable(format!("nothing is served at {path}")))?;
    let (control, call_home, body) = read_payload(frame.payload).map_err(|why| {
        tracing::warn!(%path, why, "refusing a request that says not where its answer should go");
        Ack::Unavailable(why)
    })?;
    let taken = shared.taken.clone().try_acquire_owned().map_err(|_| {
        let (running, queued) = (shared.config.requests_running_max, shared.config.requests_queued_max);
        Ack::Overloaded(format!("{running} requests run and {queued} wait, the limits of this worker"))
    })?;
    let incoming = Incoming { id: control.id.clone(), path, headers: frame.headers, codec: control.codec(), body };
    Ok(Job { handler, incoming, call_home, many_in: control.request_type == RequestType::ManyIn, taken })
}

fn read_payload(payload: bytes::Bytes) -> Result<(RequestControl, CallHome, bytes::Bytes), String> {
    let mut payload = BytesMut::from(payload);
    let message = match TwoPart::decode(&mut payload) {
        Ok(Some(message)) if payload.is_empty() => message,
        Ok(_) => return Err("the payload is not one two-part message".into()),
        Err(error) => return Err(error.to_string()),
    };
    let control: RequestControl = serde_json::from_slice(&message.header)
        .map_err(|error| format!("the control header does not decode: {error}"))?;
    let call_home = control.connection_info.call_home().map_err(|error| error.to_string())?;
    if call_home.context != control.id {
        return Err(format!("context {} differs from the request's id {}", call_home.context, control.id));
    }
    if call_home.stream_type != StreamType::Response {
        return Err("connection_info.stream_type must be response".into());
    }
    Ok((control, call_home, message.body))
}

pub(super) fn start(shared: &Arc<Shared>, job: Job) {
    let serving = shared.clone();
    shared.requests.spawn("request", async move { answer(serving, job).await });
}

/// Calls home, runs the handler, and listens for a cancel meanwhile.
async fn answer(shared: Arc<Shared>, job: Job) {
    let Job { handler, incoming, call_home, many_in, taken } = job;
    let calling = call(&shared.config.world, &call_home);
    let stream = match tokio::time::timeout(shared.config.call_home_timeout, calling).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!(request = %incoming.id, address = %call_home.address, %error, "cannot call home");
            return;
        }
        Err(_) => {
            let after_s = shared.config.call_home_timeout.as_secs_f32();
            tracing::warn!(request = %incoming.id, address = %call_home.address, after_s, "nobody answers the call home");
            return;
        }
    };
    let (read, write) = stream.into_split();
    let cancelled = shared.requests.token().child_token();
    let mut responder = Responder::new(write, cancelled.clone(), incoming.codec);
    let caller = incoming.headers.get(CALLER).and_then(|name| shared.callers.named(name));
    responder.takes_beats(caller.is_some());
    let id = incoming.id.clone();
    let orphaned = async {
        match caller {
            Some(caller) => caller.fell_silent().await,
            None => std::future::pending().await,
        }
        tracing::warn!(request = %id, "its frontend has fallen silent; the request is cancelled");
        cancelled.cancel();
        std::future::pending::<()>().await;
    };
    let mut control = std::pin::pin!(listen(read, &cancelled));
    let work = async {
        let _running = match shared.running.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let since = Instant::now();
                let turn = cancelled.run_until_cancelled(shared.running.clone().acquire_owned()).await;
                let Some(Ok(permit)) = turn else { return };
                responder.note_wait(since.elapsed());
                permit
            }
        };
        if many_in {
            let message = "many_in requests (a stream of request items) are not served";
            responder.refuse(wire_error(ErrorClass::NotImplemented, message, Some(message))).await;
        } else {
            handler.handle(incoming, responder).await;
        }
    };
    tokio::select! {
        biased;
        () = async { (&mut control).await; std::future::pending().await } => {}
        () = work => {}
        () = orphaned => {}
    }
    drop(taken);
    if !cancelled.is_cancelled() {
        // Closing with unread bytes would turn our last frames into a reset.
        let _ = tokio::time::timeout(LINGER_MAX, control).await;
    }
}

/// Refuses a request that was not taken, over a connection like that of an answer. The error says why it could not be.
pub(super) async fn refuse_at_home(shared: &Shared, payload: bytes::Bytes, error: WireError) -> Result<(), String> {
    let (control, call_home, _) = read_payload(payload)?;
    let calling = call(&shared.config.world, &call_home);
    let called = tokio::time::timeout(shared.config.call_home_timeout, calling).await;
    let (read, write) = called.map_err(|_| "nobody answers the call home")?.map_err(|e| e.to_string())?.into_split();
    let cancelled = shared.requests.token().child_token();
    Responder::new(write, cancelled.clone(), control.codec()).refuse(error).await;
    let _ = tokio::time::timeout(LINGER_MAX, listen(read, &cancelled)).await;
    Ok(())
}

async fn call(world: &World, call_home: &CallHome) -> io::Result<Stream> {
    let mut stream = world.dial(&call_home.address).await?;
    let mut handshake = BytesMut::new();
    let greeting = Handshake { subject: call_home.subject.clone(), stream_type: StreamType::Response };
    encode_control(&greeting, &mut handshake).map_err(io::Error::other)?;
    stream.write_all(&handshake).await?;
    Ok(stream)
}

/// Reads what the frontend says until it closes; whatever ends it, the request is cancelled then.
async fn listen(mut read: ReadHalf, cancelled: &CancellationToken) {
    let _cancel_at_end = cancelled.clone().drop_guard();
    let mut inbox = BytesMut::with_capacity(64);
    loop {
        match read.read_buf(&mut inbox).await {
            // FIN; a reset is how stock frontends end every stream, so it is no error.
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        loop {
            match TwoPart::decode(&mut inbox) {
                Ok(None) => break,
                Ok(Some(message)) => match ControlWord::of_header(&message.header) {
                    Some(ControlWord::Kill | ControlWord::Stop) => return,
                    _ => tracing::debug!(header = ?message.header, "a control message that means nothing here"),
                },
                Err(error) => {
                    tracing::warn!(%error, "the frontend broke the protocol; its request is cancelled");
                    return;
                }
            }
        }
    }
}
