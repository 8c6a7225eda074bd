//! HTTP to the hub: its answers turned into errors that say what they mean.

use super::listing::Listing;
use super::{HubConfig, HubError};
use crate::model::source::HubName;
use reqwest::{RequestBuilder, Response, StatusCode};
use std::time::Duration;

/// To open a connection; a hub that is not there must not hold up a start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte. Downloads last as long as bytes come.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a listing; the largest repositories give about 2 MB.
const LISTING_LEN_MAX: usize = 16 << 20;

/// A connection pool to one hub.
pub(super) struct Client {
    http: reqwest::Client,
    config: HubConfig,
}

impl Client {
    pub(super) fn new(config: &HubConfig) -> Result<Client, HubError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("busbar/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .tcp_nodelay(true)
            .build();
        let config = config.clone();
        match http {
            Ok(http) => Ok(Client { http, config }),
            Err(error) => Err(unreachable(&config, &error)),
        }
    }

    /// The files of `name` at the commit that its revision means now.
    pub(super) async fn listing(&self, name: &HubName) -> Result<Listing, HubError> {
        let revision = encode(&name.revision);
        let path = format!("api/models/{}/revision/{revision}?blobs=true", name.repository());
        let mut response = self.send(self.get(&path), "repository or revision").await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&self.config, &error))? {
            body.extend_from_slice(&chunk);
            if body.len() > LISTING_LEN_MAX {
                return Err(self.answer(format!("with a list of more than {LISTING_LEN_MAX} bytes")));
            }
        }
        Listing::parse(&body).map_err(|what| self.answer(format!("with a list that cannot be read: {what}")))
    }

    /// Starts to fetch one file from byte `from`. The answer is 200 (from the start) or 206 (from `from`).
    pub(super) async fn file(&self, name: &HubName, commit: &str, path: &str, from: u64) -> Result<Response, HubError> {
        let path: Vec<String> = path.split('/').map(encode).collect();
        let mut request = self.get(&format!("{}/resolve/{commit}/{}", name.repository(), path.join("/")));
        if from > 0 {
            request = request.header(reqwest::header::RANGE, format!("bytes={from}-"));
        }
        self.send(request, "file").await
    }

    pub(super) fn answer(&self, what: String) -> HubError {
        HubError::Answer { endpoint: self.config.endpoint.clone(), what }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        let request = self.http.get(format!("{}/{path}", self.config.endpoint));
        match &self.config.token {
            // reqwest marks it sensitive and drops it on a redirect to another host, as to the hub's storage.
            Some(token) => request.bearer_auth(token.secret()),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder, what: &str) -> Result<Response, HubError> {
        let response = request.send().await.map_err(|error| unreachable(&self.config, &error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let endpoint = self.config.endpoint.clone();
        // The hub answers 401 for what does not exist too, and says which it is in this header.
        let code = response.headers().get("x-error-code").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_absent = ["RepoNotFound", "RevisionNotFound", "EntryNotFound"].contains(&code);
        Err(match status {
            StatusCode::NOT_FOUND => HubError::NotFound { endpoint, what: what.to_owned() },
            _ if is_absent => HubError::NotFound { endpoint, what: what.to_owned() },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => HubError::Gated {
                endpoint,
                status: status.as_u16(),
                who: if self.config.token.is_some() { "the owner of this token" } else { "an anonymous user" },
            },
            StatusCode::TOO_MANY_REQUESTS => HubError::Busy { endpoint, wait_secs: retry_after(&response) },
            _ => HubError::Answer { endpoint, what: format!("with HTTP {status}") },
        })
    }
}

/// Seconds that `Retry-After` asks to wait; a date is taken for nothing.
fn retry_after(response: &Response) -> Option<u64> {
    response.headers().get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

/// The deepest cause is the one that helps (`dns error`, `connection refused`). The address is left out: the hub's
/// storage signs its addresses, which makes them secrets.
fn unreachable(config: &HubConfig, error: &reqwest::Error) -> HubError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let is_top = std::ptr::addr_eq(std::ptr::from_ref(cause), std::ptr::from_ref(error));
    let reason = if is_top { "no answer".to_owned() } else { cause.to_string() };
    HubError::Unreachable { endpoint: config.endpoint.clone(), reason }
}

/// Percent-encodes one part of a path.
fn encode(part: &str) -> String {
    let mut encoded = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
