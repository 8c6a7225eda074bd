#!/usr/bin/env bash
# The platform chart on a real control plane: rendered and checked by the API server, refused where it makes no sense,
# installed, broken, upgraded, rolled back and uninstalled. NATS and etcd are the stand-ins of standins.sh and run on the
# real node. Every check says what it saw; the first that fails ends the run.
#
#   chart.sh [STATE_FOLDER]    on the cluster that is up there, else on one of its own, which ends with the run
set -euo pipefail
HERE=$(dirname "$(realpath "$0")")
ROOT=$(realpath "$HERE/../..")
CHART=$ROOT/assets/charts/busbar-platform
WORK=$(mktemp -d)
STATE=$(realpath -m "${1:-$WORK/cluster}")
BUSBAR=$(realpath "${CARGO_TARGET_DIR:-$ROOT/target}/release/busbar")
# Waits are on conditions; no wait here takes more than seconds on an idle machine.
WAIT_SECONDS_MAX=180
. "$HERE/../parts.sh"
. "$HERE/parts.sh"
. "$HERE/chart-values.sh"

finish() {
  if [ "$STATE" = "$WORK/cluster" ]; then "$HERE/cluster.sh" down "$STATE" >/dev/null; fi
  rm -rf "$WORK"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
passed=0
ok() { passed=$((passed + 1)); echo "ok $passed: $1"; }
fail() {
  echo "FAILED: $1"
  if [ -e "$STATE/env" ]; then
    kubectl get pods,pvc -A -l app.kubernetes.io/part-of=busbar-platform -o wide || true
    kubectl get events -A --sort-by=.lastTimestamp 2>/dev/null | tail -n 20 || true
  fi
  echo "$passed passed, 1 failed"
  exit 1
}
eventually() {
  local what=$1 deadline=$((SECONDS + WAIT_SECONDS_MAX))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within $WAIT_SECONDS_MAX s"
    sleep 0.2
  done
}
# Of the namespace that the release under test is in.
k() { kubectl -n "$NAMESPACE" "$@"; }
address() { k get service "$1" -o jsonpath='{.spec.clusterIP}'; }
secret() { k get secret busbar-nats-auth -o jsonpath="{.data.$1}" | base64 -d; }
nats() { "$HERE/nats.py" "$(address busbar-nats):4222" "${NATS_USER-$(secret username):$(secret password)}" "$@" 2>&1; }
members() { k get pods -l app.kubernetes.io/name=etcd -o jsonpath='{range .items[*]}http://{.status.podIP}:2379,{end}' | sed 's/,$//'; }
etcdctl() { "$PARTS/etcd/usr/bin/etcdctl" --endpoints "$(members)" "$@" 2>&1; }
is() { [ "$("${@:2}")" = "$1" ]; }
ready() { k get statefulset "$1" -o jsonpath='{.status.readyReplicas}'; }

# release ACTION [FLAG…]: the release `busbar` with the stand-ins, by helm, in NAMESPACE.
release() {
  local action=$1
  shift
  helm "$action" busbar "$CHART" --namespace "$NAMESPACE" --wait --timeout ${WAIT_SECONDS_MAX}s "${STAND_INS[@]}" "$@" 2>&1
}

# begin NAMESPACE: a new one, into which the kubelet admits what the restricted level allows and nothing else.
begin() {
  NAMESPACE=$1
  kubectl create namespace "$NAMESPACE" >/dev/null
  kubectl label namespace "$NAMESPACE" pod-security.kubernetes.io/{enforce,warn}=restricted >/dev/null
}

starts() {
  [ -x "$BUSBAR" ] || fail "$BUSBAR is not built; run make build"
  if [ ! -e "$STATE/env" ]; then "$HERE/cluster.sh" up "$STATE" | tail -n 2; fi
  need_monitor_definitions
  . "$STATE/env"
  kubectl apply --server-side -f "$KUBERNETES/monitors" >/dev/null
  "$HERE/storage.sh" "$STATE" gp3 12 >/dev/null
  read -r -a STAND_INS < <("$HERE/standins.sh" "$STATE" 2>"$WORK/standins" | paste -sd' ') || fail "no stand-ins: $(cat "$WORK/standins")"
  "$BUSBAR" image push "$BUSBAR_TEST_REGISTRY/busbar:v1" --plain-http >"$WORK/out" 2>&1 || fail "busbar image push: $(cat "$WORK/out")"
  ok "a cluster with the definitions of the Prometheus operator, volumes, and images of busbar, NATS and etcd"
}

# The Job of the release, in the image of this build, on a cluster that never saw a definition.
definitions() {
  local -a flags=(--set global.nats.install=false,dynamo-operator.controllerManager.replicas=0
    --set "dynamo-operator.controllerManager.manager.image.repository=$BUSBAR_TEST_REGISTRY/busbar,dynamo-operator.controllerManager.manager.image.tag=v1")
  established() { kubectl get crd -o jsonpath='{range .items[?(@.spec.group=="nvidia.com")]}{.status.conditions[?(@.type=="Established")].status}{"\n"}{end}' | grep -c True; }
  begin chart-definitions
  release install "${flags[@]}" >"$WORK/out" || fail "install: $(cat "$WORK/out"; k logs job/busbar-crds || true)"
  is 6 established || fail "the Job did not apply all definitions: $(kubectl get crd)"
  is chart-definitions kubectl get crd dynamographdeployments.nvidia.com -o jsonpath='{.spec.conversion.webhook.clientConfig.service.namespace}' ||
    fail "the definitions do not name the operator's namespace"
  [ -z "$(k get job,serviceaccount -o name | grep crds)$(kubectl get clusterrole,clusterrolebinding -o name | grep busbar-crds)" ] ||
    fail "the Job or its rights are left after it"
  ok "helm install: the Job applies the six definitions under restricted pod security, and it and its rights are gone after it"
  kubectl delete crd dynamomodels.nvidia.com >/dev/null
  release upgrade "${flags[@]}" >"$WORK/out" || fail "upgrade: $(cat "$WORK/out"; k logs job/busbar-crds || true)"
  is 6 established || fail "an upgrade does not bring back a definition"
  ok "helm upgrade: the Job brings back a definition that is gone"
  helm uninstall busbar --namespace "$NAMESPACE" --wait >/dev/null
  nothing_left
  is 6 established || fail "an uninstall took definitions along"
  ok "helm uninstall leaves the definitions"
}

OPERATOR=system:serviceaccount:busbar-system:busbar-operator
NO_PODS=(--set dynamo-operator.controllerManager.replicas=0 --set dynamo-operator.upgradeCRD=false --set global.nats.install=false
  --set dynamo-operator.controllerManager.manager.image.repository=registry.example/busbar)

# The operator's objects without its pods: of these, what the API server and RBAC make of them.
permissions() {
  allowed() { kubectl auth can-i "$@" --as="$OPERATOR" 2>/dev/null || true; }
  local -a off=("${NO_PODS[@]}")
  begin busbar-system
  release install "${off[@]}" >"$WORK/out" || fail "install without pods: $(cat "$WORK/out")"
  local asked
  for asked in "create deployments.apps" "patch dynamographdeployments.nvidia.com --subresource=status" "get pods --subresource=log" \
    "patch customresourcedefinitions.apiextensions.k8s.io/dynamomodels.nvidia.com" "list nodes"; do
    # shellcheck disable=SC2086  # words of one command
    is yes allowed $asked -n default || fail "the operator may not $asked"
  done
  for asked in "get secrets" "create daemonsets.apps" "create pods" "delete pods" "create pods --subresource=exec" "impersonate users" "delete nodes" \
    "patch customresourcedefinitions.apiextensions.k8s.io/others.example" "patch validatingwebhookconfigurations.admissionregistration.k8s.io/other"; do
    # shellcheck disable=SC2086
    is no allowed $asked -n default || fail "the operator may $asked"
  done
  kubectl -n default create role graph --as="$OPERATOR" --dry-run=server --verb=get,list,watch --resource=pods,endpointslices.discovery.k8s.io >/dev/null ||
    fail "the operator may not give a graph what discovery needs"
  ! kubectl -n default create role graph --as="$OPERATOR" --dry-run=server --verb=get --resource=secrets >/dev/null 2>&1 ||
    fail "the operator may give away what it does not have"
  ok "cluster mode: the operator may do what graphs need in any namespace, and reads no secret, starts no pod, touches no definition but its own"
  release upgrade "${off[@]}" --set dynamo-operator.imagePullSecretDiscovery.enabled=true >/dev/null
  is yes allowed list secrets -n default || fail "the switch does not let it read secrets"
  release upgrade "${off[@]}" --set dynamo-operator.namespaceRestriction.enabled=true,dynamo-operator.namespaceRestriction.targetNamespace=default >/dev/null
  is yes allowed create deployments.apps -n default || fail "it may not act in its namespace"
  is no allowed create deployments.apps -n kube-public || fail "it may act in another namespace"
  is no allowed get secrets -n default || fail "the secrets are still open"
  ok "secrets are read where the switch says so; a restricted operator acts in its namespace alone"
  helm uninstall busbar --namespace "$NAMESPACE" --wait >/dev/null
  nothing_left
}

# What the operator writes into the release's objects, with its rights, outlives an upgrade and goes with an uninstall.
written() {
  as_operator() { kubectl --as="$OPERATOR" "$@" >"$WORK/out" 2>&1; }
  local kind
  NAMESPACE=busbar-system
  release install "${NO_PODS[@]}" >"$WORK/out" || fail "install: $(cat "$WORK/out")"
  for kind in Validating Mutating; do
    cat >"$WORK/webhook.yaml" <<EOF
apiVersion: admissionregistration.k8s.io/v1
kind: ${kind}WebhookConfiguration
metadata: {name: busbar-operator-${kind,,}}
webhooks:
- name: a.busbar.dev
  clientConfig: {service: {name: busbar-operator-webhook, namespace: busbar-system, path: /, port: 443}}
  rules: [{apiGroups: [nvidia.com], apiVersions: [v1beta1], operations: [CREATE], resources: [dynamomodels], scope: Namespaced}]
  sideEffects: None
  admissionReviewVersions: [v1]
EOF
    as_operator apply --server-side --force-conflicts --field-manager=busbar-operator -f "$WORK/webhook.yaml" || fail "the operator cannot register: $(cat "$WORK/out")"
    sed -i 's/operator-/operator-other-/' "$WORK/webhook.yaml"
    ! as_operator apply --server-side --field-manager=busbar-operator -f "$WORK/webhook.yaml" || fail "the operator registers what is not its own"
  done
  as_operator -n busbar-system patch secret busbar-operator-webhook-cert -p '{"stringData":{"tls.crt":"made"}}' || fail "no certificate: $(cat "$WORK/out")"
  as_operator -n busbar-system patch lease busbar-operator -p '{"spec":{"holderIdentity":"first"}}' || fail "no leader: $(cat "$WORK/out")"
  release upgrade "${NO_PODS[@]}" --set dynamo-operator.controllerManager.podAnnotations.a=b >"$WORK/out" || fail "upgrade: $(cat "$WORK/out")"
  [ "$(kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations -o name | grep -c busbar-operator)" = 2 ] || fail "the webhooks are gone"
  is made eval "k get secret busbar-operator-webhook-cert -o jsonpath='{.data.tls\\.crt}' | base64 -d" || fail "the certificate is gone"
  is first k get lease busbar-operator -o jsonpath='{.spec.holderIdentity}' || fail "the leader is forgotten"
  is a.busbar.dev kubectl get validatingwebhookconfiguration busbar-operator-validating -o jsonpath='{.webhooks[*].name}' || fail "an upgrade empties the webhooks"
  ok "the operator writes webhooks, certificate and lease into objects of the release, and no others; an upgrade leaves them"
  helm uninstall busbar --namespace "$NAMESPACE" --wait >/dev/null 2>"$WORK/out"
  nothing_left
  [ -z "$(kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations -o name | grep busbar)" ] || fail "a webhook is left, and refuses every graph"
  ok "an uninstall takes all of it along"
}

# nothing_left [KIND]: of the release nothing is there, save of this kind. Pods go after their owners.
nothing_left() {
  local kinds
  kinds=$(kubectl api-resources --verbs=list -o name | grep -v -x -e events -e events.events.k8s.io | grep -v -x "${1:-none}" | paste -sd,)
  left() { kubectl get "$kinds" -A -l app.kubernetes.io/instance=busbar -o name >"$WORK/left" 2>"$WORK/out" && [ ! -s "$WORK/left" ]; }
  eventually "everything of the release is gone" left
}

serves() {
  begin chart
  release install --set dynamo-operator.enabled=false,global.etcd.install=true >"$WORK/out" || fail "install: $(cat "$WORK/out")"
  [ "$(k get pods -o jsonpath='{range .items[*]}{.spec.nodeName} {.status.phase}{"\n"}{end}' | sort | uniq -c | xargs)" = "4 real-0 Running" ] ||
    fail "not all of the four pods run on the real node"
  ok "helm install --wait: one NATS and three members of etcd run on the real node, restricted, with a volume each"
  is hello nats echo a.subject hello || fail "NATS does not deliver: $(nats echo a.subject hello)"
  [[ $(NATS_USER=- nats last kept.a || true) == *"Authorization Violation"* ]] || fail "NATS takes a client without a password"
  [[ $(NATS_USER=busbar:wrong nats last kept.a || true) == *"Authorization Violation"* ]] || fail "NATS takes a wrong password"
  [[ $(nats keep kept.a before) == "kept as number 1" ]] || fail "JetStream keeps nothing: $(nats last kept.a)"
  ok "NATS delivers, keeps in JetStream, and refuses who has no or a wrong password"
  etcdctl put key before >/dev/null || fail "etcd takes no write: $(etcdctl put key before)"
  [ "$(etcdctl endpoint health | grep -c "is healthy")" = 3 ] || fail "etcd: $(etcdctl endpoint health)"
  [ "$(curl -s --max-time 10 "http://$(address busbar-etcd):2381/metrics" | grep -c '^etcd_server_has_leader 1')" = 1 ] || fail "etcd tells no metrics"
  ok "etcd: three healthy members, a leader, metrics"
}

survives() {
  # By -9, so that nothing is closed properly.
  k delete pod busbar-nats-0 --grace-period=0 --force >/dev/null 2>&1
  eventually "NATS is back with what it kept" is before nats last kept.a
  ok "a killed NATS comes back with its stream"
  local leader
  # A line a member: its address, …, whether it leads, whether it only learns, ….
  leader=$(k get pods -l app.kubernetes.io/name=etcd -o wide | grep -F "$(etcdctl endpoint status | grep ', true, false, ' | sed -E 's#^http://([^:]+):.*#\1 #')" | cut -d' ' -f1)
  [ -n "$leader" ] || fail "etcd has no leader: $(etcdctl endpoint status)"
  k delete pod "$leader" --grace-period=0 --force >/dev/null 2>&1
  eventually "etcd takes writes without its leader" etcdctl put key during >/dev/null
  eventually "three members are ready" is 3 ready busbar-etcd
  [ "$(etcdctl get key --print-value-only)" = during ] || fail "a write is lost"
  ok "etcd's leader, $leader, is killed: the others take writes, it comes back"
}

changes() {
  local password
  password=$(secret password)
  payload() { curl -s --max-time 10 "http://$(k get pod busbar-nats-0 -o jsonpath='{.status.podIP}'):8222/varz" | grep -o '"max_payload": [0-9]*'; }
  is '"max_payload": 15728640' payload || fail "NATS does not have the chart's configuration: $(payload)"
  release upgrade --set dynamo-operator.enabled=false,global.etcd.install=true --set-json 'nats.config.merge.max_payload=1048576' >"$WORK/out" || fail "upgrade: $(cat "$WORK/out")"
  eventually "NATS has the new configuration" is '"max_payload": 1048576' payload
  is "$password" secret password || fail "an upgrade made a new password"
  is before nats last kept.a || fail "an upgrade lost the stream"
  ok "helm upgrade: NATS is restarted with the new configuration; password and stream are the old ones"
  helm rollback busbar 1 --namespace "$NAMESPACE" --wait --timeout ${WAIT_SECONDS_MAX}s >"$WORK/out" 2>&1 || fail "rollback: $(cat "$WORK/out")"
  eventually "NATS has the old configuration" is '"max_payload": 15728640' payload
  is "$password" secret password || fail "a rollback made a new password"
  is before nats last kept.a || fail "a rollback lost the stream"
  ok "helm rollback: the old configuration, the same password and stream"
  local wanted
  for wanted in etcd.replicaCount=5 nats.config.cluster.enabled=true; do
    ! release upgrade --set dynamo-operator.enabled=false,global.etcd.install=true --set "$wanted" >"$WORK/out" || fail "$wanted was accepted"
    grep -q "replicas, and the values ask for" "$WORK/out" || fail "$wanted: $(cat "$WORK/out")"
  done
  ok "another number of members is refused on an upgrade: $(grep -o "busbar-nats has.*ask for [0-9]*" "$WORK/out")"
}

ends() {
  helm uninstall busbar --namespace "$NAMESPACE" --wait --timeout ${WAIT_SECONDS_MAX}s >/dev/null
  nothing_left persistentvolumeclaims
  [ "$(k get pvc -l app.kubernetes.io/instance=busbar -o name | wc -l)" = 4 ] || fail "the claims are not there"
  ok "helm uninstall leaves the four volume claims and nothing else"
  release install --set dynamo-operator.enabled=false,global.etcd.install=true >"$WORK/out" || fail "install again: $(cat "$WORK/out")"
  is before nats last kept.a || fail "the stream is gone"
  [ "$(etcdctl get key --print-value-only)" = during ] || fail "etcd's value is gone"
  ok "an install over them finds the stream and the keys again"
  helm uninstall busbar --namespace "$NAMESPACE" --wait >/dev/null
  k delete pvc -l app.kubernetes.io/instance=busbar >/dev/null
  nothing_left
}

clusters() {
  begin chart-cluster
  release install --set dynamo-operator.enabled=false,nats.config.cluster.enabled=true >"$WORK/out" || fail "install: $(cat "$WORK/out")"
  eventually "a stream with three copies is made" nats keep kept.a copied 3 >/dev/null
  k delete pod busbar-nats-1 --grace-period=0 --force >/dev/null 2>&1
  eventually "the stream is read with a server less" is copied nats last kept.a
  eventually "three servers are ready" is 3 ready busbar-nats
  [ "$(k get pdb busbar-nats -o jsonpath='{.spec.maxUnavailable}')" = 1 ] || fail "no disruption budget"
  ok "NATS as a cluster of three: a stream with three copies outlives a killed server"
  helm uninstall busbar --namespace "$NAMESPACE" --wait >/dev/null
  k delete pvc -l app.kubernetes.io/instance=busbar >/dev/null
}

starts
lint
definitions
documented
rendered
refused
permissions
written
serves
survives
changes
ends
clusters
echo "$passed passed, 0 failed"
