//! An image as one file: an OCI layout in a tar, which `ctr images import`, `podman load` and `skopeo` read.
//!
//! Source: OCI image specification 1.1, "Image Layout".

use super::contents::Contents;
use super::document::{Documents, MANIFEST_TYPE};
use super::error::ImageError;
use super::layer::digest;
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes the image under `name` to `file`, whole or not at all.
pub(super) fn write(
    file: &Path,
    name: &str,
    tag: &str,
    contents: &Contents,
    documents: &Documents,
) -> Result<u64, ImageError> {
    let failed = |source| ImageError::Write { path: file.to_owned(), source };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": MANIFEST_TYPE,
            "digest": documents.digest,
            "size": documents.manifest.len(),
            "platform": {"architecture": contents.architecture, "os": "linux"},
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
        }],
    });
    let index = index.to_string();
    let config_digest = digest(&documents.config);
    let mut parts: Vec<(String, &[u8])> =
        vec![("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json".into(), index.as_bytes())];
    let blobs: [(&str, &[u8]); 4] = [
        (&documents.digest, &documents.manifest),
        (&config_digest, &documents.config),
        (&contents.libraries.digest, &contents.libraries.bytes),
        (&contents.program.digest, &contents.program.bytes),
    ];
    parts.extend(blobs.map(|(digest, bytes)| (format!("blobs/{}", digest.replacen(':', "/", 1)), bytes)));
    let partial = file.with_added_extension("part");
    let mut archive = tar::Builder::new(BufWriter::new(File::create(&partial).map_err(failed)?));
    for (path, bytes) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.set_mtime(0);
        archive.append_data(&mut header, path, bytes).map_err(failed)?;
    }
    let mut out = archive.into_inner().map_err(failed)?;
    out.flush().map_err(failed)?;
    let size = out.get_ref().metadata().map_err(failed)?.len();
    std::fs::rename(&partial, file).map_err(failed)?;
    Ok(size)
}
