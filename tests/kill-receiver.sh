#!/usr/bin/env bash
# kill -9 of a real receiver at random points of backups and restores, and what is left of them. (A prune is a command of its own; the test
# `a_prune_that_is_killed_at_any_moment_loses_nothing_and_the_next_one_goes_on` kills those.)
#
#   LAN_BACKUP_BIN=target/release/lan-backup tests/kill-receiver.sh        20 points; 200 with LAN_BACKUP_LONG set
#
# Exit codes: 0 passed, 1 failed. Prints the figures; the only time that fails is one that means that something hangs.
#
# After each death the receiver is started again at once. Then: every snapshot that was acknowledged is listed and the newest comes
# back byte for byte; the interrupted command, run again, comes to its end; nothing that the store kept is sent a second time, and what
# was lost is at most an upload on each of the two connections. In the end `verify --data` finds nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "SKIPPED kill-receiver: $1"; exit 0; }
BIN=$(realpath -m "${LAN_BACKUP_BIN:-target/debug/lan-backup}")
[ -x "$BIN" ] || skip "no binary at $BIN (set LAN_BACKUP_BIN)"
POINTS=20
[ -z "${LAN_BACKUP_LONG:-}" ] || POINTS=200
SEED=${SEED:-1}
RANDOM=$SEED
MIB=1048576
# The most that one upload carries, and two are under way.
LOST_AT_MOST=$((2 * 17 * MIB))

