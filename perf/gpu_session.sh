#!/bin/bash
# Runs all that needs a GPU and writes what it printed to perf/results/gpu-NAME-DATE.md.
#
#   perf/gpu_session.sh [BUILD]     BUILD: build (made here when it is not there), or what perf/gpu_bundle.sh collected
#
# Steps that cannot run say so in the report; nothing is made up. Exit status: failed steps.
set -u
cd "$(dirname "$0")/.."
build=${1:-build}
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
if [ -z "$gpu" ]; then
  echo "no GPU here: nvidia-smi finds none" >&2
  exit 1
fi
mkdir -p perf/results
report=perf/results/gpu-$(echo "$gpu" | tr -cs 'A-Za-z0-9' '-' | sed 's/-*$//')-$(date -u +%Y-%m-%d).md
failed=0

step() {  # step TITLE COMMAND...
  local title=$1 status
  shift
  {
    printf '\n## %s\n\n    %s\n\n```\n' "$title" "$*"
    timeout 900 "$@" 2>&1 | tail -n 200
    status=${PIPESTATUS[0]}
    printf '```\n\nexit status %s\n' "$status"
  } >>"$report"
  echo "$title: exit status $status"
  [ "$status" = 0 ] || failed=$((failed + 1))
}

{
  echo "# $gpu, $(date -u +%Y-%m-%d)"
  echo
  echo "Commit $(cat "$build/commit" 2>/dev/null || git rev-parse --short HEAD 2>/dev/null || echo unknown). $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1 | sed 's/^/Driver /')."
} >"$report"

if [ ! -x "$build/bin/test_gpu" ]; then
  arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  step "Build" bash -c "cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DTUTTI_CUDA=ON -DTUTTI_CUDA_ARCHITECTURES=$arch && cmake --build $build --target test_gpu test_nccl_device test_comm_device test_tune_device gpu_bench gpu_ladder tutti_command nccl all_reduce_perf all_gather_perf reduce_scatter_perf alltoall_perf sendrecv_perf"
fi
if [ -f "$build/CTestTestfile.cmake" ]; then
  step "Tests" ctest --test-dir "$build" -L gpu --output-on-failure
else  # a bundle; the torch backend's programs would need Python bindings for this machine's Python
  build=$(realpath "$build")
  export LD_LIBRARY_PATH=$build/needed:${LD_LIBRARY_PATH:-}
  for test in gpu comm_device tune_device; do step "Tests: $test" "$build/bin/test_$test"; done
  step "Tests: nccl_device" env LD_LIBRARY_PATH="$build/lib:$LD_LIBRARY_PATH" "$build/bin/test_nccl_device"
  for client in ddp_train cupy_nccl; do step "Tests: $client" python3 "tests/gpu/${client}_test.py" "$build/bin/tutti"; done
fi
step "Figures" "$build/bin/gpu_bench"
step "Prices of devices" "$build/bin/tutti" tune --devices only -o -
step "The ladder to the kernels" "$build/bin/gpu_ladder"
# A rank per device; on one device two that share it, which the host stages.
gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader | wc -l)
ranks=$gpus
if [ "$gpus" = 1 ]; then
  ranks=2
  export TUTTI_MULTI_RANK_GPU=1
fi
for program in all_reduce all_gather reduce_scatter alltoall sendrecv; do
  step "${program}_perf, $ranks ranks on $gpus devices" "$build/bin/${program}_perf" -g "$ranks" -b 8 -e 64M -f 8 --buffer device
done
step "all_reduce_perf in a graph" "$build/bin/all_reduce_perf" -g "$ranks" -b 8 -e 1M -f 8 -G 5 --buffer device
if command -v compute-sanitizer >/dev/null; then
  step "memcheck" compute-sanitizer --tool memcheck --error-exitcode 9 "$build/bin/test_gpu" '--gtest_filter=*Misalignment*:*GraphsReplay*'
  step "racecheck" compute-sanitizer --tool racecheck --error-exitcode 9 "$build/bin/test_gpu" '--gtest_filter=*GraphsReplay*'
else
  printf '\n## memcheck, racecheck\n\nnot run: no compute-sanitizer here\n' >>"$report"
fi
echo "report: $report"
exit $failed
