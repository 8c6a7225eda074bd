# What runs in the cluster's namespaces: each part's command line, when it is ready, and the files that it reads.
# Sourced by cluster.sh, which sets the folders and addresses.

PARTS_OF_CLUSTER=(etcd registry containerd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kwok)

# A part that is not ready by then is broken; a cold disk and two busy cores need a fraction of it.
READY_SECONDS_MAX=120

# command_of PART: sets COMMAND. All listen inside of the cluster's own network namespace.
command_of() {
  case $1 in
    # The state goes with the cluster, so nothing is gained by waiting for the disk.
    etcd) COMMAND=("$ETCD" --data-dir "$DATA/etcd" --unsafe-no-fsync --log-level warn
      --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
      --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380
      --initial-cluster default=http://127.0.0.1:2380) ;;
    registry) COMMAND=("$NODE_PARTS/usr/bin/docker-registry" serve "$DATA/registry.yaml") ;;
    containerd) COMMAND=("$NODE_PARTS/usr/bin/containerd" --config "$DATA/containerd.toml") ;;
    kube-apiserver) command_of_apiserver ;;
    kube-controller-manager) COMMAND=("$BIN/kube-controller-manager" --kubeconfig "$PKI/controller-manager.kubeconfig"
      --leader-elect=false --use-service-account-credentials
      --service-account-private-key-file "$PKI/service-account.key" --root-ca-file "$PKI/ca.crt"
      --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key") ;;
    kube-scheduler) COMMAND=("$BIN/kube-scheduler" --kubeconfig "$PKI/scheduler.kubeconfig" --leader-elect=false) ;;
    kubelet) COMMAND=("$BIN/kubelet" --config "$DATA/kubelet.yaml" --kubeconfig "$PKI/kubelet.kubeconfig"
      --hostname-override "$NODE_NAME" --node-ip "$CLUSTER_ADDRESS"
      --node-labels "topology.kubernetes.io/region=us-east-1,topology.kubernetes.io/zone=us-east-1a") ;;
    kube-proxy) COMMAND=("$BIN/kube-proxy" --config "$DATA/kube-proxy.yaml" --hostname-override "$NODE_NAME") ;;
    kwok) COMMAND=("$BIN/kwok" --kubeconfig "$PKI/kwok.kubeconfig" --cidr "$FAKE_POD_RANGE"
      --config "$KUBERNETES/kwok-stages.yaml" --node-lease-duration-seconds 40 --node-ip "$CLUSTER_ADDRESS" --v WARN
      --manage-nodes-with-annotation-selector kwok.x-k8s.io/node=fake --server-address 127.0.0.1:10247) ;;
    *) die "no part $1; there are: ${PARTS_OF_CLUSTER[*]}" ;;
  esac
}

command_of_apiserver() {
  COMMAND=("$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:2379
    --advertise-address "$CLUSTER_ADDRESS" --secure-port 6443 --service-cluster-ip-range "$SERVICE_RANGE"
    --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" --client-ca-file "$PKI/ca.crt"
    --authorization-mode Node,RBAC
    # As in EKS: a pod that asks for a GPU tolerates the taint of GPU nodes (nodes.sh).
    --enable-admission-plugins NodeRestriction,ExtendedResourceToleration
    --allow-privileged --profiling=false
    --service-account-issuer https://kubernetes.default.svc.cluster.local
    --service-account-key-file "$PKI/service-account.key" --service-account-signing-key-file "$PKI/service-account.key"
    # The node's name is in no DNS: logs and exec go to its address.
    --kubelet-preferred-address-types InternalIP --kubelet-certificate-authority "$PKI/ca.crt"
    --kubelet-client-certificate "$PKI/apiserver-kubelet-client.crt" --kubelet-client-key "$PKI/apiserver-kubelet-client.key"
    --requestheader-client-ca-file "$PKI/front-proxy-ca.crt" --requestheader-allowed-names front-proxy-client
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group
    --requestheader-extra-headers-prefix X-Remote-Extra-
    --proxy-client-cert-file "$PKI/front-proxy-client.crt" --proxy-client-key-file "$PKI/front-proxy-client.key")
}

# is_ready PART: one look, no waiting.
is_ready() {
  case $1 in
    etcd) [ "$(inside curl -fsS http://127.0.0.1:2379/health 2>/dev/null | grep -c '"true"')" = 1 ] ;;
    registry) curl -fsS -o /dev/null "http://$REGISTRY/v2/" 2>/dev/null ;;
    containerd) inside ctr version >/dev/null 2>&1 ;;
    kube-apiserver) kubectl get --raw /readyz >/dev/null 2>&1 ;;
    kube-controller-manager) inside curl -fsSk -o /dev/null https://127.0.0.1:10257/healthz 2>/dev/null ;;
    kube-scheduler) inside curl -fsSk -o /dev/null https://127.0.0.1:10259/healthz 2>/dev/null ;;
    kubelet) inside curl -fsS -o /dev/null http://127.0.0.1:10248/healthz 2>/dev/null ;;
    kube-proxy) inside curl -fsS -o /dev/null http://127.0.0.1:10256/livez 2>/dev/null ;;
    kwok) inside curl -fsS -o /dev/null http://127.0.0.1:10247/readyz 2>/dev/null ;;
  esac
}

write_configuration() {
  mkdir -p "$DATA/cni" "$DATA/registries/$REGISTRY"
  : >"$DATA/resolv.conf"
  cat >"$DATA/registry.yaml" <<EOF
version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: $DATA/registry}
  delete: {enabled: true}
http: {addr: "$REGISTRY"}
EOF
  # Plain HTTP, to the cluster's own address alone.
  cat >"$DATA/registries/$REGISTRY/hosts.toml" <<EOF
server = "http://$REGISTRY"
[host."http://$REGISTRY"]
capabilities = ["pull", "resolve"]
EOF
  cat >"$DATA/cni/10-bridge.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_RANGE"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
  write_containerd
  write_kubelet
  cat >"$DATA/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $PKI/proxy.kubeconfig}
mode: iptables
clusterCIDR: $POD_RANGE
# These limits are the machine's, not the namespace's: leave them.
conntrack: {maxPerCore: 0}
oomScoreAdj: 0
EOF
}

write_containerd() {
  cat >"$DATA/containerd.toml" <<EOF
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
# Where root may not raise its own priority (no CAP_SYS_RESOURCE, as in many sandboxes) a negative value fails
# every pod with "can't get final child's PID from pipe: EOF".
restrict_oom_score_adj = true
sandbox_image = "busbar.test/pause:1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "$NODE_PARTS/usr/sbin/runc"
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "$NODE_PARTS/usr/lib/cni"
conf_dir = "$DATA/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "$DATA/registries"
EOF
}

write_kubelet() {
  cat >"$DATA/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $PKI/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
# Everything of this node is below one group, so that what is left is known to be ours.
cgroupRoot: /$CLUSTER
# From 1.35 on the kubelet refuses version 1 hierarchies unless told.
failCgroupV1: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [$DNS_ADDRESS]
# Not the machine's: the cluster is closed.
resolvConf: $DATA/resolv.conf
# The disk is the machine's, and how full it is says nothing about the node.
evictionHard: {memory.available: 100Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
serializeImagePulls: false
oomScoreAdj: 0
EOF
}
