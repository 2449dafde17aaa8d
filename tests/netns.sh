#!/bin/sh
# Three machines on one network, made of network namespaces: they find each other, with multicast and without, and one backs
# up to another and restores on a third. The only test where datagrams cross a real (if virtual) wire.
#
#   LAN_BACKUP_BIN=target/debug/lan-backup tests/netns.sh
#
# Runs as root with iproute2 and nothing else; all traffic stays inside the namespaces, which are removed at the end. Prints
# SKIPPED with the reason where it cannot run. Exit codes: 0 passed or skipped, 1 failed.

set -u

# Multicast answers come within 0.7 s; three seconds let the third datagram of a burst out.
WAIT=3
# A scan of a /24 takes three seconds, after one of silence.
SCAN_WAIT=5
# No step of this test takes longer on a slow machine.
STEP_LIMIT=60

skip() { echo "SKIPPED netns: $1"; exit 0; }
fail() {
    echo "FAILED netns: $1" >&2
    for log in "$work"/*.log; do [ -s "$log" ] && { echo "--- ${log##*/}"; tail -n 30 "$log"; } >&2; done
    exit 1
}
passed() { echo "ok netns: $1"; }

[ "$(uname)" = Linux ] || skip "network namespaces are Linux only"
[ "$(id -u)" = 0 ] || skip "needs root to make network namespaces"
command -v ip >/dev/null || skip "ip (iproute2) is missing"
bin=${LAN_BACKUP_BIN:-target/debug/lan-backup}
[ -x "$bin" ] || skip "no binary at $bin (set LAN_BACKUP_BIN)"
bin=$(cd "$(dirname "$bin")" && pwd)/$(basename "$bin")

name=lanb$$
work=$(mktemp -d)
served=

