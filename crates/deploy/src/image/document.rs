//! The two JSON documents of an image: what to run, and which blobs it is made of.
//!
//! Source: OCI image specification 1.1, "Image Configuration" and "Image Manifest".

use super::contents::{Contents, HOME, NAMES_FOLDER, PROGRAM, USER, WORKING_FOLDER};
use super::error::ImageError;
use super::layer::{Layer, digest};
use serde_json::{Value, json};

/// Media type of the configuration.
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of the manifest.
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of our layers.
pub(super) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Docker's media type of the same.
const DOCKER_LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Time of everything in an image: the same bytes on every day.
const BEGINNING: &str = "1970-01-01T00:00:00Z";
/// Where programs are looked for, without a base.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A blob that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
}

/// An image without its layers.
#[derive(Debug)]
pub(super) struct Documents {
    /// Bytes of the configuration.
    pub(super) config: Vec<u8>,
    /// Bytes of the manifest.
    pub(super) manifest: Vec<u8>,
    /// `sha256:…` of the manifest: the image's name that never moves.
    pub(super) digest: String,
}

/// An image that ours lies on.
#[derive(Clone, Debug)]
pub(super) struct Base {
    /// As it was named.
    pub(super) reference: String,
    /// Its manifest's digest.
    pub(super) digest: String,
    /// Its configuration.
    pub(super) config: Value,
    /// Its layers, lowest first.
    pub(super) layers: Vec<Descriptor>,
}

impl Documents {
    /// Writes both documents; with a base, its layers lie below ours.
    ///
    /// # Errors
    /// [`ImageError::Base`] where the base is for another machine, or its configuration has another form.
    pub(super) fn of(contents: &Contents, base: Option<&Base>) -> Result<Self, ImageError> {
        let layers = [&contents.libraries, &contents.program];
        let config = match base {
            None => own_config(contents.architecture, layers),
            Some(base) => config_on(base, contents.architecture, layers)?,
        };
        let config = config.to_string().into_bytes();
        let below = base.map(|base| base.layers.as_slice()).unwrap_or_default();
        let described = layers.map(|layer| Descriptor {
            media_type: LAYER_TYPE.to_owned(),
            digest: layer.digest.clone(),
            size: layer.bytes.len() as u64,
        });
        let all: Vec<Value> = below.iter().chain(&described).map(describe).collect();
        let config_blob =
            Descriptor { media_type: CONFIG_TYPE.to_owned(), digest: digest(&config), size: config.len() as u64 };
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": describe(&config_blob), "layers": all,
        });
        if let Some(base) = base {
            manifest["annotations"] = json!({
                "org.opencontainers.image.base.name": base.reference,
                "org.opencontainers.image.base.digest": base.digest,
            });
        }
        let manifest = manifest.to_string().into_bytes();
        let digest = digest(&manifest);
        Ok(Self { config, manifest, digest })
    }
}

fn describe(blob: &Descriptor) -> Value {
    json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size})
}

fn labels() -> Value {
    json!({
        "org.opencontainers.image.title": "busbar",
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        "org.opencontainers.image.licenses": "Apache-2.0",
    })
}

fn history(layer: &Layer) -> Value {
    json!({"created": BEGINNING, "created_by": format!("busbar image: {}", layer.name)})
}

fn own_config(architecture: &str, layers: [&Layer; 2]) -> Value {
    json!({
        "created": BEGINNING,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "WorkingDir": WORKING_FOLDER,
            "Entrypoint": [PROGRAM],
            "Env": [format!("PATH={PATH}"), format!("HOME={HOME}"), "USER=busbar"],
            "Labels": labels(),
        },
        "rootfs": {"type": "layers", "diff_ids": layers.map(|layer| layer.diff_id.clone())},
        "history": layers.map(history),
    })
}

/// The base's configuration with ours laid over it.
fn config_on(base: &Base, architecture: &str, layers: [&Layer; 2]) -> Result<Value, ImageError> {
    let wrong = |why: &str| ImageError::Base { base: base.reference.clone(), why: why.to_owned() };
    let mut config = base.config.clone();
    match config.get("architecture").and_then(Value::as_str) {
        Some(found) if found == architecture => {}
        found => {
            return Err(wrong(&format!("it is for {}, the binary for {architecture}", found.unwrap_or("nothing"))));
        }
    }
    let ids = config.pointer_mut("/rootfs/diff_ids").and_then(Value::as_array_mut);
    let ids = ids.filter(|ids| ids.len() == base.layers.len());
    let ids = ids.ok_or_else(|| wrong("its configuration does not list its layers"))?;
    ids.extend(layers.map(|layer| layer.diff_id.clone().into()));
    config["created"] = BEGINNING.into();
    if let Some(steps) = config.get_mut("history").and_then(Value::as_array_mut) {
        steps.extend(layers.map(history));
    }
    if !config["config"].is_object() {
        config["config"] = json!({});
    }
    let run = &mut config["config"];
    run["User"] = format!("{USER}:{USER}").into();
    run["WorkingDir"] = WORKING_FOLDER.into();
    run["Entrypoint"] = json!([PROGRAM]);
    run["Cmd"] = Value::Null;
    let theirs = run["Env"].as_array().cloned().unwrap_or_default();
    run["Env"] = environment_on(&theirs).into();
    if !run["Labels"].is_object() {
        run["Labels"] = json!({});
    }
    if let (Some(all), Value::Object(ours)) = (run["Labels"].as_object_mut(), labels()) {
        all.extend(ours);
    }
    Ok(config)
}

