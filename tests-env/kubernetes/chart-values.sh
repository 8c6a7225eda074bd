# What can be said of the chart without installing it. Sourced by chart.sh, whose names it uses.

lint() {
  local values count=0
  helm lint --strict "$CHART" >"$WORK/out" 2>&1 || fail "helm lint: $(cat "$WORK/out")"
  for values in "$CHART"/ci/*.yaml; do
    helm lint --strict "$CHART" -f "$values" >"$WORK/out" 2>&1 || fail "helm lint of $values: $(cat "$WORK/out")"
    count=$((count + 1))
  done
  ok "helm lint --strict passes, as does it on each of the $count value sets in ci/"
}

# Each value has a row in the README with its default, and no row is of a value that is not there.
documented() {
  helm show values "$CHART" --jsonpath '{@}' >"$WORK/values.json"
  python3 - "$WORK/values.json" "$CHART/README.md" >"$WORK/out" <<'PY' || fail "README.md: $(cat "$WORK/out")"
import json, re, sys

def leaves(value, path=""):
    if isinstance(value, dict) and value and not path.endswith((".resources", ".labels", ".apiServer")):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, json.dumps(value, separators=(",", ":"))

values = dict(leaves(json.load(open(sys.argv[1]))))
rows = dict(re.findall(r"^\| `([^`]+)` \| `([^`]*)` \|", open(sys.argv[2]).read(), re.M))
for path in sorted(values.keys() | rows.keys()):
    if values.get(path) != rows.get(path):
        print(f"{path}: the value is {values.get(path)}, the README says {rows.get(path)}")
sys.exit(values != rows)
PY
  ok "README.md has a row for each of the $(python3 -c 'import re,sys; print(len(re.findall(r"^\| `", open(sys.argv[1]).read(), re.M)))' "$CHART/README.md") values, with its default"
}

# Every object of every value set, by the API server's own schema and validation, without writing it.
rendered() {
  local values objects=0
  begin chart-rendered
  check() { kubectl apply --server-side --force-conflicts --dry-run=server --validate=strict -f "$1" 2>&1; }
  printf 'apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: %s}\nspec: {ports: [{port: 1, tagetPort: 2}]}\n' "$NAMESPACE" >"$WORK/wrong.yaml"
  ! check "$WORK/wrong.yaml" >"$WORK/out" || fail "a misspelt field is not refused"
  printf 'apiVersion: batch/v1\nkind: Job\nmetadata: {name: a, namespace: %s}\nspec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}\n' "$NAMESPACE" >"$WORK/wrong.yaml"
  check "$WORK/wrong.yaml" >"$WORK/out" || true
  grep -q "would violate PodSecurity" "$WORK/out" || fail "a template without a security context is not warned of: $(cat "$WORK/out")"
  for values in "$CHART"/ci/*.yaml; do
    helm template busbar "$CHART" --namespace "$NAMESPACE" -f "$values" >"$WORK/rendered.yaml" 2>"$WORK/out" || fail "$values: $(cat "$WORK/out")"
    check "$WORK/rendered.yaml" >"$WORK/out" || fail "$values: $(cat "$WORK/out")"
    # The restricted level warns of a template; it refuses pods.
    ! grep -i -A2 warning "$WORK/out" || fail "$values: the API server warns"
    objects=$((objects + $(grep -c "serverside-applied" "$WORK/out")))
  done
  ok "the API server takes each of the $objects objects of the value sets, strictly and without a warning"
}

# refuses FLAGS TEXT…: a render with these flags fails and says each TEXT.
refuses() {
  local text
  # shellcheck disable=SC2086  # several flags
  ! helm template busbar "$CHART" --set dynamo-operator.controllerManager.manager.image.repository=registry.example/busbar $1 >"$WORK/out" 2>&1 ||
    fail "$1 was accepted"
  for text in "${@:2}"; do grep -q -F -e "$text" "$WORK/out" || fail "$1: '$text' is not in: $(cat "$WORK/out")"; done
  refusals=$((refusals + 1))
}

refused() {
  local refusals=0
  refuses "--set nat.install=true" "additional properties 'nat' not allowed"
  refuses "--set global.nats.instal=true" "/global/nats" "'instal' not allowed"
  refuses "--set dynamo-operator.natsAdr=x" "/dynamo-operator" "'natsAdr' not allowed"
  refuses "--set global.nats.install=yes" "/global/nats/install" "got string, want boolean"
  refuses "--set dynamo-operator.discoveryBackend=consul" "discoveryBackend" "must be one of 'kubernetes', 'etcd'"
  refuses "--set dynamo-operator.controllerManager.replicas=9" "controllerManager/replicas" "maximum: got 9, want 5"
  refuses "--set nats.config.cluster.replicas=2" "cluster/replicas" "must be one of 3, 5"
  refuses "--set etcd.replicaCount=2" "replicaCount" "must be one of 1, 3, 5"
  refuses "--set nats.config.jetstream.fileStore.pvc.size=10" "pvc/size" "got number, want string"
  refuses "--set nats.config.jetstream.fileStore.pvc.size=ten" "pvc/size" "'ten' does not match pattern"
  refuses "--set nats.config.merge.max_paylod=1" "'max_paylod' not allowed"
  refuses "--set nats.config.merge.max_payload=99999999" "max_payload" "maximum"
  refuses "--set dynamo-operator.controllerManager.manager.resources.limits.memory=lots" "limits/memory" "'lots' does not match pattern"
  refuses "--set dynamo-operator.controllerManager.manager.image.tag=a:b" "image/tag" "does not match pattern"
  refuses "--set dynamo-operator.controllerManager.manager.image.digest=sha256:12" "image/digest" "does not match pattern"
  refuses "--set dynamo-operator.natsAddr=nats.example" "natsAddr" "does not match pattern"
  refuses "--set networkPolicy.apiServer.cidrs={anywhere}" "cidrs/0" "does not match pattern"
  refuses "--set global.grove.install=true" "install it as a release of its own"
  refuses "--set global.lws.install=true" "install it as a release of its own"
  refuses "--set global.kai-scheduler.install=true" "install it as a release of its own"
  refuses "--set global.disaggregatedset.install=true" "install it as a release of its own"
  refuses "--set global.lws.enabled=true" "makes no objects of lws" "leave this false"
  refuses "--set dynamo-operator.discoveryBackend=etcd" "there is no etcd" "global.etcd.install=true"
  refuses "--set dynamo-operator.natsAddr=nats://a:1" "would install another" "set one of them"
  refuses "--set dynamo-operator.etcdAddr=http://a:1,global.etcd.install=true" "would install another"
  refuses "--set dynamo-operator.namespaceRestriction.targetNamespace=a" "would keep the graphs of all namespaces"
  refuses "--set dynamo-operator.dynamo.ingress.enabled=true" "without a class" "kubectl get ingressclasses"
  refuses "--set etcd.auth.rbac.create=true" "cannot turn on etcd's authentication yet"
  refuses "--set dynamo-operator.controllerManager.manager.image.repository=" "is empty, and there is no public image" "busbar image push"
  ok "$refusals values that make no sense are refused, each with its path and what is wrong"
}
