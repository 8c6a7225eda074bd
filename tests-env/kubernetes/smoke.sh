#!/usr/bin/env bash
# Shows that the test cluster is a real one: starts it, uses each part of it, breaks some, ends it, and looks for what
# it left on the machine. Every check says what it saw; the first that fails ends the run.
set -euo pipefail
HERE=$(dirname "$(realpath "$0")")
STATE=$(mktemp -d)
WORK=$(mktemp -d)
# Waits are on conditions; no wait here takes more than seconds on an idle machine.
WAIT_SECONDS_MAX=120

cluster() { "$HERE/cluster.sh" "$1" "$STATE" "${@:2}"; }
trap 'jobs -p | xargs -r kill 2>/dev/null || true; rm -rf "$WORK"; cluster down >/dev/null && rm -rf "$STATE"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
passed=0
ok() { passed=$((passed + 1)); echo "ok $passed: $1"; }
fail() {
  echo "FAILED: $1"
  if [ -e "$STATE/env" ]; then
    cluster status || true
    kubectl -n smoke get pods -o wide || true
    kubectl get events -A --sort-by=.lastTimestamp 2>/dev/null | tail -n 20 || true
  fi
  echo "$passed passed, 1 failed"
  exit 1
}

# eventually WHAT COMMAND…: until the command is true, or the run fails.
eventually() {
  local what=$1 deadline=$((SECONDS + WAIT_SECONDS_MAX))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within $WAIT_SECONDS_MAX s"
    sleep 0.2
  done
}
field() { kubectl -n smoke get "$1" -o jsonpath="$2"; }
field_is() { [ "$(field "$1" "$2" 2>/dev/null)" = "$3" ]; }
# says URL TEXT: whether URL answers with a line that has TEXT in it.
says() { [[ $(curl -s --max-time 10 "$1") == *"$2"* ]]; }

# settings: what a node is wont to set for the whole machine.
settings() {
  sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys \
    kernel.keys.root_maxbytes net.ipv4.ip_forward net.netfilter.nf_conntrack_max 2>&1
}

# remember: what bears the running cluster's mark, so that `nothing_left` can look for it. Not a comparison of the whole
# machine: others may start and end clusters meanwhile.
remember() {
  NUMBER=$(cat "$STATE/data/number")
  NAMESPACES=$(cluster enter readlink /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/pid)
}

nothing_left() {
  local left
  left=$({
    find /proc -maxdepth 3 -path '/proc/[0-9]*/ns/*' -printf '%l of process %h\n' 2>/dev/null | grep -F "$NAMESPACES"
    ps -eo pid,args | grep -F "hold $STATE" | grep -v -F grep
    grep -F -e "$STATE" -e busbar-k -e /run/netns/cni -e /var/lib/kubelet /proc/mounts
    ip -o link show "busbar-k$NUMBER" 2>/dev/null
    ip -4 route show root "10.$NUMBER.0.0/16"
    find /sys/fs/cgroup -name "busbar-k$NUMBER"
    settings | diff "$WORK/settings" -
    ls -A "$STATE" | grep -v -x -e log -e .lock -e .busbar-cluster
  } || true)
  [ -z "$left" ] || fail "this is left: $left"
}

starts() {
  settings >"$WORK/settings"
  cluster up
  . "$STATE/env"
  cluster status >"$WORK/status" || fail "status: $(cat "$WORK/status")"
  ok "up; status says that every part is ready"
  kubectl get nodes -o wide
  [ "$(kubectl get node real-0 -o jsonpath='{.status.nodeInfo.kubeletVersion} {.status.nodeInfo.containerRuntimeVersion}')" \
    = "$(kubectl version -o json | python3 -c 'import json,sys; print(json.load(sys.stdin)["serverVersion"]["gitVersion"])') containerd://1.6.20" ] ||
    fail "the real node's kubelet or container runtime is not what it should be"
  ok "real-0 runs a kubelet of the API server's version and containerd"
  kubectl create namespace smoke >/dev/null
}

