#!/bin/bash
# Installs a build into a fresh prefix and uses it as a stranger would: through find_package, through
# pkg-config, and by running an installed program.  usage: install_test.sh BUILD SOURCE CXX
set -euo pipefail
build=$1 source=$2 compiler=$3
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
cmake --install "$build" --prefix "$prefix/tutti" > "$prefix/log"

headers=$(cd "$prefix/tutti/include" && find . -type f | sort)
[[ -n $headers ]] || { echo "no headers installed"; exit 1; }
if grep -v '^\./\(tutti/\|nccl\.h$\|nccl_device\.h$\)' <<< "$headers"; then
  echo "headers other than tutti's and NCCL's were installed"; exit 1
fi

# The prefix must be movable.
mv "$prefix/tutti" "$prefix/moved"
library=$(dirname "$(find "$prefix/moved" -name 'libtutti.so' | head -1)")

CXX=$compiler cmake -S "$source/tests/perf/consumer" -B "$prefix/by-cmake" \
  -DCMAKE_PREFIX_PATH="$prefix/moved" -DCMAKE_BUILD_TYPE=Release > "$prefix/log"
cmake --build "$prefix/by-cmake" > "$prefix/log" || { cat "$prefix/log"; exit 1; }
"$prefix/by-cmake/consumer"

export PKG_CONFIG_PATH=$library/pkgconfig
[[ $(pkg-config --modversion tutti) ]] || { echo "no version in tutti.pc"; exit 1; }
# shellcheck disable=SC2046  # flags are words
"$compiler" -std=c++20 "$source/tests/perf/consumer/main.cc" -o "$prefix/by-pkg-config" \
  $(pkg-config --cflags --libs tutti) -pthread -Wl,-rpath,"$library"
"$prefix/by-pkg-config"

# Only the public interface is visible.
if nm -DC --defined-only "$library/libtutti.so" | grep -E ' [TW] ' | grep -qE ' (hwy|fmt|tutti::kernels|tutti::perf)::'; then
  echo "libtutti.so exports internals"; exit 1
fi
if [[ -x $prefix/moved/bin/all_reduce_perf ]]; then
  "$prefix/moved/bin/all_reduce_perf" -np 2 -b 8 -e 1K -f 8 -n 2 > "$prefix/log" ||
    { cat "$prefix/log"; exit 1; }
  grep -q '^# Out of bounds values : 0 OK' "$prefix/log"
fi
echo "installed, moved and used"
