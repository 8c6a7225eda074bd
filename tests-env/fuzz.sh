#!/usr/bin/env bash
# Runs every fuzz target for SECONDS_EACH (60), from the recordings as a corpus where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz (and rustup toolchain install nightly)" >&2; exit 1; }
for target in fuzz/fuzz_targets/*.rs; do
  name=$(basename "$target" .rs)
  echo "-- $name"
  cargo +nightly fuzz run "$name" -- -max_total_time="${SECONDS_EACH:-60}" -verbosity=0
done
