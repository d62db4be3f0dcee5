#!/bin/bash
# Two network namespaces as hosts, joined by a veth pair: a network interface that the other host cannot
# reach is named by both, within the time for joining; link-local IPv6 addresses with their scope work.
# usage: hosts_test.sh BIN   (77: skipped, no rights to make namespaces)
. "$(dirname "$0")/two_hosts.sh"
joined eth0 10.78.0
dark 10.79.0.2  # host a has no way to it

# run HOST RANK ROOT [NAME=VALUE...]: one rank of two, output in $work/HOST
run() { on "$@" TUTTI_INIT_TIMEOUT=4 -- -b 8 -e 64K -f 64 -n 2; }
# holds HOST PATTERN
holds() {
  grep -qE "$2" "$work/$1" && return
  failed "$scene: host $1 does not say '$2':"; tail -n 5 "$work/$1"
}
# both ROOT A'S RANK FIRST [NAME=VALUE for b...]: host FIRST begins a second before the other
both() {
  local root=$1 rank=$2 first=$3
  shift 3
  if [[ $first == b ]]; then run b $((1 - rank)) "$root" "$@" & local b=$!; sleep 1; fi
  run a "$rank" "$root" & local a=$!
  if [[ $first == a ]]; then sleep 1; run b $((1 - rank)) "$root" "$@" & local b=$!; fi
  wait $a; code_a=$?
  wait $b; code_b=$?
}
# ends CODE: of both
ends() {
  [[ $code_a -eq $1 && $code_b -eq $1 ]] && return
  failed "$scene: exit codes $code_a and $code_b, expected $1"; tail -n 3 "$work/a" "$work/b"
}

port=4711
scene="both reachable"
both 10.78.0.1:$port 0 a
ends 0
holds a 'Out of bounds values : 0 OK'

# The first to come is the parent of the other, which then has to reach it. Who dials whom later is the
# library's choice: it works, or both name the address.
for rank in 0 1; do
  for first in a b; do
    port=$((port + 1))
    scene="host b, rank $((1 - rank)), advertises an interface that leads nowhere; $first comes first"
    begin=$SECONDS
    both "10.78.0.$((rank + 1)):$port" $rank $first TUTTI_SOCKET_IFNAME=dark0
    if [[ $first == b || $code_a -ne 0 || $code_b -ne 0 ]]; then
      ends 3
      holds a '10\.79\.0\.2'
      holds b "10\.79\.0\.2|rank $rank"
    fi
    ((SECONDS - begin < 30)) || failed "$scene: took $((SECONDS - begin)) s"
  done
done

link_local() { ip -n "$prefix$1" -6 -o addr show dev eth0 scope link | awk '{print $4}' | cut -d/ -f1; }
for _ in $(seq 50); do  # until duplicate address detection is over
  { ip -n "${prefix}a" -6 addr show tentative; ip -n "${prefix}b" -6 addr show tentative; } | grep -q inet6 || break
  sleep 0.1
done
if [[ -n $(link_local a) ]]; then
  scene="link-local IPv6"
  both "[$(link_local a)%eth0]:4721" 0 a TUTTI_SOCKET_FAMILY=AF_INET6
  ends 0
  scene="an unknown scope"
  both "[$(link_local a)%nosuch0]:4722" 0 a
  ends 3
  holds a 'nosuch0'
  holds b 'nosuch0'
else
  echo "no IPv6 here: link-local addresses were not tried"
fi
[[ $failures -eq 0 ]] && echo "all scenes passed"
exit $((failures > 0))
