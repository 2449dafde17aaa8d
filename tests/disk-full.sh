#!/bin/sh
# What happens when a disk is full, on a real one: a tmpfs of 64 MB, mounted where nobody else sees it. Needs root (or a system that
# lets users make mount namespaces); says SKIPPED with the reason otherwise.
#
#   LAN_BACKUP_BIN=target/debug/lan-backup tests/disk-full.sh
#
# Exit codes: 0 passed or skipped, 1 failed.
#
# 1. A store on a full disk refuses the new backup by name, keeps the old one, is pruned, and takes the new one when there is space again.
# 2. A restore onto a full disk says so, leaves no file under its final name that is not whole, and goes on when there is space again.
set -eu
cd "$(dirname "$0")/.."
skip() { echo "SKIPPED disk-full: $1"; exit 0; }
LAN_BACKUP_BIN=$(realpath -m "${LAN_BACKUP_BIN:-target/debug/lan-backup}")
export LAN_BACKUP_BIN
BIN=$LAN_BACKUP_BIN
[ -x "$BIN" ] || skip "no binary at $BIN (set LAN_BACKUP_BIN)"

if [ "${DISK_FULL_INSIDE:-}" != yes ]; then
    if ! why=$(unshare -m true 2>&1); then
        if why=$(unshare -rm true 2>&1); then
            DISK_FULL_INSIDE=yes exec unshare -rm "$PWD/tests/disk-full.sh"
        fi
        skip "no mount namespace can be made here: $why"
    fi
    DISK_FULL_INSIDE=yes exec unshare -m "$PWD/tests/disk-full.sh"
fi

