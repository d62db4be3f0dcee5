#!/bin/bash
# Two network namespaces as hosts, joined by two veth pairs that tbf holds to a tenth of what the
# machine could: a rank whose tcp may use both interfaces moves nearly twice as much as over one, half
# of it over each; one of the two that leads nowhere is left aside.
# usage: nics_test.sh BIN   (77: skipped, no rights to make namespaces or to shape links)
. "$(dirname "$0")/two_hosts.sh"
rate=100mbit size=4M
command -v tc > /dev/null || skip "no tc command (iproute2)"
for nic in 0 1; do
  joined eth$nic 10.$((78 + nic)).0
  for host in a b; do
    tc -n "$prefix$host" qdisc add dev eth$nic root tbf rate $rate burst 64kb latency 20ms 2> "$work/why" ||
      skip "$(< "$work/why")"
  done
done
dark 10.90.0.2

# run HOST RANK INTERFACES
run() {
  on "$1" "$2" "10.78.0.1:$port" TUTTI_SOCKET_IFNAME="$3" TUTTI_PROFILE=none TUTTI_SOCKET_FAMILY=AF_INET -- \
    -b $size -e $size -n 2 -w 1 -c 1
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
    failed "$1 and $2: exit codes $code_a and $code_b"; tail -n 5 "$work/a" "$work/b"
    bandwidth=0
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
((two * 10 < one * 16)) && failed "two interfaces are not 1.6 times one"
((second * 10 < first * 7 || first * 10 < second * 7)) && failed "the interfaces do not carry about as much"
both eth1,eth0 eth0,eth1  # in another order: networks tell which belong together
((bandwidth * 10 < one * 16)) && failed "other order: $bandwidth MB/s"
both eth0,eth1 eth0,dark0
both eth0,eth1 eth0
[[ $failures -eq 0 ]] && echo "all scenes passed"
exit $((failures > 0))
