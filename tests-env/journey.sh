#!/usr/bin/env bash
# Journey 1 as a newcomer walks it, with a new HOME on the binary that is built: up, the printed curl line, a worker
# killed in mid-answer, the page, a second start, down. Each step says what it saw and how long it took.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests-env/parts.sh
BUSBAR=$(realpath "${CARGO_TARGET_DIR:-target}/release/busbar")
HOME=$(mktemp -d)
export HOME
unset XDG_CACHE_HOME XDG_STATE_HOME BUSBAR_CACHE_DIR BUSBAR_STATE_DIR
PORT=${PORT:-$((20000 + RANDOM % 20000))}
URL=http://127.0.0.1:$PORT
trap '"$BUSBAR" down >/dev/null 2>&1 || true; rm -rf "$HOME"' EXIT
passed=0
ok() { passed=$((passed + 1)); echo "ok $passed: $1"; }
fail() { echo "FAILED: $1"; "$BUSBAR" logs frontend -n 40 || true; "$BUSBAR" logs vllmdecodeworker -n 40 || true; echo "$passed passed, 1 failed"; exit 1; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN{printf "%.2f", b-a}'; }

t=$(now)
"$BUSBAR" up --detach --port "$PORT" | tee "$HOME/up.txt"
ok "up from nothing in $(since "$t") s (model fetched and re-quantised)"

curl_line=$(grep -o 'curl -s .*' "$HOME/up.txt")
answer=$(bash -c "$curl_line")
echo "$answer"
grep -q Paris <<<"$answer" || fail "the answer of the printed curl line has no Paris in it"
ok "the printed curl line gives a sensible answer"

# Into files first: `grep -q` closes its pipe early, which pipefail would take for a failure of curl.
curl -sf "$URL/" -o "$HOME/page.html" && grep -qi '<html' "$HOME/page.html" || fail "the status page is not there"
curl -sf "$URL/metrics" -o "$HOME/metrics" && grep -q '^dynamo_frontend_requests_total' "$HOME/metrics" || fail "no metrics"
ok "status page and metrics"

"$BUSBAR" status
victim=$("$BUSBAR" status -o json | python3 -c '
import json, sys
for p in json.load(sys.stdin)["runs"][0]["processes"]:
    if p["name"] == "vllmdecodeworker-0": print(p["identity"]["pid"])')
model=$(curl -s "$URL/v1/models" | python3 -c 'import json,sys; print(json.load(sys.stdin)["data"][0]["id"])')
# Two streams, so that whichever worker is killed one of them runs there.
for i in 1 2; do
  curl -sN "$URL/v1/chat/completions" -H 'content-type: application/json' -d "{\"model\":\"$model\",\"stream\":true,
    \"ignore_eos\":true,\"max_tokens\":120,\"stream_options\":{\"include_usage\":true},
    \"messages\":[{\"role\":\"user\",\"content\":\"$i: tell me a long story.\"}]}" >"$HOME/stream.$i" &
done
until [ "$(cat "$HOME"/stream.* | grep -c '"content"')" -ge 20 ]; do sleep 0.1; done
kill -9 "$victim"
wait %1 %2 2>/dev/null || wait
for i in 1 2; do
  grep -q '"error"' "$HOME/stream.$i" && fail "stream $i saw the kill: $(grep '"error"' "$HOME/stream.$i")"
  grep -q '\[DONE\]' "$HOME/stream.$i" || fail "stream $i was cut"
  grep -q '"completion_tokens":120' "$HOME/stream.$i" || fail "stream $i has lost or doubled tokens: $(tail -c 400 "$HOME/stream.$i")"
done
ok "kill -9 of a worker in the middle of two streams: both whole, 120 tokens each"

"$BUSBAR" down
"$BUSBAR" status && fail "something still runs"
ok "down"

t=$(now)
"$BUSBAR" up --detach --port "$PORT" >/dev/null
answer=$(bash -c "$curl_line")
grep -q Paris <<<"$answer" || fail "no sensible answer on the second start"
ok "second start to first answer in $(since "$t") s"
"$BUSBAR" down
echo "$passed passed, 0 failed"
