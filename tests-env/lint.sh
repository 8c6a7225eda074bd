#!/usr/bin/env bash
# Format, clippy with warnings denied, tidy, licences and sources.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests-env/parts.sh
timed() { local name=$1 started=$SECONDS; shift; echo "-- $name"; "$@"; echo "-- $name: $((SECONDS - started)) s"; }
timed rustfmt cargo fmt --all -- --check
timed clippy cargo clippy --release --locked --workspace --all-targets -- -D warnings
# With --workspace, though one test is wanted: the same features as `make test` builds with, so nothing is built twice.
timed tidy cargo test --release --locked --workspace --test tidy
need_cargo_deny
timed cargo-deny "$CARGO_DENY" --locked --offline check bans licenses sources
echo "-- cargo-deny: the advisory database was not asked (it is outside the registries); run 'cargo deny check advisories' where the network allows"
