#!/usr/bin/env bash
# Puts images of NATS and etcd into the registry of a cluster, made from the programs that tests-env installs. They stand
# for the ones that the platform chart asks for, which a closed cluster cannot pull: same programs, same places, another
# build and another base.
#
#   standins.sh STATE_FOLDER    prints the --set flags with which the chart takes them
set -euo pipefail
HERE=$(dirname "$(realpath "$0")")
[ $# = 1 ] || { sed -n '2,7s/^# *//p' "$0" >&2; exit 2; }
STATE=$(realpath "$1")
. "$HERE/../parts.sh"
need_etcd >&2
need_nats >&2
. "$STATE/env"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# stand_in NAME PROGRAM PATH: REGISTRY/standins/NAME:v1. A store of its own is used for the push, then only the registry has it.
stand_in() {
  local image=$BUSBAR_TEST_REGISTRY/standins/$1:v1
  python3 "$HERE/image.py" "$image" "$2=$3" "$work/$1.tar"
  {
    "$HERE/cluster.sh" enter "$STATE" ctr -n standins images import "$work/$1.tar"
    "$HERE/cluster.sh" enter "$STATE" ctr -n standins images push --plain-http "$image"
    "$HERE/cluster.sh" enter "$STATE" ctr -n standins images rm --sync "$image"
  } >&2
}

stand_in nats "$NATS" /usr/local/bin/nats-server
stand_in etcd "$ETCD" /usr/local/bin/etcd
echo "--set nats.container.image.repository=$BUSBAR_TEST_REGISTRY/standins/nats,nats.container.image.tag=v1"
echo "--set etcd.image.repository=$BUSBAR_TEST_REGISTRY/standins/etcd,etcd.image.tag=v1"
