#!/usr/bin/env bash
# A StorageClass for a test cluster, which has no provisioner: a pool of volumes on the real node, folders below the
# state folder, that go with it.
#
#   storage.sh STATE_FOLDER [CLASS [COUNT [SIZE]]]    CLASS (standard) gets COUNT (16) free volumes of SIZE (20Gi)
#
# Run again, it empties the volumes that were released and makes up for those that are taken. The class `standard` is the
# cluster's default; another, such as `gp3`, takes the place of a cloud's. The volumes are of the type `local`, so a pod's
# fsGroup is honoured as on a cloud's disk, and any access mode is (there is one node). SIZE is a word, not a limit.
set -euo pipefail
HERE=$(dirname "$(realpath "$0")")
[ $# -ge 1 ] && [ $# -le 4 ] || { sed -n '2,5s/^# *//p' "$0" >&2; exit 2; }
STATE=$(realpath "$1") class=${2:-standard} count=${3:-16} size=${4:-20Gi}
[ -e "$STATE/env" ] || { echo "error: no cluster is up in $STATE" >&2; echo "remedy: $HERE/cluster.sh up $STATE" >&2; exit 1; }
. "$STATE/env"

# in_phase PHASE: names of the volumes of the class.
in_phase() {
  kubectl get persistentvolumes -l busbar.test/class="$class" \
    -o jsonpath="{range .items[?(@.status.phase==\"$1\")]}{.metadata.name}{\"\\n\"}{end}"
}

# A released volume has the data of a claim that is gone, and can be bound to no other.
for name in $(in_phase Released); do
  kubectl delete persistentvolume "$name" >/dev/null
  rm -rf "${STATE:?}/data/volumes/$name"
done
free=$(in_phase Available | wc -l)
{
  cat <<EOF
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: $class
  annotations: {storageclass.kubernetes.io/is-default-class: "$([ "$class" = standard ] && echo true || echo false)"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
reclaimPolicy: Retain
EOF
  for ((number = 0; free < count; number++)); do
    name=$class-$number
    [ ! -e "$STATE/data/volumes/$name" ] || continue
    mkdir -p "$STATE/data/volumes/$name"
    free=$((free + 1))
    cat <<EOF
---
apiVersion: v1
kind: PersistentVolume
metadata:
  name: $name
  labels: {busbar.test/class: $class}
spec:
  storageClassName: $class
  capacity: {storage: $size}
  accessModes: [ReadWriteOnce, ReadOnlyMany, ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  local: {path: $STATE/data/volumes/$name}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [real-0]}]}]}}
EOF
  done
} | kubectl apply -f - >/dev/null
kubectl wait --for=jsonpath='{.status.phase}' --timeout=60s persistentvolumes -l busbar.test/class="$class" >/dev/null
echo "class $class has $(in_phase Available | wc -l) free volumes"
