#!/usr/bin/env bash
# Journey 2, on a real Kubernetes of this machine: the platform from one file, a model brought to a claim, a graph of a
# frontend and two workers with that real model, the guide's own steps (pods, port-forward, curl), a worker's pod taken
# away in mid-answer, and down. Each step says what it saw.
set -euo pipefail
HERE=$(dirname "$(realpath "$0")")
cd "$HERE/../.."
. tests-env/parts.sh
. tests-env/kubernetes/parts.sh
BUSBAR=$(realpath "${CARGO_TARGET_DIR:-target}/release/busbar")
need_kubernetes
need_model "$BUSBAR"
STATE=$(mktemp -d)
WORK=$(mktemp -d)
WAIT_SECONDS_MAX=300
MODEL=busbar/SmolLM2-135M-Instruct
trap 'jobs -p | xargs -r kill 2>/dev/null || true; "$HERE/cluster.sh" down "$STATE" >/dev/null; rm -rf "$STATE" "$WORK"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
passed=0
started=$SECONDS
ok() { passed=$((passed + 1)); echo "ok $passed: $1 ($((SECONDS - started)) s)"; started=$SECONDS; }
fail() {
  echo "FAILED: $1"
  kubectl get dgd,dcd,dm,deployments,jobs,pods,pvc -A -o wide 2>&1 | tail -n 40 || true
  kubectl get dgd -A -o jsonpath='{range .items[*].status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}' 2>&1 || true
  kubectl get events -A --sort-by=.lastTimestamp 2>&1 | tail -n 25 || true
  kubectl -n busbar-system logs deployment/busbar-operator --tail=40 2>&1 || true
  kubectl -n demo logs -l nvidia.com/dynamo-component-type=worker --tail=15 --prefix 2>&1 || true
  echo "$passed passed, 1 failed"
  exit 1
}
eventually() {
  local what=$1 deadline=$((SECONDS + WAIT_SECONDS_MAX))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within $WAIT_SECONDS_MAX s"
    sleep 0.5
  done
}
field_is() { [ "$(kubectl -n demo get "$1" -o jsonpath="$2" 2>/dev/null)" = "$3" ]; }

"$HERE/cluster.sh" up "$STATE" >/dev/null
"$HERE/storage.sh" "$STATE" >/dev/null
. "$STATE/env"
kubectl create namespace demo >/dev/null
ok "a cluster: $(kubectl get nodes --no-headers | wc -l) nodes, Kubernetes $(kubectl version -o json | python3 -c 'import json,sys; print(json.load(sys.stdin)["serverVersion"]["gitVersion"])')"

# The platform alone, from one file: image, definitions, operator.
cat >"$WORK/platform.yaml" <<EOF
apiVersion: busbar.dev/v1alpha1
kind: Platform
metadata: {name: busbar}
target:
  kubernetes:
    k8s_namespace: busbar-system
    registry: {address: "$BUSBAR_TEST_REGISTRY", plainHttp: true}
platform:
  nats: {install: false}
  discoveryBackend: kubernetes
EOF
"$BUSBAR" plan "$WORK/platform.yaml" >"$WORK/plan.txt" || fail "plan: $(cat "$WORK/plan.txt")"
"$BUSBAR" up "$WORK/platform.yaml" || fail "up of the platform"
ok "the platform is up: $(kubectl -n busbar-system get deployment busbar-operator -o jsonpath='{.status.readyReplicas}') operators ready"

# The model: a claim that a Job fills once, from a hub on this machine.
python3 "$HERE/hub.py" "$BUSBAR_TEST_MACHINE_ADDRESS" 18090 $MODEL "$GGUF" "$HF_FOLDER"/{config,generation_config,tokenizer,tokenizer_config}.json >"$WORK/hub.log" &
kubectl -n demo apply -f - >/dev/null <<EOF
apiVersion: nvidia.com/v1alpha1
kind: DynamoModel
metadata:
  name: smollm2
  annotations:
    busbar.dev/model-cache-claim: models
    busbar.dev/model-cache-size: 1Gi
    busbar.dev/hf-endpoint: http://$BUSBAR_TEST_MACHINE_ADDRESS:18090
spec:
  modelName: $MODEL
  baseModelName: $MODEL
  source: {uri: "hf://$MODEL"}
EOF
eventually "the model is on its claim" field_is dynamomodel/smollm2 '{.status.conditions[?(@.type=="Cached")].status}' True
ok "a Job has brought the model to the claim: $(grep -c resolve "$WORK/hub.log") files"

# The guide's graph, with our image in place of theirs.
IMAGE=$(kubectl -n busbar-system get deployment busbar-operator -o jsonpath='{.spec.template.spec.containers[0].image}')
cat >"$WORK/agg_router.yaml" <<EOF
apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeployment
metadata: {name: vllm-agg-router, namespace: demo}
spec:
  services:
    Frontend:
      componentType: frontend
      replicas: 1
      envs: [{name: DYN_ROUTER_MODE, value: kv}]
      extraPodSpec: {mainContainer: {image: "$IMAGE"}}
    VllmDecodeWorker:
      componentType: worker
      replicas: 2
      modelRef: {name: $MODEL}
      extraPodSpec:
        mainContainer:
          image: "$IMAGE"
          workingDir: /workspace/examples/backends/vllm
          command: [python3, -m, dynamo.vllm]
          args: [--model, $MODEL]
