//! What operator and user may choose.

use crate::{container, env, example, find, graph_of, main_container, manifest, names, render, settings};
use graph::cluster::{
    DiscoveryBackend, IngressSettings, Settings, component_objects, components, registry_host, warnings, worker_hash,
};
use serde_json::{Value, json};

fn deployment_of(manifest: &Value, component: &str, settings: &Settings) -> Value {
    let graph = graph_of(manifest);
    let objects = render(&graph, settings);
    let found = objects.iter().find(|object| {
        object["kind"] == "Deployment" && object["metadata"]["labels"]["nvidia.com/dynamo-component"] == component
    });
    found.unwrap().clone()
}

#[test]
fn the_image_map_replaces_the_longest_prefix_that_ends_with_a_part_of_the_name() {
    let image_map = [
        ("nvcr.io/nvidia", "mirror/nv"),
        ("nvcr.io/nvidia/ai-dynamo/vllm-runtime:my-tag", "registry:5000/busbar:1.0.0"),
        ("nvcr.io/nvidia/ai-dyn", "wrong"),
    ];
    let image_map = image_map.map(|(from, to)| (from.to_owned(), to.to_owned())).to_vec();
    let settings = Settings { image_map, ..settings() };
    let manifest = manifest("disagg_planner", "v1beta1");
    let image = |component| main_container(&deployment_of(&manifest, component, &settings))["image"].clone();
    assert_eq!(image("Frontend"), "registry:5000/busbar:1.0.0");
    assert_eq!(image("Planner"), "mirror/nv/ai-dynamo/dynamo-planner:1.3.1");
    // The stored component keeps what the user wrote; a new map is no new generation of workers.
    let graph = graph_of(&manifest);
    let stored = serde_json::to_value(&components(&graph, &settings)[0]).unwrap();
    assert_eq!(
        stored["spec"]["podTemplate"]["spec"]["containers"][0]["image"],
        "nvcr.io/nvidia/ai-dynamo/vllm-runtime:my-tag"
    );
}

