//! The page's files, built into the binary: nothing is fetched from anywhere, and there is no build step.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// Only our own files and our own data; nobody may frame the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /`.
pub(crate) async fn shell() -> Response {
    file("text/html; charset=utf-8", include_str!("../../../../assets/status-page/index.html"))
}

/// `GET /status/page.css`.
pub(crate) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("../../../../assets/status-page/page.css"))
}

/// `GET /status/page.js`.
pub(crate) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("../../../../assets/status-page/page.js"))
}

/// `GET /status/figures.js`.
pub(crate) async fn figures() -> Response {
    file("text/javascript; charset=utf-8", include_str!("../../../../assets/status-page/figures.js"))
}

/// `GET /status/chat.js`.
pub(crate) async fn chat() -> Response {
    file("text/javascript; charset=utf-8", include_str!("../../../../assets/status-page/chat.js"))
}

/// `GET /status/icon.svg`.
pub(crate) async fn icon() -> Response {
    file("image/svg+xml", include_str!("../../../../assets/status-page/icon.svg"))
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}
