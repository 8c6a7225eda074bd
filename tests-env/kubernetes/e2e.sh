#!/usr/bin/env bash
# Everything that is said about Kubernetes, held by Kubernetes: the short journey, then each crate's tests against a real
# control plane, the chart, and the cluster that all of it stands on. A new cluster for each part, so that none sees what
# another left; `e2e.sh PART…` runs those alone (journey operator webhook discovery image platform chart cluster).
set -euo pipefail
HERE=$(dirname "$(realpath "$0")")
cd "$HERE/../.."
. tests-env/parts.sh
. tests-env/kubernetes/parts.sh
need_kubernetes
need_dynamo
cargo test --release --locked --workspace --no-run \
  --test kubernetes_operator --test kubernetes_webhook --test kubernetes_discovery --test kubernetes_image --test kubernetes_platform
need_model "$(realpath "${CARGO_TARGET_DIR:-target}/release/busbar")"
export BUSBAR_TEST_DYNAMO_PYTHON=$DYNAMO_PYTHON BUSBAR_TEST_MODEL_DIR=$HF_FOLDER BUSBAR_TEST_GGUF=$GGUF BUSBAR_TEST_CACHE=$MODEL_CACHE
STATE=$(mktemp -d)
trap '"$HERE/cluster.sh" down "$STATE" >/dev/null; rm -rf "$STATE"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# tests NAME: the test target kubernetes_NAME on a cluster of its own.
tests() {
  "$HERE/cluster.sh" up "$STATE" >/dev/null
  "$HERE/storage.sh" "$STATE" >/dev/null
  (
    . "$STATE/env"
    cargo test --release --locked --workspace --test "kubernetes_$1" -- --test-threads=1
  )
  "$HERE/cluster.sh" down "$STATE" >/dev/null
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(journey operator webhook discovery image platform chart cluster)
for part in "${parts[@]}"; do
  started=$SECONDS
  echo "== $part"
  case $part in
    journey) "$HERE/journey.sh" ;;
    chart) "$HERE/chart.sh" ;;
    cluster) "$HERE/smoke.sh" ;;
    *) tests "$part" ;;
  esac
  echo "== $part took $((SECONDS - started)) s"
done
