#!/bin/sh
# How time and memory grow: full backups and unchanged ones of 10,000, 100,000 and 1,000,000 tiny files, and full backups of 1, 10 and 40
# GB of random bytes. Both ends on this machine, over loopback. It measures and asserts nothing; a busy machine says nothing.
#
#   LAN_BACKUP_BIN=target/release/lan-backup benches/growth.sh [FILES… [-- GB…]]
#
# Needs python3, GNU time, and twice the bytes on the disk of TMPDIR (/var/tmp). What does not fit is SKIPPED and named.
set -eu

bin=$(realpath -m "${LAN_BACKUP_BIN:-target/release/lan-backup}")
[ -x "$bin" ] || { echo "SKIPPED growth: no binary at $bin (set LAN_BACKUP_BIN)"; exit 0; }
command -v python3 >/dev/null || { echo "SKIPPED growth: python3 is missing"; exit 0; }
time=$(command -v time || true)
[ -x "${time:-/usr/bin/time}" ] || { echo "SKIPPED growth: GNU time is missing"; exit 0; }
files= gigabytes= rest=
for number in "$@"; do
    if [ "$number" = -- ]; then rest=yes; elif [ -n "$rest" ]; then gigabytes="$gigabytes $number"; else files="$files $number"; fi
done
[ $# -gt 0 ] || { files="10000 100000 1000000" gigabytes="1 10 40"; }

work=$(mktemp -d "${TMPDIR:-/var/tmp}/growth.XXXXXX")
serve=
stop() { [ -z "$serve" ] || { kill "$serve" 2>/dev/null || true; wait "$serve" 2>/dev/null || true; serve=; }; }
cleanup() { stop; rm -rf "$work"; }
trap cleanup EXIT
trap 'exit 130' INT TERM

# begin: a receiver of its own for each case, and a source that is paired with it.
begin() {
    stop
    rm -rf "$work"/*
    "$bin" --home "$work/nas" --json serve --bind 127.0.0.1 --port 0 --store "$work/store" --accept paired \
        >"$work/serve.json" 2>"$work/serve.err" &
    serve=$!
    until grep -q '"listening"' "$work/serve.json"; do
        kill -0 "$serve" 2>/dev/null || { cat "$work/serve.err" >&2; exit 1; }
        sleep 0.1
    done
    to=127.0.0.1:$(sed -n 's/.*"event":"listening".*"port":\([0-9]*\).*/\1/p' "$work/serve.json" | head -n 1)
    (
        until grep -q '"event":"pin"' "$work/serve.json"; do sleep 0.1; done
        sed -n 's/.*"pin":"\([0-9]*\)".*/\1/p' "$work/serve.json" | head -n 1
    ) | "$bin" --home "$work/laptop" --json pair "$to" --pin-file - >/dev/null 2>&1
}

# measure WHAT
measure() {
    "${time:-/usr/bin/time}" -f "%e %U %S %M" -o "$work/time" "$bin" --home "$work/laptop" --json send "$to" "$work/tree" \
        --set growth >"$work/send.json" 2>"$work/send.err" || { tail -n 3 "$work/send.json" "$work/send.err"; return; }
    peak=$(awk '/VmHWM/ { print $2 }' "/proc/$serve/status")
    read -r wall user system memory <"$work/time"
    echo "$1: $wall s, $user + $system s of processor, $((memory / 1024)) MiB at the source, $((peak / 1024)) MiB at the receiver"
}

for count in $files; do
    begin
    python3 - "$work/tree" "$count" <<'PY'
import os, sys
root, count = sys.argv[1], int(sys.argv[2])
for i in range(count):
    folder = f"{root}/{i // 100_000}/{i // 1000 % 100:02d}"
    if i % 1000 == 0: os.makedirs(folder)
    with open(f"{folder}/file{i:07d}.txt", "w") as f: f.write(f"tiny file number {i}\n")
PY
    measure "$count tiny files, full"
    measure "$count tiny files, unchanged"
done
for size in $gigabytes; do
    begin
    free=$(df -P -B1000000000 "$work" | awk 'NR == 2 { print $4 }')
    if [ "$free" -lt $((2 * size + 10)) ]; then
        echo "$size GB: SKIPPED, $free GB are free"
        continue
    fi
    mkdir "$work/tree"
    head -c "${size}000000000" /dev/urandom >"$work/tree/random"
    measure "$size GB of random bytes, full"
    measure "$size GB of random bytes, unchanged"
done
