# Where the real parts live and how each is had. Sourced by the scripts beside it.
# Each part is installed once per pinned version; a part that cannot be had ends the run.
PARTS=${BUSBAR_TESTS_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/busbar-tests-env}
mkdir -p "$PARTS"

DYNAMO_VERSION=1.6.1
OPENAI_VERSION=2
CARGO_DENY_VERSION=0.20.2
ETCD_VERSION=3.5.30
ETCD_FALLBACK_VERSION=3.4.23

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

# etcd and etcdctl, from Debian's unstable suite by download and extract (nothing is installed), where the machine's
# own sources say it is; where that suite has moved on, the older ones of Debian 12. Another version is never taken.
need_etcd() {
  ETCD=$PARTS/etcd/usr/bin/etcd
  have etcd $ETCD_VERSION && return
  have etcd $ETCD_FALLBACK_VERSION && return
  installing "etcd $ETCD_VERSION"
  local folder=$PARTS/etcd.new suite version found=
  for suite in sid stable; do
    version=$ETCD_VERSION
    [ $suite = sid ] || version=$ETCD_FALLBACK_VERSION
    rm -rf "$folder"
    mkdir -p "$folder/apt/sources" "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
    if debian_packages "$folder/apt" $suite "$version" etcd-server etcd-client; then
      found=$version
      break
    fi
    echo "   etcd $version cannot be had from Debian's $suite" >&2
  done
  [ -n "$found" ] || { echo "etcd $ETCD_VERSION (or $ETCD_FALLBACK_VERSION) cannot be had" >&2; exit 1; }
  for package in "$folder"/apt/*.deb; do dpkg-deb -x "$package" "$folder"; done
  rm -rf "$folder/apt" "$PARTS/etcd"
  mv "$folder" "$PARTS/etcd"
  "$ETCD" --version | grep -q "etcd Version: $found"
  mark etcd "$found"
}

# debian_packages FOLDER SUITE VERSION PACKAGE…: downloads these packages of that upstream version into FOLDER.
debian_packages() {
  local folder=$1 suite=$2 version=$3
  shift 3
  local apt=(-qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$folder/sources"
    -o Dir::State::lists="$folder/lists" -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root)
  local own=(-qq)
  local packages=("$@") package full wanted=()
  if [ "$suite" = sid ]; then
    # The main archive of this machine's sources, with the other suite.
    local mirror
    mirror=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 2>/dev/null | grep -v security | head -1)
    [ -n "$mirror" ] || return 1
    printf 'Types: deb\nURIs: %s\nSuites: sid\nComponents: main\nSigned-By: %s\n' "$mirror" \
      /usr/share/keyrings/debian-archive-keyring.gpg >"$folder/sources/sid.sources"
    own=("${apt[@]}")
    apt-get "${own[@]}" update || return 1
  fi
  for package in "${packages[@]}"; do
    full=$(apt-cache "${own[@]}" madison "$package" | awk -F'|' '{gsub(/ /, "", $2); print $2}' | grep -m1 "^$version-") || return 1
    wanted+=("$package=$full")
  done
  (cd "$folder" && apt-get "${own[@]}" download "${wanted[@]}")
}

# The default model, brought by the product's own command.
need_model() {
  MODEL_CACHE=$PARTS/cache
  echo "-- the default model (busbar model fetch)"
  BUSBAR_CACHE_DIR=$MODEL_CACHE "$1" model fetch -o json >"$PARTS/model.json"
  GGUF=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["gguf"])' "$PARTS/model.json")
  HF_FOLDER=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["hf_folder"])' "$PARTS/model.json")
}