EOF
cat >>"$WORK/platform.yaml" <<EOF
graphs:
  - file: agg_router.yaml
verify: {expect: Paris}
EOF
"$BUSBAR" up "$WORK/platform.yaml" | tee "$WORK/up.txt" || fail "up of the graph"
kubectl -n demo wait --for=condition=Ready dgd/vllm-agg-router --timeout=10s >/dev/null || fail "the graph is not Ready"
ok "up again adds the graph, waits until it is Ready and has asked it: the answer has Paris in it"

# The guide's steps by hand.
kubectl -n demo get pods
[ "$(kubectl -n demo get pods -l nvidia.com/dynamo-graph-deployment-name=vllm-agg-router --no-headers | grep -c ' 1/1 .*Running')" = 3 ] || fail "not three pods run"
kubectl -n demo port-forward deployment/vllm-agg-router-frontend 18000:8000 >"$WORK/forward.log" 2>&1 &
eventually "port-forward answers" curl -sf http://127.0.0.1:18000/v1/models -o "$WORK/models"
ask() { curl -sf "$1/v1/chat/completions" -H 'content-type: application/json' -d "{\"model\":\"$MODEL\",\"temperature\":0,\"max_tokens\":32,\"messages\":[{\"role\":\"user\",\"content\":\"What is the capital of France? Answer in one short sentence.\"}]}"; }
ask http://127.0.0.1:18000 >"$WORK/answer" || fail "no answer through port-forward: $(cat "$WORK/answer")"
grep -q Paris "$WORK/answer" || fail "the answer has no Paris in it: $(cat "$WORK/answer")"
ok "pods, port-forward, curl: $(python3 -c 'import json,sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])' <"$WORK/answer")"

eventually "the model's status counts its pods" field_is dynamomodel/smollm2 '{.status.readyEndpoints}' 2
ok "the model's status counts the two pods that serve it"

# A pod is taken away while both workers answer.
SERVICE=http://$(kubectl -n demo get service vllm-agg-router-frontend -o jsonpath='{.spec.clusterIP}'):8000
curl -sf "$SERVICE/metrics" -o "$WORK/metrics" && grep -q '^dynamo_frontend_requests_total' "$WORK/metrics" || fail "no metrics where Dynamo has them"
streams=()
for i in 1 2; do
  curl -sN "$SERVICE/v1/chat/completions" -H 'content-type: application/json' -d "{\"model\":\"$MODEL\",\"stream\":true,
    \"ignore_eos\":true,\"max_tokens\":150,\"stream_options\":{\"include_usage\":true},
    \"messages\":[{\"role\":\"user\",\"content\":\"$i: tell me a long story.\"}]}" >"$WORK/stream.$i" &
  streams+=($!)
done
tokens() { [ "$(cat "$WORK"/stream.* | grep -c '"content"')" -ge 20 ]; }
eventually "both streams have begun" tokens
victim=$(kubectl -n demo get pods -l nvidia.com/dynamo-component-type=worker -o jsonpath='{.items[0].metadata.name}')
kubectl -n demo delete pod "$victim" --grace-period=0 --force >/dev/null 2>&1
wait "${streams[@]}" || fail "a stream was cut: $(tail -c 300 "$WORK"/stream.*)"
for i in 1 2; do
  ! grep -q '"error"' "$WORK/stream.$i" || fail "stream $i saw it: $(grep '"error"' "$WORK/stream.$i")"
  grep -q '\[DONE\]' "$WORK/stream.$i" || fail "stream $i has no end"
  grep -q '"completion_tokens":150' "$WORK/stream.$i" || fail "stream $i has lost or doubled tokens: $(tail -c 400 "$WORK/stream.$i")"
done
kubectl -n demo wait --for=condition=Ready dgd/vllm-agg-router --timeout=${WAIT_SECONDS_MAX}s >/dev/null || fail "the graph does not become Ready again"
ok "a worker's pod killed under two streams: both whole, 150 tokens each; the graph is Ready again"

kubectl -n demo delete dynamomodel smollm2 >/dev/null
"$BUSBAR" down "$WORK/platform.yaml" --yes || fail "down"
left=$(kubectl get pods,deployments,services,serviceaccounts,roles,rolebindings -n demo -o name | grep -v -e '^service/kubernetes' -e serviceaccount/default || true)
[ -z "$left" ] || fail "down leaves $left"
[ -z "$(kubectl get crds -o name | grep nvidia.com || true)" ] || fail "down leaves definitions"
ok "down leaves nothing"
echo "$passed passed, 0 failed"
