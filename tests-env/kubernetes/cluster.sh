#!/usr/bin/env bash
# A real Kubernetes on one machine, for tests. Everything of it is below one state folder and one process.
#
#   cluster.sh up     STATE_FOLDER            start it, or heal it where a part died; prints how to reach it
#   cluster.sh down   STATE_FOLDER            end it; leaves the logs in STATE_FOLDER/log and nothing else
#   cluster.sh status STATE_FOLDER            what runs; not 0 where something is not ready
#   cluster.sh start  STATE_FOLDER PART       start one part again (after `enter … kill`)
#   cluster.sh enter  STATE_FOLDER COMMAND…   run a command in the cluster's namespaces (ctr, iptables, kill)
#
# Up, it is: etcd, the API server, controller manager and scheduler; one real node `real-0` (kubelet, containerd, runc,
# bridge CNI, kube-proxy) with CoreDNS as pods; kwok, with nodes that stand for EC2's GPU types; an image registry.
#
# How tests reach it. The cluster has a network namespace of its own; a veth pair joins it to the machine's, and one
# route, 10.N.0.0/16, leads there. So an ordinary process on the machine reaches the API server, every ClusterIP, every
# pod and node port, and the registry, by address; and the API server and the pods reach a process on the machine
# (an operator's webhooks) at 10.N.255.1, where it must listen on that address or on all. Names of Services resolve in
# pods only, or by asking 10.N.128.10. STATE_FOLDER/env says all addresses. There is no way out of the cluster.
#
#   10.N.0.0/18 real pods   10.N.64.0/18 kwok's pods   10.N.128.0/18 Services   10.N.255.1 machine, 10.N.255.2 cluster
#
# How it ends. All of it runs below one process that is PID 1 of a PID namespace and holds the mount and network
# namespaces: killing that one ends every daemon, shim and container, and with the last of them the kernel drops every
# mount, interface, route and rule. Only the control groups are left, all below one name, and are removed here.
set -euo pipefail
SELF=$(realpath "${BASH_SOURCE[0]}")
HERE=$(dirname "$SELF")

die() { echo "error: $1" >&2; [ -z "${2:-}" ] || echo "remedy: $2" >&2; exit 1; }
usage() { sed -n '4,8s/^# *//p' "$SELF" >&2; exit 2; }

[ $# -ge 2 ] || usage
ACTION=$1
STATE=$(realpath -m "$2")
shift 2

. "$HERE/../parts.sh"
. "$HERE/parts.sh"
. "$HERE/certificates.sh"
. "$HERE/processes.sh"
. "$HERE/namespaces.sh"

NODE_NAME=real-0
BIN=$KUBERNETES/bin NODE_PARTS=$KUBERNETES/node IMAGES=$KUBERNETES/images ETCD=$PARTS/etcd/usr/bin/etcd
DATA=$STATE/data PKI=$STATE/data/pki LOG=$STATE/log

# A start takes less. What a killed run had just started (one kubectl, one import) also holds the lock, until it is done.
LOCK_SECONDS_MAX=120

# The nodes that a new cluster has, as TYPE COUNT for nodes.sh.
FAKE_NODES=("g6e.48xlarge 2" "g6e.12xlarge 2" "p5.48xlarge 2" "p5en.48xlarge 1" "g5.48xlarge 1" "c5.2xlarge 1")

kubectl() { "$BIN/kubectl" --kubeconfig "$STATE/kubeconfig" "$@"; }
say() { printf -- '-- %s (%d s)\n' "$1" $SECONDS; }

# addresses N: all that follows from the number of the cluster.
addresses() {
  CLUSTER=busbar-k$1
  MACHINE_ADDRESS=10.$1.255.1 CLUSTER_ADDRESS=10.$1.255.2
  POD_RANGE=10.$1.0.0/18 FAKE_POD_RANGE=10.$1.64.1/18 SERVICE_RANGE=10.$1.128.0/18
  API_SERVICE_ADDRESS=10.$1.128.1 DNS_ADDRESS=10.$1.128.10
  API_URL=https://$CLUSTER_ADDRESS:6443 REGISTRY=$CLUSTER_ADDRESS:5000
  export NO_PROXY=127.0.0.1,localhost,10.$1.0.0/16,$CLUSTER_ADDRESS
  export no_proxy=$NO_PROXY
}

# find_cluster: sets HOLDER (the process that holds the namespaces, empty where none) and, where known, the addresses.
find_cluster() {
  local number=
  HOLDER=$(holder_of "$STATE")
  if [ -e "$DATA/number" ]; then
    number=$(cat "$DATA/number")
  elif [ -n "$HOLDER" ]; then
    # Someone removed the folder under a running cluster: it knows its own address.
    number=$(nsenter --target "$HOLDER" --net ip -4 -o address show dev eth0 2>/dev/null | sed -n -E 's/.* 10\.([0-9]+)\.255\.2\/.*/\1/p')
  fi
  if [ -n "$number" ]; then addresses "$number"; fi
}

require_up() {
  find_cluster
  [ -n "$HOLDER" ] && [ -e "$DATA/complete" ] || die "no cluster is up in $STATE" "$SELF up $STATE"
}

claim_state_folder() {
  local hidden
  for hidden in /run /var/lib /var/log; do
    case "$STATE/ $PARTS/" in *" $hidden/"* | "$hidden/"*) die "$STATE and $PARTS must not be below $hidden, which the node replaces by its own" "choose another folder" ;; esac
  done
  mkdir -p "$STATE"
  if [ ! -e "$STATE/.busbar-cluster" ] && [ -n "$(ls -A "$STATE")" ]; then
    die "$STATE is not empty and was not made by this script" "name a new or empty folder"
  fi
  : >"$STATE/.busbar-cluster"
  # Closed in all that is started, which would hold it for as long as it lives.
  exec 9>"$STATE/.lock"
  flock -n 9 || { echo "-- another run works on $STATE, waiting for it"; flock -w $LOCK_SECONDS_MAX 9; } ||
    die "another run of this script works on $STATE, and not done after $LOCK_SECONDS_MAX s" "wait for it, or end it"
}

