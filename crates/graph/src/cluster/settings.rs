//! What the operator was told, as far as rendering depends on it.

use std::collections::BTreeMap;

/// Where workers and frontends find each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiscoveryBackend {
    /// EndpointSlices and DynamoWorkerMetadata; needs no other service.
    #[default]
    Kubernetes,
    /// etcd, at [`Settings::etcd_endpoints`].
    Etcd,
}

impl DiscoveryBackend {
    /// The word in flags, annotations and labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Etcd => "etcd",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "kubernetes" => Some(Self::Kubernetes),
            "etcd" => Some(Self::Etcd),
            _ => None,
        }
    }
}

/// What the operator was told. `Default` is Kubernetes discovery and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Discovery of every component whose graph does not say otherwise.
    pub discovery_backend: DiscoveryBackend,
    /// `nats://host:4222`; becomes `NATS_SERVER`.
    pub nats_address: Option<String>,
    /// `http://host:2379`; joined by commas they become `ETCD_ENDPOINTS`.
    pub etcd_endpoints: Vec<String>,
    /// Becomes `PROMETHEUS_ENDPOINT`.
    pub prometheus_endpoint: Option<String>,
    /// Becomes `MODEL_EXPRESS_URL`.
    pub model_express_url: Option<String>,
    /// Prefix of an image reference to what stands in its place; the longest prefix that fits wins.
    pub image_map: Vec<(String, String)>,
    /// Defaults of ingresses.
    pub ingress: IngressSettings,
    /// Image of a frontend whose manifest gives none.
    pub frontend_image: Option<String>,
    /// Image pull secrets of the graph's Kubernetes namespace by registry host ([`super::registry_host`]).
    pub image_pull_secrets: BTreeMap<String, Vec<String>>,
}

/// Defaults of ingresses. A class alone gives every frontend an ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressSettings {
    /// Class of the ingress controller.
    pub class: Option<String>,
    /// Host names end in it; `local` when absent.
    pub host_suffix: Option<String>,
    /// Secret with certificate and key.
    pub tls_secret: Option<String>,
}

impl Settings {
    /// `image` with the longest mapped prefix replaced; a prefix ends at the reference's end or before `/`, `:` or `@`,
    /// or is written with such an end itself.
    pub(super) fn mapped_image(&self, image: &str) -> String {
        let fits = |from: &str| {
            image.strip_prefix(from).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with(['/', ':', '@']) || from.ends_with(['/', ':', '@'])
            })
        };
        let mapping = self.image_map.iter().filter(|(from, _)| !from.is_empty() && fits(from));
        match mapping.max_by_key(|(from, _)| from.len()) {
            Some((from, to)) => format!("{to}{}", &image[from.len()..]),
            None => image.to_owned(),
        }
    }
}
