#!/bin/bash
# `tutti topo` as users run it: this machine, every recorded one, files, drawings, and what is wrong with
# bad input.  usage: topo_test.sh BIN
set -uo pipefail
bin=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
fail() { echo "FAILED $*"; tail -5 "$work/out"; failures=$((failures + 1)); }
expect() {  # expect CODE COMMAND...: output in $work/out
  local wanted=$1 code=0; shift
  timeout 120 "$@" > "$work/out" 2>&1 || code=$?
  [[ $code -eq $wanted ]] || fail "exit $code, expected $wanted: $*"
}
holds() { grep -qE -- "$1" "$work/out" || fail "no '$1' in the output"; }

expect 0 "$bin/tutti" topo
holds '^this machine: [0-9]+ ranks on 1 host$'
holds '^Not found out$'
expect 0 "$bin/tutti" topo --list
names=$(awk '{print $1}' "$work/out")
[[ $(wc -w <<< "$names") -ge 10 ]] || fail "fewer than ten recorded machines"
for name in $names; do
  expect 0 "$bin/tutti" topo "$name" --svg "$work/$name.svg"
  holds '^Rings'
  holds '^NICs$'
  [[ $(head -c 4 "$work/$name.svg") == '<svg' ]] || fail "$name: no drawing"
done
expect 0 "$bin/tutti" topo dgx1-v100
holds 'Rings, which share no link'
holds 'rank 0    gpu0     mlx5_0'
expect 0 "$bin/tutti" topo 'dgx-a100*3' --json
python3 - "$work/out" << 'END' || fail "JSON of dgx-a100*3"
import json, sys
j = json.load(open(sys.argv[1]))
assert j["ranks"] == 24 and j["hosts"] == 3, j["ranks"]
assert len(j["rings"]) == 8 and all(sorted(r) == list(range(24)) for r in j["rings"])
assert all(p["nic"].startswith("mlx5_") and p["why"] for p in j["rank_places"])
assert j["groups"] == [[r // 8 for r in range(24)]]
END
# What is written can be read.
expect 0 "$bin/tutti" topo dgx-h100 --xml "$work/h100.xml"
expect 0 "$bin/tutti" topo "$work/h100.xml"
holds '8 ranks on 1 host'
expect 0 "$bin/tutti" topo 'node:2{nics=2x100Gb/s} gpu:4{bw=9GB/s}'
holds 'spec: 8 ranks on 2 hosts'
expect 1 "$bin/tutti" topo 'node:2{nics=2x100Gb/s} gpu:4{bw=9GB/s}' --xml -
holds 'a spec says nothing of PCI'
expect 1 "$bin/tutti" topo dgx-z
holds "'dgx-z' is no recorded machine \(cpu-2s"
printf '<system version="1">\n  <cpu numaid="0" oops/>\n</system>\n' > "$work/bad.xml"
expect 1 "$bin/tutti" topo "$work/bad.xml"
holds 'bad.xml: line 2, column 23: expected .=. after the attribute oops'
head -c 100000 /dev/urandom > "$work/noise"
expect 1 "$bin/tutti" topo "$work/noise"
expect 1 "$bin/tutti" topo "$work/nothing.xml"
expect 1 "$bin/tutti" topo dgx2 --svg /nowhere/x.svg
holds 'cannot write'
[[ $failures -eq 0 ]] && echo "tutti topo: all fine"
exit $((failures > 0))