/// A base's variables: our names first in its PATH, and a home of the user that it does not know.
fn environment_on(theirs: &[Value]) -> Vec<Value> {
    let texts = theirs.iter().filter_map(Value::as_str);
    let path = texts.clone().find_map(|text| text.strip_prefix("PATH=")).unwrap_or(PATH);
    let kept = texts.filter(|text| !["PATH=", "HOME=", "USER="].iter().any(|name| text.starts_with(name)));
    let mut all: Vec<Value> = vec![format!("PATH={NAMES_FOLDER}:{path}").into()];
    all.extend(kept.map(Value::from));
    all.extend([format!("HOME={HOME}").into(), "USER=busbar".into()]);
    all
}

/// Our word for a base's layer: Docker's and OCI's compressed layers have the same bytes.
pub(super) fn layer_type(theirs: &str) -> String {
    if theirs == DOCKER_LAYER_TYPE { LAYER_TYPE.to_owned() } else { theirs.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let layer = |name: &'static str| Layer {
            name,
            diff_id: format!("sha256:{name}-plain"),
            digest: format!("sha256:{name}"),
            bytes: name.into(),
        };
        Contents { libraries: layer("libraries"), program: layer("binary"), architecture: "amd64", certificates: None }
    }

    fn base(config: Value) -> Base {
        let layer = Descriptor { media_type: layer_type(DOCKER_LAYER_TYPE), digest: "sha256:b".into(), size: 7 };
        Base { reference: "vllm/vllm-openai:x".into(), digest: "sha256:m".into(), config, layers: vec![layer] }
    }

    fn parsed(documents: &Documents) -> (Value, Value) {
        (serde_json::from_slice(&documents.config).unwrap(), serde_json::from_slice(&documents.manifest).unwrap())
    }

    #[test]
    fn the_image_runs_as_its_user_in_its_working_folder() {
        let documents = Documents::of(&contents(), None).unwrap();
        let (config, manifest) = parsed(&documents);
        assert_eq!(config["config"]["User"], "1000:1000");
        assert_eq!(config["config"]["WorkingDir"], "/workspace");
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/busbar"]));
        assert_eq!(config["rootfs"]["diff_ids"], json!(["sha256:libraries-plain", "sha256:binary-plain"]));
        assert_eq!(manifest["config"]["digest"], digest(&documents.config));
        assert_eq!(manifest["layers"][1], json!({"mediaType": LAYER_TYPE, "digest": "sha256:binary", "size": 6}));
        assert_eq!(documents.digest, digest(&documents.manifest));
    }

    #[test]
    fn a_base_keeps_what_it_sets_and_gets_our_names_before_its_own() {
        let base = base(json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:b-plain"]},
            "config": {"Entrypoint": ["vllm", "serve"], "Cmd": ["x"], "Env": ["PATH=/opt/venv/bin:/usr/bin", "CUDA=13"]},
            "history": [{"created_by": "theirs"}],
        }));
        let (config, manifest) = parsed(&Documents::of(&contents(), Some(&base)).unwrap());
        let expected =
            ["PATH=/usr/lib/busbar/bin:/opt/venv/bin:/usr/bin", "CUDA=13", "HOME=/home/busbar", "USER=busbar"];
        assert_eq!(config["config"]["Env"], json!(expected));
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/busbar"]));
        assert_eq!(config["config"]["Cmd"], Value::Null);
        assert_eq!(config["history"].as_array().unwrap().len(), 3);
        let ids = ["sha256:b-plain", "sha256:libraries-plain", "sha256:binary-plain"];
        assert_eq!(config["rootfs"]["diff_ids"], json!(ids));
        assert_eq!(manifest["layers"][0], json!({"mediaType": LAYER_TYPE, "digest": "sha256:b", "size": 7}));
        assert_eq!(manifest["annotations"]["org.opencontainers.image.base.digest"], "sha256:m");
    }

    #[test]
    fn a_base_for_another_machine_or_without_its_layers_is_refused() {
        for (config, part) in [
            (json!({"architecture": "arm64", "rootfs": {"diff_ids": ["x"]}}), "for arm64"),
            (json!({"rootfs": {"diff_ids": ["x"]}}), "for nothing"),
            (json!({"architecture": "amd64", "rootfs": {"diff_ids": []}}), "does not list its layers"),
        ] {
            let error = Documents::of(&contents(), Some(&base(config))).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("vllm/vllm-openai:x"), "{error}");
        }
    }
}
