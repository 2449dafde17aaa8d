#!/bin/sh
# Which device is meant: by alias, code, fingerprint, address, on IPv6 alone and behind a router; two of one name; a copied home; a
# taken port.
. "$(dirname "$0")/lab.sh"

three_machines

# 1. Every way to name a device.
alpha=$(field fingerprint "$work/serve-a.log" | head -n 1)
code=$(field code "$work/serve-a.log" | head -n 1)
local6=$(ip -n "$lab-a" -6 -o addr show dev eth0 scope link | sed 's/.*inet6 \([^/]*\).*/\1/')
for name in alpha ALPHA "$code" "$alpha" "$(echo "$alpha" | cut -c1-8)" 10.77.3.1 10.77.3.1:53317 "$local6%eth0" "[$local6%eth0]:53317"; do
    on c snapshots "$name" >"$work/reach.log" 2>"$work/reach-talk.log"
    grep -q '"code": *"not-paired"' "$work/reach.log" || fail "[$name] does not lead to alpha: $(cat "$work/reach.log")"
done
passed "alias, code, fingerprint and addresses lead to the device"

# 2. IPv6 only: link-local addresses, then unique local ones beside them, then those alone.
for host in a b c; do ip -n "$lab-$host" -4 addr flush dev eth0; done
must_see c $WAIT "link-local IPv6 alone" alpha beta
row alpha "$work/devices.log" | grep -q "\"address\": *\"\[$local6%eth0\]:53317\"" || fail "not at its address: $(row alpha "$work/devices.log")"
on c snapshots alpha >"$work/reach.log" 2>"$work/reach-talk.log"
grep -q '"code": *"not-paired"' "$work/reach.log" || fail "alpha is not reached over IPv6: $(cat "$work/reach.log")"
n=1
for host in a b c; do
    ip -n "$lab-$host" addr add "fd77::$n/64" dev eth0 nodad
    n=$((n + 1))
done
must_see c $WAIT "unique local addresses beside them" alpha beta
on c snapshots fd77::1 >"$work/reach.log" 2>"$work/reach-talk.log"
grep -q '"code": *"not-paired"' "$work/reach.log" || fail "fd77::1 does not lead to alpha: $(cat "$work/reach.log")"
for host in a b c; do
    link=$(ip -n "$lab-$host" -6 -o addr show dev eth0 scope link | sed 's/.*inet6 \([^ ]*\).*/\1/')
    ip -n "$lab-$host" addr del "$link" dev eth0
done
must_see c $WAIT "unique local addresses alone" alpha beta
stop b

# 3. A device on the neighbouring subnet: the router hands no multicast on, its address does.
for host in a b c; do ip -n "$lab-$host" -6 addr flush dev eth0; done
n=1
for host in a c; do
    ip -n "$lab-$host" addr add "10.77.3.$n/24" dev eth0
    n=$((n + 1))
done
bridge lan1
machine r 10.77.3.254/24
plug r eth1 lan1
ip -n "$lab-r" addr add 10.77.4.254/24 dev eth1
at r sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
machine f 10.77.4.9/24 lan1
ip -n "$lab-f" route add default via 10.77.4.254
ip -n "$lab-c" route add default via 10.77.3.254
serve f far
must_not_see c $WAIT "behind a router" far
on c snapshots 10.77.4.9 >"$work/reach.log" 2>"$work/reach-talk.log"
grep -q '"code": *"not-paired"' "$work/reach.log" || fail "the far device is not reached: $(cat "$work/reach.log")"
passed "a device on the neighbouring subnet is reached by its address"
stop f

# 4. Two devices of one name: none is taken, both are shown with code and address.
rm -rf "$work/b"
ip -n "$lab-b" addr add 10.77.3.91/24 dev eth0
serve b alpha
on c send alpha "$work" >"$work/send.log" 2>"$work/send-talk.log" && fail "send chose one of two devices of one name"
for wanted in '"code": *"ambiguous-device"' "$code" 10.77.3.1:53317 "$(field code "$work/serve-b.log" | head -n 1)" 10.77.3.91:53317; do
    grep -q "$wanted" "$work/send.log" || fail "[$wanted] is not in the answer: $(cat "$work/send.log")"
done
passed "of two devices with one name none is chosen, and both are shown"
stop b

# 5. A copied home: one identity at two addresses at once. Both machines say so, and so does whoever looks.
rm -rf "$work/b"
mkdir "$work/b"
cp -p "$work/a/identity.pem" "$work/a/signing.key" "$work/b/"
serve b alpha
on c devices --wait $WAIT >"$work/devices.log" 2>"$work/devices-talk.log" || fail "devices failed"
grep -q '"event": *"alarm"' "$work/devices.log" || fail "a copied home is not noticed: $(cat "$work/devices.log")"
for wanted in 10.77.3.1:53317 10.77.3.91:53317; do
    row alpha "$work/devices.log" | grep -q "\"clones\":.*$wanted" || fail "$wanted is not among the clones: $(cat "$work/devices.log")"
done
for host in a b; do
    wait_for "$host says that its identity is used elsewhere, too" grep -q '"event": *"alarm"' "$work/serve-$host.log"
done
passed "a copied home is noticed by everybody"
stop b
sleep 1
on c devices --wait $WAIT >"$work/devices.log" 2>"$work/devices-talk.log" || fail "devices failed"
! grep -q '"event": *"alarm"' "$work/devices.log" || fail "one device that is left is no copy: $(cat "$work/devices.log")"
stop a
serve a alpha
sees c $WAIT alpha || fail "started again, it is not found"
! grep -q '"event": *"alarm"' "$work/devices.log" "$work/serve-a.log" || fail "a device that was started again is no copy"
passed "a device that is alone or was started again is no copy"

# 6. The usual port is taken by another program: another one is used, announced and said.
stop a
ip netns exec "$lab-a" "$bin" --home "$work/other" --json serve --alias other --port 53317 \
    >"$work/serve-other.log" 2>/dev/null </dev/null &
served="$served $!"
wait_for "the port is taken" grep -q '"event": *"listening"' "$work/serve-other.log"
serve a alpha
grep -q 'the usual port is taken' "$work/serve-a-talk.log" || fail "it does not say that the port is taken"
port=$(sed -n 's/.*"event": *"listening".*"port": *\([0-9]*\).*/\1/p' "$work/serve-a.log")
[ "$port" != 53317 ] || fail "it listens on a port that is taken"
must_see c $WAIT "beside a program that has the usual port" alpha other
row alpha "$work/devices.log" | grep -q "10.77.3.1:$port" || fail "alpha is listed elsewhere: $(row alpha "$work/devices.log")"
