#!/usr/bin/env bash
# All tests, with the real parts installed first. What a test needs it finds in its environment.
set -euo pipefail
cd "$(dirname "$0")/.."
tests-env/packages.sh test
. tests-env/parts.sh
started=$SECONDS
lap() { echo "-- $1: $((SECONDS - started)) s"; started=$SECONDS; }
need_dynamo
need_nats
lap "stock peers"
need_etcd
lap "etcd"
cargo test --release --locked --workspace --all-targets --no-run
lap "build of the tests"
need_model "${CARGO_TARGET_DIR:-target}/release/busbar"
lap "model"
export BUSBAR_TEST_PYTHON=$DYNAMO_PYTHON BUSBAR_TEST_DYNAMO_PYTHON=$DYNAMO_PYTHON
export BUSBAR_TEST_ETCD=$ETCD
export BUSBAR_TEST_GGUF=$GGUF BUSBAR_TEST_MODEL_DIR=$HF_FOLDER BUSBAR_TEST_CACHE=$MODEL_CACHE
export BUSBAR_TEST_NATS=$NATS
export BUSBAR_TEST_CHROMIUM=${BUSBAR_TEST_CHROMIUM:-$(command -v chromium)}
cargo test --release --locked --workspace --no-fail-fast
lap "tests"
