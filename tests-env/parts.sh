# Where the real parts live and how each is had. Sourced by the scripts beside it.
# Each part is installed once per pinned version; a part that cannot be had ends the run.
PARTS=${BUSBAR_TESTS_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/busbar-tests-env}
mkdir -p "$PARTS"

DYNAMO_VERSION=1.6.1
OPENAI_VERSION=2
CARGO_DENY_VERSION=0.20.2
CARGO_FUZZ_VERSION=0.13.2

# have NAME VERSION: whether that version of the part is there.
have() { [ "$(cat "$PARTS/$1.version" 2>/dev/null)" = "$2" ]; }
mark() { echo "$2" >"$PARTS/$1.version"; }
installing() { echo "-- installing $*"; }

# Stock NVIDIA Dynamo: frontend and mocker need no GPU. Its own dependency list asks for a package that only its
# vendor's index has (aisimulate) and that neither process imports, so the rest is named here.
need_dynamo() {
  DYNAMO_PYTHON=$PARTS/dynamo/bin/python
  local want="$DYNAMO_VERSION openai-$OPENAI_VERSION selenium-4"
  have dynamo "$want" && return
  installing "ai-dynamo $DYNAMO_VERSION, the openai client and selenium (about 700 MB)"
  rm -rf "$PARTS/dynamo"
  python3 -m venv "$PARTS/dynamo"
  local pip=("$PARTS/dynamo/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" --no-deps "ai-dynamo==$DYNAMO_VERSION" "ai-dynamo-runtime==$DYNAMO_VERSION"
  "${pip[@]}" "aiohttp>=3.14,<4" certifi "kubernetes>=32.0.1,<33" "msgspec>=0.19" "prometheus-client>=0.23.1,<1" \
    "pyzmq>=26" "redis>=6.2,<9" tqdm "transformers>=4.56" typing-extensions "zstandard>=0.23,<1" \
    "pydantic>=2.10.6,<=2.13.5" "uvloop>=0.21" tokenizers "openai>=$OPENAI_VERSION,<3" "selenium>=4.25,<5" 2> >(grep -v "dependency conflicts\|requires\|^$" >&2 || true)
  "$DYNAMO_PYTHON" -c "import dynamo.frontend, openai, selenium"
  mark dynamo "$want"
}

# The routers that Busbar is measured beside. Only the bench needs them.
need_routers() {
  VLLM_ROUTER=$PARTS/vllm-router/bin/vllm-router SGLANG_ROUTER=$PARTS/sglang-router/bin/sglang-router
  local name
  for name in "vllm-router==0.1.17" "sglang-router==0.3.2"; do
    local folder=${name%%==*}
    have "$folder" "$name" && continue
    installing "$name"
    rm -rf "${PARTS:?}/$folder"
    python3 -m venv "$PARTS/$folder"
    "$PARTS/$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$name"
    mark "$folder" "$name"
  done
}

need_cargo_deny() {
  CARGO_DENY=$PARTS/cargo-deny/bin/cargo-deny
  have cargo-deny $CARGO_DENY_VERSION && return
  installing "cargo-deny $CARGO_DENY_VERSION (built from source, some minutes)"
  cargo install --quiet --locked --root "$PARTS/cargo-deny" --version $CARGO_DENY_VERSION cargo-deny
  mark cargo-deny $CARGO_DENY_VERSION
}

need_cargo_fuzz() {
  CARGO_FUZZ=$PARTS/cargo-fuzz/bin/cargo-fuzz
  have cargo-fuzz $CARGO_FUZZ_VERSION && return
  installing "cargo-fuzz $CARGO_FUZZ_VERSION (built from source, some minutes)"
  cargo install --quiet --locked --root "$PARTS/cargo-fuzz" --version $CARGO_FUZZ_VERSION cargo-fuzz
  mark cargo-fuzz $CARGO_FUZZ_VERSION
}

# The default model, brought by the product's own command.
need_model() {
  MODEL_CACHE=$PARTS/cache
  echo "-- the default model (busbar model fetch)"
  BUSBAR_CACHE_DIR=$MODEL_CACHE "$1" model fetch -o json >"$PARTS/model.json"
  GGUF=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["gguf"])' "$PARTS/model.json")
  HF_FOLDER=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["hf_folder"])' "$PARTS/model.json")
}