#[test]
fn pull_secrets_follow_the_registry_of_the_image_that_is_pulled() {
    for (image, host) in [
        ("nvcr.io/nvidia/x:1", "nvcr.io"),
        ("busybox", "docker.io"),
        ("library/busybox:1", "docker.io"),
        ("localhost/x", "localhost"),
        ("registry:5000/x@sha256:0", "registry:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("https://NVCR.io", "nvcr.io"),
        ("nvcr.io", "nvcr.io"),
    ] {
        assert_eq!(registry_host(image), host, "{image}");
    }
    let secrets = [("nvcr.io", "ngc"), ("docker.io", "hub")];
    let secrets = secrets.map(|(host, name)| (host.to_owned(), vec![name.to_owned()]));
    let settings = Settings { image_pull_secrets: secrets.into(), ..settings() };
    let mut manifest = manifest("agg", "v1beta1");
    let pod = |manifest: &Value| deployment_of(manifest, "worker", &settings)["spec"]["template"]["spec"].clone();
    assert_eq!(pod(&manifest)["imagePullSecrets"], json!([{"name": "ngc"}]));
    manifest["spec"]["components"][1]["podTemplate"]["spec"]["imagePullSecrets"] = json!([{"name": "mine"}]);
    assert_eq!(pod(&manifest)["imagePullSecrets"], json!([{"name": "mine"}, {"name": "ngc"}]));
    manifest["metadata"]["annotations"] = json!({"nvidia.com/disable-image-pull-secret-discovery": "true"});
    assert_eq!(pod(&manifest)["imagePullSecrets"], json!([{"name": "mine"}]));
}

#[test]
fn etcd_takes_the_place_of_kubernetes_discovery() {
    let settings = Settings {
        discovery_backend: DiscoveryBackend::Etcd,
        etcd_endpoints: vec!["http://e-0:2379".to_owned(), "http://e-1:2379".to_owned()],
        ..Settings::default()
    };
    let mut manifest = manifest("agg", "v1beta1");
    let deployment = deployment_of(&manifest, "Frontend", &settings);
    assert_eq!(env(main_container(&deployment), "DYN_DISCOVERY_BACKEND"), None);
    assert_eq!(env(main_container(&deployment), "ETCD_ENDPOINTS"), Some("http://e-0:2379,http://e-1:2379"));
    assert_eq!(deployment["spec"]["template"]["spec"].get("serviceAccountName"), None);
    // A graph may choose for itself.
    manifest["metadata"]["annotations"] = json!({"nvidia.com/dynamo-discovery-backend": "kubernetes"});
    let deployment = deployment_of(&manifest, "Frontend", &settings);
    assert_eq!(env(main_container(&deployment), "DYN_DISCOVERY_BACKEND"), Some("kubernetes"));
}

#[test]
fn updates_surge_by_a_quarter_or_as_the_annotations_say() {
    let mut manifest = manifest("agg", "v1beta1");
    let strategy = |manifest: &Value| deployment_of(manifest, "worker", &settings())["spec"]["strategy"].clone();
    let update = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    assert_eq!(strategy(&manifest), update(json!("25%"), json!("25%")));
    manifest["spec"]["annotations"] = json!({
        "nvidia.com/deployment-rolling-update-max-surge": "1",
        "nvidia.com/deployment-rolling-update-max-unavailable": "0"
    });
    assert_eq!(strategy(&manifest), update(json!(1), json!(0)));
    manifest["spec"]["components"][1]["podTemplate"]["metadata"] =
        json!({"annotations": {"nvidia.com/deployment-rolling-update-max-surge": "100%"}});
    assert_eq!(strategy(&manifest), update(json!("100%"), json!(0)));
}

#[test]
fn labels_and_annotations_of_the_graph_go_down_and_a_components_own_win() {
    let mut manifest = manifest("agg", "v1beta1");
    manifest["spec"]["labels"] = json!({"team": "a", "cost": "x", "nvidia.com/selector": "stolen"});
    manifest["spec"]["annotations"] = json!({"note": "n"});
    manifest["spec"]["components"][0]["podTemplate"]["metadata"] = json!({"labels": {"team": "b"}});
    let deployment = deployment_of(&manifest, "Frontend", &settings());
    let pod = &deployment["spec"]["template"]["metadata"];
    assert_eq!(deployment["metadata"]["labels"]["cost"], "x");
    assert_eq!(deployment["metadata"]["annotations"], json!({"note": "n"}));
    assert_eq!((&pod["labels"]["team"], &pod["labels"]["cost"]), (&json!("b"), &json!("x")));
    assert_eq!(pod["annotations"], json!({"note": "n"}));
    assert_eq!(pod["labels"]["nvidia.com/selector"], "vllm-agg-frontend", "what tells pods apart is not the user's");
}

#[test]
fn a_new_restart_mark_is_a_new_pod_template() {
    let graph = example("agg", "v1beta1");
    let mut component = components(&graph, &settings()).remove(0);
    let before = component_objects(&component, &settings());
    component.metadata.annotations.get_or_insert_default().insert("nvidia.com/restartAt".into(), "t1".into());
    let after = component_objects(&component, &settings());
    let mut expected = find(&before, "Deployment", "vllm-agg-frontend").clone();
    expected["spec"]["template"]["metadata"]["annotations"] = json!({"nvidia.com/restartAt": "t1"});
    assert_eq!(find(&after, "Deployment", "vllm-agg-frontend"), &expected);
}

#[test]
fn container_mode_tells_each_container_its_name() {
    let mut manifest = manifest("agg", "v1beta1");
    manifest["metadata"]["annotations"] = json!({"nvidia.com/dynamo-kube-discovery-mode": "container"});
    let pod = &mut manifest["spec"]["components"][1];
    pod["frontendSidecar"] = json!("edge");
    let sidecar = json!({"name": "edge", "image": "busbar:1.0.0"});
    pod["podTemplate"]["spec"]["containers"].as_array_mut().unwrap().push(sidecar);
    let deployment = deployment_of(&manifest, "worker", &settings());
    assert_eq!(env(main_container(&deployment), "CONTAINER_NAME"), Some("main"));
    let edge = container(&deployment, "edge");
    assert_eq!(env(edge, "CONTAINER_NAME"), Some("edge"));
    assert_eq!(env(edge, "DYN_KUBE_DISCOVERY_MODE"), Some("container"));
    // The sidecar is a frontend.
    assert_eq!(edge["ports"][0]["containerPort"], 8000);
    assert_eq!(edge["args"], json!(["-m", "dynamo.frontend"]));
    assert_eq!(env(edge, "DYN_NAMESPACE_PREFIX"), Some("serving-vllm-agg"));
    assert_eq!(env(edge, "DYN_SYSTEM_PORT"), None);
}

#[test]
fn arguments_without_a_command_are_a_shell_line_or_flags_of_python() {
    for (component, args, command) in [
        (0, json!(["python3 -m dynamo.frontend --x"]), json!(["/bin/sh", "-c"])),
        (0, json!(["-m", "dynamo.frontend", "--x"]), json!(["python3"])),
        (1, json!(["python3 -m dynamo.vllm --model m"]), json!(["/bin/sh", "-c"])),
    ] {
        let mut manifest = manifest("agg", "v1beta1");
        let main = &mut manifest["spec"]["components"][component]["podTemplate"]["spec"]["containers"][0];
        main.as_object_mut().unwrap().shift_remove("command");
        main["args"] = args.clone();
        let name = ["Frontend", "worker"][component];
        let deployment = deployment_of(&manifest, name, &settings());
        let main = main_container(&deployment);
        assert_eq!((&main["command"], &main["args"]), (&command, &args));
    }
}

#[test]
fn the_global_namespace_and_no_shared_memory_can_be_asked_for() {
    let mut manifest = manifest("agg", "v1beta1");
    manifest["spec"]["components"][1]["globalDynamoNamespace"] = json!(true);
    manifest["spec"]["components"][1]["sharedMemorySize"] = json!("0");
    let deployment = deployment_of(&manifest, "worker", &settings());
    assert_eq!(env(main_container(&deployment), "DYN_NAMESPACE"), Some("dynamo"));
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"]["nvidia.com/dynamo-namespace"], "dynamo");
    assert_eq!(deployment["spec"]["template"]["spec"].get("volumes"), None);
}

#[test]
fn the_compilation_cache_is_mounted_where_the_engine_looks() {
    for (cache, path) in [
        (json!({"pvcName": "cache"}), "/root/.cache/vllm"),
        (json!({"pvcName": "cache", "mountPath": "/cache"}), "/cache"),
    ] {
        let mut manifest = manifest("agg", "v1beta1");
        manifest["spec"]["components"][1]["compilationCache"] = cache;
        let deployment = deployment_of(&manifest, "worker", &settings());
        let claim = json!({"name": "compilation-cache", "persistentVolumeClaim": {"claimName": "cache"}});
        let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        assert!(volumes.contains(&claim), "{volumes:?}");
        let main = main_container(&deployment);
        let mount = json!({"name": "compilation-cache", "mountPath": path});
        assert!(main["volumeMounts"].as_array().unwrap().contains(&mount));
        assert_eq!(env(main, "VLLM_CACHE_ROOT"), Some(path));
    }
}

#[test]
fn a_model_reference_makes_a_headless_service_that_is_found_by_hash() {
    let mut manifest = manifest("agg", "v1beta1");
    manifest["spec"]["components"][1]["modelRef"] = json!({"name": "Qwen/Qwen3-0.6B"});
    let graph = graph_of(&manifest);
    let objects = render(&graph, &settings());
    let name = format!("vllm-agg-worker-{}", worker_hash(&graph));
    let service = find(&objects, "Service", &format!("{name}-model"));
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(service["spec"]["selector"], json!({"nvidia.com/selector": name}));
    assert_eq!(service["metadata"]["labels"]["nvidia.com/dynamo-base-model-hash"], "fb68f5a6");
    assert_eq!(service["metadata"]["annotations"]["nvidia.com/dynamo-base-model"], "Qwen/Qwen3-0.6B");
    let pod = &find(&objects, "Deployment", &name)["spec"]["template"]["metadata"];
    assert_eq!(pod["labels"]["nvidia.com/dynamo-base-model-hash"], "fb68f5a6");
}

#[test]
fn a_scaling_adapter_starts_with_the_components_replicas() {
    let mut manifest = manifest("agg_router", "v1alpha1");
    manifest["spec"]["services"]["VllmDecodeWorker"]["scalingAdapter"] = json!({"enabled": true});
    let objects = render(&graph_of(&manifest), &settings());
    let adapter = find(&objects, "DynamoGraphDeploymentScalingAdapter", "vllm-agg-router-vllmdecodeworker");
    assert_eq!(
        adapter["spec"],
        json!({"replicas": 2, "dgdRef": {"name": "vllm-agg-router", "componentName": "VllmDecodeWorker"}})
    );
}

#[test]
fn claims_and_ingress_of_v1alpha1_survive_storage() {
    let mut manifest = manifest("agg", "v1alpha1");
    manifest["spec"]["pvcs"] = json!([
        {"name": "models", "create": true, "size": "100Gi", "storageClass": "gp3", "volumeAccessMode": "ReadWriteOnce"},
        {"name": "mine"}
    ]);
    let service = &mut manifest["spec"]["services"]["Frontend"];
    service["volumeMounts"] = json!([{"name": "models", "mountPoint": "/models"}]);
    service["ingress"] = json!({"enabled": true, "host": "chat", "hostPrefix": "dev-", "hostSuffix": "example.com",
        "annotations": {"a": "b"}, "tls": {"secretName": "cert"}, "ingressControllerClassName": "nginx"});
    let objects = render(&graph_of(&manifest), &settings());
    assert_eq!(names(&objects, "PersistentVolumeClaim"), ["models"]);
    assert_eq!(
        find(&objects, "PersistentVolumeClaim", "models")["spec"],
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}},
               "storageClassName": "gp3"})
    );
    let ingress = find(&objects, "Ingress", "vllm-agg-frontend");
    assert_eq!(ingress["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(ingress["spec"]["ingressClassName"], "nginx");
    assert_eq!(ingress["spec"]["tls"], json!([{"hosts": ["dev-chat.example.com"], "secretName": "cert"}]));
    assert_eq!(
        ingress["spec"]["rules"],
        json!([{"host": "dev-chat.example.com", "http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "vllm-agg-frontend", "port": {"number": 8000}}}}]}}])
    );
}

#[test]
fn an_ingress_class_of_the_operator_gives_every_frontend_an_ingress_that_does_not_decline() {
    let ingress = IngressSettings {
        class: Some("alb".to_owned()),
        host_suffix: Some("llm.example.com".to_owned()),
        tls_secret: Some("wild".to_owned()),
    };
    let settings = Settings { ingress, ..settings() };
    let objects = render(&example("agg", "v1beta1"), &settings);
    let ingress = find(&objects, "Ingress", "vllm-agg-frontend");
    assert_eq!(ingress["spec"]["rules"][0]["host"], "vllm-agg.llm.example.com");
    assert_eq!(ingress["spec"]["tls"][0]["secretName"], "wild");
    let mut manifest = manifest("agg", "v1alpha1");
    manifest["spec"]["services"]["Frontend"]["ingress"] = json!({"enabled": false});
    assert_eq!(names(&render(&graph_of(&manifest), &settings), "Ingress"), [""; 0]);
}

#[test]
fn a_frontend_of_one_line_takes_its_image_from_the_operator() {
    let mut manifest = manifest("agg", "v1alpha1");
    manifest["spec"]["services"]["Frontend"] = json!({"componentType": "frontend"});
    let settings = Settings { frontend_image: Some("busbar:1.0.0".to_owned()), ..settings() };
    let deployment = deployment_of(&manifest, "Frontend", &settings);
    assert_eq!(main_container(&deployment)["image"], "busbar:1.0.0");
    assert_eq!(main_container(&deployment)["args"], json!(["-m", "dynamo.frontend"]));
}

#[test]
fn a_component_of_no_graph_brings_its_own_rights() {
    let graph = example("agg", "v1beta1");
    let mut component = components(&graph, &settings()).remove(0);
    component.metadata.labels = None;
    component.metadata.name = Some("alone".to_owned());
    let objects = component_objects(&component, &settings());
    assert_eq!(names(&objects, "ServiceAccount"), ["alone-k8s-service-discovery"]);
    for object in &objects {
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "busbar-operator", "{object}");
    }
    let main = main_container(find(&objects, "Deployment", "alone"));
    assert_eq!(env(main, "DYN_NAMESPACE"), Some("serving-alone"));
}

#[test]
fn what_is_accepted_and_not_done_is_said() {
    let said = |manifest: &Value| warnings(&graph_of(manifest)).join("\n");
    let planner = said(&manifest("disagg_planner", "v1beta1"));
    assert!(planner.contains("spec.components[1]: type planner") && planner.contains("no rights"), "{planner}");
    let tag = said(&manifest("agg", "v1beta1"));
    assert!(tag.contains("my-tag` is no version"), "{tag}");
    let mut old = manifest("agg", "v1alpha1");
    old["spec"]["services"]["worker"]["dynamoNamespace"] = json!("x");
    old["spec"]["services"]["worker"]["autoscaling"] = json!({"enabled": true});
    let old = said(&old);
    assert!(
        old.contains("worker.dynamoNamespace: deprecated") && old.contains("worker.autoscaling: deprecated"),
        "{old}"
    );
    let mut grove = manifest("agg", "v1beta1");
    grove["metadata"]["annotations"] = json!({"nvidia.com/enable-grove": "true"});
    grove["spec"]["components"][1]["experimental"] = json!({"checkpoint": {"enabled": true}});
    let grove = said(&grove);
    assert!(grove.contains("no Grove objects"), "{grove}");
    assert!(grove.contains("spec.components[1].experimental.checkpoint: accepted, and has no effect"), "{grove}");
}

#[test]
fn grace_period_and_drain_follow_from_each_other() {
    // env of the worker, its arguments, its grace period: the pod's grace period, and what the worker is told.
    let check = |env_value: Option<&str>, args: &[&str], grace: Option<u64>, expected: (u64, Option<&str>)| {
        const DRAIN: &str = "DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT";
        let mut manifest = manifest("agg", "v1beta1");
        let pod = &mut manifest["spec"]["components"][1]["podTemplate"]["spec"];
        if let Some(grace) = grace {
            pod["terminationGracePeriodSeconds"] = json!(grace);
        }
        pod["containers"][0]["args"].as_array_mut().unwrap().extend(args.iter().map(|arg| json!(arg)));
        if let Some(value) = env_value {
            pod["containers"][0]["env"] = json!([{"name": DRAIN, "value": value}]);
        }
        let deployment = deployment_of(&manifest, "worker", &settings());
        let pod = &deployment["spec"]["template"]["spec"];
        let told = env(main_container(&deployment), DRAIN);
        assert_eq!((pod["terminationGracePeriodSeconds"].as_u64().unwrap(), told), expected);
    };
    check(None, &[], None, (60, Some("50")));
    check(None, &[], Some(900), (900, Some("890")));
    check(Some("300"), &[], None, (310, Some("300")));
    check(Some("5"), &[], None, (60, Some("5")));
    check(None, &["--drain-timeout-secs=120"], None, (130, None));
    check(Some("300"), &[], Some(30), (30, Some("300")));
    check(Some("forever"), &[], None, (60, Some("forever")));
    let frontend = deployment_of(&manifest("agg", "v1beta1"), "Frontend", &settings());
    assert_eq!(env(main_container(&frontend), "DYN_HTTP_GRACEFUL_SHUTDOWN_TIMEOUT_SECS"), Some("50"));
}
