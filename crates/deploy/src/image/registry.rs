//! One repository of one registry: what is there, and what is sent there.
//!
//! Source: OCI distribution specification 1.1, "Pull" and "Push".

use super::credentials::Login;
use super::document::{Base, Descriptor, MANIFEST_TYPE, layer_type};
use super::error::ImageError;
use super::{Progress, Tell};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use oci_client::client::{Client, ClientConfig, ClientProtocol, LayerDescriptor};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::HeaderValue;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// To open a connection: a registry that is not there must not hold up a person.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte: a registry that writes a large blob to an object store answers late.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// Bytes that are handed to the connection at a time, and so the grain of the progress.
const PART: usize = 256 << 10;
/// How often the progress of one blob is told.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Characters of a registry's answer that are repeated.
const ANSWER_LEN_MAX: usize = 300;

/// A repository, and who we are there.
pub(super) struct Repository {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
    act: &'static str,
}

impl Repository {
    /// Logs in at the registry of `reference`.
    pub(super) async fn open(
        reference: Reference,
        login: &Login,
        plain_http: bool,
        operation: RegistryOperation,
    ) -> Result<Self, ImageError> {
        let registry = reference.resolve_registry().to_owned();
        let auth = login.at(&registry).await?;
        let plain = plain_http || is_loopback(&registry);
        let client = Client::new(ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("busbar/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        let act = match operation {
            RegistryOperation::Push => "push to",
            RegistryOperation::Pull => "pull from",
        };
        let this = Self { client, reference, auth, act };
        let entered = this.client.auth(&this.reference, &this.auth, operation).await;
        entered.map_err(|error| this.failed("the login", error))?;
        Ok(this)
    }

    /// Whether the tag is an image with this digest already.
    pub(super) async fn is_named(&self, digest: &str) -> bool {
        let found = self.client.fetch_manifest_digest(&self.reference, &self.auth).await;
        found.is_ok_and(|found| found == digest)
    }

    /// Whether a blob is there. A registry that does not say is asked to take it.
    async fn has(&self, digest: &str) -> Result<bool, ImageError> {
        match self.client.blob_exists(&self.reference, digest).await {
            Ok(is_there) => Ok(is_there),
            Err(OciDistributionError::RequestError(error)) if error.status().is_none() => {
                Err(self.failed("a question for a layer", error.into()))
            }
            Err(_) => Ok(false),
        }
    }

    /// Sends a blob unless it is there; gives the bytes that were sent.
    pub(super) async fn send(
        &self,
        what: &str,
        bytes: &Bytes,
        digest: &str,
        tell: Tell<'_>,
    ) -> Result<u64, ImageError> {
        let size = bytes.len() as u64;
        if self.has(digest).await? {
            tell(Progress::Present { what: what.to_owned(), bytes: size });
            return Ok(0);
        }
        let bytes = bytes.clone();
        let parts = (0..bytes.len()).step_by(PART).map(move |at| Ok(bytes.slice(at..bytes.len().min(at + PART))));
        self.transfer(what, stream::iter(parts), digest, size, tell).await
    }

    /// Brings a blob of another repository here, unless it is here; gives the bytes that went over this machine.
    pub(super) async fn copy(&self, from: &Self, blob: &Descriptor, tell: Tell<'_>) -> Result<u64, ImageError> {
        let what = "layer of the base";
        let is_same_registry = from.reference.resolve_registry() == self.reference.resolve_registry();
        let is_here = self.has(&blob.digest).await?
            // Within one registry a blob is given a second name; where that is refused, it is carried over.
            || is_same_registry && self.client.mount_blob(&self.reference, &from.reference, &blob.digest).await.is_ok();
        if is_here {
            tell(Progress::Present { what: what.to_owned(), bytes: blob.size });
            return Ok(0);
        }
        let wanted = LayerDescriptor { digest: &blob.digest, urls: &None };
        let stream = from.client.pull_blob_stream(&from.reference, &wanted).await;
        let stream = stream.map_err(|error| from.failed(what, error))?;
        let stream = stream.map(|part| part.map_err(OciDistributionError::from));
        self.transfer(what, stream, &blob.digest, blob.size, tell).await
    }

    async fn transfer(
        &self,
        what: &str,
        parts: impl Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static,
        digest: &str,
        size: u64,
        tell: Tell<'_>,
    ) -> Result<u64, ImageError> {
        let done = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&done);
        let counted = parts.inspect(move |part| {
            let bytes = part.as_ref().map_or(0, Bytes::len);
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
        });
        let told = || Progress::Send { what: what.to_owned(), done: done.load(Ordering::Relaxed), total: size };
        let mut sending = Box::pin(self.client.push_blob_stream(&self.reference, counted, digest, Some(size)));
        let mut ticks = tokio::time::interval(TELL_EVERY);
        let sent = loop {
            tokio::select! {
                sent = &mut sending => break sent,
                _ = ticks.tick() => tell(told()),
            }
        };
        tell(told());
        sent.map_err(|error| self.failed(&format!("the {what}"), error))?;
        Ok(size)
    }

