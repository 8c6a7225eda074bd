#!/usr/bin/env bash
# Prints COUNT nodes of an EC2 instance type (instance-types.tsv) as manifests, for kwok to keep alive:
#   nodes.sh p5.48xlarge 2 | kubectl apply -f -
# Their names are TYPE-N from FIRST on (0 unless said), with dots as dashes, spread over three zones.
#
# What may land on them: a GPU node bears the taint nvidia.com/gpu, which the API server tolerates for every pod that
# asks for a GPU (admission plugin ExtendedResourceToleration, on in EKS too) and for no other. So GPU workloads land
# here with their manifests untouched, and what has no GPU stays on the real node. A node without a GPU bears
# kwok.x-k8s.io/node=fake: a test of scheduling that wants it says so in its pods.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: nodes.sh TYPE COUNT [FIRST]" >&2; exit 2; }
type=$1 count=$2 first=${3:-0}
table=$(dirname "$0")/instance-types.tsv
row=$(grep -P "^\Q$type\E\t" "$table") || {
  echo "no instance type $type in $table; it has: $(grep -v '^#' "$table" | cut -f1 | paste -sd' ')" >&2
  exit 1
}
IFS=$'\t' read -r _ vcpu memory_mib max_pods gpus gpu_product gpu_memory_mib efa nvme_gb <<<"$row"

labels="node.kubernetes.io/instance-type: $type
    kubernetes.io/arch: amd64
    kubernetes.io/os: linux
    type: kwok
    topology.kubernetes.io/region: us-east-1"
taint="key: kwok.x-k8s.io/node, value: fake"
# A node group's root volume, where the type has no disks of its own: the guide's 300 GB gp3.
resources="cpu: \"$vcpu\", memory: ${memory_mib}Mi, pods: \"$max_pods\", ephemeral-storage: $([ "$nvme_gb" = - ] && echo 300 || echo "$nvme_gb")G"
if [ "$gpus" != - ]; then
  labels+="
    nvidia.com/gpu.present: \"true\"
    nvidia.com/gpu.count: \"$gpus\"
    nvidia.com/gpu.product: $gpu_product
    nvidia.com/gpu.memory: \"$gpu_memory_mib\""
  taint="key: nvidia.com/gpu, value: present"
  resources+=", nvidia.com/gpu: \"$gpus\""
fi
[ "$efa" = - ] || resources+=", vpc.amazonaws.com/efa: \"$efa\""

for ((number = first; number < first + count; number++)); do
  name=${type//./-}-$number
  zones=(us-east-1a us-east-1b us-east-1c)
  cat <<EOF
---
apiVersion: v1
kind: Node
metadata:
  name: $name
  annotations: {kwok.x-k8s.io/node: fake}
  labels:
    $labels
    kubernetes.io/hostname: $name
    topology.kubernetes.io/zone: ${zones[number % 3]}
spec:
  providerID: kwok:///$name
  taints: [{$taint, effect: NoSchedule}]
status:
  capacity: {$resources}
  allocatable: {$resources}
EOF
done