# An image that no one has yet: a byte more than the probe's. Pushed from a store of its own, then only the registry has it.
registry() {
  { cat "$(dirname "$BUSBAR_TEST_HELM")/probe"; date +%N; } >"$WORK/probe"
  IMAGE=$BUSBAR_TEST_REGISTRY/smoke/probe:1
  python3 "$HERE/image.py" "$IMAGE" "$WORK/probe" "$WORK/probe.tar" serve
  cluster enter ctr -n smoke images import "$WORK/probe.tar" >/dev/null
  cluster enter ctr -n smoke images push --plain-http "$IMAGE" >/dev/null
  cluster enter ctr -n smoke images rm --sync "$IMAGE" >/dev/null
  says "http://$BUSBAR_TEST_REGISTRY/v2/smoke/probe/tags/list" '"tags":["1"]' || fail "the registry does not have what was pushed"
  ok "an image is pushed, and an ordinary process sees it in the registry"
}

workload() {
  kubectl -n smoke apply -f - >/dev/null <<EOF
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: echo
        image: $IMAGE
        imagePullPolicy: Always
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
        securityContext: {runAsNonRoot: true, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}
EOF
  kubectl -n smoke rollout status deployment/echo --timeout=${WAIT_SECONDS_MAX}s >/dev/null || fail "the Deployment does not become ready"
  [ "$(kubectl -n smoke get pods -o jsonpath='{.items[*].spec.nodeName}')" = "real-0 real-0" ] || fail "the pods are not on the real node"
  ok "a Deployment of 2 pods runs on real-0 from an image that was pulled from the registry"
  ADDRESS=$(field service/echo '{.spec.clusterIP}')
  eventually "the Service answers at $ADDRESS" says "http://$ADDRESS/" "hello from echo-"
  ok "an ordinary process on the machine reaches the Service at its ClusterIP: $(curl -s "http://$ADDRESS/")"
  local name
  for name in echo echo.smoke echo.smoke.svc.cluster.local; do
    says "http://$ADDRESS/fetch?url=http://$name/" "hello from echo-" ||
      fail "a pod does not reach http://$name/: $(curl -s "http://$ADDRESS/fetch?url=http://$name/")"
  done
  ok "a pod reaches the Service as echo, echo.smoke and echo.smoke.svc.cluster.local"
  says "http://$ADDRESS/fetch?url=http://nobody.smoke/" "no such host" || fail "a name that is none resolves"
  ok "a name that is none does not resolve"
  (cd "$WORK" && echo "from the machine" >page && exec python3 -m http.server --bind "$BUSBAR_TEST_MACHINE_ADDRESS" 18099 >/dev/null 2>&1) &
  eventually "a pod reaches the machine" says "http://$ADDRESS/fetch?url=http://$BUSBAR_TEST_MACHINE_ADDRESS:18099/page" "from the machine"
  ok "a pod reaches a process on the machine"
}

reach_into_pods() {
  kubectl -n smoke logs deployment/echo | grep -q "listening on :8080" || fail "no logs"
  { kubectl -n smoke exec deployment/echo -- /probe 2>&1 || true; } | grep -q "usage: probe" || fail "no exec"
  kubectl -n smoke port-forward service/echo 18098:80 >/dev/null 2>&1 &
  local forward=$!
  eventually "port-forward answers" says http://127.0.0.1:18098/ "hello from echo-"
  kill $forward
  ok "logs, exec and port-forward work"
}

