#!/bin/bash
# Four network namespaces as hosts on one machine, two ranks each, links shaped to 1 Gbit/s both ways:
# tutti, Open MPI and Gloo in turns over the same sizes, beside what bare sockets need for the bytes.
# Needs root (CAP_NET_ADMIN) and iproute2.
#
#   perf/netns.sh [--bin DIR] [--rate 1gbit|none] [--sizes "64K 1M 64M"] [--repeats 3] [--out FILE]
#   perf/netns.sh --tune "FLAGS"           (instead: tutti tune FLAGS on these hosts)
#   perf/netns.sh agent HOST COMMAND...    (what tutti run and mpirun start ranks with)
#
# Whatever it made is removed when it ends, also after Ctrl-C; leftovers of a killed run are removed
# when it starts.
set -euo pipefail

prefix=tutti-h  # namespaces tutti-h0..3; addresses 10.77.0.1..4
bridge=tuttibr
hosts=4
ranks_per_host=2
limit=(timeout -k 5 180)  # then a run hangs

# rsh-like: agent [FLAGS] HOST COMMAND...; the namespace is chosen by the address' last byte. A UTS and
# IPC namespace of its own keeps peers from taking the "hosts" for one node.
agent() {
  while [[ ${1:-} == -* ]]; do shift; done
  local host=$1
  shift
  local index=$((${host##*.} - 1))
  exec ip netns exec "$prefix$index" unshare --uts --ipc \
    bash -c "hostname $prefix$index; export TUTTI_HOST_ID=$prefix$index; $*"
}
if [[ ${1:-} == agent ]]; then
  shift
  agent "$@"
fi

bin=build/bin rate=1gbit sizes="64 4K 64K 1M 16M 64M" repeats=3 out="" tune=""
while (($# > 0)); do
  case $1 in
    --bin) bin=$2 ;;
    --rate) rate=$2 ;;
    --sizes) sizes=$2 ;;
    --repeats) repeats=$2 ;;
    --out) out=$2 ;;
    --tune) tune=$2 ;;
    *) echo "netns.sh: unknown flag $1" >&2; exit 2 ;;
  esac
  shift 2
done
[[ $EUID -eq 0 ]] || { echo "netns.sh: needs root to make network namespaces" >&2; exit 77; }
bin=$(cd "$bin" && pwd)
work=$(mktemp -d)

down() {
  local i
  for ((i = 0; i < hosts; ++i)); do
    ip netns pids "$prefix$i" 2> /dev/null | xargs -r kill -9 2> /dev/null || true
    ip netns del "$prefix$i" 2> /dev/null || true
    ip link del "tuttiv$i" 2> /dev/null || true
  done
  ip link del "$bridge" 2> /dev/null || true
}
trap 'down; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

shape() {  # shape NAMESPACE|- DEVICE
  [[ $rate == none ]] && return
  local tc=(tc)
  [[ $1 == - ]] || tc=(tc -n "$1")
  "${tc[@]}" qdisc add dev "$2" root tbf rate "$rate" burst 64kb latency 20ms
}

up() {
  down
  ip link add "$bridge" type bridge
  ip link set "$bridge" up
  local i
  for ((i = 0; i < hosts; ++i)); do
    ip netns add "$prefix$i"
    ip link add "tuttiv$i" type veth peer name eth0 netns "$prefix$i"
    ip link set "tuttiv$i" master "$bridge" up
    ip -n "$prefix$i" addr add "10.77.0.$((i + 1))/24" dev eth0
    ip -n "$prefix$i" link set eth0 up
    ip -n "$prefix$i" link set lo up
    shape "$prefix$i" eth0
    shape - "tuttiv$i"
    echo "10.77.0.$((i + 1)) slots=$ranks_per_host" >> "$work/hosts"
  done
}

self=$(readlink -f "$0")
printf '#!/bin/bash\nexec %q agent "$@"\n' "$self" > "$work/agent"
chmod +x "$work/agent"
ranks=$((hosts * ranks_per_host))

sweep() { echo "-b $1 -e $1 -n 0 --time-per-size 0.5 -w 1 --place in"; }

