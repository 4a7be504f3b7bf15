#!/usr/bin/env bash
# Lints and tests the Python package in target/venv. `--lint-only` leaves out the tests.
# The recovery test breaks a project of the reference stack: it runs when CHOM_TEST_STACK=1 and CHOM_TEST_FACTS names
# that project's facts.json.
# Exit codes: 0 all passed; 1 something failed; 2 usage; 6 something is missing that cannot be installed here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$root/target/venv
package=$root/chom-recovery-py

# One at a time uses the environment and the compiled module.
mkdir -p target
exec 9>target/python.lock
flock 9

lint_only=no
for argument in "$@"; do
  case "$argument" in
    --lint-only) lint_only=yes ;;
    -h|--help) sed -n '2,5s/^# //p' "$0"; exit 0 ;;
    *) echo "python.sh: unknown argument: $argument (--lint-only)" >&2; exit 2 ;;
  esac
done

# Sets up the virtual environment; a second call finds it done.
tools() {
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "python.sh: Python 3.11 or later is missing: apt-get install python3" >&2; return 6; }
  # Debian's python3 has `venv` without `ensurepip` until python3-venv is there.
  python3 -c 'import venv, ensurepip' 2>/dev/null || {
    echo "python.sh: Python's venv is missing: apt-get install python3-venv" >&2; return 6; }
  [ -x "$venv/bin/pip" ] || python3 -m venv --clear "$venv" || return 6
  local wanted="maturin==1.* pytest==8.* pytest-asyncio==1.* ruff==0.* mypy==1.*"
  [ "$(cat "$venv/.wanted" 2>/dev/null)" = "$wanted" ] && return
  # shellcheck disable=SC2086 # one word for each package
  "$venv/bin/pip" install --quiet --disable-pip-version-check $wanted || {
    echo "python.sh: packages cannot be installed: is a package index within reach?" >&2; return 6; }
  printf '%s' "$wanted" >"$venv/.wanted"
}

# What `run.sh` compiled for all, or else Maturin's own build, which compiles most dependencies anew.
extension() {
  if [ -n "${CHOM_TEST_EXTENSION:-}" ]; then
    install -m 0755 "$CHOM_TEST_EXTENSION" "$package/python/chom_recovery/_native.abi3.so" || return 1
    printf '%s\n' "$package/python" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/chom_recovery.pth"
    return
  fi
  local log=$root/target/python-build.log
  VIRTUAL_ENV=$venv CARGO_TARGET_DIR=$root/target \
    "$venv/bin/maturin" develop --quiet --manifest-path "$package/Cargo.toml" >"$log" 2>&1 || { cat "$log" >&2; return 1; }
}

# Says which check failed, and goes on, so that one run shows all of them.
failed=()
check() {
  local name=$1; shift
  "$@" || { echo "python.sh: $name failed" >&2; failed+=("$name"); }
}

tools || exit $?
extension || exit 1
cd "$package"
check "ruff check" "$venv/bin/ruff" check --quiet .
check "ruff format" "$venv/bin/ruff" format --quiet --check .
check "mypy" "$venv/bin/mypy" --no-error-summary
# The stubs say what the compiled module really has.
check "stubtest" env MYPYPATH=python "$venv/bin/stubtest" --concise chom_recovery._native
if [ "$lint_only" = no ]; then
  check "pytest" "$venv/bin/pytest" --quiet
fi
[ ${#failed[@]} -eq 0 ]
