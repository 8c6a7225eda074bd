#!/usr/bin/env bash
# Many graphs on many nodes: how long until all are Ready, and what the operator costs meanwhile and afterwards.
#
#   scale.sh [GRAPHS [NODES]]      200 graphs of 25 pods and 1,000 nodes unless said
#
# The nodes are kwok's, so pods start at once and what is measured is the operator and Kubernetes, not images. The
# operator is the binary of this tree, a process of this machine; its webhooks are called from inside the cluster.
set -euo pipefail
HERE=$(dirname "$(realpath "$0")")
ROOT=$HERE/../..
GRAPHS=${1:-200} NODES=${2:-1000}
WORKERS=24
BUSBAR=$(realpath "${CARGO_TARGET_DIR:-$ROOT/target}/release/busbar")
STATE=$(mktemp -d)
WORK=$(mktemp -d)
trap 'jobs -p | xargs -r kill 2>/dev/null || true; "$HERE/cluster.sh" down "$STATE" >/dev/null; rm -rf "$STATE" "$WORK"' EXIT
"$HERE/cluster.sh" up "$STATE"
. "$STATE/env"

gpu_nodes=$((NODES * 3 / 4))
{ "$HERE/nodes.sh" p5.48xlarge $gpu_nodes 100 && "$HERE/nodes.sh" c5.2xlarge $((NODES - gpu_nodes)) 100; } >"$WORK/nodes.yaml"
kubectl apply --server-side -f "$WORK/nodes.yaml" >/dev/null
kubectl wait --for=condition=Ready node -l type=kwok --timeout=300s >/dev/null
echo "ok: $NODES nodes are Ready"

kubectl create namespace busbar-system >/dev/null
kubectl create namespace scale >/dev/null
"$BUSBAR" crds --apply
"$BUSBAR" operator --k8s-namespace busbar-system --webhook-host "$BUSBAR_TEST_MACHINE_ADDRESS" --webhook-port 19443 \
  --webhook-url "https://$BUSBAR_TEST_MACHINE_ADDRESS:19443" --health-port 18081 --metrics-port 18080 2>"$WORK/operator.log" &
operator=$!
for _ in $(seq 600); do curl -sf http://127.0.0.1:18081/readyz >/dev/null && break; sleep 0.1; done
curl -sf http://127.0.0.1:18081/readyz >/dev/null || { tail -n 20 "$WORK/operator.log" >&2; exit 1; }

python3 "$HERE/scale.py" --graphs "$GRAPHS" --workers $WORKERS --pid $operator --kubectl kubectl --namespace scale \
  --metrics http://127.0.0.1:18080/metrics
