//! Model files that frontends fetch over HTTP: tokenizer, config, template.
//!
//! Only files that were published by name are served. No request's text ever becomes a file path, so there is nothing
//! to traverse.

use bytes::Bytes;
use futures::Stream;
use parking_lot::RwLock;
use protocol::ids::EndpointId;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Published files, by URL path.
#[derive(Clone, Debug, Default)]
pub struct MetadataFiles(Arc<RwLock<BTreeMap<String, PathBuf>>>);

impl MetadataFiles {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes a file for an endpoint's model, and returns its URL path:
    /// `/v1/metadata/{ns}/{comp}/{ep}/{slug}/{suffix}/{file}`. `suffix` is `_base`, or that of a LoRA adapter.
    /// `None` when the path has no file name in UTF-8.
    pub fn publish(&self, endpoint: &EndpointId, slug: &str, suffix: &str, path: PathBuf) -> Option<String> {
        let file = path.file_name()?.to_str()?;
        let EndpointId { namespace, component, name } = endpoint;
        let parts = [namespace, component, name, slug, suffix, file].map(segment).join("/");
        let url = format!("/v1/metadata/{parts}");
        self.0.write().insert(url.clone(), path);
        Some(url)
    }

    pub(super) fn path_of(&self, url: &str) -> Option<PathBuf> {
        self.0.read().get(url).cloned()
    }
}

/// A segment of a URL path: everything but RFC 3986's unreserved characters as `%XX`.
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The file's length and its content in chunks.
pub(super) async fn open(path: &Path) -> io::Result<(u64, impl Stream<Item = io::Result<Bytes>> + Send + 'static)> {
    let file = File::open(path).await?;
    let bytes = file.metadata().await?.len();
    // Not a byte beyond the length that was told, should the file grow.
    let content = futures::stream::try_unfold(file.take(bytes), |mut file| async move {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await?;
        Ok((read > 0).then(|| (Bytes::from(chunk), file)))
    });
    Ok((bytes, content))
}
