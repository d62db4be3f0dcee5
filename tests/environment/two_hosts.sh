# Sourced, with BIN as $1: two network namespaces as hosts, ${prefix}a and ${prefix}b, and a folder $work,
# which are gone when the script ends. Where they cannot be made, the script ends as skipped (77).
set -uo pipefail
bin=$1
prefix=tutti$$
work=$(mktemp -d)
failures=0
leave() {
  for host in a b; do
    ip netns pids "$prefix$host" 2> /dev/null | xargs -r kill -9 2> /dev/null
    ip netns del "$prefix$host" 2> /dev/null
  done
  rm -rf "$work"
}
trap leave EXIT
skip() { echo "skipped: $*"; exit 77; }
failed() { echo "FAILED $*"; failures=$((failures + 1)); }

command -v ip > /dev/null || skip "no ip command (iproute2)"
for host in a b; do
  ip netns add "$prefix$host" 2> "$work/why" || skip "$(< "$work/why")"
  ip -n "$prefix$host" link set lo up
done

# joined INTERFACE NET: a veth pair of both hosts' INTERFACEs, NET.1 and NET.2
joined() {
  ip -n "${prefix}a" link add "$1" type veth peer name "$1" netns "${prefix}b" || skip "no veth pair"
  ip -n "${prefix}a" addr add "$2.1/24" dev "$1"
  ip -n "${prefix}b" addr add "$2.2/24" dev "$1"
  for host in a b; do ip -n "$prefix$host" link set "$1" up; done
}
# dark ADDRESS: dark0, an interface of host b that leads nowhere; no IPv6 address to try as well
dark() {
  ip -n "${prefix}b" link add dark0 type veth peer name dark1
  ip -n "${prefix}b" addr add "$1/24" dev dark0
  ip -n "${prefix}b" link set dark0 addrgenmode none up
  ip -n "${prefix}b" link set dark1 up
}
# on HOST RANK ROOT [NAME=VALUE...] -- ARGUMENTS...: one rank of two runs all_reduce_perf
on() {
  local host=$1 settings=(TUTTI_RANK="$2" TUTTI_ROOT="$3")
  shift 3
  while [[ $1 != -- ]]; do settings+=("$1"); shift; done
  shift
  timeout 100 ip netns exec "$prefix$host" env TUTTI_SIZE=2 TUTTI_HOST_ID="$host" \
    TUTTI_SECRET=between-two-hosts-of-a-test "${settings[@]}" "$bin/all_reduce_perf" "$@" > "$work/$host" 2>&1
}
