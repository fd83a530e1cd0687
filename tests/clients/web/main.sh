#!/usr/bin/env bash
# Runs browse.mjs where the machine's own policies of Chromium are out of sight, and ours are out of everybody else's.
set -euo pipefail
exec unshare --mount bash -c 'mount -t tmpfs none /etc/chromium && exec node "$@"' - "$BROWSE" "$@"
