#!/usr/bin/env bash
# Sets up what is missing and runs every test, on real servers. `--all` runs the full version matrix, `--quick` only
# what needs no Docker Engine.
# Exit codes: 0 all passed; 1 something failed; 2 usage; 6 something is missing that cannot be installed here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

depth=core
quick=no
for argument in "$@"; do
  case "$argument" in
    --all) depth=all ;;
    --quick) quick=yes ;;
    -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown argument: $argument (--all, --quick)" >&2; exit 2 ;;
  esac
done

command -v cargo >/dev/null || { echo "run.sh: cargo is missing: install Rust 1.95 or later (rustup), then run again" >&2; exit 6; }
command -v cc >/dev/null || { echo "run.sh: a C compiler is missing: apt-get install build-essential" >&2; exit 6; }

# What failed is said in a line or two, not between pages of addresses.
export RUST_BACKTRACE=0
begun=$SECONDS
logs=$root/target/run
rm -rf "$logs" && mkdir -p "$logs" target/sites
say() { printf '\n==> %s\n' "$*"; }
# phase NAME COMMAND...: runs it and says how long it took; what it printed is in target/run, and shown where it failed.
# Goes on after a failure: one run shows all of them.
phase() {
  local name=$1 from=$SECONDS log tests; shift
  log=$logs/${name//[^a-zA-Z0-9.]/-}.log
  printf '==> %s\n' "$name"
  if "$@" >"$log" 2>&1; then
    tests=$(awk '/^test result: ok/ { n += $4 } END { if (n) printf ", %d tests", n }' "$log")
    printf -- '--- %s: ok, %d s%s\n' "$name" $((SECONDS - from)) "$tests"
  else
    printf -- '%s\n--- %s: FAILED, %d s\n' "$(tail -n 200 "$log")" "$name" $((SECONDS - from))
    fail "$name" "$log"
  fi
}
# fail NAME [LOG]: for the summary at the end, with the lines that say why.
fail() {
  { printf 'failed: %s\n' "$1"
    [ $# -lt 2 ] || grep -E "panicked at|^FAIL|^FAILED|^error|^    [a-z_:]+$|: fatal|died" -A 2 "$2" | tail -n 30 | sed 's/^/  | /'
  } >>"$logs/failed"
}
# lane FUNCTION: runs its phases beside those of other lanes, in a process group that an interrupted run can end.
lanes=()
lane() { set -m; "$1" & set +m; lanes+=($!); }

# A test that hangs fails; it does not stand in the way of the others.
limit=3600
[ "$depth" = core ] || limit=7200

# Everything is compiled by one command: Cargo chooses features for the packages that are selected together, and another
# selection would compile most dependencies anew.
compile() {
  cargo build --quiet --workspace --all-targets --message-format=json-render-diagnostics >"$logs/artifacts.json" || return
  python3 - "$logs/artifacts.json" "$root/tests/Cargo.toml" >"$logs/executables" <<'PY'
import json, sys
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("executable") and message["manifest_path"] == sys.argv[2] and message["target"]["kind"] == ["test"]:
        print(message["target"]["name"], message["executable"])
PY
}
# moto's S3 server for the tests of remote stores, in a virtual environment of its own; a second call finds it done.
moto() {
  local venv=$root/target/moto wanted="moto==5.2.5 flask flask-cors PyYAML py-partiql-parser jsonpath-ng"
  python3 -c 'import venv, ensurepip' 2>/dev/null || {
    echo "run.sh: Python's venv is missing: apt-get install python3-venv" >&2; return 6; }
  [ -x "$venv/bin/pip" ] || python3 -m venv --clear "$venv" || return 6
  [ "$(cat "$venv/.wanted" 2>/dev/null)" != "$wanted" ] || return 0
  # shellcheck disable=SC2086 # one word for each package
  "$venv/bin/pip" install --quiet --disable-pip-version-check $wanted || {
    echo "run.sh: moto cannot be installed: is a package index within reach?" >&2; return 6; }
  printf '%s' "$wanted" >"$venv/.wanted"
}
# Without a stack, the real-stack tests among them say that they are skipped. The remote stores need no Engine: their
# servers are started here, OpenSSH's as root only.
unit_tests() {
  moto || return
  # Killed at every third place, or at all of them.
  local kills=third
  [ "$depth" = core ] || kills=all
  env -u CHOM_TEST_STACK CHOM_TEST_KILLS="$kills" CHOM_TEST_MOTO="$root/target/moto/bin/python" \
    timeout --foreground "$limit" cargo test --quiet --workspace --no-fail-fast
}
# real NAME=VALUE... -- TEST... [-- NAME...]: real-stack tests with variables, not through Cargo, which lets one command
# at a time compile. One test at a time, as they share servers, unless `threads` says otherwise.
real() {
  local variables=() tests=() name program rc=0
  while [ "$1" != -- ]; do variables+=("$1"); shift; done
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do tests+=("$1"); shift; done
  [ $# -eq 0 ] || shift
  for name in "${tests[@]}"; do
    program=$(awk -v name="$name" '$1 == name { print $2 }' "$logs/executables")
    [ -n "$program" ] || { echo "there is no test $name"; return 1; }
    (cd tests && env CHOM_TEST_PROGRAM="$root/target/debug/chom-recovery" "${variables[@]}" \
      timeout --foreground "$limit" "$program" --quiet --test-threads="${threads:-1}" "$@") || rc=1
  done
  return "$rc"
}

deny() {
  local tools=$root/target/tools version=0.20.2
  [ "$("$tools/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $version" ] ||
    CARGO_TARGET_DIR=$tools/build CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --debug --locked --root "$tools" cargo-deny --version "$version"
  "$tools/bin/cargo-deny" --log-level error --all-features check bans licenses sources
}

# However this run ends, the projects of the reference stack that it made are gone then.
clean_up() {
  local lane site
  for lane in ${lanes[@]+"${lanes[@]}"}; do kill -s TERM -- "-$lane" 2>/dev/null || true; done
  for site in target/sites/chom-test*/; do
    [ ! -d "$site" ] || stack_down "$(basename "$site")" || true
  done
  # Data directories that tests copy; see tests/support/template.rs.
  docker volume ls -q --filter name=chomt-template- 2>/dev/null | xargs -r docker volume rm >/dev/null 2>&1 || true
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# stack_up PROJECT DB PORT [OPTION...]: a fresh project, always: a test must not depend on what an earlier run left.
stack_up() {
  local project=$1 db=$2 port=$3 site=$root/target/sites/$1; shift 3
  stack_down "$project" || true
  phase "stack $project on $db" \
    env DB="$db" PROJECT="$project" HTTPS_PORT="$port" SITE_DIR="$site" tests/stack/up.sh --no-build --seed 300 "$@"
  [ -s "$site/facts.json" ]
}
stack_down() { PROJECT=$1 SITE_DIR=$root/target/sites/$1 tests/stack/down.sh --volumes >/dev/null 2>&1; }

# on_stack PROJECT TEST [NAME...]: tests that break a stack; NAMEs choose some of them.
on_stack() {
  local project=$1 name=$2; shift 2
  real CHOM_TEST_STACK="$root/target/sites/$project" -- "$name" -- "$@"
}

# Recoveries that are tried on each server; together they are all findings. `--all` tries everything everywhere.
recoveries() {
  [ "$depth" = core ] || return 0
  case "$1" in
    mysql) echo deleted_tablespaces merely_stopped refused_credentials damaged_backup of_another_signer newer_server \
      killed_in_each a_drill fills_up dump_alone data_files_copied was_killed_under_writes a_damaged_page \
      tables_that_a_copy copy_that_a_killed a_copy_that_is_kept names_the_damaged_table ;;
    mariadb-10.11) echo deleted_tablespaces corrupt_tablespace emptied_volume waits_for_approval no_room never_comes_up \
      told_to_stop keeps_users_out physical:: ;;
    mariadb-11.8) echo deleted_tablespaces dropped_schema data_files_copied_under_writes is_read_table_by_table ;;
  esac
}

# Python's part of what was compiled; the packaging itself is Maturin's, and tried by the full run.
extension=$root/target/debug/lib_native.so
[ "$depth" = core ] || extension=

# The judge of metrics and alerting rules; unpacked, so that no service is installed.
promtool() {
  local tools=$root/target/tools/prometheus
  command -v promtool >/dev/null || [ -x "$tools/usr/bin/promtool" ] || {
    mkdir -p "$tools"
    (cd "$tools" && apt-get download -qq prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb) 2>/dev/null ||
      echo "run.sh: promtool is missing, its tests are skipped: apt-get install prometheus" >&2
  }
}

# What needs the processor and no Engine; it gives way to the tests that wait for servers.
checks() {
  renice -n 10 -p "$BASHPID" >/dev/null
  promtool
  phase "unit tests, simulation, kill matrices, remote stores" unit_tests
  phase "dependencies" deny
  phase "lints" cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings
  # As a user compiles it: tests switch more on.
  phase "without the features of tests" cargo check --quiet -p chom-recovery-cli -p chom-recovery-py
  phase "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --workspace --lib --all-features
  phase "Python lints" env CHOM_TEST_EXTENSION="$extension" tests/python.sh --lint-only
}

# The backend alone, and servers that a test starts for itself.
containers() {
  phase "contract of the database images" tests/stack/check-entrypoint.sh
  threads=3 phase "Docker backend" real CHOM_TEST_STACK=1 -- backend_docker
  threads=3 phase "Docker backend on other machines and Engines" \
    real CHOM_TEST_STACK=1 CHOM_TEST_ENGINES="$engines" -- backend_remote
  # Dump and load: every case on one server of each flavour, the core cases on the third.
  local db cases foreign=core seed=1
  # Random tables: the same ones where a failure must be this change's, other ones each time where there is time to look.
  [ "$depth" = core ] || { foreign=slow; seed=$(date +%s); }
  for db in mysql mariadb-10.11 mariadb-11.8; do
    cases=all
    [ "$db" != mariadb-11.8 ] || cases=core
    [ "$depth" != all ] || cases=slow
    threads=2 phase "dump and load on $db ($cases)" real CHOM_TEST_STACK=1 CHOM_TEST_DB=$db CHOM_TEST_DB_CASES=$cases \
      CHOM_TEST_SEED=$seed -- mysql_roundtrip mysql_load mysql_consistency mysql_settings mysql_scale mysql_pieces mysql_random mysql_writes
    [ "$cases" = core ] || threads=2 phase "by hand and from other programs' dumps on $db" \
      real CHOM_TEST_STACK=1 CHOM_TEST_DB=$db CHOM_TEST_DB_CASES=$foreign -- format_by_hand sqlfile export
  done
}

# The stack itself, used as its clients and operators do: tests of a recovery prove little on one that does not work.
check_stack() {
  phase "reference stack $1" env PROJECT="$1" SITE_DIR="$root/target/sites/$1" tests/stack/check.sh --faults
}

# Whole systems, beside one another: they mostly wait.
stacks() {
  if stack_up chom-test mysql 8451; then
    phase "probes on the stack" on_stack chom-test probes
    phase "command line on the stack" on_stack chom-test cli
    # shellcheck disable=SC2046 # one word for each name
    phase "recover database on mysql" on_stack chom-test recover_database $(recoveries mysql)
    stack_down chom-test
  fi
}

# After the servers without a stack: databases alone take less time than whole systems.
containers_and_more() {
  containers
  if stack_up chom-test-more mysql 8454; then
    phase "recover application on mysql" on_stack chom-test-more recover_application
    phase "recover performance on mysql" on_stack chom-test-more recover_performance
    phase "restore tables on mysql" on_stack chom-test-more restore_tables
    phase "triage on mysql" on_stack chom-test-more triage
    check_stack chom-test-more
    stack_down chom-test-more
  fi
}

mariadb_stacks() {
  local db project
  for db in mariadb-10.11 mariadb-11.8; do
    project=chom-test-${db//./-}
    if stack_up "$project" "$db" 8452; then
      # shellcheck disable=SC2046
      phase "recover database on $db" on_stack "$project" recover_database $(recoveries "$db")
      # Statements of MariaDB's own are tried on 11.8, there with the other parts; on both by the full run.
      [ "$depth-$db" != all-mariadb-10.11 ] || phase "recover performance on $db" on_stack "$project" recover_performance
      [ "$depth-$db" = core-mariadb-10.11 ] || phase "restore tables on $db" on_stack "$project" restore_tables
      [ "$db" != mariadb-10.11 ] || phase "troubleshoot on $db" on_stack "$project" troubleshoot
      # On the last one: the first lane has enough to do.
      [ "$db" != mariadb-11.8 ] || phase "Python" env CHOM_TEST_STACK=1 CHOM_TEST_EXTENSION="$extension" \
        CHOM_TEST_FACTS="$root/target/sites/$project/facts.json" tests/python.sh
      [ "$db" != mariadb-10.11 ] || check_stack "$project"
      # It takes the stack down to the last file, and so comes last.
      [ "$db" != mariadb-11.8 ] || phase "machine that has nothing" on_stack "$project" machine
      stack_down "$project"
    fi
  done
}

# Recoveries of what is around the database, and what comes before and after them.
parts() {
  local name everywhere=''
  # Tried on the other servers, and here as well by the full run.
  [ "$depth" = core ] || everywhere="recover_application troubleshoot"
  if stack_up chom-test-parts mariadb-11.8 8453 --monitoring; then
    # These two first: errors in logs and failed jobs that other tests leave behind count for a quarter of an hour.
    for name in scenarios close triage recover_nginx recover_partial recover_performance search_index evidence $everywhere; do
      phase "${name//_/ }" on_stack chom-test-parts "$name"
    done
    stack_down chom-test-parts
  fi
}

engines=''
if [ "$quick" = no ]; then
  say "Engine and Compose"
  tests/stack/setup.sh
  # One core builds the images while the other compiles.
  { tests/stack/build.sh --db all --monitoring && { [ "$(id -u)" != 0 ] || tests/stack/engines.sh >"$logs/engines"; }; } \
    >"$logs/images.log" 2>&1 &
  images=$!
fi

phase "format" cargo fmt --all --check
phase "compile" compile
if [ "$quick" = no ] && [ -s "$logs/executables" ]; then
  wait "$images" || { rc=$?; tail -n 20 "$logs/images.log" >&2; exit "$rc"; }
  # Other Engines need root, as the tests with a second machine do: without it they say that they are skipped.
  [ ! -e "$logs/engines" ] || engines=$(cat "$logs/engines")
  lane containers_and_more
  lane stacks
  lane mariadb_stacks
  lane parts
fi
lane checks
for lane in "${lanes[@]}"; do
  wait "$lane" || fail "one of the lanes did not reach its end"
done
lanes=()

printf '\n%d s in all\n' $((SECONDS - begun))
if [ -e "$logs/failed" ]; then
  cat "$logs/failed"
  exit 1
fi
echo "everything passed"
