//! What `--model` or a manifest names, parsed once.

use super::packaged::SMOLLM2;
use std::path::{Path, PathBuf};

/// Longest source text. A path of Linux is at most 4096 bytes.
const SOURCE_LEN_MAX: usize = 4096;
/// Longest owner, name or revision: the hub's own limit is 96 characters for each part.
const HUB_PART_LEN_MAX: usize = 96;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The default model, which a Python package carries. `asked` is the name that was written, if one was.
    Packaged {
        /// The name as written; clients will ask for the model by it.
        asked: Option<String>,
    },
    /// A file, by path.
    File(PathBuf),
    /// A folder, by path.
    Folder(PathBuf),
    /// `hf:OWNER/NAME[@REV]`: asked for by the user, so the hub may be asked.
    Hub(HubName),
    /// `OWNER/NAME` as manifests write it: this machine may or may not be able to have it.
    Named(HubName),
}

/// A repository of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// User or organisation.
    pub owner: String,
    /// Repository.
    pub name: String,
    /// Branch, tag or commit; `main` unless written.
    pub revision: String,
}

impl HubName {
    /// `OWNER/NAME`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

/// Why a source text names no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Empty, or longer than any path.
    #[error("a model is named by 1 to {SOURCE_LEN_MAX} characters, this has {length}")]
    Length {
        /// Its length in bytes.
        length: usize,
    },
    /// `hf:` with something that is no `OWNER/NAME[@REV]`.
    #[error("`{text}` is not OWNER/NAME or OWNER/NAME@REVISION")]
    HubName {
        /// What follows `hf:`.
        text: String,
    },
    /// Neither a path that exists, nor a name of the hub, nor the default model's name.
    #[error("`{text}` is no file or folder here, and no name of a model")]
    Unknown {
        /// The text.
        text: String,
    },
}

impl ModelSource {
    /// Parses what was written: nothing gives the default model; then, in this order, `hf:OWNER/NAME[@REV]`, a path
    /// that exists below `working_folder` or absolutely, a path by its shape (`/…`, `./…`, `~/…` is the shell's,
    /// `….gguf`), the default model's names, `OWNER/NAME`.
    ///
    /// # Errors
    /// [`SourceError`] where it is none of these.
    pub fn parse(text: Option<&str>, working_folder: &Path) -> Result<ModelSource, SourceError> {
        let Some(text) = text else { return Ok(ModelSource::Packaged { asked: None }) };
        if text.is_empty() || text.len() > SOURCE_LEN_MAX {
            return Err(SourceError::Length { length: text.len() });
        }
        if let Some(name) = text.strip_prefix("hf:") {
            let name = name.strip_prefix("//").unwrap_or(name);
            return parse_hub_name(name)
                .map(ModelSource::Hub)
                .ok_or_else(|| SourceError::HubName { text: name.to_owned() });
        }
        let path = working_folder.join(text);
        if path.is_dir() {
            return Ok(ModelSource::Folder(path));
        }
        if path.exists() || looks_like_a_path(text) {
            return Ok(if text.ends_with('/') { ModelSource::Folder(path) } else { ModelSource::File(path) });
        }
        if SMOLLM2.answers_to(text) {
            return Ok(ModelSource::Packaged { asked: Some(text.to_owned()) });
        }
        parse_hub_name(text).map(ModelSource::Named).ok_or_else(|| SourceError::Unknown { text: text.to_owned() })
    }
}

fn looks_like_a_path(text: &str) -> bool {
    text.starts_with('/')
        || text.starts_with("./")
        || text.starts_with("../")
        || text.to_ascii_lowercase().ends_with(".gguf")
        || text.matches('/').count() > 1
}

fn parse_hub_name(text: &str) -> Option<HubName> {
    let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
    let (owner, name) = repository.split_once('/')?;
    let good = |part: &str, more: &str| {
        !part.is_empty()
            && part.len() <= HUB_PART_LEN_MAX
            && !part.starts_with('.')
            && !part.contains("..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || more.contains(c))
    };
    (good(owner, "") && good(name, "") && good(revision, "/") && !revision.starts_with('/')).then(|| HubName {
        owner: owner.to_owned(),
        name: name.to_owned(),
        revision: revision.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(owner: &str, name: &str, revision: &str) -> HubName {
        HubName { owner: owner.into(), name: name.into(), revision: revision.into() }
    }

    #[test]
    fn what_is_written_decides_where_the_model_comes_from() {
        let here = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(here.path().join("models/qwen")).expect("a folder");
        std::fs::write(here.path().join("tiny.bin"), b"GGUF").expect("a file");
        let at = |text: &str| here.path().join(text);
        let named = |o, n, r| ModelSource::Named(hub(o, n, r));
        for (text, meant) in [
            ("models/qwen", ModelSource::Folder(at("models/qwen"))),
            ("tiny.bin", ModelSource::File(at("tiny.bin"))),
            ("not-there.gguf", ModelSource::File(at("not-there.gguf"))),
            ("/not/there", ModelSource::File("/not/there".into())),
            ("./not-there/", ModelSource::Folder(at("./not-there/"))),
            ("smollm2", ModelSource::Packaged { asked: Some("smollm2".into()) }),
            (
                "HuggingFaceTB/SmolLM2-135M-Instruct",
                ModelSource::Packaged { asked: Some("HuggingFaceTB/SmolLM2-135M-Instruct".into()) },
            ),
            ("Qwen/Qwen3-0.6B", named("Qwen", "Qwen3-0.6B", "main")),
            ("hf:Qwen/Qwen3-0.6B", ModelSource::Hub(hub("Qwen", "Qwen3-0.6B", "main"))),
            ("hf://Qwen/Qwen3-0.6B@refs/pr/1", ModelSource::Hub(hub("Qwen", "Qwen3-0.6B", "refs/pr/1"))),
        ] {
            assert_eq!(ModelSource::parse(Some(text), here.path()), Ok(meant), "{text}");
        }
        assert_eq!(ModelSource::parse(None, here.path()), Ok(ModelSource::Packaged { asked: None }));
    }

    #[test]
    fn a_text_that_names_no_model_is_an_error_that_repeats_it() {
        let nowhere = Path::new("/nonexistent");
        for text in ["hf:Qwen", "hf:../x", "hf:a/b@", "hf:a/b@../c", "hf:a/..", "llama", "a b/c", "hf:"] {
            let error = ModelSource::parse(Some(text), nowhere).expect_err(text);
            assert!(error.to_string().contains(text.trim_start_matches("hf:")), "{text}: {error}");
        }
        assert_eq!(ModelSource::parse(Some(""), nowhere), Err(SourceError::Length { length: 0 }));
    }
}
