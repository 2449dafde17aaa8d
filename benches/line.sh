#!/bin/sh
# How much of a line of limited speed a full backup uses: two network namespaces, joined by a virtual cable with a token bucket at
# either end. Random bytes should fill the line; text should get through faster than the line could carry it.
#
#   LAN_BACKUP_BIN=target/release/lan-backup benches/line.sh [MBIT [MIB]]      (1000 and 1024)
#
# Needs root, iproute2 with tc, and python3 for the text. Everything stays inside the namespaces, which are removed at the end. Prints SKIPPED with the
# reason where it cannot run. It measures and asserts nothing: a figure from a busy machine says nothing about the program.
set -eu

mbit=${1:-1000}
mib=${2:-1024}
skip() { echo "SKIPPED line: $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root to make network namespaces"
command -v tc >/dev/null || skip "tc (iproute2) is missing"
command -v python3 >/dev/null || skip "python3 is missing"
bin=$(realpath -m "${LAN_BACKUP_BIN:-target/release/lan-backup}")
[ -x "$bin" ] || skip "no binary at $bin (set LAN_BACKUP_BIN)"

name=lanl$$
work=$(mktemp -d "${TMPDIR:-/var/tmp}/line.XXXXXX")
serve=
cleanup() {
    [ -z "$serve" ] || kill "$serve" 2>/dev/null || true
    ip netns del "$name-source" 2>/dev/null || true
    ip netns del "$name-holder" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

ip netns add "$name-source" 2>/dev/null || skip "this machine lets nobody make network namespaces"
ip netns add "$name-holder"
ip -n "$name-source" link add eth0 type veth peer name eth0 netns "$name-holder" || skip "the kernel has no veth pairs"
last=1
for host in source holder; do
    ip -n "$name-$host" link set lo up
    ip -n "$name-$host" addr add "10.77.9.$last/24" dev eth0
    ip -n "$name-$host" link set eth0 up
    # Large packets of the virtual cable would be counted as one; a real card cuts them.
    ip netns exec "$name-$host" tc qdisc add dev eth0 root tbf rate "${mbit}mbit" burst 256kb latency 20ms ||
        skip "the kernel has no token bucket"
    last=$((last + 1))
done

until ip -n "$name-holder" link show dev eth0 | grep -q LOWER_UP; do sleep 0.1; done
source_() { ip netns exec "$name-source" "$bin" --home "$work/laptop" --json "$@"; }
ip netns exec "$name-holder" "$bin" --home "$work/nas" --json serve --bind 10.77.9.2 --port 53400 --store "$work/store" \
    --accept paired >"$work/serve.json" 2>"$work/serve.err" &
serve=$!
until grep -q '"listening"' "$work/serve.json"; do
    kill -0 "$serve" 2>/dev/null || { cat "$work/serve.err" >&2; exit 1; }
    sleep 0.1
done
(
    until grep -q '"event":"pin"' "$work/serve.json"; do sleep 0.1; done
    sed -n 's/.*"pin":"\([0-9]*\)".*/\1/p' "$work/serve.json" | head -n 1
) | source_ pair 10.77.9.2:53400 --pin-file - >/dev/null 2>&1

mkdir "$work/noise" "$work/text"
head -c "${mib}M" /dev/urandom >"$work/noise/noise.bin"
python3 - "$work/text" "$mib" <<'PY'
import random, sys
pick = random.Random(1)
words = ["".join(pick.choice("etaoinshrdlucmfwypvbgk") for _ in range(pick.randint(2, 10))) for _ in range(6000)]
for part in range(int(sys.argv[2]) // 16):
    pages = [" ".join(words[int(6000 * pick.random() ** 2.5)] for _ in range(12000)) for _ in range(4)]
    with open(f"{sys.argv[1]}/part{part:04}.txt", "w") as out:
        size = 0
        while size < 16 << 20:
            page = pick.choice(pages)
            at = pick.randrange(len(page) - 4000)
            size += out.write(page[at:at + pick.randint(500, 4000)] + f" {pick.random()}\n")
PY

for kind in noise text; do
    sync
    bytes=$(du -sb "$work/$kind" | cut -f1)
    before=$(ip netns exec "$name-source" cat /sys/class/net/eth0/statistics/tx_bytes)
    begun=$(date +%s.%N)
    source_ send 10.77.9.2:53400 "$work/$kind" >/dev/null
    ended=$(date +%s.%N)
    after=$(ip netns exec "$name-source" cat /sys/class/net/eth0/statistics/tx_bytes)
    awk -v kind=$kind -v bytes="$bytes" -v wire=$((after - before)) -v begun="$begun" -v ended="$ended" -v mbit="$mbit" 'BEGIN {
        seconds = ended - begun
        printf "%-5s %7.1f MB in %5.2f s: %6.1f MB/s; over the line %7.1f MB, %5.1f %% of what it carries\n",
            kind, bytes / 1e6, seconds, bytes / 1e6 / seconds, wire / 1e6, wire * 8 / (mbit * 1e4) / seconds
    }'
done
