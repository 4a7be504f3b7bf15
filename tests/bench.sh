#!/usr/bin/env bash
# Measures against what one would use otherwise, on the same data, in one run. Prints a table and writes
# target/bench.json; a row says whether its goal was met.
#   bench.sh files [--runs N] [--scale PERCENT]   a file tree against `tar czf`, `tar xzf` and restic
# Exit codes: 0 all goals met; 1 a goal missed or a run failed; 2 usage; 6 something is missing that cannot be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:-}
[ $# -eq 0 ] || shift
case "$what" in
  files) ;;
  -h|--help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "bench.sh: say what to measure: files" >&2; exit 2 ;;
esac

# need PROGRAM PACKAGE
need() {
  command -v "$1" >/dev/null && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get install -y --no-install-recommends "$2" >/dev/null && return
  echo "bench.sh: $1 is missing: apt-get install $2" >&2
  exit 6
}
need python3 python3
need tar tar
need restic restic

cargo build --quiet --release -p chom-recovery-tests --bin bench-files
exec python3 tests/bench/files.py --program target/release/bench-files "$@"
