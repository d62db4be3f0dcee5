#!/bin/bash
# The perf binaries on device buffers, on the fake CUDA driver: every result is checked.
#
#   device_perf_test.sh BIN FAKE     FAKE: the folder of the fake libcuda.so.1
set -eu
bin=$1
export LD_LIBRARY_PATH=$2
unset TUTTI_MULTI_RANK_GPU NCCL_MULTI_RANK_GPU_ENABLE

fail() {
  echo "FAILED: $1" >&2
  echo "$out" >&2
  exit 1
}
run() { out=$("$@" 2>&1) || fail "$*: exit status $?"; }
says() { grep -q -- "$1" <<<"$out" || fail "no '$1'"; }

for program in all_reduce all_gather broadcast reduce_scatter reduce alltoall alltoallv scatter gather sendrecv; do
  run "$bin/${program}_perf" -g 3 -b 64 -e 64K -f 32 -n 3 -w 1
  says "buffers: device"
  says "GPU 2 Fake GPU"
  says "Out of bounds values : 0 OK"
done
run "$bin/all_reduce_perf" -t 2 -b 4K -e 4K -n 2 -G 3 -o all -d half
says "graph: 3"
says "Out of bounds values : 0 OK"
run "$bin/all_reduce_perf" -t 9 -b 64 -e 64 -n 2 # more ranks than devices
says "buffers: private"
TUTTI_MULTI_RANK_GPU=1 run "$bin/all_reduce_perf" -t 9 -b 64 -e 64 -n 2
says "buffers: device"
run "$bin/all_reduce_perf" -t 2 -b 64 -e 64 -n 2 -G 2 --buffer private
says "buffers: private"
LD_LIBRARY_PATH='' run "$bin/all_reduce_perf" -t 2 -b 64 -e 64 -n 2
says "buffers: private"
out=$(LD_LIBRARY_PATH='' "$bin/all_reduce_perf" -t 2 -b 64 -e 64 --buffer device 2>&1) && fail "no device, but no error"
says "no device here"
echo "fine"
