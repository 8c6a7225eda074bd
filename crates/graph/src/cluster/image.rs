//! Image references.

/// Registry of references that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Host of the registry that an image comes from, as keys of [`super::Settings::image_pull_secrets`] have it:
/// `nvcr.io` for `nvcr.io/nvidia/x:1`, `docker.io` for `busybox`, `localhost:5000` for `localhost:5000/x`.
///
/// A server out of a Secret's `.dockerconfigjson`, such as `https://index.docker.io/v1/`, gives its host too.
pub fn registry_host(image: &str) -> String {
    let has_scheme = image.contains("://");
    let rest = image.split_once("://").map_or(image, |(_, rest)| rest);
    let host = match rest.split_once('/') {
        Some((first, _)) if has_scheme || first.contains(['.', ':']) || first == "localhost" => first,
        None if has_scheme => rest,
        // A server without scheme and path has a dot and no tag; `name:tag` is an image of the default registry.
        None if rest.contains('.') && !rest.contains(':') => rest,
        _ => DEFAULT_REGISTRY,
    };
    match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DEFAULT_REGISTRY.to_owned(),
        host => host.to_lowercase(),
    }
}

/// The tag of a reference; none when it has none or is named by digest alone.
pub(super) fn tag(image: &str) -> Option<&str> {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once(':').map(|(_, tag)| tag)
}

/// Whether a tag begins with MAJOR.MINOR.PATCH, `v` before it or not.
pub(super) fn has_version(tag: &str) -> bool {
    let tag = tag.strip_prefix('v').unwrap_or(tag);
    let core = tag.split(['-', '+']).next().unwrap_or(tag);
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}
