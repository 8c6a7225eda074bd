//! Reading a request's body: type and length are judged before a byte is read.

use crate::config::FrontendConfig;
use crate::openai::ApiError;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::time::Duration;

/// Most that is read and thrown away of a body that was refused unread, so that a client that writes all before it
/// reads gets the answer instead of a broken pipe.
const DISCARD_BYTES_MAX: usize = 128 << 20;
/// Longest time for that.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

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
pub(crate) async fn json_body(config: &FrontendConfig, headers: &HeaderMap, body: Body) -> Result<Bytes, Refused> {
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
    let read = read_up_to(&mut stream, limit, content_length(headers));
    match tokio::time::timeout(config.http.body_read_timeout, read).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(Refused::Unread(too_large(config), Body::from_stream(stream))),
        Ok(Err(error)) => {
            let message = format!("The request's body could not be read: {error}");
            Err(Refused::Now(ApiError::new(400, "invalid_request_error", message)))
        }
        Err(_) => {
            let message =
                format!("The request's body did not arrive within {} s", config.http.body_read_timeout.as_secs());
            Err(Refused::Now(ApiError::new(408, "timeout_error", message)))
        }
    }
}

/// `None` when it is over `limit`.
async fn read_up_to(
    stream: &mut BodyDataStream,
    limit: usize,
    length: Option<u64>,
) -> Result<Option<Bytes>, axum::Error> {
    let Some(first) = stream.next().await.transpose()? else { return Ok(Some(Bytes::new())) };
    if first.len() > limit {
        return Ok(None);
    }
    // Most bodies come in one piece: no copy.
    if length == Some(first.len() as u64) {
        return Ok(Some(first));
    }
    // The length is the client's word: trust it only up to a bound.
    let expected = length.map_or(0, |length| length.min(1 << 20) as usize);
    let mut bytes = BytesMut::with_capacity(expected.max(first.len()));
    bytes.extend_from_slice(&first);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if bytes.len() + chunk.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes.freeze()))
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
}
