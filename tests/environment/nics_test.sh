#!/bin/bash
# Two network namespaces as hosts, joined by two veth pairs that tbf holds to a tenth of what the
# machine could: a rank whose tcp may use both interfaces moves nearly twice as much as over one, half
# of it over each; one of the two that leads nowhere is left aside.
# usage: nics_test.sh BIN   (77: skipped, no rights to make namespaces or to shape links)
set -uo pipefail
bin=$1
prefix=tuttinic$$
rate=100mbit size=4M
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

command -v ip tc > /dev/null || { echo "skipped: no ip or tc command (iproute2)"; exit 77; }
for host in a b; do
  ip netns add "$prefix$host" 2> "$work/why" || { echo "skipped: $(< "$work/why")"; exit 77; }
  ip -n "$prefix$host" link set lo up
done
for nic in 0 1; do
  ip -n "${prefix}a" link add eth$nic type veth peer name eth$nic netns "${prefix}b" || exit 77
  for host in a b; do
    ip -n "$prefix$host" addr add "10.$((78 + nic)).0.$([[ $host == a ]] && echo 1 || echo 2)/24" dev eth$nic
    ip -n "$prefix$host" link set eth$nic up
    tc -n "$prefix$host" qdisc add dev eth$nic root tbf rate $rate burst 64kb latency 20ms 2> "$work/why" ||
      { echo "skipped: $(< "$work/why")"; exit 77; }
  done
done
# dark0: an interface of host b that leads nowhere.
ip -n "${prefix}b" link add dark0 type veth peer name dark1
ip -n "${prefix}b" addr add 10.90.0.2/24 dev dark0
ip -n "${prefix}b" link set dark0 up
ip -n "${prefix}b" link set dark1 up

# run HOST RANK INTERFACES
run() {
  timeout 100 ip netns exec "$prefix$1" env TUTTI_RANK="$2" TUTTI_SIZE=2 TUTTI_ROOT="10.78.0.1:$port" \
    TUTTI_SECRET=between-two-hosts-of-a-test TUTTI_HOST_ID="$1" TUTTI_SOCKET_IFNAME="$3" TUTTI_PROFILE=none \
    TUTTI_SOCKET_FAMILY=AF_INET "$bin/all_reduce_perf" -b $size -e $size -n 2 -w 1 -c 1 > "$work/$1" 2>&1
}
port=4740
# both A'S INTERFACES B'S: the bus bandwidth in *bandwidth, MB/s
both() {
  port=$((port + 1))
  run b 1 "$2" & local b=$!
  run a 0 "$1"; local code_a=$?
  wait $b; local code_b=$?
  bandwidth=$(awk '/Avg bus bandwidth/ {printf "%d", $6 * 1000}' "$work/a")
  if [[ $code_a -ne 0 || $code_b -ne 0 || -z $bandwidth ]] || ! grep -q 'Out of bounds values : 0 OK' "$work/a"; then
    echo "FAILED $1 and $2: exit codes $code_a and $code_b"; tail -n 5 "$work/a" "$work/b"
    failures=$((failures + 1)) bandwidth=0
  fi
}
sent() { ip netns exec "${prefix}a" cat "/sys/class/net/eth$1/statistics/tx_bytes"; }

# In turns, so that whatever else the machine does meets both alike; the best counts.
one=0 two=0
for _ in 1 2 3; do
  both eth0 eth0
  ((bandwidth > one)) && one=$bandwidth
  before=($(sent 0) $(sent 1))
  both eth0,eth1 eth0,eth1
  ((bandwidth > two)) && two=$bandwidth
done
first=$(($(sent 0) - before[0])) second=$(($(sent 1) - before[1]))
echo "one interface $one MB/s, two $two MB/s: $((two * 100 / (one > 0 ? one : 1))) %; bytes over each $first, $second"
if ((two * 10 < one * 16)); then
  echo "FAILED two interfaces are not 1.6 times one"; failures=$((failures + 1))
fi
if ((second * 10 < first * 7 || first * 10 < second * 7)); then
  echo "FAILED the interfaces do not carry about as much"; failures=$((failures + 1))
fi
both eth1,eth0 eth0,eth1  # in another order: networks tell which belong together
((bandwidth * 10 < one * 16)) && { echo "FAILED other order: $bandwidth MB/s"; failures=$((failures + 1)); }
both eth0,eth1 eth0,dark0
both eth0,eth1 eth0
[[ $failures -eq 0 ]] && echo "all scenes passed"
exit $((failures > 0))