run_tutti() {  # run_tutti LABEL SIZE [VARIABLE=VALUE...]
  local label=$1 size=$2
  shift 2
  # shellcheck disable=SC2046
  timeout -k 5 1200 env TUTTI_SOCKET_IFNAME=eth0 "$@" "$bin/tutti" run -n "$ranks" --hosts "$work/hosts" \
    --host-agent "$work/agent" "$bin/tutti" perf $(sweep "$size") --no-ceilings \
    --json-lines "$work/results.tutti.$label"
}

run_openmpi() {  # run_openmpi LABEL SIZE [FLAGS...]
  local label=$1 size=$2
  shift 2
  # shellcheck disable=SC2046
  "${limit[@]}" ip netns exec "${prefix}0" unshare --uts --ipc bash -c "hostname ${prefix}0; exec \"\$@\"" -- \
    mpirun.openmpi --allow-run-as-root --oversubscribe --hostfile "$work/hosts" -n "$ranks" \
    --bind-to none --mca mpi_yield_when_idle 1 --mca plm_rsh_agent "$work/agent" \
    --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 --mca btl tcp,vader,self --mca pml ob1 \
    "$@" "$bin/peer_openmpi" $(sweep "$size") --json-lines "$work/results.openmpi.$label"
}

run_gloo() {  # run_gloo ALGORITHM SIZE
  local store rank pids=()
  store=$(mktemp -d -p "$work")
  for ((rank = 0; rank < ranks; ++rank)); do
    # shellcheck disable=SC2046
    "${limit[@]}" ip netns exec "$prefix$((rank / ranks_per_host))" "$bin/peer_gloo" --rank $rank --ranks "$ranks" \
      --store "$store" --algorithm "$1" --interface eth0 $(sweep "$2") \
      --json-lines "$work/results.gloo.$1" &
    pids+=($!)
  done
  wait "${pids[@]}"
}

# Bare sockets move what an all-reduce of SIZE must: 1.5 times SIZE out of each of four hosts and in.
floor() {  # floor SIZE
  local bytes index addresses=()
  bytes=$(($(numfmt --from=iec "$1") * 3 / 2))
  for ((index = 1; index <= hosts; ++index)); do addresses+=("10.77.0.$index:7000"); done
  for ((index = hosts - 1; index >= 0; --index)); do
    "${limit[@]}" ip netns exec "$prefix$index" "$bin/link_floor" $index "$bytes" 5 "${addresses[@]}" &
  done | sed "s/^/# floor of $1, bare sockets, 1.5 x $1 over every link both ways: /; s/$/ ms/" >&2
  wait
}

try() {  # a configuration that fails is named, the others go on
  "$@" > "$work/log" 2>&1 ||
    { echo "# failed: $* : $(grep -v '^$' "$work/log" | tail -1)" >&2; }
}

up
if [[ -n $tune ]]; then
  # shellcheck disable=SC2086
  timeout -k 5 1200 env TUTTI_SOCKET_IFNAME=eth0 "$bin/tutti" run -n "$ranks" --hosts "$work/hosts" \
    --host-agent "$work/agent" "$bin/tutti" tune $tune
  exit
fi
echo "# $hosts hosts x $ranks_per_host ranks, $rate" >&2
for ((repeat = 0; repeat < repeats; ++repeat)); do
  for size in $sizes; do
    [[ ! -x $bin/link_floor ]] || floor "$size"
    try run_tutti default "$size"
    try run_tutti ring "$size" TUTTI_TUNE=all_reduce:0-inf:ring
    for algorithm in double_binary_tree hierarchical_scatter hierarchical_leader; do
      try run_tutti "$algorithm" "$size" "TUTTI_TUNE=all_reduce:0-inf:$algorithm"
    done
    if [[ -x $bin/peer_openmpi ]] && command -v mpirun.openmpi > /dev/null; then
      try run_openmpi default "$size"
      try run_openmpi ring "$size" --mca coll_tuned_use_dynamic_rules 1 --mca coll_tuned_allreduce_algorithm 4
      try run_openmpi rabenseifner "$size" --mca coll_tuned_use_dynamic_rules 1 --mca coll_tuned_allreduce_algorithm 6
    fi
    if [[ -x $bin/peer_gloo ]]; then
      for algorithm in ring bcube; do try run_gloo "$algorithm" "$size"; done
    fi
  done
done

# The configuration is in the file's name: results.LIBRARY.CONFIGURATION
"$bin/tutti" report --lines "$work"/results.* | tee ${out:+"$out"}