cleanup() {
    for pid in $served; do kill "$pid" 2>/dev/null; done
    for host in wire a b c; do ip netns del "$name-$host" 2>/dev/null; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

ip netns add "$name-wire" 2>/dev/null || skip "this machine lets nobody make network namespaces"
ip -n "$name-wire" link add bridge0 type bridge 2>/dev/null || skip "the kernel has no bridges"
ip -n "$name-wire" link set bridge0 up
address=1
for host in a b c; do
    ip netns add "$name-$host" || skip "cannot make a network namespace"
    ip -n "$name-wire" link add "to-$host" type veth peer name eth0 netns "$name-$host" 2>/dev/null ||
        skip "the kernel has no veth pairs"
    ip -n "$name-wire" link set "to-$host" master bridge0 up
    ip -n "$name-$host" link set lo up
    # Far apart in the subnet, so that a scan has to look for them.
    ip -n "$name-$host" addr add "10.77.3.$address/24" dev eth0
    ip -n "$name-$host" link set eth0 up
    address=$((address + 90))
done

# on HOST ARGUMENTS…: the program on that machine, with that machine's home.
on() {
    host=$1
    shift
    ip netns exec "$name-$host" timeout "$STEP_LIMIT" "$bin" --home "$work/$host" --json "$@"
}

# serve HOST ALIAS ARGUMENTS…: starts the service and waits until it listens.
serve() {
    host=$1 alias=$2
    shift 2
    ip netns exec "$name-$host" "$bin" --home "$work/$host" --json serve --alias "$alias" "$@" \
        >"$work/serve-$host.log" 2>"$work/serve-$host-talk.log" </dev/null &
    eval "pid_$host=$!"
    served="$served $!"
    wait_for "$alias listens" grep -q '"event": *"listening"' "$work/serve-$host.log"
}

stop() {
    eval "pid=\$pid_$1"
    kill -TERM "$pid"
    wait_for "the service of $1 ends" not_running "$pid"
}

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

pins() { grep '"event": *"pin"' "$work/serve-a.log" | sed -n 's/.*"pin": *"\([0-9]*\)".*/\1/p'; }
pins_shown() { [ "$(pins | wc -l)" -ge "$1" ]; }

# type_pin NUMBER PIPE: waits for the NUMBERth PIN that machine a shows, and types it.
type_pin() {
    wait_for "a shows a PIN" pins_shown "$1"
    pin=$(pins | sed -n "$1p") timeout "$STEP_LIMIT" sh -c 'printf "%s\n" "$pin" >"$0"' "$2"
}

# lists_both FILE: whether both services stand in the rows, each with all fields.
lists_both() {
    for alias in alpha beta; do
        row=$(grep "\"alias\": *\"$alias\"" "$1" | head -n 1)
        for wanted in '"kind": *"lan-backup"' '"address":' '"fingerprint": *"[0-9A-F]\{64\}"' '"paired":'; do
            echo "$row" | grep -q "$wanted" || return 1
        done
    done
}

# digest FOLDER: every name with type, mode, links, time to the nanosecond and link target, then every content.
digest() {
    (
        cd "$1" || exit 1
        find . \( -type d -printf '%p d %m %T@\0' -o -type l -printf '%p l %T@ %l\0' \
            -o -printf '%p %y %m %n %s %T@\0' \) | LC_ALL=C sort -z
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum
    ) | tr '\0' '\n'
}

# same WANTED FOUND WHAT
same() {
    digest "$1" >"$work/wanted.txt"
    digest "$2" >"$work/found.txt"
    [ -s "$work/wanted.txt" ] || fail "$3: nothing to compare"
    if ! cmp -s "$work/wanted.txt" "$work/found.txt"; then
        diff "$work/wanted.txt" "$work/found.txt" | head -n 40 >&2
        fail "$3: the trees differ"
    fi
}

# 1. Multicast.
serve a alpha --accept paired --store "$work/a-store"
serve b beta --accept paired --store "$work/b-store"
on c devices --wait $WAIT >"$work/devices.log" 2>"$work/devices-talk.log" || fail "devices failed"
lists_both "$work/devices.log" || fail "multicast: devices does not list both machines"
passed "both machines are found by multicast"

# At once again: they must answer although they called this address back less than 30 seconds ago.
on c devices --wait $WAIT >"$work/devices.log" 2>"$work/devices-talk.log" || fail "devices failed"
lists_both "$work/devices.log" || fail "multicast: devices does not list both machines the second time"
passed "both machines are found again at once"

# 2. A network that swallows multicast: the bridge does not flood it to anybody.
flood() {
    for host in a b c; do
        ip -n "$name-wire" link set dev "to-$host" type bridge_slave mcast_flood "$1" 2>/dev/null || return 1
    done
}
if flood off; then
    rm -rf "$work/c"
    begun=$(date +%s)
    on c devices --wait $SCAN_WAIT >"$work/devices.log" 2>"$work/devices-talk.log" || fail "devices failed"
    took=$(($(date +%s) - begun))
    lists_both "$work/devices.log" || fail "scan: devices does not list both machines"
    [ $took -le $((SCAN_WAIT + 2)) ] || fail "scan: took $took s"
    passed "both machines are found by scan where multicast is swallowed"
    flood on
else
    echo "SKIPPED netns scan: this bridge cannot stop multicast"
fi
stop b

# 3. Back up from b to a, change, back up again, restore on b and on c.
tree=$work/tree/docs
mkdir -p "$tree/deep/er" "$tree/empty" "$tree/private"
echo "hello" >"$tree/hello.txt"
head -c 3000000 /dev/urandom >"$tree/deep/random.bin"
: >"$tree/deep/er/nothing"
truncate -s 5M "$tree/holes.img"
ln -s ../hello.txt "$tree/deep/link"
ln -s /nowhere/at/all "$tree/dangling"
ln "$tree/hello.txt" "$tree/deep/hard"
printf 'x' >"$tree/$(printf 'new\nline and \\ back')"
chmod 0711 "$tree/deep/er/nothing"
chmod 0700 "$tree/private"
chmod 0400 "$tree/deep/random.bin"
touch -d '1999-12-31 23:59:59.123456789' "$tree/hello.txt"
touch -h -d '2001-02-03 04:05:06.5' "$tree/deep/link"
touch -d '2010-01-01' "$tree/empty"
mkfifo "$work/pin-b" "$work/pin-c"

type_pin 1 "$work/pin-b" &
on b send alpha "$tree" --pin-file "$work/pin-b" >"$work/send.log" 2>"$work/send-talk.log" ||
    fail "the first send failed"
tail -n 1 "$work/send.log" | grep -q '"event": *"finished".*"faults": *0' || fail "the first send has faults"
passed "paired by PIN and backed up"
first=$(field snapshot "$work/send.log" | tail -n 1)
cp -a "$work/tree" "$work/tree-before"

echo "changed" >"$tree/hello.txt"
echo "new" >"$tree/deep/new.txt"
rm "$tree/dangling"
chmod 0755 "$tree/private"
on b send alpha "$tree" >"$work/send.log" 2>"$work/send-talk.log" || fail "the second send failed"
uploaded=$(tail -n 1 "$work/send.log" | sed -n 's/.*"uploadedBytes": *\([0-9]*\).*/\1/p')
[ "${uploaded:-9999999}" -lt 1000000 ] || fail "the second send uploaded ${uploaded:-nothing known} bytes for a few changed ones"
passed "sent only what changed ($uploaded bytes)"

on b restore alpha --to "$work/restored-b" >"$work/restore.log" 2>"$work/restore-talk.log" || fail "restore failed"
same "$work/tree/docs" "$work/restored-b/docs" "restored on the source"
on b restore alpha "$first" --to "$work/restored-first" >"$work/restore.log" 2>"$work/restore-talk.log" ||
    fail "restore of the first snapshot failed"
same "$work/tree-before/docs" "$work/restored-first/docs" "restored the older snapshot"
passed "restored the newest and the older snapshot"

# The third machine pairs, and asks for another's backup. Where a's service asks a person for that, the answer is given
# through the control socket.
owner=$(field fingerprint "$work/serve-b.log" | head -n 1)
answer_for_a() {
    for _ in $(seq $((STEP_LIMIT * 2))); do
        id=$(on a pending 2>/dev/null | sed -n 's/.*"id": *\([0-9]*\).*/\1/p' | head -n 1)
        [ -n "$id" ] && on a pending "$id" accept >/dev/null 2>"$work/pending-talk.log" && return
        sleep 0.5
    done
}
type_pin 2 "$work/pin-c" &
answer_for_a &
answering=$!
on c restore alpha --of "$owner" --to "$work/restored-c" --pin-file "$work/pin-c" \
    >"$work/restore.log" 2>"$work/restore-talk.log"
code=$?
kill $answering 2>/dev/null
[ $code = 0 ] || fail "restore on the third machine failed with exit code $code"
same "$work/tree/docs" "$work/restored-c/docs" "restored on the third machine"
passed "restored on a third machine"
stop a
