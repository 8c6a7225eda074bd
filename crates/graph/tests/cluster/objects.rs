//! Names, labels, environment, ports and probes, as Dynamo's users know them.

use crate::{container, env, example, find, graph_of, main_container, manifest, names, render, settings};
use graph::cluster::{Settings, worker_hash};
use serde_json::{Value, json};

#[test]
fn objects_are_named_after_graph_and_component_and_workers_after_their_hash() {
    let graph = example("disagg", "v1alpha1");
    let hash = worker_hash(&graph);
    assert_eq!(hash.as_str().len(), 8);
    let objects = render(&graph, &settings());
    let decode = format!("vllm-disagg-vllmdecodeworker-{hash}");
    let prefill = format!("vllm-disagg-vllmprefillworker-{hash}");
    let all = ["vllm-disagg-frontend", decode.as_str(), prefill.as_str()];
    for kind in ["DynamoComponentDeployment", "Deployment", "Service"] {
        assert_eq!(names(&objects, kind), all, "{kind}");
    }
    assert_eq!(names(&objects, "ServiceAccount"), ["vllm-disagg-k8s-service-discovery"]);
    assert_eq!(names(&objects, "Role"), ["vllm-disagg-k8s-service-discovery-role"]);
    assert_eq!(names(&objects, "RoleBinding"), ["vllm-disagg-k8s-service-discovery-binding"]);
}

#[test]
fn labels_tell_graph_component_namespace_type_and_generation() {
    let graph = example("disagg", "v1beta1");
    let hash = worker_hash(&graph).to_string();
    let objects = render(&graph, &settings());
    let name = format!("vllm-disagg-vllmprefillworker-{hash}");
    let deployment = find(&objects, "Deployment", &name);
    let pod = &deployment["spec"]["template"]["metadata"]["labels"];
    for (key, value) in [
        ("nvidia.com/selector", name.as_str()),
        ("nvidia.com/dynamo-graph-deployment-name", "vllm-disagg"),
        ("nvidia.com/dynamo-component", "VllmPrefillWorker"),
        ("nvidia.com/dynamo-namespace", "serving-vllm-disagg"),
        ("nvidia.com/dynamo-component-type", "prefill"),
        ("nvidia.com/dynamo-sub-component-type", "prefill"),
        ("nvidia.com/dynamo-component-class", "worker"),
        ("nvidia.com/dynamo-worker-hash", hash.as_str()),
        ("nvidia.com/metrics-enabled", "true"),
        ("app.kubernetes.io/managed-by", "busbar-operator"),
    ] {
        assert_eq!(pod[key], value, "{key}");
    }
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], json!({"nvidia.com/selector": name}));
}

#[test]
fn a_service_finds_its_pods_by_three_labels_and_says_who_discovers_them() {
    let objects = render(&example("agg", "v1beta1"), &settings());
    let service = find(&objects, "Service", "vllm-agg-frontend");
    assert_eq!(
        service["spec"]["selector"],
        json!({
            "nvidia.com/dynamo-component": "Frontend",
            "nvidia.com/dynamo-component-type": "frontend",
            "nvidia.com/dynamo-namespace": "serving-vllm-agg"
        })
    );
    assert_eq!(
        service["spec"]["ports"],
        json!([{"name": "http", "port": 8000, "protocol": "TCP", "targetPort": "http"}])
    );
    assert_eq!(service["metadata"]["labels"]["nvidia.com/dynamo-discovery-backend"], "kubernetes");
    assert_eq!(service["metadata"]["labels"]["nvidia.com/dynamo-discovery-enabled"], "true");
    let pod = &find(&objects, "Deployment", "vllm-agg-frontend")["spec"]["template"]["metadata"]["labels"];
    for (key, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(&pod[key], value);
    }
}

