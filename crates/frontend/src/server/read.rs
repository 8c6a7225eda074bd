//! Reading a request's body: type and length are judged before a byte is read, its pace and the room of all bodies while
//! it comes.

use crate::config::FrontendConfig;
use crate::openai::ApiError;
use crate::server::failure;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Most that is read and thrown away of a body that was refused unread, so that a client that writes all before it
/// reads gets the answer instead of a broken pipe.
const DISCARD_BYTES_MAX: usize = 128 << 20;
/// Longest time for that.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time of a body before its pace counts: on a slow line most prompts are through by then.
const PACE_GRACE: Duration = Duration::from_secs(10);
/// Least pace of a body after that, bytes a second: 128 kbit/s, the slowest of mobile lines.
const PACE_MIN: u64 = 16 << 10;
/// Bodies up to this need no room: the connections bound them, 512 MiB in all by default.
const ROOMLESS_BYTES_MAX: usize = 64 << 10;
/// Room for all larger bodies, KiB, from their first byte until they are tokens: 1 GiB, which is 1,000 chats of 128k
/// tokens or 22 bodies of the largest size.
const ROOM_KIB: usize = 1 << 20;

/// The memory that large bodies may take together.
#[derive(Debug)]
pub(crate) struct BodyRoom(Arc<Semaphore>);

impl Default for BodyRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB)))
    }
}

/// What one body has of the room, given back on drop.
#[derive(Debug, Default)]
pub(crate) struct BodyPlace {
    taken_kib: usize,
    place: Option<OwnedSemaphorePermit>,
}

impl BodyPlace {
    /// Takes room for a body that has grown to `bytes`; `false` when there is none.
    fn grow(&mut self, room: &BodyRoom, bytes: usize) -> bool {
        let wanted = if bytes <= ROOMLESS_BYTES_MAX { 0 } else { bytes.div_ceil(1024) };
        let more = wanted.saturating_sub(self.taken_kib);
        if more == 0 {
            return true;
        }
        let permits = u32::try_from(more).unwrap_or(u32::MAX);
        let Ok(permit) = room.0.clone().try_acquire_many_owned(permits) else { return false };
        self.taken_kib = wanted;
        match &mut self.place {
            Some(place) => place.merge(permit),
            None => self.place = Some(permit),
        }
        true
    }
}

/// A body that is there whole, with its place.
#[derive(Debug)]
pub(crate) struct ReadBody {
    pub(crate) bytes: Bytes,
    pub(crate) place: BodyPlace,
}

/// Why a body was not read to its end.
#[derive(Debug)]
enum Unread {
    TooLarge,
    NoRoom,
    TooSlow,
    Broken(axum::Error),
}

/// A body that was refused.
pub(crate) enum Refused {
    /// Answer and close.
    Now(ApiError),
    /// Answer, read on for a while, and close.
    Unread(ApiError, Body),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Now(error) => {
                let mut response = error.into_response();
                // The rest of the body will not be read: a client that took the connection for idle would lose a request.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }
            Self::Unread(error, body) => {
                let length = error.body().len();
                let mut response = error.into_response();
                response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                let (parts, text) = response.into_parts();
                // The client sees a whole answer; the end of the body waits until its own is read.
                let rest = futures::stream::once(discard(body)).filter_map(|()| std::future::ready(None));
                Response::from_parts(parts, Body::from_stream(text.into_data_stream().chain(rest)))
            }
        }
    }
}

/// Reads the body of a JSON request.
pub(crate) async fn json_body(
    config: &FrontendConfig,
    room: &BodyRoom,
    headers: &HeaderMap,
    body: Body,
) -> Result<ReadBody, Refused> {
    if !is_json(headers) {
        let message = "Expected request with Content-Type application/json";
        let error = ApiError::new(415, "invalid_request_error", message).with_code("unsupported_media_type");
        return Err(Refused::Unread(error, body));
    }
    let limit = config.http.body_limit_mb.saturating_mul(1 << 20);
    if content_length(headers).is_some_and(|length| length > limit as u64) {
        return Err(Refused::Unread(too_large(config), body));
    }
    let mut stream = body.into_data_stream();
    let bounds = Bounds { limit, time: config.http.body_read_timeout, length: content_length(headers) };
    match read_within(&mut stream, &bounds, room).await {
        Ok(read) => Ok(read),
        Err(Unread::TooLarge) => Err(Refused::Unread(too_large(config), Body::from_stream(stream))),
        Err(Unread::NoRoom) => {
            let error = failure::unavailable("Too many large requests are being read. Try again later.");
            Err(Refused::Unread(error, Body::from_stream(stream)))
        }
        Err(Unread::Broken(error)) => {
            let message = format!("The request's body could not be read: {error}");
            Err(Refused::Now(ApiError::new(400, "invalid_request_error", message)))
        }
        Err(Unread::TooSlow) => {
            let (grace, limit) = (PACE_GRACE.as_secs(), config.http.body_read_timeout.as_secs());
            let message = format!(
                "The request's body came too slowly: after {grace} s it must keep {PACE_MIN} bytes a second, and be \
                 complete within {limit} s"
            );
            Err(Refused::Now(ApiError::new(408, "timeout_error", message).with_code("body_too_slow")))
        }
    }
}

struct Bounds {
    /// Bytes.
    limit: usize,
    time: Duration,
    /// What the client says.
    length: Option<u64>,
}

