#!/bin/sh
# `devices --diagnose` names the cause in every broken network: each is broken on purpose, and mended again.
. "$(dirname "$0")/lab.sh"

three_machines

# finds CODE… -- ARGUMENTS: c's diagnosis has all these conclusions. The logs of each stay for what is asked beside.
finds() {
    codes=
    while [ "$1" != -- ]; do codes="$codes $1"; shift; done
    shift
    on c devices --diagnose "$@" >"$work/diagnosis.log" 2>"$work/diagnosis-talk.log"
    result=$?
    for code in $codes; do
        grep '"row": *"finding"' "$work/diagnosis.log" | grep -q "\"code\": *\"$code\"" || {
            echo "no conclusion [$code] of [devices --diagnose $*]:" >&2
            grep '"row": *"finding"' "$work/diagnosis.log" >&2
            return 1
        }
    done
}
must_find() {
    what=$1
    shift
    finds "$@" || fail "$what"
    passed "$what"
}
has() { grep '"row": *"finding"' "$work/diagnosis.log" | grep -q "\"code\": *\"$1\""; }
hint_says() { grep '"row": *"finding"' "$work/diagnosis.log" | grep "\"code\": *\"$1\"" | grep -q "\"hint\":.*$2"; }

# 0. Nothing is wrong: then nothing is said to be.
must_find "a sound network is said to be sound" fine not-serving --
! grep '"row": *"finding"' "$work/diagnosis.log" | grep -q '"level": *"trouble"' || fail "trouble in a sound network: $(cat "$work/diagnosis.log")"
grep '"row": *"interface"' "$work/diagnosis.log" | grep '"name": *"eth0"' | grep -q '"echoed": *[1-9]' || fail "our own datagrams are not counted"
grep '"row": *"interface"' "$work/diagnosis.log" | grep '"name": *"lo"' | grep -q '"skipped": *"' || fail "lo is not said to be skipped"
grep '"row": *"subnet"' "$work/diagnosis.log" | grep '10.77.3.0/24' | grep -q '"answered": *2' || fail "the scan is not told: $(cat "$work/diagnosis.log")"
must_find "a device that answers is said to" reached -- alpha
[ $result = 0 ] || fail "a device that is reached is no failure"
at c "$bin" --home "$work/c" devices --diagnose alpha >"$work/diagnosis.txt" 2>/dev/null || fail "text for people"
grep -q 'good: alpha (lan-backup, ' "$work/diagnosis.txt" || fail "not for people: $(cat "$work/diagnosis.txt")"
must_find "a name that nobody has" not-found -- nobody
[ $result = 1 ] || fail "a device that is not found is a failure"

# 1. The switch drops multicast.
multicast off a-eth0 b-eth0 c-eth0 || skip "this bridge cannot stop multicast"
rm -rf "$work/c"
must_find "multicast that is dropped" multicast-dropped --
hint_says multicast-dropped 'IGMP' || fail "the hint does not say what to do"
multicast on a-eth0 b-eth0 c-eth0

# 2. Ports: closed, another program, nobody there, another certificate.
must_find "a port where nothing listens" port-closed -- 10.77.3.1:4444
[ $result = 1 ] || fail "a closed port is a failure"
must_find "an address that nobody has" nobody-there -- 10.77.3.77
if command -v python3 >/dev/null; then
    ip netns exec "$lab-a" python3 -m http.server 4445 >/dev/null 2>&1 &
    served="$served $!"
    listens() { at a ss -ltn | grep -q ':4445 '; }
    wait_for "the other program listens" listens
    must_find "another program on the port" not-ours -- 10.77.3.1:4445
else
    echo "not tested: another program, because there is no python3 to be one"
fi
must_find "this device itself" own-address -- 10.77.3.181

# 3. The paired device's certificate is another one now.
mkfifo "$work/pin"
stop a
serve a alpha --accept paired
pin() { sed -n 's/.*"event": *"pin".*"pin": *"\([0-9]*\)".*/\1/p' "$work/serve-a.log"; }
pin_is_shown() { [ -n "$(pin)" ]; }
(wait_for "a PIN" pin_is_shown; pin >"$work/pin") &
on c pair alpha --pin-file "$work/pin" >"$work/pair.log" 2>&1 || fail "pairing failed"
must_find "a paired device that answers" reached -- alpha
stop a
rm -rf "$work/a"
serve a alpha
must_find "a paired device with another certificate" wrong-certificate -- alpha
[ $result = 1 ] || fail "another certificate is a failure"

# 4. Links.
ip -n "$lab-wire" link set b-eth0 down
must_find "an address behind a pulled cable" nobody-there -- 10.77.3.91
ip -n "$lab-wire" link set b-eth0 up
ip -n "$lab-c" link set eth0 down
must_find "a machine without a network" no-network --
grep '"row": *"interface"' "$work/diagnosis.log" | grep '"name": *"eth0"' | grep -q 'switched off' || fail "eth0 is not said to be off"
ip -n "$lab-c" link set eth0 up

# 5. A VPN that takes the route of the local network.
if ip -n "$lab-c" tuntap add dev tun0 mode tun 2>/dev/null; then
    ip -n "$lab-c" addr add 10.8.0.6/24 dev tun0
    ip -n "$lab-c" link set tun0 up
    ip -n "$lab-c" rule add to 10.77.3.0/24 lookup 77
    ip -n "$lab-c" route add 10.77.3.0/24 dev tun0 src 10.8.0.6 table 77
    must_find "a VPN that takes the local network" routed-elsewhere --
    ip -n "$lab-c" rule del to 10.77.3.0/24 lookup 77
    ip -n "$lab-c" link del tun0
else
    echo "not tested: a VPN, because this kernel has no tunnels"
fi

# 6. Isolated devices: each reaches the router alone.
for port in a-eth0 b-eth0 c-eth0; do ip -n "$lab-wire" link set dev $port type bridge_slave isolated on; done
must_find "devices that are kept from each other" nobody-there --
hint_says nobody-there 'client isolation' || fail "the hint does not say what it may be"
for port in a-eth0 b-eth0 c-eth0; do ip -n "$lab-wire" link set dev $port type bridge_slave isolated off; done

# 7. Firewalls.
firewall() {
    at "$1" nft add table inet wall 2>/dev/null &&
        at "$1" nft 'add chain inet wall in { type filter hook input priority 0 ; }' &&
        at "$1" nft "add rule inet wall in $2"
}
no_firewall() { at "$1" nft delete table inet wall; }
command -v nft >/dev/null || skip "nft (nftables) is missing: all but the firewalls passed"
firewall b 'tcp dport 53317 drop' || skip "this kernel has no firewall: all else passed"
must_find "a firewall that swallows the port" port-filtered -- 10.77.3.91
must_find "and of a device that is heard all the same" port-filtered --
no_firewall b
firewall b 'tcp dport 53317 reject with icmpx type admin-prohibited' || fail "nft cannot reject"
must_find "a firewall that refuses" port-filtered -- 10.77.3.91
no_firewall b
firewall b 'udp dport 53317 drop'
must_find "a firewall on one device that drops multicast" device-firewall --
no_firewall b
firewall c 'udp dport 53317 drop'
must_find "a firewall on this machine that drops multicast" own-firewall --
no_firewall c
must_find "and all is well again" fine --