#[test]
fn a_frontend_gets_its_command_port_probes_and_environment() {
    let objects = render(&example("agg_router", "v1alpha1"), &settings());
    let main = main_container(find(&objects, "Deployment", "vllm-agg-router-frontend"));
    assert_eq!((&main["command"], &main["args"]), (&json!(["python3"]), &json!(["-m", "dynamo.frontend"])));
    assert_eq!(main["ports"], json!([{"containerPort": 8000, "name": "http", "protocol": "TCP"}]));
    let probe = |path: &str, times: Value| {
        let mut probe = json!({"httpGet": {"path": path, "port": "http"}});
        probe.as_object_mut().unwrap().extend(times.as_object().unwrap().clone());
        probe
    };
    for (key, expected) in [
        (
            "livenessProbe",
            probe(
                "/live",
                json!({"initialDelaySeconds": 15, "periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3}),
            ),
        ),
        (
            "readinessProbe",
            probe(
                "/health",
                json!({"initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 3, "failureThreshold": 3}),
            ),
        ),
        ("startupProbe", probe("/live", json!({"periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 30}))),
    ] {
        assert_eq!(main[key], expected, "{key}");
    }
    for (name, value) in [
        ("DYN_COMPONENT", "frontend"),
        ("DYN_DISCOVERY_BACKEND", "kubernetes"),
        ("DYN_HTTP_PORT", "8000"),
        ("DYN_NAMESPACE", "serving-vllm-agg-router"),
        ("DYN_NAMESPACE_PREFIX", "serving-vllm-agg-router"),
        ("DYN_NAMESPACE_PREFIX_STRICT", "true"),
        ("DYN_PARENT_DGD_K8S_NAME", "vllm-agg-router"),
        ("DYN_PARENT_DGD_K8S_NAMESPACE", "serving"),
        ("DYN_ROUTER_MODE", "kv"),
        ("DYNAMO_PORT", "8000"),
        ("NATS_SERVER", "nats://busbar-nats.busbar-system:4222"),
    ] {
        assert_eq!(env(main, name), Some(value), "{name}");
    }
    assert_eq!(env(main, "DYN_SYSTEM_PORT"), None, "that is a worker's");
    let uid = main["env"].as_array().unwrap().iter().find(|var| var["name"] == "POD_UID").unwrap();
    assert_eq!(uid["valueFrom"], json!({"fieldRef": {"fieldPath": "metadata.uid"}}));
}

#[test]
fn a_worker_gets_its_ports_probes_and_environment_and_keeps_its_command() {
    let graph = example("agg", "v1alpha1");
    let hash = worker_hash(&graph).to_string();
    let objects = render(&graph, &settings());
    let deployment = find(&objects, "Deployment", &format!("vllm-agg-worker-{hash}"));
    let main = main_container(deployment);
    assert_eq!(main["command"], json!(["python3", "-m", "dynamo.vllm"]));
    assert_eq!(main["workingDir"], "/workspace/examples/backends/vllm");
    assert_eq!(main["resources"]["limits"]["nvidia.com/gpu"], "1");
    assert_eq!(main["envFrom"], json!([{"secretRef": {"name": "hf-token-secret"}}]));
    let ports: Vec<_> = main["ports"].as_array().unwrap().iter().map(|p| (&p["name"], &p["containerPort"])).collect();
    assert_eq!(ports, [(&json!("system"), &json!(9090)), (&json!("nixl"), &json!(19090))]);
    assert_eq!(
        main["startupProbe"],
        json!({"httpGet": {"path": "/live", "port": "system"}, "periodSeconds": 10, "timeoutSeconds": 5,
               "failureThreshold": 720})
    );
    assert_eq!(main["livenessProbe"]["failureThreshold"], 1);
    assert_eq!(main["readinessProbe"]["httpGet"], json!({"path": "/health", "port": "system"}));
    for (name, value) in [
        ("DYN_HEALTH_CHECK_ENABLED", "false"),
        ("DYN_NAMESPACE", "serving-vllm-agg"),
        ("DYN_NAMESPACE_WORKER_SUFFIX", hash.as_str()),
        ("DYN_SYSTEM_ENABLED", "true"),
        ("DYN_SYSTEM_PORT", "9090"),
        ("DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS", r#"["generate"]"#),
        ("NIXL_TELEMETRY_ENABLE", "n"),
        ("NIXL_TELEMETRY_EXPORTER", "prometheus"),
        ("NIXL_TELEMETRY_PROMETHEUS_PORT", "19090"),
    ] {
        assert_eq!(env(main, name), Some(value), "{name}");
    }
    assert_eq!(env(main, "DYN_NAMESPACE_PREFIX"), None, "that is a frontend's");
    // Two hours to load, as its probe allows, and ten minutes.
    assert_eq!(deployment["spec"]["progressDeadlineSeconds"], 7800);
}

#[test]
fn a_pod_gets_memory_to_share_a_group_grace_and_the_account_of_discovery() {
    let objects = render(&example("agg", "v1beta1"), &settings());
    let pod = &find(&objects, "Deployment", "vllm-agg-frontend")["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    assert_eq!(pod["restartPolicy"], "Always");
    assert_eq!(pod["securityContext"], json!({"fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}));
    assert_eq!(pod["serviceAccountName"], "vllm-agg-k8s-service-discovery");
    assert_eq!(
        pod["volumes"],
        json!([{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}])
    );
    assert_eq!(pod["containers"][0]["volumeMounts"], json!([{"name": "shared-memory", "mountPath": "/dev/shm"}]));
}

#[test]
fn what_the_user_says_wins_over_every_default() {
    let mut manifest = manifest("agg", "v1beta1");
    let pod = &mut manifest["spec"]["components"][1]["podTemplate"]["spec"];
    pod["terminationGracePeriodSeconds"] = json!(900);
    pod["serviceAccountName"] = json!("mine");
    pod["securityContext"] = json!({"runAsUser": 7});
    pod["volumes"] = json!([{"name": "shm", "emptyDir": {}}]);
    let main = &mut pod["containers"][0];
    main["env"] = json!([{"name": "DYN_SYSTEM_PORT", "value": "9999"}, {"name": "A", "value": "1"}]);
    main["ports"] = json!([{"name": "mine", "containerPort": 9090}]);
    main["livenessProbe"] = json!({"exec": {"command": ["true"]}});
    main["volumeMounts"] = json!([{"name": "shm", "mountPath": "/dev/shm/"}]);
    let graph = graph_of(&manifest);
    let objects = render(&graph, &settings());
    let deployment = find(&objects, "Deployment", &format!("vllm-agg-worker-{}", worker_hash(&graph)));
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 900);
    assert_eq!(pod["serviceAccountName"], "mine");
    assert_eq!(pod["securityContext"], json!({"runAsUser": 7}));
    assert_eq!(pod["volumes"], json!([{"name": "shm", "emptyDir": {}}]));
    let main = container(deployment, "main");
    assert_eq!((env(main, "DYN_SYSTEM_PORT"), env(main, "A")), (Some("9999"), Some("1")));
    assert_eq!(main["livenessProbe"], json!({"exec": {"command": ["true"]}}));
    let ports: Vec<_> = main["ports"].as_array().unwrap().iter().map(|port| &port["name"]).collect();
    assert_eq!(ports, ["mine", "nixl"]);
}

#[test]
fn the_environment_is_sorted_but_a_variable_stands_behind_what_it_names() {
    let mut manifest = manifest("agg", "v1beta1");
    manifest["spec"]["env"] = json!([
        {"name": "A_URL", "value": "http://$(ZONE_HOST)/$(POD_NAME)"},
        {"name": "ZONE_HOST", "value": "h"},
        {"name": "LOOP_A", "value": "$(LOOP_B)"},
        {"name": "LOOP_B", "value": "$(LOOP_A)"}
    ]);
    let objects = render(&graph_of(&manifest), &Settings::default());
    let main = main_container(find(&objects, "Deployment", "vllm-agg-frontend"));
    let names: Vec<&str> = main["env"].as_array().unwrap().iter().filter_map(|var| var["name"].as_str()).collect();
    let place = |name: &str| names.iter().position(|other| *other == name).unwrap();
    assert!(place("A_URL") > place("ZONE_HOST") && place("A_URL") > place("POD_NAME"), "{names:?}");
    // A circle expands nowhere, in any order; it must only end.
    assert!(place("LOOP_A") < place("LOOP_B"), "{names:?}");
    let others: Vec<&str> =
        names.iter().copied().filter(|name| *name != "A_URL" && !name.starts_with("LOOP")).collect();
    assert!(others.is_sorted(), "{others:?}");
}

#[test]
fn from_two_replicas_on_a_node_drain_takes_one_pod_at_a_time() {
    let graph = example("agg_router", "v1beta1");
    let objects = render(&graph, &settings());
    let worker = format!("vllm-agg-router-vllmdecodeworker-{}", worker_hash(&graph));
    assert_eq!(names(&objects, "PodDisruptionBudget"), [worker.as_str()]);
    let budget = find(&objects, "PodDisruptionBudget", &worker);
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert_eq!(budget["spec"]["selector"], find(&objects, "Deployment", &worker)["spec"]["selector"]);
}

#[test]
fn a_planner_runs_as_its_template_says() {
    let objects = render(&example("disagg_planner", "v1beta1"), &settings());
    let main = main_container(find(&objects, "Deployment", "vllm-disagg-planner-planner"));
    assert_eq!(main["image"], "nvcr.io/nvidia/ai-dynamo/dynamo-planner:1.3.1");
    assert_eq!(env(main, "PLANNER_PROMETHEUS_PORT"), Some("9085"));
    assert_eq!(main["ports"][0], json!({"containerPort": 9085, "name": "metrics", "protocol": "TCP"}));
    let service = find(&objects, "Service", "vllm-disagg-planner-planner");
    assert_eq!(service["spec"]["ports"][0]["port"], 9090);
}
