# The machines of the network tests, made of network namespaces: sourced by the scripts beside it, POSIX sh.
#
# A machine is a namespace with an interface `eth0` on a bridge. All traffic stays inside the namespaces, which are removed at the
# end. What a kernel or machine cannot do is said with SKIPPED and the reason.

set -u

# Answers to multicast come within 0.7 s; three seconds let the third datagram of a burst out.
WAIT=3
# A scan of a /24 takes three seconds, after one of silence.
SCAN_WAIT=5
# No step of these tests takes longer on a slow machine.
STEP_LIMIT=60

part=${0##*/}
part=${part%.sh}

skip() { echo "SKIPPED netns $part: $1"; exit 0; }
passed() { echo "ok netns $part: $1"; }
fail() {
    echo "FAILED netns $part: $1" >&2
    for log in "$work"/*.log; do [ -s "$log" ] && { echo "--- ${log##*/}"; tail -n 30 "$log"; } >&2; done
    exit 1
}

[ "$(uname)" = Linux ] || skip "network namespaces are Linux only"
[ "$(id -u)" = 0 ] || skip "needs root to make network namespaces"
command -v ip >/dev/null || skip "ip (iproute2) is missing"
bin=${LAN_BACKUP_BIN:-target/debug/lan-backup}
[ -x "$bin" ] || skip "no binary at $bin (set LAN_BACKUP_BIN)"
bin=$(cd "$(dirname "$bin")" && pwd)/$(basename "$bin")

lab=lanb$$
work=$(mktemp -d)
served=
spaces=

cleanup() {
    for pid in $served; do kill -CONT "$pid" 2>/dev/null; kill "$pid" 2>/dev/null; done
    for pid in $served; do wait "$pid" 2>/dev/null; done
    for space in $spaces; do ip netns del "$lab-$space" 2>/dev/null; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# space NAME: a namespace with nothing but loopback.
space() {
    ip netns add "$lab-$1" 2>/dev/null || skip "this machine lets nobody make network namespaces"
    spaces="$spaces $1"
    ip -n "$lab-$1" link set lo up
}

# bridge NAME: a switch.
bridge() {
    [ -n "$(ip netns list | grep "^$lab-wire\b")" ] || space wire
    ip -n "$lab-wire" link add "$1" type bridge 2>/dev/null || skip "the kernel has no bridges"
    ip -n "$lab-wire" link set "$1" up
}

# plug HOST INTERFACE BRIDGE: a cable from the machine to the switch; its other end is called HOST-INTERFACE.
plug() {
    ip -n "$lab-wire" link add "$1-$2" type veth peer name "$2" netns "$lab-$1" 2>/dev/null ||
        skip "the kernel has no veth pairs"
    ip -n "$lab-wire" link set "$1-$2" master "$3" up
    ip -n "$lab-$1" link set "$2" up
}

# machine HOST ADDRESS [BRIDGE]: one with eth0.
machine() {
    space "$1"
    plug "$1" eth0 "${3:-lan0}"
    ip -n "$lab-$1" addr add "$2" dev eth0
}

# at HOST COMMAND…: runs it on that machine.
at() {
    where=$1
    shift
    ip netns exec "$lab-$where" "$@"
}

# on HOST ARGUMENTS…: the program on that machine, with that machine's home.
on() {
    host=$1
    shift
    at "$host" timeout "$STEP_LIMIT" "$bin" --home "$work/$host" --json "$@"
}

# serve HOST ALIAS ARGUMENTS…: starts the service and waits until it listens.
serve() {
    host=$1 alias=$2
    shift 2
    : >"$work/serve-$host.log"
    ip netns exec "$lab-$host" "$bin" --home "$work/$host" --json serve --alias "$alias" "$@" \
        >"$work/serve-$host.log" 2>"$work/serve-$host-talk.log" </dev/null &
    eval "pid_$host=$!"
    served="$served $!"
    wait_for "$alias listens" grep -q '"event": *"listening"' "$work/serve-$host.log"
}

# three_machines: a, b and c on one switch; alpha serves on a, beta on b.
three_machines() {
    bridge lan0
    machine a 10.77.3.1/24
    machine b 10.77.3.91/24
    machine c 10.77.3.181/24
    serve a alpha
    serve b beta
}

# signal HOST SIGNAL: to the service of that machine.
signal() { eval "kill -$2 \$pid_$1"; }

stop() {
    eval "pid=\$pid_$1"
    kill -TERM "$pid"
    wait_for "the service of $1 ends" not_running "$pid"
}

# now: in milliseconds.
now() { echo $(($(date +%s%N) / 1000000)); }

not_running() { ! kill -0 "$1" 2>/dev/null; }

# wait_for WHAT COMMAND…: until the command succeeds.
wait_for() {
    what=$1 tries=$((STEP_LIMIT * 10))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "waited $STEP_LIMIT s in vain: $what"
        sleep 0.1
    done
}

# field NAME FILE: the values of that text field, one a line.
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$2"; }

# row ALIAS FILE: the row of that device.
row() { grep "\"alias\": *\"$1\"" "$2"; }

# sees HOST SECONDS ALIAS…: that machine lists all these devices when it listens so long.
sees() {
    seer=$1 seconds=$2
    shift 2
    begun=$(now)
    on "$seer" devices --wait "$seconds" >"$work/devices.log" 2>"$work/devices-talk.log" || fail "devices failed"
    took=$(($(now) - begun))
    # What is listed was called to be sure, and paired ones were asked for their snapshots; a loaded machine needs a moment more.
    [ $took -le $((seconds * 1000 + 3000)) ] || fail "devices --wait $seconds took $took ms"
    for wanted in "$@"; do
        row "$wanted" "$work/devices.log" >/dev/null || return 1
    done
}

# must_see HOST SECONDS WHAT ALIAS…
must_see() {
    what=$3 seer=$1 seconds=$2
    shift 3
    sees "$seer" "$seconds" "$@" || fail "$what: not all of [$*] are listed within $seconds s"
    passed "$what ($took ms)"
}

# must_not_see HOST SECONDS WHAT ALIAS: what a test that expects to see somebody is worth.
must_not_see() { ! sees "$1" "$2" "$4" || fail "$3: $4 is listed"; }

# multicast on|off [BRIDGE-PORT…]: whether the switch hands group datagrams on to these machines.
multicast() {
    state=$1
    shift
    for port in "$@"; do
        ip -n "$lab-wire" link set dev "$port" type bridge_slave mcast_flood "$state" 2>/dev/null || return 1
    done
}