# running PART: whether the process that was started as PART still is.
running() {
  local pid
  pid=$(cat "$DATA/pid/$1" 2>/dev/null) || return 1
  command_of "$1"
  [ "$(inside readlink "/proc/$pid/exe" 2>/dev/null)" = "$(realpath "${COMMAND[0]}")" ]
}

# start PART: no more than once. Its output goes to LOG/PART.log, its pid (of the namespace) to DATA/pid/PART.
start() {
  running "$1" && return 0
  command_of "$1"
  inside bash -c 'setsid "${@:3}" >>"$1" 2>&1 </dev/null & echo $! >"$2"' - "$LOG/$1.log" "$DATA/pid/$1" "${COMMAND[@]}"
}

# wait_for WHAT PART COMMAND…: until the command is true; fails at once where PART is no longer running.
wait_for() {
  local what=$1 part=$2 deadline=$((SECONDS + READY_SECONDS_MAX))
  shift 2
  until "$@"; do
    running "$part" || { tail -n 15 "$LOG/$part.log" >&2; die "$part ended while waiting for: $what" "read $LOG/$part.log"; }
    [ $SECONDS -lt $deadline ] || { tail -n 15 "$LOG/$part.log" >&2; die "$what: not after $READY_SECONDS_MAX s" "read the logs in $LOG"; }
    sleep 0.2
  done
}

# Not `kubectl wait`, which asks for one node after the other.
nodes_ready() {
  local nodes
  nodes=$(kubectl get nodes --no-headers 2>/dev/null) && grep -q "^$NODE_NAME .* Ready " <<<"$nodes" && ! grep -v -q ' Ready ' <<<"$nodes"
}
dns_ready() { [ "$(kubectl -n kube-system get deployment coredns -o jsonpath='{.status.readyReplicas}' 2>/dev/null)" = 1 ]; }
wait_ready() { local part; for part in "$@"; do wait_for "$part answers" "$part" is_ready "$part"; done; }
start_all() { local part; for part in "$@"; do start "$part"; done; }

up() {
  [ "$(id -u)" = 0 ] || die "a cluster needs namespaces, mounts and control groups" "run as root"
  "$HERE/../packages.sh" kubernetes
  need_kubernetes
  claim_state_folder
  SECONDS=0
  find_cluster
  if [ -n "$HOLDER" ] && [ -e "$DATA/complete" ]; then
    echo "-- a cluster is up in $STATE; starting what died"
  else
    # What an interrupted run left would answer for the new one.
    end_cluster
    trap 'code=$?; trap - EXIT INT TERM; echo "-- not finished, ending what was started; logs are in $LOG" >&2; end_cluster; exit $((code ? code : 1))' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    begin_cluster
  fi
  bring_up
  : >"$DATA/complete"
  trap - EXIT INT TERM
  reach
}

