# Certificates and kubeconfigs of one cluster, new at each start. Sourced by cluster.sh.
# Needs: PKI (folder), CLUSTER (name), API_URL, NODE_NAME, and the addresses that the server certificates are for.

# More than any run lasts; the folder goes with the cluster.
CERTIFICATE_DAYS=365

# authority NAME: a certificate authority of its own.
authority() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$1.key"
  openssl req -x509 -new -key "$PKI/$1.key" -subj "/CN=$CLUSTER-$1" -days $CERTIFICATE_DAYS -out "$PKI/$1.crt"
}

# certificate NAME AUTHORITY SUBJECT server|client [ALTERNATIVE_NAMES]
certificate() {
  local name=$1 authority=$2 subject=$3 use=$4 names=${5:-}
  openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$name.key"
  openssl req -new -key "$PKI/$name.key" -subj "$subject" |
    openssl x509 -req -CA "$PKI/$authority.crt" -CAkey "$PKI/$authority.key" -days $CERTIFICATE_DAYS \
      -set_serial "0x$(openssl rand -hex 8)" -out "$PKI/$name.crt" \
      -extfile <(printf 'extendedKeyUsage=%sAuth\n' "$use"; [ -z "$names" ] || printf 'subjectAltName=%s\n' "$names") 2>/dev/null
}

# kubeconfig NAME: a file with everything in it, so that it works wherever it is copied to on this machine.
kubeconfig() {
  cat <<EOF
apiVersion: v1
kind: Config
current-context: $CLUSTER
clusters:
- name: $CLUSTER
  cluster: {server: "$API_URL", certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 "$PKI/$1.crt"), client-key-data: $(base64 -w0 "$PKI/$1.key")}
contexts:
- name: $CLUSTER
  context: {cluster: $CLUSTER, user: $1}
EOF
}

make_certificates() {
  mkdir -p "$PKI"
  chmod 700 "$PKI"
  local in_cluster=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
  authority ca
  authority front-proxy-ca
  openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/service-account.key"
  certificate apiserver ca /CN=kube-apiserver server "$in_cluster,DNS:localhost,IP:127.0.0.1,IP:$API_SERVICE_ADDRESS,IP:$CLUSTER_ADDRESS"
  certificate apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client client
  certificate front-proxy-client front-proxy-ca /CN=front-proxy-client client
  certificate kubelet-server ca "/O=system:nodes/CN=system:node:$NODE_NAME" server "DNS:$NODE_NAME,IP:$CLUSTER_ADDRESS"
  certificate admin ca /O=system:masters/CN=admin client
  certificate kubelet ca "/O=system:nodes/CN=system:node:$NODE_NAME" client
  certificate controller-manager ca /CN=system:kube-controller-manager client
  certificate scheduler ca /CN=system:kube-scheduler client
  certificate proxy ca /CN=system:kube-proxy client
  # kwok writes status of every kind of object; its stock manifest binds it to a cluster-wide role of its own.
  certificate kwok ca /O=system:masters/CN=kwok client
  local name
  for name in kubelet controller-manager scheduler proxy kwok; do kubeconfig $name >"$PKI/$name.kubeconfig"; done
  (umask 077 && kubeconfig admin >"$STATE/kubeconfig")
}
