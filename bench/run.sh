#!/usr/bin/env bash
# Measures again what SPECIFICATION says: `bench/run.sh [PART …]`, all parts without a name. See bench/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests-env/parts.sh
target=${CARGO_TARGET_DIR:-target}
export BUSBAR=${BUSBAR:-$target/release/busbar}
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(text router engine startup faults http frontend routers routing)

# stock: the Python of stock Dynamo, installed once; BENCH_DYNAMO_PYTHON names another one.
stock() {
  [ -n "${BENCH_DYNAMO_PYTHON:-}" ] && return
  need_dynamo
  export BENCH_DYNAMO_PYTHON=$DYNAMO_PYTHON
}

# model: the default model, ready in the cache; BUSBAR_CACHE_DIR names another cache.
model() {
  [ -n "${BENCH_GGUF:-}" ] && return
  BUSBAR_CACHE_DIR=${BUSBAR_CACHE_DIR:-$PARTS/cache}
  export BUSBAR_CACHE_DIR
  "$BUSBAR" model fetch -o json >"$PARTS/bench-model.json"
  field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$PARTS/bench-model.json" "$1"; }
  BENCH_GGUF=$(field gguf) BENCH_HF_FOLDER=$(field hf_folder)
  export BENCH_GGUF BENCH_HF_FOLDER
}

# load: our own client, built beside the workspace.
load() {
  [ -n "${BENCH_LOAD:-}" ] && return
  cargo build --quiet --release --locked --manifest-path bench/load/Cargo.toml --target-dir "$target/bench"
  export BENCH_LOAD=$target/bench/release/load
}

# routers: the two routers that forward HTTP, installed once.
routers() {
  need_routers
  export BENCH_VLLM_ROUTER=$VLLM_ROUTER BENCH_SGLANG_ROUTER=$SGLANG_ROUTER
}

for part in "${parts[@]}"; do
  case $part in
    text | router) model ;;
    faults) ;;
    engine) model ;;
    http) model; load ;;
    startup | frontend | routing) model; load; stock ;;
    routers) load; routers ;;
    *) echo "bench/run.sh: no part \"$part\"; there are text, router, engine, startup, faults, http, frontend, routers, routing" >&2; exit 2 ;;
  esac
done
exec python3 bench/measure.py "${parts[@]}"
