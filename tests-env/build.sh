#!/usr/bin/env bash
# Builds the binary, with cargo's own progress. The same profile as the tests, so that nothing is compiled twice.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo >/dev/null; then
  echo "Busbar is built with Rust 1.95 or later; install it with rustup (https://rustup.rs)." >&2
  exit 1
fi
echo "== building (release; the first time compiles llama.cpp too, some minutes on two cores)"
started=$SECONDS
cargo build --release --locked --workspace --bins
echo "== built in $((SECONDS - started)) s"