    /// Gives the image its tag.
    pub(super) async fn name(&self, manifest: &[u8]) -> Result<(), ImageError> {
        let kind = HeaderValue::from_static(MANIFEST_TYPE);
        let named = self.client.push_manifest_raw(&self.reference, manifest.to_vec(), kind).await;
        named.map(|_| ()).map_err(|error| self.failed("the manifest", error))
    }

    /// The image here, to build upon.
    pub(super) async fn base(&self, written: &str) -> Result<Base, ImageError> {
        let wrong = |why: String| ImageError::Base { base: written.to_owned(), why };
        let pulled = self.client.pull_manifest_and_config(&self.reference, &self.auth).await;
        let (manifest, digest, config) = pulled.map_err(|error| self.failed("a question for the manifest", error))?;
        let config = serde_json::from_str(&config).map_err(|error| wrong(format!("its configuration: {error}")))?;
        let layers = manifest.layers.into_iter().map(|layer| {
            let size = u64::try_from(layer.size).map_err(|_| wrong(format!("layer {} has no size", layer.digest)))?;
            Ok(Descriptor { media_type: layer_type(&layer.media_type), digest: layer.digest, size })
        });
        Ok(Base { reference: written.to_owned(), digest, config, layers: layers.collect::<Result<_, ImageError>>()? })
    }

    /// What a failure of the client means to a person.
    fn failed(&self, what: &str, error: OciDistributionError) -> ImageError {
        let registry = self.reference.resolve_registry().to_owned();
        let refused = |why: String| ImageError::Refused {
            registry: registry.clone(),
            what: what.to_owned(),
            why: why.chars().take(ANSWER_LEN_MAX).collect::<String>().trim().to_owned(),
        };
        match error {
            OciDistributionError::RequestError(error) => match error.status() {
                Some(status) => self.answered(status.as_u16(), refused(format!("HTTP {status}"))),
                None => unreachable(registry, &error),
            },
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                self.answered(401, refused(String::new()))
            }
            OciDistributionError::ServerError { code, message, .. } => {
                self.answered(code, refused(format!("HTTP {code} {message}")))
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let code = match envelope.errors.first().map(|error| &error.code) {
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => 401,
                    Some(OciErrorCode::NameUnknown | OciErrorCode::ManifestUnknown | OciErrorCode::NotFound) => 404,
                    Some(OciErrorCode::Toomanyrequests) => 429,
                    _ => 400,
                };
                self.answered(code, refused(envelope.to_string()))
            }
            OciDistributionError::ImageManifestNotFoundError(why) => self.answered(404, refused(why)),
            other => refused(other.to_string()),
        }
    }

    /// What an HTTP status means; `other` where it means nothing of its own.
    fn answered(&self, status: u16, other: ImageError) -> ImageError {
        let registry = self.reference.resolve_registry().to_owned();
        let repository = self.reference.repository().to_owned();
        match status {
            401 | 403 => {
                let who = match &self.auth {
                    RegistryAuth::Basic(user, _) => format!("the user `{user}`"),
                    RegistryAuth::Anonymous | RegistryAuth::Bearer(_) => "an anonymous user".to_owned(),
                };
                ImageError::Denied { registry, repository, who, act: self.act }
            }
            404 => {
                let tag = self.reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
                ImageError::NameUnknown { registry, repository: repository + &tag }
            }
            429 => ImageError::TooManyRequests { registry },
            _ => other,
        }
    }
}

/// The deepest cause is the one that helps (`dns error`, `connection refused`, `invalid certificate`).
fn unreachable(registry: String, error: &reqwest::Error) -> ImageError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    // A certificate lists the names that it is for, at any length.
    let why: String = cause.to_string().chars().take(ANSWER_LEN_MAX).collect();
    // A TLS client that is answered in plain HTTP reads a record of a kind that there is not.
    let is_tls = ["certificate", "InvalidContentType", "corrupt message", "tls", "TLS"];
    if is_tls.iter().any(|word| why.contains(word)) {
        return ImageError::Tls { registry, why };
    }
    ImageError::Unreachable { registry, why }
}

/// Whether a registry is on this machine, where plain HTTP is the rule.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_the_rule_on_this_machine_alone() {
        for (registry, expected) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("10.0.0.1:5000", false),
            ("localhost.example", false),
            ("docker.io", false),
        ] {
            assert_eq!(is_loopback(registry), expected, "{registry}");
        }
    }
}
