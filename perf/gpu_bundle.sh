#!/bin/bash
# Collects what perf/gpu_session.sh runs, with the libraries it needs, for a machine that has a GPU but none of our packages.
#
#   perf/gpu_bundle.sh [BUILD] [FOLDER]     BUILD: build, with nvcc; FOLDER: BUILD/gpu-bundle
#
# There: perf/gpu_session.sh FOLDER. The C and C++ libraries themselves are that machine's: it must be no older than this one.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
folder=${2:-$build/gpu-bundle}
programs="test_gpu test_nccl_device test_comm_device test_tune_device gpu_bench gpu_ladder tutti all_reduce_perf all_gather_perf reduce_scatter_perf alltoall_perf sendrecv_perf"
of_every_machine='/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux-x86-64)\.so'

rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib" "$folder/needed"
for program in $programs; do
  [ -x "$build/bin/$program" ] || { echo "no $build/bin/$program: ninja -C $build $program, with nvcc" >&2; exit 1; }
  cp "$build/bin/$program" "$folder/bin/"
done
cp "$build"/lib/libnccl.so.2 "$build"/lib/libtutti_nccl_audit.so "$folder/lib/"
ldd "$folder"/bin/* "$folder"/lib/* | awk '/=> \//{print $3}' | sort -u | grep -Ev "$of_every_machine|/libnccl" |
  xargs -r cp -t "$folder/needed"
strip "$folder"/bin/* "$folder"/lib/* "$folder"/needed/*
git rev-parse --short HEAD >"$folder/commit"
du -sh "$folder"
