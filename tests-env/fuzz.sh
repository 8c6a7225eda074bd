#!/usr/bin/env bash
# Runs fuzz targets (all, or those named) for SECONDS_EACH (60), from the recordings where there are some, and prints the
# executions and the coverage of each. FUZZ_JOBS (1) run side by side. A crash ends the run and leaves its input in
# fuzz/artifacts.
#
# With a nightly toolchain the targets are built with AddressSanitizer, without one on stable. By hand, on stable:
#   RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none chat_body -- -max_total_time=60
set -euo pipefail
cd "$(dirname "$0")/.."
. tests-env/parts.sh
need_cargo_fuzz
export PATH=$(dirname "$CARGO_FUZZ"):$PATH
if [ "${FUZZ_STABLE:-}" = "" ] && rustup run nightly rustc --version >/dev/null 2>&1; then
  fuzz=(cargo +nightly fuzz) sanitizer=address
else
  export RUSTC_BOOTSTRAP=1
  fuzz=(cargo fuzz) sanitizer=none
fi
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=($(basename -s .rs fuzz/fuzz_targets/*.rs))
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
python3 tests-env/fuzz_seeds.py "$seeds"
echo "-- ${#targets[@]} targets, ${SECONDS_EACH:-60} s each, sanitizer $sanitizer"
"${fuzz[@]}" build --sanitizer "$sanitizer"
one() {
  local name=$1 log=$seeds/$1.log dirs=("fuzz/corpus/$1")
  mkdir -p "fuzz/corpus/$name"
  [ -d "$seeds/$name" ] && dirs+=("$seeds/$name")
  # A text that takes 30 s, or an allocation of 1 GiB, counts as a crash.
  if ! "${fuzz[@]}" run --sanitizer "$sanitizer" "$name" "${dirs[@]}" -- -max_total_time="${SECONDS_EACH:-60}" \
    -timeout=30 -rss_limit_mb=4096 -malloc_limit_mb=1024 -max_len=65536 -print_final_stats=1 >"$log" 2>&1; then
    tail -40 "$log" >&2
    echo "$name: CRASHED" >&2
    return 1
  fi
  local at_first=$(grep -o "INITED cov: [0-9]*" "$log" | grep -o "[0-9]*" | tail -1)
  local at_last=$(grep -o "cov: [0-9]*" "$log" | grep -o "[0-9]*" | tail -1)
  local execs=$(grep -o "number_of_executed_units: [0-9]*" "$log" | grep -o "[0-9]*$")
  local found=$(grep -o "new_units_added: [0-9]*" "$log" | grep -o "[0-9]*$")
  echo "$name: $execs executions, coverage $at_first -> $at_last edges, $found new inputs"
}
failed=0
for name in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "${FUZZ_JOBS:-1}" ]; do wait -n || failed=1; done
  one "$name" &
done
while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n || failed=1; done
# Jobs that ended between two looks.
wait || failed=1
exit $failed