WORK=$(mktemp -d)
SERVE=
cleanup() {
    if [ -n "$SERVE" ]; then
        kill -9 "$SERVE" 2>/dev/null || true
        wait "$SERVE" 2>/dev/null || true
    fi
    rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

fail() {
    echo "FAILED kill-receiver: $1 (SEED=$SEED)"
    shift
    for file in "$@" "$WORK/serve.err"; do echo "--- $file"; tail -n 30 "$file"; done
    exit 1
}

now() { echo $(($(date +%s%N) / 1000000)); }

MULTICAST=$((20000 + $$ % 40000))
device() { # device NAME COMMAND…
    local home=$1
    shift
    "$BIN" --home "$WORK/$home" --json --multicast-port "$MULTICAST" --bind 127.0.0.1 "$@"
}
PORT=0
STARTED=0
serve() {
    : >"$WORK/serve.json"
    local from tries=3000
    from=$(now)
    "$BIN" --home "$WORK/nas" --json --multicast-port "$MULTICAST" --bind 127.0.0.1 serve --port "$PORT" --accept paired \
        >"$WORK/serve.json" 2>"$WORK/serve.err" &
    SERVE=$!
    until grep -q '"listening"' "$WORK/serve.json"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] && kill -0 "$SERVE" 2>/dev/null || fail "the receiver does not start"
        sleep 0.01
    done
    STARTED=$(($(now) - from))
    PORT=$(sed -n 's/.*"event":"listening".*"port":\([0-9]*\).*/\1/p' "$WORK/serve.json")
    if grep -q panicked "$WORK/serve.err"; then fail "panic"; fi
}
# field NAME FILE: a number of the last line.
field() { tail -n 1 "$2" | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"; }
ok() { # ok WHAT COMMAND…: must end well.
    local what=$1
    shift
    "$@" >"$WORK/out" 2>"$WORK/err" || fail "$what: exit code $?" "$WORK/out" "$WORK/err"
}
bytes() { find "$@" -type f -printf '%s\n' 2>/dev/null | awk '{ sum += $1 } END { printf "%.0f\n", sum }'; }
kept() { bytes "$WORK"/nas/store/repositories/*/packs; }
on_disk() { bytes "$WORK"/nas/store/repositories/*/packs "$WORK"/nas/store/repositories/*/staging; }
# kill_within MS: at a random moment of the next so many milliseconds.
kill_within() {
    local wait=$(((RANDOM * 32768 + RANDOM) % ($1 + 1)))
    sleep "$(printf '%d.%03d' $((wait / 1000)) $((wait % 1000)))"
    kill -9 "$SERVE" 2>/dev/null || fail "the receiver had died by itself"
    wait "$SERVE" 2>/dev/null || true
}
snapshots() { device nas snapshots | grep -o '"snapshot":"[0-9a-f]*"' | sort; }

mkdir -p "$WORK/nas" "$WORK/laptop" "$WORK/docs"
serve
(
    tries=600
    until grep -q '"event":"pin"' "$WORK/serve.json" || [ "$tries" = 0 ]; do
        tries=$((tries - 1))
        sleep 0.05
    done
    sed -n 's/.*"pin":"\([0-9]*\)".*/\1/p' "$WORK/serve.json" | head -n 1
) | device laptop pair "127.0.0.1:$PORT" --pin-file - >"$WORK/out" 2>"$WORK/err" || fail "pairing" "$WORK/out" "$WORK/err"

TOTAL=$((48 * MIB))
fill() { # new content, and a small file that stays
    for name in a b c; do head -c $((TOTAL / 3)) /dev/urandom >"$WORK/docs/$name"; done
}
echo stays >"$WORK/docs/small"
send() { device laptop send "127.0.0.1:$PORT" "$WORK/docs"; }
fill
from=$(now)
ok "the first backup" send
SEND_MS=$(($(now) - from))
from=$(now)
ok "the first restore" device laptop restore "127.0.0.1:$PORT" --to "$WORK/first"
RESTORE_MS=$(($(now) - from))
rm -rf "$WORK/first"
snapshots >"$WORK/acknowledged"

slowest=0 died=0 most_lost=0 interrupted=0 restores=0
for point in $(seq "$POINTS"); do
    fill
    device laptop send "127.0.0.1:$PORT" "$WORK/docs" >"$WORK/out" 2>"$WORK/err" &
    command=$!
    kill_within "$SEND_MS"
    before=$(on_disk)
    serve
    died=$((died + 1))
    [ "$STARTED" -le "$slowest" ] || slowest=$STARTED
    code=0
    wait "$command" || code=$?
    after=$(kept)
    if [ "$code" = 0 ]; then
        # It was through already: or the source has not noticed at all.
        grep -o '"snapshot":"[0-9a-f]*"' "$WORK/out" >>"$WORK/acknowledged" || true
        sort -u -o "$WORK/acknowledged" "$WORK/acknowledged"
    else
        interrupted=$((interrupted + 1))
        lost=$((before > after ? before - after : 0))
        [ "$lost" -le "$most_lost" ] || most_lost=$lost
        [ "$lost" -le "$LOST_AT_MOST" ] || fail "$lost bytes that had arrived were lost"
    fi
    snapshots >"$WORK/listed"
    lacking=$(comm -23 "$WORK/acknowledged" "$WORK/listed")
    [ -z "$lacking" ] || fail "acknowledged, and gone after point $point: $lacking" "$WORK/listed"
    if [ "$code" != 0 ]; then
        base=$(kept)
        ok "the interrupted backup, run again" send
        again=$(field uploadedBytes "$WORK/out")
        grew=$(($(kept) - base))
        # Packs hold headers and trailers, too; what is sent is what the store grows by.
        [ "$again" -le $((grew + MIB)) ] || fail "$again bytes were sent, and the store grew by $grew" "$WORK/out"
        grep -o '"snapshot":"[0-9a-f]*"' "$WORK/out" >>"$WORK/acknowledged"
        sort -u -o "$WORK/acknowledged" "$WORK/acknowledged"
    fi

    device laptop restore "127.0.0.1:$PORT" --to "$WORK/to" >"$WORK/out" 2>"$WORK/err" &
    command=$!
    kill_within "$RESTORE_MS"
    serve
    died=$((died + 1))
    [ "$STARTED" -le "$slowest" ] || slowest=$STARTED
    code=0
    wait "$command" || code=$?
    if [ "$code" != 0 ]; then
        restores=$((restores + 1))
        # What stands under a final name is whole.
        mkdir -p "$WORK/to"
        find "$WORK/to" -type f ! -name '.*' | while read -r file; do
            cmp -s "$file" "$WORK/docs/$(basename "$file")" || fail "$file is not whole" "$WORK/out"
        done
        ok "the interrupted restore, run again" device laptop restore "127.0.0.1:$PORT" --to "$WORK/to"
    fi
    diff -r "$WORK/docs" "$WORK/to/docs" >/dev/null || fail "what came back after point $point is not what was sent"
    rm -rf "$WORK/to"
done
if device nas verify --help >/dev/null 2>&1; then
    ok "verify" device nas verify --data
    echo "ok kill-receiver: verify --data finds nothing"
fi
[ "$(wc -l <"$WORK/acknowledged")" -ge "$POINTS" ] || fail "only $(wc -l <"$WORK/acknowledged") snapshots" "$WORK/acknowledged"
echo "ok kill-receiver: $died deaths interrupted $interrupted backups and $restores restores; $(wc -l <"$WORK/acknowledged") snapshots" \
    "acknowledged, none lost"
echo "ok kill-receiver: slowest start $slowest ms; at most $((most_lost / 1024)) KiB of what had arrived were lost"
echo "PASSED kill-receiver"
