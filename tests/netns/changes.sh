#!/bin/sh
# What changes while `serve` runs: another address, a cable pulled and plugged in again, a new interface, a program or machine that
# slept. Each time the device is found within three seconds, by its own word and by whoever looks.
. "$(dirname "$0")/lab.sh"

three_machines

# at_address ALIAS ADDRESS: it is listed there, first.
at_address() { row "$1" "$work/devices.log" | grep -q "\"address\": *\"$2:"; }

must_see c $WAIT "before anything changes" alpha beta
at_address alpha 10.77.3.1 || fail "alpha is listed elsewhere: $(row alpha "$work/devices.log")"

# 1. Another address, and then another network: whoever looks right after it finds it there.
ip -n "$lab-a" addr del 10.77.3.1/24 dev eth0
ip -n "$lab-a" addr add 10.77.3.2/24 dev eth0
must_see c $WAIT "a device with a new address is found at once" alpha beta
at_address alpha 10.77.3.2 || fail "alpha is listed elsewhere: $(row alpha "$work/devices.log")"
must_see b $WAIT "also by a device that serves" alpha
at_address alpha 10.77.3.2 || fail "alpha is listed elsewhere: $(row alpha "$work/devices.log")"

for host in a b c; do
    ip -n "$lab-$host" addr flush dev eth0 scope global
    case $host in a) n=4 ;; b) n=5 ;; c) n=6 ;; esac
    ip -n "$lab-$host" addr add 192.168.99.$n/24 dev eth0
done
must_see c $WAIT "a whole network that got other addresses" alpha beta
at_address alpha 192.168.99.4 || fail "alpha is listed elsewhere: $(row alpha "$work/devices.log")"

# 2. A cable pulled and plugged in again.
ip -n "$lab-wire" link set a-eth0 down
must_not_see c $WAIT "behind a pulled cable" alpha
ip -n "$lab-wire" link set a-eth0 up
must_see c $WAIT "a cable is plugged in again" alpha

# 3. The interface itself goes down and comes up, as Wi-Fi does.
ip -n "$lab-a" link set eth0 down
must_not_see c $WAIT "while its interface is down" alpha
ip -n "$lab-a" link set eth0 up
must_see c $WAIT "its interface is up again" alpha

# 4. A new interface on another network.
bridge lan1
space d
plug d eth0 lan1
ip -n "$lab-d" addr add 172.16.5.1/24 dev eth0
plug a eth1 lan1
ip -n "$lab-a" addr add 172.16.5.2/24 dev eth1
must_see d $WAIT "an interface that came while it serves" alpha
ip -n "$lab-a" link del eth1
ip -n "$lab-b" link set eth0 down
plug b eth1 lan1
ip -n "$lab-b" addr add 172.16.5.3/24 dev eth1
must_see d $WAIT "a laptop that moves from one network to another" beta
ip -n "$lab-b" link set eth0 up

# 5. A program that was stopped for a while (a machine that sleeps looks the same from outside).
signal a STOP
must_not_see c $WAIT "while it sleeps" alpha
signal a CONT
must_see c $WAIT "it woke up" alpha
