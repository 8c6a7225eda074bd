//! Who scales the adapter scales the component, and nobody else does.

use crate::stage::{STAGE, create, fixture, graphs, kubectl, objects, on_stage, until};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

#[test]
fn kubectl_scale_on_the_adapter_scales_the_component_which_its_users_cannot() {
    on_stage(async {
        let namespace = STAGE.namespace("scale").await;
        let mut graph = fixture("agg.v1beta1.yaml");
        graph["metadata"]["namespace"] = json!(namespace);
        graph["spec"]["components"][1]["scalingAdapter"] = json!({});
        graph["spec"]["components"][1]["replicas"] = json!(2);
        let api = graphs(&STAGE.client, &namespace, "v1beta1");
        create(&api, &graph).await.unwrap();
        let typed = serde_json::from_value(graph.clone()).unwrap();
        let rendered = graph::cluster::graph_objects(&typed, &graph::cluster::Settings::default());
        let rendered: Value = rendered.into_iter().find(|object| object["kind"] == crds::SCALING_ADAPTER).unwrap();
        let name = rendered["metadata"]["name"].as_str().unwrap().to_owned();
        let adapters = objects(&STAGE.client, &namespace, "v1beta1", crds::SCALING_ADAPTER);
        create(&adapters, &rendered).await.unwrap();
        let replicas =
            || async { api.get("vllm-agg").await.unwrap().data["spec"]["components"][1]["replicas"].clone() };
        let output = kubectl(&namespace, &["scale", &format!("dgdsa/{name}"), "--replicas", "5"], "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        until("the component has 5 replicas", || async { (replicas().await == 5).then_some(()) }).await;
        let status = until("the adapter says when it scaled", || async {
            let status = adapters.get(&name).await.unwrap().data["status"].clone();
            status["lastScaleTime"].is_string().then_some(status)
        });
        let selector = status.await["selector"].as_str().unwrap().to_owned();
        assert!(selector.contains("nvidia.com/dynamo-graph-deployment-name=vllm-agg"), "{selector}");
        let scale = adapters.get_scale(&name).await.unwrap();
        assert_eq!((scale.spec.unwrap().replicas, scale.status.unwrap().selector), (Some(5), Some(selector)));

        // Alice may do everything else in the cluster.
        let alice = STAGE.client_of("alice", "system:masters").await;
        let hers = graphs(&alice, &namespace, "v1beta1");
        let mut components = api.get("vllm-agg").await.unwrap().data["spec"]["components"].clone();
        components[1]["replicas"] = json!(1);
        let patch = Patch::Merge(json!({ "spec": { "components": components } }));
        let refused = hers.patch("vllm-agg", &PatchParams::default(), &patch).await.unwrap_err().to_string();
        assert!(
            refused.contains("spec.components[1].replicas") && refused.contains("kubectl scale dgdsa"),
            "{refused}"
        );
        components[1].as_object_mut().unwrap().shift_remove("scalingAdapter");
        let patch = Patch::Merge(json!({ "spec": { "components": components } }));
        hers.patch("vllm-agg", &PatchParams::default(), &patch).await.unwrap();
        assert_eq!(replicas().await, 1, "without the adapter they are hers");
    });
}
