#!/bin/sh
# Machines on networks of their own, made of network namespaces: the only tests where datagrams cross a real (if virtual) wire.
#
#   LAN_BACKUP_BIN=target/release/lan-backup tests/netns.sh [PART…]
#
# A part is a script in tests/netns/ that can also be run by itself. Runs as root with iproute2 (and nft for the firewalls); all
# traffic stays inside the namespaces, which are removed at the end. Prints SKIPPED with the reason where it cannot run. Exit
# codes: 0 passed or skipped, 1 failed.

set -u

here=$(dirname "$0")/netns
said=$(mktemp)
trap 'rm -f "$said"' EXIT
skipped=

for part in ${@:-backup finding changes naming}; do
    "$here/$part.sh" >"$said" || { cat "$said"; exit 1; }
    cat "$said"
    ! tail -n 1 "$said" | grep -q ^SKIPPED || skipped="$skipped $part"
done

[ -z "$skipped" ] || echo "SKIPPED netns:$skipped"
