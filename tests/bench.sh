#!/usr/bin/env bash
# Measures against what one would use otherwise, on the same data, in one run. Prints a table and writes
# target/bench.json; a row says whether its goal was met.
#   bench.sh files [--runs N] [--scale PERCENT]      a file tree against `tar czf`, `tar xzf` and restic
#   bench.sh database [--runs N] [--scale PERCENT] [--engine mysql|mariadb] [--part PART] [--mydumper FILE --myloader FILE]
#       TPC-H and a wide table: dumps, loads, data files, old dumps and single tables, against `mysqldump | gzip`,
#       `gunzip | mysql`, tar, mariadb-backup, and mydumper where its path is given
# Exit codes: 0 all goals met; 1 a goal missed or a run failed; 2 usage; 6 something is missing that cannot be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:-}
[ $# -eq 0 ] || shift
case "$what" in
  files|database) ;;
  -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "bench.sh: say what to measure: files, database" >&2; exit 2 ;;
esac

# need PROGRAM PACKAGE
need() {
  command -v "$1" >/dev/null && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get install -y --no-install-recommends "$2" >/dev/null && return
  echo "bench.sh: $1 is missing: apt-get install $2" >&2
  exit 6
}
need python3 python3
if [ "$what" = files ]; then
  need tar tar
  need restic restic
else
  need gzip gzip
  tests/stack/setup.sh
  tests/stack/build.sh --db all
  venv=target/tpchgen
  [ -x "$venv/bin/tpchgen-cli" ] || {
    python3 -m venv --clear "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check tpchgen-cli==4.0.0
  } || { echo "bench.sh: tpchgen-cli cannot be installed: is a package index within reach?" >&2; exit 6; }
  set -- --tpchgen "$venv/bin/tpchgen-cli" "$@"
fi

cargo build --quiet --release -p chom-recovery-tests -p chom-recovery-cli --bin bench --bin chom-recovery
[ "$what" = files ] || set -- --cli target/release/chom-recovery "$@"
exec python3 "tests/bench/$what.py" --program target/release/bench "$@"
