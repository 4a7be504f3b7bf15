#!/usr/bin/env bash
# Breaks the reference stack in every way that triage has a name for, asks `chom-recovery diagnose`, and counts how often
# the right cause comes first. Prints the confusion matrix; the last line is `N of M right first`.
#   scenarios.sh [--update] [--keep] [NAME...]   all scenarios, or those named
# --update writes the result into chom-recovery/src/docs/triage.md; --keep leaves the stack running for the next call.
# Variables: DB (mariadb-11.8, mariadb-10.11, mysql), PROJECT (chom-scenarios), HTTPS_PORT (8454).
# Exit codes: 0 all right; 1 some are not; 2 usage; 6 something is missing that cannot be installed here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

update=no keep=no names=()
for argument in "$@"; do
  case "$argument" in
    --update) update=yes ;;
    --keep) keep=yes ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "scenarios.sh: unknown argument: $argument (--update, --keep, NAME)" >&2; exit 2 ;;
    *) names+=("$argument") ;;
  esac
done
[ "$update" = no ] || [ ${#names[@]} -eq 0 ] || { echo "scenarios.sh: --update needs all scenarios, not some" >&2; exit 2; }
command -v cargo >/dev/null || { echo "scenarios.sh: cargo is missing: install Rust 1.95 or later (rustup)" >&2; exit 6; }

db=${DB:-mariadb-11.8} project=${PROJECT:-chom-scenarios} port=${HTTPS_PORT:-8454}
target=${CARGO_TARGET_DIR:-$root/target}
site=$target/sites/$project
results=$target/scenarios.jsonl
mkdir -p "$target/sites"
rm -f "$results" "$target/scenarios.log"

echo "==> compile" >&2
program=$(cargo build --quiet --workspace --bin chom-recovery --test scenarios --message-format=json-render-diagnostics |
  python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "scenarios":
        print(message["executable"])')
[ -n "$program" ] || { echo "scenarios.sh: the scenarios do not compile" >&2; exit 1; }

clean_up() {
  [ "$keep" = yes ] || PROJECT=$project SITE_DIR=$site tests/stack/down.sh --volumes >/dev/null 2>&1 || true
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ "$keep" = no ] || [ ! -s "$site/facts.json" ]; then
  echo "==> stack on $db" >&2
  tests/stack/setup.sh >&2
  tests/stack/build.sh --db "$db" >"$target/scenarios.log" 2>&1 || { tail -n 20 "$target/scenarios.log" >&2; exit 6; }
  DB=$db PROJECT=$project HTTPS_PORT=$port SITE_DIR=$site tests/stack/up.sh --no-build --seed 300 >"$target/scenarios.log" 2>&1 ||
    { tail -n 20 "$target/scenarios.log" >&2; exit 1; }
fi

echo "==> scenarios" >&2
ended=yes
(cd tests && CHOM_TEST_STACK=$site CHOM_TEST_PROGRAM=$target/debug/chom-recovery CHOM_TEST_RESULTS=$results \
  CHOM_TEST_SCENARIOS="${names[*]-}" timeout --foreground 1800 "$program" --test-threads=1 --nocapture) \
  >"$target/scenarios.log" 2>&1 || ended=no
grep -E '^SKIPPED' "$target/scenarios.log" >&2 || true
[ -s "$results" ] || { tail -n 40 "$target/scenarios.log" >&2; echo "0 of 0 right first"; exit 1; }

document=
[ "$update" = no ] || document=chom-recovery/src/docs/triage.md
rc=0
python3 tests/scenarios.py "$results" "$document" || rc=$?
if [ "$ended" = no ] && [ "$rc" = 0 ]; then
  # All that were named are right, and something else went wrong: it is not hidden behind the count.
  { grep -aE 'panicked at' -A 3 "$target/scenarios.log" | cut -c1-400 | tail -n 20
    echo "scenarios.sh: the scenarios did not end well: $target/scenarios.log"; } >&2
  rc=1
fi
exit "$rc"
