//! One layer: files in the order of their names, without time and without the packer's name, compressed.

use super::error::ImageError;
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Who owns what a layer holds.
const ROOT: u64 = 0;

/// What stands at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A folder with this mode, of this user and group.
    Folder {
        /// Permission bits.
        mode: u32,
        /// User and group, by number.
        owner: u64,
    },
    /// A file of root's.
    File {
        /// Permission bits.
        mode: u32,
        /// Contents.
        bytes: bytes::Bytes,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        to: String,
    },
}

/// The contents of a layer, by path without a leading slash.
pub(super) type Entries = BTreeMap<String, Entry>;

/// A layer, compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// What it holds, for people.
    pub(super) name: &'static str,
    /// `sha256:…` of the archive before compression.
    pub(super) diff_id: String,
    /// `sha256:…` of what is pushed.
    pub(super) digest: String,
    /// What is pushed.
    pub(super) bytes: bytes::Bytes,
}

impl Layer {
    /// Packs `entries`. The same entries give the same bytes.
    pub(super) fn pack(name: &'static str, entries: &Entries) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Pack { what: name, source };
        let compressed = GzEncoder::new(Hashing::new(Vec::new()), Compression::default());
        let mut archive = tar::Builder::new(Hashing::new(compressed));
        for (path, entry) in entries {
            append(&mut archive, path, entry).map_err(failed)?;
        }
        let plain = archive.into_inner().map_err(failed)?;
        let (compressed, diff_id) = plain.finish();
        let (bytes, digest) = compressed.finish().map_err(failed)?.finish();
        Ok(Self { name, diff_id, digest, bytes: bytes.into() })
    }
}

/// Appends one entry. Modification time is the beginning of 1970.
fn append<W: Write>(archive: &mut tar::Builder<W>, path: &str, entry: &Entry) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(ROOT);
    header.set_gid(ROOT);
    header.set_size(0);
    match entry {
        Entry::Folder { mode, owner } => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            header.set_uid(*owner);
            header.set_gid(*owner);
            archive.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Entry::File { mode, bytes } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, bytes.as_ref())
        }
        Entry::Link { to } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, path, to)
        }
    }
}

/// `sha256:…` of some bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    named(&Sha256::digest(bytes))
}

fn named(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// A writer that hashes what goes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    fn finish(self) -> (W, String) {
        (self.inner, named(&self.hash.finalize()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn entries() -> Entries {
        Entries::from([
            ("usr/bin/b".into(), Entry::File { mode: 0o755, bytes: bytes::Bytes::from_static(b"program") }),
            ("usr/bin/a".into(), Entry::Link { to: "/usr/bin/b".into() }),
            ("tmp".into(), Entry::Folder { mode: 0o1777, owner: 0 }),
        ])
    }

    #[test]
    fn the_same_files_give_the_same_layer_and_its_digests_are_those_of_its_bytes() {
        let (first, second) = (Layer::pack("x", &entries()).unwrap(), Layer::pack("x", &entries()).unwrap());
        assert_eq!(first, second);
        assert_eq!(first.digest, digest(&first.bytes));
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(first.bytes.as_ref()).read_to_end(&mut plain).unwrap();
        assert_eq!(first.diff_id, digest(&plain));
    }

    #[test]
    fn entries_come_sorted_with_their_kinds_and_without_a_time() {
        let layer = Layer::pack("x", &entries()).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.bytes.as_ref()));
        let seen: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                (path, header.entry_type(), header.mode().unwrap(), header.mtime().unwrap())
            })
            .collect();
        let expected = [
            ("tmp/".to_owned(), tar::EntryType::Directory, 0o1777, 0),
            ("usr/bin/a".to_owned(), tar::EntryType::Symlink, 0o777, 0),
            ("usr/bin/b".to_owned(), tar::EntryType::Regular, 0o755, 0),
        ];
        assert_eq!(seen, expected);
    }
}
