//! Notices when someone changes the Secret, a registration or a definition: one watch an object, by its name.

use super::WebhookConfig;
use super::registration;
use futures::stream::{BoxStream, SelectAll, StreamExt};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A change; which one does not matter, a round looks at all of it.
pub(super) type Changes = SelectAll<BoxStream<'static, ()>>;

/// Changes of all that [`super::serve`] keeps. Only metadata is watched: a definition's schema is half a megabyte.
pub(super) fn changes(client: &Client, config: &WebhookConfig) -> Changes {
    let mut all = Changes::new();
    all.push(named(
        Api::<PartialObjectMeta<Secret>>::namespaced(client.clone(), &config.k8s_namespace),
        &config.secret,
    ));
    all.push(named(
        Api::<PartialObjectMeta<ValidatingWebhookConfiguration>>::all(client.clone()),
        &registration::validating(config),
    ));
    all.push(named(
        Api::<PartialObjectMeta<MutatingWebhookConfiguration>>::all(client.clone()),
        &registration::mutating(config),
    ));
    for name in registration::converted() {
        all.push(named(Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone()), &name));
    }
    all
}

fn named<K>(api: Api<PartialObjectMeta<K>>, name: &str) -> BoxStream<'static, ()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    // A watch that is refused is tried again, ever more slowly; until then the regular look is what there is.
    let events = watcher(api, config).default_backoff();
    events.filter_map(|event| async move { event.ok().map(|_| ()) }).boxed()
}

/// Waits for a change, and takes all that have come with it.
pub(super) async fn next(changes: &mut Changes) {
    if changes.next().await.is_none() {
        std::future::pending::<()>().await;
    }
    while let Some(Some(())) = futures::FutureExt::now_or_never(changes.next()) {}
}