killed_container() {
  local pod id pid limits
  pod=$(kubectl -n smoke get pods -l app=echo -o jsonpath='{.items[0].metadata.name}')
  id=$(field "pod/$pod" '{.status.containerStatuses[0].containerID}')
  id=${id#containerd://}
  limits=$(find /sys/fs/cgroup -path "*/kubepods/*/$id/*" \( -name memory.limit_in_bytes -o -name memory.max \) -exec cat {} +)
  [ "$limits" = $((64 << 20)) ] || fail "the container's memory limit is '$limits', not 64 MiB"
  ok "the container's memory limit is the kernel's"
  pid=$(cluster enter ctr -n k8s.io tasks ls | awk -v id="$id" '$1 == id {print $2}')
  cluster enter kill -9 "$pid"
  eventually "the killed container is started again" field_is "pod/$pod" '{.status.containerStatuses[0].restartCount}' 1
  eventually "it is ready again" field_is "pod/$pod" '{.status.containerStatuses[0].ready}' true
  ok "a container killed by -9 is started again and becomes ready"
}

# gpu_pod NAME GPUS: a pod that asks for GPUs of a p5.48xlarge, and for nothing else that is special.
gpu_pod() {
  kubectl -n smoke apply -f - >/dev/null <<EOF
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  nodeSelector: {node.kubernetes.io/instance-type: p5.48xlarge}
  containers: [{name: main, image: busbar.test/probe:1, resources: {limits: {nvidia.com/gpu: "$2"}}}]
EOF
}

scheduling() {
  gpu_pod whole 8
  gpu_pod too-much 9
  eventually "a pod with 8 GPUs runs" field_is pod/whole '{.status.phase}' Running
  [[ $(field pod/whole '{.spec.nodeName}') == p5-48xlarge-* ]] || fail "it is on $(field pod/whole '{.spec.nodeName}')"
  eventually "a pod with 9 GPUs is told why not" field_is pod/too-much '{.status.conditions[0].reason}' Unschedulable
  field pod/too-much '{.status.conditions[0].message}' | grep -q "Insufficient nvidia.com/gpu" || fail "the reason is not the GPU"
  ok "8 GPUs are scheduled to $(field pod/whole '{.spec.nodeName}'), 9 are refused: $(field pod/too-much '{.status.conditions[0].message}' | cut -c1-110)"
  kubectl -n smoke delete pod whole too-much --wait >/dev/null
}

charts() {
  mkdir -p "$WORK/chart/templates"
  printf 'apiVersion: v2\nname: trivial\nversion: 0.1.0\nkubeVersion: ">=1.35.0-0"\n' >"$WORK/chart/Chart.yaml"
  echo 'word: first' >"$WORK/chart/values.yaml"
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "{{ .Release.Name }}"}\ndata: {word: "{{ .Values.word }}"}\n' >"$WORK/chart/templates/map.yaml"
  local helm=("$BUSBAR_TEST_HELM" --namespace smoke)
  "${helm[@]}" install trivial "$WORK/chart" --wait >/dev/null
  field_is configmap/trivial '{.data.word}' first || fail "helm install made no ConfigMap"
  "${helm[@]}" upgrade trivial "$WORK/chart" --set word=second --wait >/dev/null
  field_is configmap/trivial '{.data.word}' second || fail "helm upgrade changed nothing"
  "${helm[@]}" rollback trivial 1 --wait >/dev/null
  field_is configmap/trivial '{.data.word}' first || fail "helm rollback changed nothing"
  "${helm[@]}" uninstall trivial --wait >/dev/null
  [ -z "$(kubectl -n smoke get configmap trivial --ignore-not-found -o name)" ] || fail "helm uninstall left the ConfigMap"
  ok "helm installs, upgrades, rolls back and uninstalls a chart ($("$BUSBAR_TEST_HELM" version --short))"
}

api_server_restart() {
  cluster enter kill -9 "$(cat "$STATE/data/pid/kube-apiserver")"
  ! kubectl get --raw /readyz >/dev/null 2>&1 || fail "the API server answers although it was killed"
  says "http://$ADDRESS/" "hello from echo-" || fail "the Service stopped with the API server"
  cluster start kube-apiserver
  kubectl -n smoke scale deployment/echo --replicas=3 >/dev/null
  kubectl -n smoke rollout status deployment/echo --timeout=${WAIT_SECONDS_MAX}s >/dev/null || fail "nothing acts on a change after the restart"
  ok "the API server is killed: the Service still answers; started again: a change is acted on"
  cluster enter kill -9 "$(cat "$STATE/data/pid/kube-scheduler")"
  ! cluster status >/dev/null || fail "status does not see a dead scheduler"
  cluster up >"$WORK/second"
  cluster status >/dev/null || fail "a second up does not heal"
  ok "a second up starts what died: $(tail -n 2 "$WORK/second" | head -n 1 | cut -d: -f1)"
}

ends() {
  remember
  cluster down
  nothing_left
  ok "down leaves no process, namespace, mount, interface, route, control group or setting"
  setsid "$HERE/cluster.sh" up "$STATE" >/dev/null 2>&1 &
  local interrupted=$!
  disown
  eventually "a new start has begun" test -s "$STATE/data/pid/containerd"
  kill -9 $interrupted
  NUMBER=$(cat "$STATE/data/number")
  cluster down >/dev/null
  nothing_left
  ok "an up that is killed by -9 half-way is ended by down without a trace"
}

starts
registry
workload
reach_into_pods
killed_container
scheduling
charts
api_server_restart
ends
echo "$passed passed, 0 failed"
