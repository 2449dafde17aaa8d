#!/bin/sh
# Machines on networks of their own, made of network namespaces: the only tests where datagrams cross a real (if virtual) wire.
#
#   LAN_BACKUP_BIN=target/release/lan-backup tests/netns.sh [PART…]
#
# A part is a script in tests/netns/ that can also be run by itself; they mostly wait, each in a network of its own, so all run at
# the same time: two minutes in all. Runs as root with iproute2, and nft for the firewalls; all traffic stays inside the
# namespaces, which are removed at the end. Prints SKIPPED with the reason where it cannot run. Exit codes: 0 passed or skipped,
# 1 failed.

set -u

here=$(dirname "$0")/netns
said=$(mktemp -d)
started=
trap 'for pid in $started; do kill "$pid" 2>/dev/null; done; wait; rm -rf "$said"' EXIT
trap 'exit 130' INT TERM

[ $# -gt 0 ] || set -- backup finding changes naming diagnose
for part in "$@"; do
    "$here/$part.sh" >"$said/$part" 2>&1 &
    started="$started $!"
done

failed= skipped=
for pid in $started; do
    wait "$pid" || failed="$failed $1"
    cat "$said/$1"
    ! tail -n 1 "$said/$1" | grep -q ^SKIPPED || skipped="$skipped $1"
    shift
done
started=

[ -z "$failed" ] || { echo "FAILED netns:$failed" >&2; exit 1; }
[ -z "$skipped" ] || echo "SKIPPED netns:$skipped"
