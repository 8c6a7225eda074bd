# The namespaces, the network and the control groups of one cluster: made, entered, ended. Sourced by cluster.sh.

# Numbers that a cluster may have, as the second byte of its addresses: as many clusters at once.
NUMBER_MIN=200
NUMBER_MAX=231

# What the kubelet sets for the whole machine at its start. It finds these values in the node's own view and leaves
# the machine's alone. Source: Kubernetes 1.35, pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables.
NODE_SYSCTLS=(vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000)

# inside COMMAND…: in the cluster's namespaces, with the node's programs on the path. Not `ip netns exec`, which would
# hide the control groups behind a new /sys.
inside() {
  nsenter --target "$HOLDER" --mount --net --pid -- env PATH="$NODE_PARTS/usr/bin:$NODE_PARTS/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin" \
    CONTAINERD_ADDRESS=/run/containerd/containerd.sock no_proxy="$NO_PROXY" NO_PROXY="$NO_PROXY" "$@" 9>&-
}

# holder_of STATE_FOLDER: the machine's pid of the process that holds its cluster. Looked for, not noted down, so that
# no interruption can come between the process and the note.
holder_of() {
  local folder argv
  for folder in /proc/[0-9]*; do
    mapfile -d '' -t argv 2>/dev/null <"$folder/cmdline" || continue
    [ ${#argv[@]} -ge 4 ] && [ "${argv[*]: -2}" = "hold $1" ] && [ "${argv[0]##*/}" = bash ] || continue
    # `return 0`: without the 0, a trap that asks gets the status from before the trap.
    # PID 1 of its own namespace, so not the `unshare` that waits for it, nor a fork of it.
    grep -q -P '^NSpid:\t\d+\t1$' "$folder/status" 2>/dev/null && echo "${folder#/proc/}" && return 0
  done
}

hold_namespaces() {
  setsid unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc \
    bash "$SELF" hold "$STATE" >"$LOG/namespaces.log" 2>&1 </dev/null 9>&- &
  local deadline=$((SECONDS + READY_SECONDS_MAX)) waiter=$!
  until [ -e "$DATA/held" ]; do
    kill -0 $waiter 2>/dev/null || { cat "$LOG/namespaces.log" >&2; die "the cluster's namespaces cannot be made" "run as root with CAP_SYS_ADMIN, on a kernel with mount, network and PID namespaces"; }
    [ $SECONDS -lt $deadline ] || die "the cluster's namespaces are not there after $READY_SECONDS_MAX s" "read $LOG/namespaces.log"
    sleep 0.05
  done
  HOLDER=$(holder_of "$STATE")
  [ -n "$HOLDER" ] || die "the process that holds the namespaces is gone" "read $LOG/namespaces.log"
}

# hold: PID 1 of the namespaces. Prepares the node's view of the machine, then adopts and reaps.
hold() {
  # Mounts of the kubelet must be seen by containers, but none of them by the machine.
  mount --make-rshared /
  local own setting
  mount -t tmpfs -o mode=755 tmpfs /run
  mount -t tmpfs -o mode=755 tmpfs /var/lib
  for own in containerd=/var/lib/containerd kubelet=/var/lib/kubelet cni-state=/var/lib/cni node-log=/var/log; do
    mkdir -p "${own#*=}"
    mount --bind "$DATA/${own%%=*}" "${own#*=}"
    mount --make-private "${own#*=}"
    mount --make-shared "${own#*=}"
  done
  mkdir -p /run/sysctl
  for setting in "${NODE_SYSCTLS[@]}"; do
    [ -e "/proc/sys/${setting%%=*}" ] || continue
    own=/run/sysctl/$(basename "${setting%%=*}")
    echo "${setting#*=}" >"$own"
    mount --bind "$own" "/proc/sys/${setting%%=*}"
  done
  ip link set lo up
  echo 1 >/proc/sys/net/ipv4/ip_forward
  # Replies between pods of one bridge must pass kube-proxy's rules.
  if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables; fi
  : >"$DATA/held"
  # bash reaps what it adopts while it waits.
  while :; do sleep 3600 & wait $! || true; done
}

# join_network: takes the first free number. The name of the interface is the lock: it can be made only once.
join_network() {
  local number
  for ((number = NUMBER_MIN; number <= NUMBER_MAX; number++)); do
    [ -z "$(ip -4 route show root "10.$number.0.0/16")" ] || continue
    ip link add "busbar-k$number" type veth peer name eth0 netns "$HOLDER" 2>"$LOG/network.log" && break
    grep -q 'File exists' "$LOG/network.log" || { cat "$LOG/network.log" >&2; die "no veth pair can be made" "run as root with CAP_NET_ADMIN, on a kernel with CONFIG_VETH"; }
  done
  [ "$number" -le $NUMBER_MAX ] || die "all networks from 10.$NUMBER_MIN to 10.$NUMBER_MAX are in use" "end a cluster: ip -4 route shows them, cluster.sh down ends one"
  echo "$number" >"$DATA/number"
  addresses "$number"
  ip address add "$MACHINE_ADDRESS/30" dev "$CLUSTER"
  ip link set "$CLUSTER" up
  inside ip address add "$CLUSTER_ADDRESS/30" dev eth0
  inside ip link set eth0 up
  # Without a default route the node itself could not call a ClusterIP: "network is unreachable".
  inside ip route add default via "$MACHINE_ADDRESS"
  ip route add "10.$number.0.0/16" via "$CLUSTER_ADDRESS"
}

cgroup_mounts() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts; }

make_cgroups() {
  # The number is ours, so what bears its name is left of a cluster that is gone.
  remove_cgroups
  local mount
  for mount in $(cgroup_mounts); do
    mkdir -p "$mount/$CLUSTER"
    # Version 1: a new cpuset is empty and takes no process.
    if [ -e "$mount/$CLUSTER/cpuset.mems" ] && [ ! -e "$mount/$CLUSTER/cgroup.controllers" ]; then
      cat "$mount/cpuset.cpus" >"$mount/$CLUSTER/cpuset.cpus"
      cat "$mount/cpuset.mems" >"$mount/$CLUSTER/cpuset.mems"
    fi
  done
}

# end_namespaces: kills all below HOLDER and waits until the kernel has taken it down.
end_namespaces() {
  local frozen deadline=$((SECONDS + READY_SECONDS_MAX))
  # A paused container does not die of a signal before it is thawed (version 1).
  if [ -n "${CLUSTER:-}" ] && [ -d "/sys/fs/cgroup/freezer/$CLUSTER" ]; then
    while read -r frozen; do echo THAWED >"$frozen" 2>/dev/null || true; done < <(find "/sys/fs/cgroup/freezer/$CLUSTER" -name freezer.state)
  fi
  kill -KILL "$HOLDER" 2>/dev/null || true
  while [ -e "/proc/$HOLDER" ] || { [ -n "${CLUSTER:-}" ] && ip link show "$CLUSTER" >/dev/null 2>&1; }; do
    [ $SECONDS -lt $deadline ] || die "process $HOLDER or interface ${CLUSTER:-} is still there after SIGKILL and $READY_SECONDS_MAX s" "look for a process in state D: ps -eo pid,stat,args"
    sleep 0.05
  done
}

remove_cgroups() {
  local mount folder left deadline=$((SECONDS + READY_SECONDS_MAX))
  while :; do
    left=
    for mount in $(cgroup_mounts); do
      [ -d "$mount/$CLUSTER" ] || continue
      # Deepest first. A group whose last process has just ended stays busy for a moment.
      while read -r folder; do rmdir "$folder" 2>/dev/null || left=$folder; done < <(find "$mount/$CLUSTER" -depth -type d)
    done
    [ -n "$left" ] || return 0
    [ $SECONDS -lt $deadline ] || die "control group $left cannot be removed" "see which process is in it: cat $left/cgroup.procs"
    sleep 0.1
  done
}
