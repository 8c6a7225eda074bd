#!/usr/bin/env bash
# Installs the Debian packages that a target needs, or says which command does.
# Usage: packages.sh build|vllm|test|kubernetes
set -euo pipefail
declare -A sets=(
  [build]="cmake libclang-dev g++ make pkg-config"
  [vllm]="g++ python3-venv"
  [test]="cmake libclang-dev g++ make pkg-config python3-venv chromium chromium-driver curl"
  [kubernetes]="iproute2 iptables util-linux openssl curl libseccomp2 python3-venv"
)
wanted=${sets[${1:-build}]}
missing=()
for package in $wanted; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null; then
  echo "Busbar needs these packages (names as in Debian): ${missing[*]}" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "Busbar needs some packages. Run: sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "== installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
