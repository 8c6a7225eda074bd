//! The error object of the API: `{"error":{"message","type","param","code"}}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;

/// `type` of a request that the client must change.
pub const INVALID_REQUEST: &str = "invalid_request_error";

/// An answer that is an error, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {kind}: {message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// `type`, such as `invalid_request_error`.
    pub kind: &'static str,
    /// What is wrong and what to do, for the client. Never an internal detail.
    pub message: String,
    /// Path of the field at fault, such as `messages[0].role`.
    pub param: Option<String>,
    /// Machine-readable reason, such as `context_length_exceeded`.
    pub code: Option<&'static str>,
    /// When to come back; becomes the `Retry-After` header in whole seconds, rounded up.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error of this status and `type`.
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// 400: the field `param` must change.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(400, INVALID_REQUEST, message).with_param(param)
    }

    /// 404: no such model.
    pub fn model_not_found(model: &str) -> Self {
        // The name is the client's text: bound what is echoed.
        let shown: String = model.chars().take(200).collect();
        Self::new(404, INVALID_REQUEST, format!("Model not found: `{shown}`. GET /v1/models lists what is served."))
            .with_param("model")
            .with_code("model_not_found")
    }

    /// Sets `param`.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets `code`.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Sets the `Retry-After` header.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The JSON body.
    pub fn body(&self) -> Vec<u8> {
        let body = Body {
            error: Inner { message: &self.message, kind: self.kind, param: self.param.as_deref(), code: self.code },
        };
        // Strings and options always serialize.
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = HeaderValue::from_static("application/json");
        let mut response = (status, [(header::CONTENT_TYPE, json)], self.body()).into_response();
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_openais_error_object_with_null_for_what_is_absent() {
        let body = ApiError::invalid("n", "n must be \"1\"").body();
        let expected =
            r#"{"error":{"message":"n must be \"1\"","type":"invalid_request_error","param":"n","code":null}}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn retry_after_is_whole_seconds_rounded_up() {
        let error = ApiError::new(429, "rate_limit_error", "slow down").with_retry_after(Duration::from_millis(1200));
        let response = error.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/json");
    }
}
