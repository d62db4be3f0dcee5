#!/bin/bash
# The programs as users run them: every binary checks its results in every way of starting ranks,
# JSON is valid, bad flags and wrong bandwidth end with an error.  usage: perf_programs_test.sh BIN
set -uo pipefail
bin=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# expect CODE DESCRIPTION COMMAND...: output in $work/out
expect() {
  local wanted=$1 what=$2 code=0
  shift 2
  timeout 120 "$@" > "$work/out" 2>&1 || code=$?
  if [[ $code -ne $wanted ]]; then
    echo "FAILED $what: exit $code, expected $wanted: $*"; tail -5 "$work/out"
    failures=$((failures + 1))
  fi
}
# holds PATTERN DESCRIPTION: in the last output
holds() {
  grep -qE "$1" "$work/out" || { echo "FAILED $2: no '$1' in"; tail -5 "$work/out"; failures=$((failures + 1)); }
}

for program in all_reduce all_gather broadcast reduce_scatter reduce alltoall alltoallv scatter \
               gather sendrecv; do
  expect 0 "$program" "$bin/${program}_perf" -np 3 -b 8 -e 64K -f 16 -n 3 -c 2
  holds '^# Out of bounds values : 0 OK' "$program"
done
expect 0 "all types and operators" "$bin/all_reduce_perf" -np 3 -b 64 -e 4K -f 64 -n 1 -o all -d all
[[ $(grep -cE '^ +[0-9]' "$work/out") -eq 144 ]] || { echo "FAILED 12 types x 6 operators x 2 sizes"; failures=$((failures + 1)); }
expect 0 "threads" "$bin/all_reduce_perf" --ranks 4 --mode thread -b 1K -e 1M -f 32 -n 2
expect 0 "threads in processes" "$bin/all_gather_perf" -np 2 -t 2 -b 1K -e 64K -f 8 -n 2
holds 'Rank +3 ' "threads in processes"
expect 0 "devices as threads, no launcher" "$bin/all_reduce_perf" -g 2 -b 8 -e 1K -f 8 -n 2
expect 0 "shared buffers" "$bin/all_reduce_perf" -np 2 -b 1M -e 1M -n 2 --buffer mem_alloc
holds 'mem_alloc' "shared buffers"
expect 0 "all roots" "$bin/broadcast_perf" -np 3 -r all -b 1K -e 1K -n 1
[[ $(grep -cE '^ +1024' "$work/out") -eq 3 ]] || { echo "FAILED three roots"; failures=$((failures + 1)); }
expect 0 "unaligned, per iteration" "$bin/all_reduce_perf" -np 2 -b 4K -e 4K -u 1 -I 1 -n 8 -J "$work/a.json"
holds 'i_min +i_max +i_p99 +i_cv%' "per iteration"
expect 0 "report" "$bin/tutti" report "$work/a.json" "$work/a.json"
holds 'geometric mean of 2 points .* 1\.00' "report"
expect 0 "tutti perf" "$bin/tutti" perf -np 2 -b 64 -e 64K -f 32 --time-per-size 0.005 --repeat 2
holds '%ceil' "ceilings"
holds '^# Ceilings measured' "ceilings"
expect 2 "bad size" "$bin/all_reduce_perf" -b many
expect 2 "unknown command" "$bin/tutti" frobnicate
holds 'usage' "unknown command"
expect 0 "help" "$bin/tutti" --help
NCCL_TESTS_MIN_BW=1e9 expect 1 "too slow" "$bin/all_reduce_perf" -np 2 -b 8 -e 8 -n 1
expect 3 "no such root" "$bin/broadcast_perf" -np 2 -r 5 -b 8 -e 8 -n 1
if [[ -x $bin/tutti ]] && "$bin/tutti" run --help > /dev/null 2>&1; then
  expect 0 "under tutti run" "$bin/tutti" run -n 3 "$bin/all_reduce_perf" -b 8 -e 8K -f 32 -n 2
  holds 'Rank +2 ' "under tutti run"
fi
if [[ -n $(ls /dev/shm 2> /dev/null | grep tutti) ]]; then
  echo "FAILED something was left in /dev/shm"; failures=$((failures + 1))
fi
echo "$failures failures"
exit $((failures > 0))
