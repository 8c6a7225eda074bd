//! The list of a repository's files, as the hub gives it, checked.

use serde::Deserialize;

/// Files in one repository that are believed.
const FILES_MAX: usize = 20_000;
/// Bytes of a path in a repository.
const PATH_LEN_MAX: usize = 1024;

/// A repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    /// The commit that the revision means now.
    pub(super) commit: String,
    pub(super) files: Vec<RepositoryFile>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepositoryFile {
    /// Relative path; stays inside its folder.
    pub(super) path: String,
    /// Bytes.
    pub(super) size: u64,
    /// Lower-case hex; large files have it, small ones do not.
    pub(super) sha256: Option<String>,
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    siblings: Vec<RawFile>,
}

#[derive(Deserialize)]
struct RawFile {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<RawLfs>,
}

#[derive(Deserialize)]
struct RawLfs {
    #[serde(default, alias = "oid")]
    sha256: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

impl Listing {
    /// Parses the hub's JSON. The text of an error says what is wrong.
    pub(super) fn parse(json: &[u8]) -> Result<Listing, String> {
        let raw: RawListing = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let is_hex = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hex(&raw.sha, 40) {
            return Err(format!("`sha` is {:?}, which is no commit", raw.sha));
        }
        if raw.siblings.len() > FILES_MAX {
            return Err(format!("it lists {} files, the limit is {FILES_MAX}", raw.siblings.len()));
        }
        let mut files = Vec::with_capacity(raw.siblings.len());
        for file in raw.siblings {
            if !is_safe(&file.rfilename) {
                return Err(format!("a file is named {:?}", file.rfilename));
            }
            let (lfs_size, sha256) = file.lfs.map_or((None, None), |lfs| (lfs.size, lfs.sha256));
            let sha256 = sha256.map(|text| text.trim_start_matches("sha256:").to_ascii_lowercase());
            if let Some(bad) = sha256.as_deref().filter(|text| !is_hex(text, 64)) {
                return Err(format!("`{}` has the sha256 {bad:?}", file.rfilename));
            }
            // Without a size the file is no blob that could be fetched.
            if let Some(size) = lfs_size.or(file.size) {
                files.push(RepositoryFile { path: file.rfilename, size, sha256 });
            }
        }
        Ok(Listing { commit: raw.sha, files })
    }
}

/// Whether a path stays inside the folder it is joined to.
fn is_safe(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_LEN_MAX
        && !path.contains(['\\', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_listing_gives_sizes_and_checksums() {
        let sum = "AB".repeat(32);
        let json = format!(
            r#"{{"sha":"{COMMIT}","private":false,"siblings":[
                {{"rfilename":"config.json","size":7,"blobId":"x"}},
                {{"rfilename":"sub/m.gguf","size":9,"lfs":{{"sha256":"{sum}","size":9,"pointerSize":3}}}},
                {{"rfilename":"no-size"}}]}}"#
        );
        let file = |path: &str, size, sha256| RepositoryFile { path: path.into(), size, sha256 };
        let files = vec![file("config.json", 7, None), file("sub/m.gguf", 9, Some("ab".repeat(32)))];
        assert_eq!(Listing::parse(json.as_bytes()), Ok(Listing { commit: COMMIT.into(), files }));
    }

    #[test]
    fn a_file_name_that_leaves_its_folder_is_refused() {
        for name in ["../x", "/etc/passwd", "a//b", "a/../b", "", "a\\\\b"] {
            let json = format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"{name}","size":1}}]}}"#);
            assert!(Listing::parse(json.as_bytes()).is_err(), "{name}");
        }
        assert!(Listing::parse(br#"{"sha":"../..","siblings":[]}"#).is_err());
    }
}
