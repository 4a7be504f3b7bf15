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

begun=$SECONDS
failed=()
say() { printf '\n==> %s\n' "$*"; }
# phase NAME COMMAND...: runs it and says how long it took. Goes on after a failure: one run shows all of them.
phase() {
  local name=$1 from=$SECONDS; shift
  say "$name"
  if "$@"; then
    printf -- '--- %s: ok, %d s\n' "$name" $((SECONDS - from))
  else
    printf -- '--- %s: FAILED, %d s\n' "$name" $((SECONDS - from))
    failed+=("$name")
  fi
}

# A test that hangs fails; it does not stand in the way of the others.
limit=1500
[ "$depth" = core ] || limit=7200
run_tests() { timeout --foreground "$limit" cargo test --quiet "$@"; }
# real NAME=VALUE... -- TEST... [-- NAME...]: real-stack tests with variables; one at a time, they share servers.
real() {
  local variables=() tests=()
  while [ "$1" != -- ]; do variables+=("$1"); shift; done
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do tests+=(--test "$1"); shift; done
  [ $# -eq 0 ] || shift
  env "${variables[@]}" timeout --foreground "$limit" \
    cargo test --quiet -p chom-recovery-tests "${tests[@]}" -- --test-threads=1 "$@"
}

deny() {
  local tools=$root/target/tools version=0.20.2
  [ "$("$tools/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $version" ] ||
    CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --root "$tools" cargo-deny --version "$version"
  "$tools/bin/cargo-deny" --log-level error --all-features check bans licenses sources
}

# The projects of the reference stack that this run made; they are gone when it ends, however it ends.
mkdir -p target/sites
projects=()
clean_up() {
  local project
  for project in ${projects[@]+"${projects[@]}"}; do
    PROJECT=$project SITE_DIR=$root/target/sites/$project tests/stack/down.sh --volumes >/dev/null 2>&1 || true
  done
}
trap clean_up EXIT
# stack_up PROJECT DB PORT: a fresh project, always: a test must not depend on what an earlier run left.
stack_up() {
  local site=$root/target/sites/$1 log=$root/target/sites/$1.log
  PROJECT=$1 SITE_DIR=$site tests/stack/down.sh --volumes >/dev/null 2>&1 || true
  projects+=("$1")
  DB=$2 PROJECT=$1 HTTPS_PORT=$3 SITE_DIR=$site tests/stack/up.sh --no-build --seed 300 >"$log" 2>&1 || { tail -n 20 "$log"; return 1; }
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
    mysql) echo deleted_tablespaces merely_stopped refused_credentials damaged_backup of_another_signer newer_server killed_in_each \
      waits_for_approval no_room never_comes_up ;;
    mariadb-10.11) echo deleted_tablespaces corrupt_tablespace emptied_volume ;;
    mariadb-11.8) echo deleted_tablespaces dropped_schema ;;
  esac
}

if [ "$quick" = no ]; then
  say "Engine and Compose"
  tests/stack/setup.sh
  # One core builds the images while the other compiles.
  tests/stack/build.sh --db all >target/images.log 2>&1 &
  images=$!
fi

phase "format" cargo fmt --all --check
phase "lints" cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings
phase "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps -p chom-recovery --all-features
phase "dependencies" deny
phase "unit tests, simulation, kill matrices" run_tests -p chom-recovery -p chom-recovery-cli -p chom-recovery-examples

if [ "$quick" = no ]; then
  wait "$images" || { rc=$?; tail -n 20 target/images.log >&2; exit "$rc"; }

  phase "compile the real-stack tests" run_tests -p chom-recovery-tests --no-run
  phase "Docker backend" real CHOM_TEST_STACK=1 -- backend_docker backend_fake_engine
  # Over ssh each request opens a session, so that the whole conformance suite takes minutes: `--all` runs it.
  remote=(ssh_is_strict a_container_behind_ssh a_wedged_engine a_lost_ssh)
  [ "$depth" = core ] || remote=()
  phase "Docker backend on another machine" real CHOM_TEST_STACK=1 -- backend_remote -- ${remote[@]+"${remote[@]}"}

  # Dump and load: every case on one server of each flavour, the core cases on the third.
  for db in mysql mariadb-10.11 mariadb-11.8; do
    cases=all
    [ "$db" != mariadb-11.8 ] || cases=core
    [ "$depth" != all ] || cases=slow
    phase "dump and load on $db ($cases)" real CHOM_TEST_STACK=1 CHOM_TEST_DB=$db CHOM_TEST_DB_CASES=$cases -- \
      mysql_roundtrip mysql_load mysql_consistency mysql_settings mysql_scale
  done

  if stack_up chom-test mysql 8451; then
    phase "probes on the stack" on_stack chom-test probes
    phase "command line on the stack" on_stack chom-test cli
    # shellcheck disable=SC2046 # one word for each name
    phase "recover database on mysql" on_stack chom-test recover_database $(recoveries mysql)
    phase "Python" env CHOM_TEST_STACK=1 CHOM_TEST_FACTS="$root/target/sites/chom-test/facts.json" tests/python.sh
    stack_down chom-test
  else
    failed+=("stack on mysql")
  fi
  for db in mariadb-10.11 mariadb-11.8; do
    project=chom-test-${db//./-}
    if stack_up "$project" "$db" 8452; then
      # shellcheck disable=SC2046
      phase "recover database on $db" on_stack "$project" recover_database $(recoveries "$db")
      stack_down "$project"
    else
      failed+=("stack on $db")
    fi
  done
else
  phase "Python lints" tests/python.sh --lint-only
fi

printf '\n%d s in all\n' $((SECONDS - begun))
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "everything passed"