async fn read_within<S>(stream: &mut S, bounds: &Bounds, room: &BodyRoom) -> Result<ReadBody, Unread>
where
    S: Stream<Item = Result<Bytes, axum::Error>> + Unpin,
{
    let start = Instant::now();
    let mut place = BodyPlace::default();
    let Some(first) = next_chunk(stream, start, 0, bounds).await? else {
        return Ok(ReadBody { bytes: Bytes::new(), place });
    };
    let mut check = |size: usize| match size {
        size if size > bounds.limit => Err(Unread::TooLarge),
        size if !place.grow(room, size) => Err(Unread::NoRoom),
        _ => Ok(()),
    };
    check(first.len())?;
    // Most bodies come in one piece: no copy.
    if bounds.length == Some(first.len() as u64) {
        return Ok(ReadBody { bytes: first, place });
    }
    // The length is the client's word: trust it only up to a bound.
    let expected = bounds.length.map_or(0, |length| length.min(1 << 20) as usize);
    let mut bytes = BytesMut::with_capacity(expected.max(first.len()));
    bytes.extend_from_slice(&first);
    while let Some(chunk) = next_chunk(stream, start, bytes.len(), bounds).await? {
        check(bytes.len() + chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(ReadBody { bytes: bytes.freeze(), place })
}

/// The next chunk of a body that began at `start` and has `read` bytes; `None` at its end.
async fn next_chunk<S>(stream: &mut S, start: Instant, read: usize, bounds: &Bounds) -> Result<Option<Bytes>, Unread>
where
    S: Stream<Item = Result<Bytes, axum::Error>> + Unpin,
{
    let paced = PACE_GRACE + Duration::from_secs_f64(read as f64 / PACE_MIN as f64);
    match tokio::time::timeout_at(start + paced.min(bounds.time), stream.next()).await {
        Ok(chunk) => chunk.transpose().map_err(Unread::Broken),
        Err(_) => Err(Unread::TooSlow),
    }
}

async fn discard(body: Body) {
    let mut stream = body.into_data_stream();
    let read = async {
        let mut seen = 0;
        while let Some(Ok(chunk)) = stream.next().await {
            seen += chunk.len();
            if seen > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    // Whether it ended in time or not, the answer is out.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, read).await;
}

fn too_large(config: &FrontendConfig) -> ApiError {
    let limit = config.http.body_limit_mb;
    let message = format!("Request body exceeds the limit of {limit} MB set by DYN_HTTP_BODY_LIMIT_MB");
    ApiError::new(413, "invalid_request_error", message).with_code("body_too_large")
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let (family, sub) = essence.split_once('/').unwrap_or_default();
    family.eq_ignore_ascii_case("application")
        && (sub.eq_ignore_ascii_case("json") || sub.to_ascii_lowercase().ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_json_with_parameters_and_suffixes_and_nothing_else() {
        let check = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            is_json(&headers)
        };
        assert!(check("application/json") && check("Application/JSON; charset=utf-8") && check("application/x+json"));
        assert!(!check("text/plain") && !check("application/jsonx") && !check("json"));
        assert!(!is_json(&HeaderMap::new()));
    }

    /// Seconds until a body is read or refused, and how it ended; each chunk comes `every` seconds after the last.
    async fn read_drip(chunk: usize, every: u64, room: &BodyRoom, limit: usize) -> (u64, Result<ReadBody, Unread>) {
        let start = Instant::now();
        let drip = futures::stream::unfold((), move |()| async move {
            tokio::time::sleep(Duration::from_secs(every)).await;
            Some((Ok(Bytes::from(vec![b'x'; chunk])), ()))
        });
        let bounds = Bounds { limit, time: Duration::from_secs(60), length: None };
        let read = read_within(&mut Box::pin(drip), &bounds, room).await;
        (start.elapsed().as_secs(), read)
    }

    /// Scenario 55: a body in drops.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_cut_off_after_its_grace_and_one_that_keeps_the_pace_at_its_whole_time() {
        let room = BodyRoom::default();
        let (after, read) = read_drip(1, 1, &room, usize::MAX).await;
        assert!(matches!((after, &read), (10, Err(Unread::TooSlow))), "{after} s, {read:?}");
        let pace = PACE_MIN as usize;
        let (after, read) = read_drip(pace, 1, &room, usize::MAX).await;
        assert!(matches!((after, &read), (60, Err(Unread::TooSlow))), "{after} s, {read:?}");
        let (after, read) = read_drip(pace, 1, &room, 20 * pace).await;
        assert!(matches!((after, &read), (21, Err(Unread::TooLarge))), "{after} s, {read:?}");
    }

    #[tokio::test]
    async fn large_bodies_share_a_room_and_small_ones_need_none() {
        let room = BodyRoom(Arc::new(Semaphore::new(100)));
        let body = async |bytes: usize| {
            let half = || Ok(Bytes::from(vec![b'x'; bytes / 2]));
            let bounds = Bounds { limit: usize::MAX, time: Duration::from_secs(60), length: None };
            read_within(&mut futures::stream::iter([half(), half()]), &bounds, &room).await
        };
        let held = body(80 << 10).await.unwrap();
        assert!(matches!(body(80 << 10).await, Err(Unread::NoRoom)));
        assert_eq!(body(ROOMLESS_BYTES_MAX).await.unwrap().bytes.len(), ROOMLESS_BYTES_MAX);
        drop(held);
        assert!(body(80 << 10).await.is_ok(), "the room came back");
        assert_eq!(room.0.available_permits(), 100);
    }
}