# The empty cluster: namespaces, network, certificates, configuration.
begin_cluster() {
  rm -rf "$LOG"
  mkdir -p "$LOG" "$DATA/pid" "$DATA"/{containerd,kubelet,cni-state,node-log}
  hold_namespaces
  join_network
  make_cgroups
  make_certificates
  write_configuration
  say "namespaces, network 10.$(cat "$DATA/number").0.0/16, certificates"
}

bring_up() {
  start_all etcd registry containerd
  wait_ready etcd
  start kube-apiserver
  wait_ready containerd
  local image
  for image in pause coredns probe; do inside ctr -n k8s.io images import "$IMAGES/$image.tar" >/dev/null; done
  wait_ready registry kube-apiserver
  say "API server"
  start_all kube-controller-manager kube-scheduler kubelet kube-proxy kwok
  sed "s/DNS_ADDRESS/$DNS_ADDRESS/" "$HERE/coredns.yaml" | kubectl apply -f - >/dev/null
  local nodes
  for nodes in "${FAKE_NODES[@]}"; do
    # shellcheck disable=SC2086  # two words: type and count
    "$HERE/nodes.sh" $nodes
  done | kubectl apply -f - >/dev/null
  wait_ready kube-controller-manager kube-scheduler kubelet kube-proxy kwok
  wait_for "all nodes are Ready" kubelet nodes_ready
  say "$(kubectl get nodes --no-headers | wc -l) nodes are Ready"
  wait_for "CoreDNS is ready" kubelet dns_ready
  say "CoreDNS"
}

# reach: writes STATE/env and says what is in it.
reach() {
  cat >"$STATE/env" <<EOF
export KUBECONFIG=$STATE/kubeconfig
export BUSBAR_TEST_KUBECONFIG=$STATE/kubeconfig
export BUSBAR_TEST_KUBECTL=$BIN/kubectl
export BUSBAR_TEST_HELM=$BIN/helm
export BUSBAR_TEST_REGISTRY=$REGISTRY
export BUSBAR_TEST_CLUSTER_DNS=$DNS_ADDRESS
export BUSBAR_TEST_MACHINE_ADDRESS=$MACHINE_ADDRESS
export PATH=$BIN:\$PATH
export NO_PROXY=$NO_PROXY no_proxy=$no_proxy
EOF
  echo "up in $SECONDS s: API server $API_URL, registry $REGISTRY (plain HTTP), this machine is $MACHINE_ADDRESS from inside"
  echo "next: . $STATE/env; kubectl get nodes"
}

down() {
  if [ ! -e "$STATE" ]; then
    find_cluster
    [ -z "$HOLDER" ] || { end_cluster; echo "down; $STATE itself was gone"; return 0; }
    echo "nothing is there: $STATE"
    return 0
  fi
  [ -e "$STATE/.busbar-cluster" ] || die "$STATE was not made by this script" "name the folder that was given to up"
  claim_state_folder
  find_cluster
  end_cluster
  echo "down; the logs are in $LOG"
}

# end_cluster: from any state in which a run was left, also none.
end_cluster() {
  find_cluster
  [ -z "$HOLDER" ] || end_namespaces
  if [ -n "${CLUSTER:-}" ]; then remove_cgroups; fi
  rm -rf "$DATA" "$STATE/kubeconfig" "$STATE/env"
}

status() {
  find_cluster
  [ -n "$HOLDER" ] && [ -e "$DATA/complete" ] || { echo "no cluster is up in $STATE"; return 1; }
  local part faults=0
  for part in "${PARTS_OF_CLUSTER[@]}"; do
    if ! running "$part"; then
      echo "$part: not running; cluster.sh start $STATE $part"
      faults=$((faults + 1))
    elif ! is_ready "$part"; then
      echo "$part: running, not ready; see $LOG/$part.log"
      faults=$((faults + 1))
    else
      echo "$part: ready, pid $(cat "$DATA/pid/$part") inside"
    fi
  done
  kubectl get nodes || faults=$((faults + 1))
  [ $faults = 0 ]
}

case $ACTION in
  up) up ;;
  down) down ;;
  status) status ;;
  start) require_up; start "${1:?a part}"; wait_ready "$1" ;;
  enter) require_up; inside "$@" ;;
  hold) hold ;;
  *) usage ;;
esac
