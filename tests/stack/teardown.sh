#!/usr/bin/env bash
# Stops the dockerd that setup.sh started, and no other.
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd -P)/lib.sh"

machine_lock
rec="$machine_state/dockerd.started"
if [ ! -r "$rec" ]; then say "setup.sh has started no Engine here: nothing to stop"; exit 0; fi
read -r pid started <"$rec"
running() { [ -r "/proc/$pid/stat" ] && [ "$(awk '{print $22}' "/proc/$pid/stat" 2>/dev/null)" = "$started" ]; }
if running; then
  say "stopping dockerd (pid $pid)"
  kill -TERM "$pid"
  stopped() { ! running; }
  wait_for 60 stopped || die 1 "dockerd (pid $pid) is still there after 60 s"
else
  say "the recorded dockerd (pid $pid) is gone already"
fi
rm -f "$rec" "$machine_state/dockerd.pid"
