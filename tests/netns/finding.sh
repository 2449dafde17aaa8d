#!/bin/sh
# Devices find each other on all kinds of networks, each within its time: multicast, none, several interfaces, IPv6 only, tunnels
# and container bridges, other subnets, one name twice, a taken port.
. "$(dirname "$0")/lab.sh"

bridge lan0
machine a 10.77.3.1/24
machine b 10.77.3.91/24
machine c 10.77.3.181/24

# 1. Two interfaces: b is on a second network, too, with a machine that sees only that.
bridge lan1
space d
plug d eth0 lan1
ip -n "$lab-d" addr add 192.168.50.9/24 dev eth0
plug b eth1 lan1
ip -n "$lab-b" addr add 192.168.50.200/24 dev eth1
serve a alpha
serve b beta
must_see d $WAIT "a machine with two interfaces is found on the second" beta
serve d delta
must_see b $WAIT "and sees both networks" alpha delta

# 2. The same without multicast.
multicast off a-eth0 b-eth0 c-eth0 d-eth0 b-eth1 || skip "this bridge cannot stop multicast"
rm -rf "$work/c"
must_see c $SCAN_WAIT "a scan finds everybody where multicast is swallowed" alpha beta
rm -rf "$work/e"
space e
plug e eth0 lan0
plug e eth1 lan1
ip -n "$lab-e" addr add 10.77.3.120/24 dev eth0
ip -n "$lab-e" addr add 192.168.50.120/24 dev eth1
must_see e $SCAN_WAIT "on both of its interfaces" alpha beta delta

# 3. A tunnel and bridges of containers must not keep anybody waiting: wide networks where nobody answers.
if ip -n "$lab-e" tuntap add dev tun0 mode tun 2>/dev/null; then
    ip -n "$lab-e" addr add 10.8.0.6 peer 10.8.0.5 dev tun0
    ip -n "$lab-e" link set tun0 up
fi
for n in 0 1 2; do
    ip -n "$lab-e" link add "docker$n" type bridge
    ip -n "$lab-e" addr add "172.$((17 + n)).0.1/16" dev "docker$n"
    # A bridge is up when something is plugged in.
    ip -n "$lab-e" link add "veth$n" type veth peer name "inside$n"
    ip -n "$lab-e" link set "veth$n" master "docker$n" up
    ip -n "$lab-e" link set "inside$n" up
    ip -n "$lab-e" link set "docker$n" up
done
must_see e $SCAN_WAIT "beside a tunnel and wide bridges of containers" alpha beta delta
multicast on a-eth0 b-eth0 c-eth0 d-eth0 b-eth1 e-eth0 e-eth1
must_see e $WAIT "and by multicast, too" alpha beta delta
stop d
