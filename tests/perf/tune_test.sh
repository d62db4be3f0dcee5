#!/bin/bash
# `tutti tune` writes a profile that the library takes, `--check` prints a table, `plan --explain` and
# `sim` speak of it, and bad input is named.   tune_test.sh BIN_DIR
set -euo pipefail
bin=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TUTTI_PROFILE=none

expect() {  # expect TEXT FILE
  grep -qF -- "$1" "$2" || { echo "'$1' is not in:"; cat "$2"; exit 1; }
}
fails() {  # fails TEXT COMMAND...
  local text=$1
  shift
  if "$@" > "$work/out" 2>&1; then echo "should have failed: $*"; exit 1; fi
  expect "$text" "$work/out"
}

"$bin/tutti" tune -n 3 --sizes 64,16K --repetitions 1 -o "$work/profile.json" 2> "$work/log"
expect "messages through shared memory: mean error" "$work/log"
expect "sockets over loopback" "$work/log"
expect '"machine": "' "$work/profile.json"
expect '"flag_s"' "$work/profile.json"

TUTTI_PROFILE="$work/profile.json" "$bin/tutti" plan --explain -n 8 --groups 2 -b 64K > "$work/out"
expect 'prices: profile "tutti tune"' "$work/out"
expect "closed form us" "$work/out"
"$bin/tutti" plan --explain -n 8 -b 64K --transport tcp --tune all_reduce:0-inf:ring > "$work/out"
expect "* ring" "$work/out"
expect "of TUTTI_TUNE says so" "$work/out"
"$bin/tutti" plan --explain --device --machine dgx-a100 -n 8 -b 64M > "$work/out"
expect "the least time over the links between the devices" "$work/out"
"$bin/tutti" plan --explain --device -n 8 -b 64K --tune all_reduce:0-inf:ring/slots > "$work/out"
expect "ring by slots: the rule all_reduce:0-inf:ring of TUTTI_TUNE says so" "$work/out"
fails "at most 64 ranks" "$bin/tutti" plan --explain --device -n 65
"$bin/tutti" plan --explain --device --machine dgx-a100 -n 16 --groups 8 -b 64M > "$work/out"
expect "16 ranks with devices of 2 hosts" "$work/out"
expect "the least time over the network between the hosts" "$work/out"
fails "share devices of several hosts" "$bin/tutti" plan --explain --device --machine dgx-a100 -n 32 --groups 16

"$bin/tutti" tune --check --profile "$work/profile.json" -n 3 --sizes 256 --repetitions 1 \
  --transport shm > "$work/out"
expect "planner's choice is within 15 % of the fastest in" "$work/out"
expect "median error: simulated" "$work/out"
expect '"corrections"' "$work/profile.json"

"$bin/tutti" tune --validate -n 2 --repetitions 1 --transport shm > "$work/out" 2> "$work/log"
expect "planner's choice is within 15 % of the fastest in" "$work/out"
expect "messages through shared memory: mean error" "$work/log"
fails "which?" "$bin/tutti" tune --check --validate

# A learnt file grows beside a profile once calls have been made often enough; results stay right.
TUTTI_PROFILE="$work/profile.json" TUTTI_TRANSPORTS=tcp "$bin/all_reduce_perf" -np 4 -b 4K -e 64K -f 4 -n 100 > "$work/out"
expect "Out of bounds values : 0 OK" "$work/out"

"$bin/tutti" sim --cluster "rank:4{bw=1GB/s,lat=2us}" -b 1M --algorithm ring --svg "$work/run.svg" > /dev/null
expect "</svg>" "$work/run.svg"

fails "expected a size such as 64K" "$bin/tutti" tune --sizes 63
fails "cannot read" "$bin/tutti" tune --check --profile "$work/nothing.json"
echo '{"format": "tutti profile 1", "cpus": {"per_host": 1.5}}' > "$work/bad.json"
fails "cpus.per_host: expected a whole number" "$bin/tutti" plan --explain --profile "$work/bad.json"
fails "cpus.per_host: expected a whole number" env TUTTI_PROFILE="$work/bad.json" "$bin/all_reduce_perf" -np 2 -b 4 -e 4
fails "there is no paper 'moby'" "$bin/tutti" sim --paper moby
echo ok
