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
# Devices, or why there are none; other prices stay when they are measured alone.
grep -qE "^(not measured: |devices \()" "$work/log" || { cat "$work/log"; exit 1; }
"$bin/tutti" tune --devices only --profile "$work/profile.json" -o "$work/both.json" 2> "$work/log" ||
  expect "no price of a device was measured: nothing is written" "$work/log"
fails "--check and --validate hold prices of CPUs" "$bin/tutti" tune --devices only --check

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
echo '{"format": "tutti profile 1", "device": {"name": "a device", "launch_s": 3e-6, "slot_s": 1e-1}}' \
  > "$work/device.json"
"$bin/tutti" plan --explain --device --machine dgx-a100 -n 8 -b 16M --profile "$work/device.json" > "$work/out"
expect "prices of devices were measured on a device" "$work/out"
grep -qE "a launch +3.00 us +measured" "$work/out" || { cat "$work/out"; exit 1; }
grep -qE "a byte copied +1000.00 GB/s +assumed" "$work/out" || { cat "$work/out"; exit 1; }
sed 's/"slot_s": 1e-1/"slot_s": "long"/' "$work/device.json" > "$work/bad.json"
fails "device.slot_s: expected seconds" "$bin/tutti" plan --explain --device -n 8 --profile "$work/bad.json"
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
