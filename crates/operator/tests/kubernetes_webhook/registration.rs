//! The API server always knows where to ask and whom to trust.

use crate::stage::{STAGE, alone_on_stage, create, fixture, graphs, on_stage, serves, until};
use crds::definition::ConversionService;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use operator::certificate::{Material, renew};
use operator::install::{self, Outcome};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

const GRAPHS: &str = "dynamographdeployments.nvidia.com";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn definitions() -> Api<CustomResourceDefinition> {
    Api::all(STAGE.client.clone())
}

async fn conversion() -> Value {
    let definition = definitions().get(GRAPHS).await.unwrap();
    serde_json::to_value(definition.spec.conversion.unwrap()).unwrap()
}

fn secrets() -> Api<Secret> {
    Api::namespaced(STAGE.client.clone(), &STAGE.config.k8s_namespace)
}

async fn material() -> Option<Material> {
    let data = secrets().get_opt(&STAGE.config.secret).await.unwrap()?.data?;
    let text = |key: &str| Some(String::from_utf8(data.get(key)?.0.clone()).unwrap());
    Some(Material {
        bundle: text("ca.crt")?,
        authority_key: text("ca.key")?,
        certificate: text("tls.crt")?,
        key: text("tls.key")?,
    })
}

#[test]
fn the_definitions_can_be_applied_again_and_keep_the_authority() {
    assert_eq!(STAGE.first_install.len(), 6);
    alone_on_stage(async {
        let before = conversion().await;
        assert!(before["webhook"]["clientConfig"]["caBundle"].is_string(), "{before}");
        let mut outcomes = Vec::new();
        install::apply(&STAGE.client, &ConversionService::default(), |_, outcome| outcomes.push(outcome))
            .await
            .unwrap();
        install::apply(&STAGE.client, &ConversionService::default(), |_, outcome| outcomes.push(outcome))
            .await
            .unwrap();
        assert_eq!(outcomes, [Outcome::Unchanged; 12]);
        assert_eq!(conversion().await, before);
    });
}

#[test]
fn who_may_not_install_is_told_which_right_is_missing() {
    on_stage(async {
        let nobody: Client = STAGE.client_of("nobody", "nobodies").await;
        let refused = install::apply(&nobody, &ConversionService::default(), |_, _| {}).await.unwrap_err();
        let (said, remedy) = (refused.to_string(), refused.remedy());
        assert!(said.contains("get the definition") && said.contains("nvidia.com"), "{said}");
        assert!(remedy.contains("get customresourcedefinitions (apiextensions.k8s.io)"), "{remedy}");
    });
}

#[test]
fn what_someone_takes_away_is_put_back() {
    alone_on_stage(async {
        let namespace = STAGE.namespace("back").await;
        let wanted = conversion().await;
        let without =
            Patch::Merge(json!({ "spec": { "conversion": { "webhook": { "clientConfig": { "caBundle": null } } } } }));
        definitions().patch(GRAPHS, &PatchParams::default(), &without).await.unwrap();
        until("the definition names the authority again", || async { (conversion().await == wanted).then_some(()) })
            .await;

        let configurations: Api<ValidatingWebhookConfiguration> = Api::all(STAGE.client.clone());
        configurations.delete("busbar-operator-validating", &DeleteParams::default()).await.unwrap();
        until("the registration is there again", || async {
            configurations.get_opt("busbar-operator-validating").await.unwrap()
        })
        .await;
        let bad = {
            let mut graph = fixture("agg.v1beta1.yaml");
            graph["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0]["resources"] =
                json!({"limits": {"cpu": "4cores"}});
            graph
        };
        // The API server hears of its own change after a moment.
        until("bad graphs are refused again", || async {
            let api = graphs(&STAGE.client, &namespace, "v1beta1");
            match create(&api, &bad).await {
                Err(refusal) => Some(refusal),
                Ok(_) => {
                    api.delete("vllm-agg", &DeleteParams::default()).await.unwrap();
                    None
                }
            }
        })
        .await;

        let before = material().await.unwrap();
        secrets().delete(&STAGE.config.secret, &DeleteParams::default()).await.unwrap();
        until("the certificate is there again", || async { material().await.filter(|now| *now == before) }).await;
        until("all of it works", || async { serves(&STAGE.client, &namespace).await.ok() }).await;
    });
}

#[test]
fn a_certificate_is_renewed_while_it_serves_and_no_request_notices() {
    alone_on_stage(async {
        let namespace = STAGE.namespace("renew").await;
        until("it works", || async { serves(&STAGE.client, &namespace).await.ok() }).await;
        let before = material().await.unwrap();
        let host = STAGE.config.address.ip().to_string();
        // The same authority, a serving certificate of two months ago.
        let spoilt = Material { certificate: String::new(), ..before.clone() };
        let old = renew(Some(&spoilt), &[host], SystemTime::now() - 61 * DAY).unwrap().unwrap();
        assert_eq!(old.bundle, before.bundle);
        let parts = [
            ("ca.crt", &old.bundle),
            ("ca.key", &old.authority_key),
            ("tls.crt", &old.certificate),
            ("tls.key", &old.key),
        ];
        let mut secret = secrets().get(&STAGE.config.secret).await.unwrap();
        secret.data = Some(
            parts
                .iter()
                .map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())))
                .collect::<BTreeMap<_, _>>(),
        );
        secrets().replace(&STAGE.config.secret, &PostParams::default(), &secret).await.unwrap();

        let mut asked = 0;
        let renewed = until("another certificate is in the Secret", || {
            asked += 1;
            async {
                serves(&STAGE.client, &namespace).await.unwrap();
                material().await.filter(|now| now.certificate != old.certificate)
            }
        })
        .await;
        assert_eq!(renewed.bundle, before.bundle);
        until("new connections see it", || async {
            serves(&STAGE.client, &namespace).await.unwrap();
            (shown().await == renewed.certificate).then_some(())
        })
        .await;
        assert!(asked > 0);
    });
}

/// The certificate that a new connection is answered with, as PEM.
async fn shown() -> String {
    let address = STAGE.config.address;
    let bundle = material().await.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let read = <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::pem_slice_iter(
        bundle.bundle.as_bytes(),
    );
    roots.add_parsable_certificates(read.map(Result::unwrap));
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(address.ip().into(), socket).await.unwrap();
    let der = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let same = <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(
        bundle.certificate.as_bytes(),
    )
    .unwrap();
    if der == same { bundle.certificate } else { String::new() }
}