WORK=$(mktemp -d)
SERVE=
cleanup() {
    if [ -n "$SERVE" ]; then
        kill "$SERVE" 2>/dev/null || true
        wait "$SERVE" 2>/dev/null || true
    fi
    cd /
    umount "$WORK/small" "$WORK/tight" 2>/dev/null || true
    rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

mkdir "$WORK/small" "$WORK/tight" "$WORK/nas" "$WORK/laptop" "$WORK/docs"
for name in small tight; do
    if ! why=$(mount -t tmpfs -o size=64m tmpfs "$WORK/$name" 2>&1); then
        skip "no tmpfs can be mounted here: $why"
    fi
done

PORT_FILE=$WORK/serve.json
MULTICAST=$((20000 + $$ % 40000))
nas() { "$BIN" --home "$WORK/nas" --json --multicast-port "$MULTICAST" --bind 127.0.0.1 "$@"; }
# In the background without a shell in between, so that $! is the program itself.
serve() {
    # Before it starts: what the last one said is not what this one says.
    : >"$PORT_FILE"
    "$BIN" --home "$WORK/nas" --json --multicast-port "$MULTICAST" --bind 127.0.0.1 serve --port "$1" \
        --store "$WORK/small/store" --accept paired >"$PORT_FILE" 2>"$WORK/serve.err" &
    SERVE=$!
}
laptop() { "$BIN" --home "$WORK/laptop" --json --multicast-port "$MULTICAST" --bind 127.0.0.1 "$@"; }

fail() {
    echo "FAILED disk-full: $1"
    shift
    for file in "$@"; do echo "--- $file"; cat "$file"; done
    exit 1
}

# wait_for PATTERN FILE: for at most 30 seconds.
wait_for() {
    tries=300
    until grep -q "$1" "$2" 2>/dev/null; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "waited in vain for $1" "$2" "$WORK/serve.err"
        sleep 0.1
    done
}

# expect EXIT PATTERN WHAT COMMAND…: runs it; its exit code and a pattern in its last line.
expect() {
    code=$1 pattern=$2 what=$3
    shift 3
    got=0
    "$@" >"$WORK/out" 2>"$WORK/err" || got=$?
    [ "$got" = "$code" ] || fail "$what: exit code $got instead of $code" "$WORK/out" "$WORK/err" "$WORK/serve.err"
    tail -n 1 "$WORK/out" | grep -q "$pattern" || fail "$what: no $pattern" "$WORK/out" "$WORK/err" "$WORK/serve.err"
    if grep -q panicked "$WORK/err" "$WORK/serve.err"; then fail "$what: panic" "$WORK/err" "$WORK/serve.err"; fi
    echo "ok disk-full: $what"
}

# has_hint: the last failure said what to do, on both channels.
has_hint() {
    grep -q '"hint":"' "$WORK/out" && grep -q '^hint: ' "$WORK/err" || fail "no hint" "$WORK/out" "$WORK/err"
    grep '^error: ' "$WORK/err" | sed 's/^/    /'
}

# A system disk keeps a reserve; this one is there to be filled.
echo 'reserve_gib = 0' >"$WORK/nas/settings.toml"
serve 0
wait_for '"listening"' "$PORT_FILE"
DEVICE=127.0.0.1:$(sed -n 's/.*"event":"listening".*"port":\([0-9]*\).*/\1/p' "$PORT_FILE")
(
    wait_for '"event":"pin"' "$PORT_FILE"
    sed -n 's/.*"pin":"\([0-9]*\)".*/\1/p' "$PORT_FILE" | head -n 1
) | laptop pair "$DEVICE" --pin-file - >"$WORK/out" 2>"$WORK/err" || fail "pairing" "$WORK/out" "$WORK/err" "$WORK/serve.err"

head -c 5000000 /dev/urandom >"$WORK/docs/first"
expect 0 '"finished".*"faults":0' "a small backup" laptop send "$DEVICE" "$WORK/docs"
mkdir "$WORK/before"
cp -a "$WORK/docs" "$WORK/before/"

head -c 90000000 /dev/urandom >"$WORK/docs/second"
expect 1 '"code":"full"' "a backup that does not fit is refused" laptop send "$DEVICE" "$WORK/docs"
has_hint
expect 0 '"finished".*"faults":0' "the old snapshot restores from the full disk" laptop restore "$DEVICE" --to "$WORK/old"
diff -r "$WORK/before/docs" "$WORK/old/docs" || fail "the old snapshot is not what it was"
[ "$(nas snapshots --json --store "$WORK/small/store" | wc -l)" = 1 ] || fail "half a backup shows as a snapshot"
expect 0 '' "the holder's status on the full disk" nas status --store "$WORK/small/store"

# To the last byte, by somebody else: even a small record has no place now.
dd if=/dev/zero of="$WORK/small/filler" bs=64k 2>/dev/null || true
rm "$WORK/docs/second"
head -c 300000 /dev/urandom >"$WORK/docs/third"
expect 1 '"code":"full"' "a small backup on a disk without a byte" laptop send "$DEVICE" "$WORK/docs"
has_hint
expect 0 '"event":"pruned"' "a prune on a disk without a byte" nas prune --store "$WORK/small/store"
kill -9 "$SERVE"
wait "$SERVE" 2>/dev/null || true
rm "$WORK/small/filler"
# What the big one left behind is space that only pruning gives back; this one gets a larger disk.
mount -o remount,size=128m "$WORK/small"
serve "${DEVICE##*:}"
wait_for '"listening"' "$PORT_FILE"
expect 0 '"finished".*"faults":0' "the same backup when there is space again" laptop send "$DEVICE" "$WORK/docs"

head -c 60000000 /dev/urandom >"$WORK/big"
mkdir "$WORK/many"
mv "$WORK/big" "$WORK/many/b"
head -c 2000000 /dev/urandom >"$WORK/many/a"
head -c 8000000 /dev/urandom >"$WORK/many/c"
mount -o remount,size=256m "$WORK/small"
expect 0 '"finished".*"faults":0' "a backup that is larger than the other disk" laptop send "$DEVICE" "$WORK/many"
expect 1 '"code":"disk-full"' "a restore onto a disk that is too small" \
    laptop restore "$DEVICE" --set many --to "$WORK/tight"
has_hint
find "$WORK/tight" -type f >"$WORK/left"
while read -r file; do
    cmp -s "$file" "$WORK/many/$(basename "$file")" || fail "$file is not whole" "$WORK/left"
done <"$WORK/left"
echo "ok disk-full: what it has left behind is whole ($(wc -l <"$WORK/left") files)"
mount -o remount,size=128m "$WORK/tight"
expect 0 '"finished".*"faults":0' "the same restore when there is space again" \
    laptop restore "$DEVICE" --set many --to "$WORK/tight"
diff -r "$WORK/many" "$WORK/tight/many" || fail "the restored files are not what they were"
[ "$(find "$WORK/tight" -type f | wc -l)" = 3 ] || fail "something was left behind"
echo "PASSED disk-full"
