//! Which of a repository's files an engine needs.

use super::HubError;
use super::listing::{Listing, RepositoryFile};
use crate::model::fits::EngineKind;

/// GGUF types from the best choice to the last. Q8_0 first: ggml repacks it on CPUs and it keeps the answers; the
/// sizes below Q4 lose too much of a small model and come after the unquantised ones.
const GGUF_PREFERENCE: [&str; 15] = [
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "BF16",
    "F16", "Q3_K_M",
];
/// What a frontend and vLLM read besides the weights, where a repository has it.
const SIDE_FILES: [&str; 12] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "preprocessor_config.json",
];

/// The folder of a snapshot for `engine`: what one engine fetched must not look whole to another.
pub(super) fn folder(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Embedded => "gguf",
        EngineKind::Vllm => "safetensors",
        EngineKind::Mock => "tokenizer",
    }
}

/// The files that `engine` needs, small ones first so that a mistake shows before gigabytes are fetched.
pub(super) fn files(listing: &Listing, engine: EngineKind) -> Result<Vec<RepositoryFile>, HubError> {
    let side = || listing.files.iter().filter(|file| SIDE_FILES.contains(&file.path.as_str())).cloned();
    let is_safetensors = |file: &&RepositoryFile| {
        !file.path.contains('/')
            && (file.path.ends_with(".safetensors") || file.path.ends_with(".safetensors.index.json"))
    };
    let gguf = best_gguf(listing.files.iter().map(|file| (file.path.clone(), file)));
    let has = |name: &str| listing.files.iter().any(|file| file.path == name);
    let no = |needs| Err(HubError::NoFormat { has: formats(listing), engine: engine.name(), needs });
    let mut picked: Vec<RepositoryFile> = match engine {
        EngineKind::Embedded => match gguf {
            None => return no("a GGUF file"),
            Some(gguf) => side().chain([gguf.clone()]).collect(),
        },
        EngineKind::Vllm => {
            let weights: Vec<_> = listing.files.iter().filter(is_safetensors).cloned().collect();
            if weights.is_empty() || !has("config.json") {
                return no("config.json and safetensors");
            }
            side().chain(weights).collect()
        }
        EngineKind::Mock => {
            if !["config.json", "tokenizer.json", "tokenizer_config.json"].iter().all(|name| has(name)) {
                return no("config.json, tokenizer.json and tokenizer_config.json");
            }
            side().collect()
        }
    };
    picked.sort_by_key(|file| file.size);
    Ok(picked)
}

/// The GGUF to load among several, by name: the preferred type; parts of a split model, vision projectors and
/// importance matrices are none.
pub(in crate::model) fn best_gguf<T>(named: impl Iterator<Item = (String, T)>) -> Option<T> {
    named
        .filter_map(|(name, item)| {
            let name = name.to_ascii_uppercase();
            let is_model = name.ends_with(".GGUF")
                && !name.contains("-OF-")
                && !["MMPROJ", "IMATRIX"].iter().any(|part| name.contains(part));
            is_model.then_some(())?;
            let has_type = |kind: &str| name.split(['.', '-', '/']).any(|part| part == kind);
            let rank = GGUF_PREFERENCE.iter().position(|kind| has_type(kind)).unwrap_or(GGUF_PREFERENCE.len());
            Some((rank, name, item))
        })
        .min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)))
        .map(|(_, _, item)| item)
}

fn formats(listing: &Listing) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for (ending, name) in [(".gguf", "GGUF"), (".safetensors", "safetensors"), (".bin", "PyTorch files")] {
        if listing.files.iter().any(|file| file.path.ends_with(ending)) {
            kinds.push(name);
        }
    }
    if kinds.is_empty() { "no weights".into() } else { kinds.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(files: &[&str]) -> Listing {
        let of =
            |(at, path): (usize, &&str)| RepositoryFile { path: (*path).into(), size: 100 - at as u64, sha256: None };
        Listing { commit: String::new(), files: files.iter().enumerate().map(of).collect() }
    }

    fn picked(files_there: &[&str], engine: EngineKind) -> Result<Vec<String>, String> {
        files(&listing(files_there), engine)
            .map(|files| files.into_iter().rev().map(|file| file.path).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_preferred_gguf_is_taken_and_parts_of_models_are_not() {
        let best = |names: &[&'static str]| best_gguf(names.iter().map(|name| ((*name).to_owned(), *name)));
        assert_eq!(best(&["m-Q4_K_M.gguf", "m-q8_0.gguf", "m.F16.gguf"]), Some("m-q8_0.gguf"));
        assert_eq!(best(&["m-Q2_K.gguf", "m-Q4_K_M.gguf"]), Some("m-Q4_K_M.gguf"));
        assert_eq!(best(&["m-Q8_0-00001-of-00002.gguf", "mmproj-Q8_0.gguf", "m-Q4_0.gguf"]), Some("m-Q4_0.gguf"));
        assert_eq!(best(&["only.gguf"]), Some("only.gguf"));
        assert_eq!(best(&["mmproj-F16.gguf", "m.bin"]), None);
    }

    #[test]
    fn an_engine_gets_what_it_can_load_or_is_told_what_there_is() {
        let layout = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"];
        assert_eq!(picked(&layout, EngineKind::Vllm).expect("all there"), &layout[..4]);
        assert_eq!(picked(&layout, EngineKind::Mock).expect("all there"), &layout[..3]);
        let error = picked(&layout, EngineKind::Embedded).expect_err("no GGUF");
        assert_eq!(error, "the repository has safetensors, the embedded engine needs a GGUF file");
        assert!(picked(&["m-Q8_0.gguf"], EngineKind::Vllm).expect_err("no safetensors").contains("has GGUF"));
    }
}
