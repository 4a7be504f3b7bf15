#!/usr/bin/env bash
# Backs up a real Compose stack, destroys its database, recovers it, and proves the result.
#   ./examples/demo.sh          everything, cleaned up at the end
#   ./examples/demo.sh --keep   leaves the stack running to look at
# DB=mysql (default), mariadb-11.8 or mariadb-10.11. Exit 6: something is missing that cannot be installed here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

keep=no
case "${1:-}" in
  '') ;;
  --keep) keep=yes ;;
  -h|--help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "demo.sh: unknown argument: $1 (--keep)" >&2; exit 2 ;;
esac

begun=$SECONDS
export PROJECT=chom-demo HTTPS_PORT=${HTTPS_PORT:-8444}
work=$root/target/demo
say() { printf '\n\033[1m==> %s\033[0m\n' "$*"; }
die() { printf 'demo.sh: %s\n' "$*" >&2; exit 1; }
# until_true SECONDS COMMAND...: polls until it succeeds or the deadline passes.
until_true() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.3
  done
}

command -v cargo >/dev/null || { echo "demo.sh: cargo is missing: install Rust 1.95 or later (rustup), then run again" >&2; exit 6; }
command -v cc >/dev/null || { echo "demo.sh: a C compiler is missing: apt-get install build-essential" >&2; exit 6; }

mkdir -p "$work"
load_job=""
clean_up() {
  [ -z "$load_job" ] || kill "$load_job" 2>/dev/null || true
  if [ "$keep" = no ]; then
    tests/stack/down.sh --volumes >/dev/null 2>&1 || true
  fi
}
trap clean_up EXIT

say "set-up: the program is compiled while Engine and images are made (log: target/demo/setup.log)"
(tests/stack/setup.sh && tests/stack/build.sh --db "${DB:-mysql}") >"$work/setup.log" 2>&1 &
setup_job=$!
cargo build --quiet -p chom-recovery-cli
wait "$setup_job" || { rc=$?; tail -n 5 "$work/setup.log" >&2; exit "$rc"; }
chom=$root/target/debug/chom-recovery

# A fresh system each time: the demo must not depend on what an earlier one left.
tests/stack/down.sh --volumes >/dev/null 2>&1 || true
rm -rf "${work:?}"/{repository,state,chom-recovery.toml}
tests/stack/up.sh --no-build --seed 2000 >"$work/facts.json" 2>"$work/up.log" || { tail -n 5 "$work/up.log" >&2; exit 1; }
fact() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" "$work/facts.json"; }
site=$(fact site)
echo "set up in $((SECONDS - begun)) s: project $PROJECT, $(fact db) $(fact db_version)"

web() { curl --silent --show-error --max-time 5 --cacert "$(fact ca)" --resolve "chom.test:$HTTPS_PORT:127.0.0.1" "$@"; }
health() { [ "$(web --output /dev/null --write-out '%{http_code}' "$(fact url)/health")" = 200 ]; }
health || die "the application does not answer before anything was broken"

say "configuration and repository"
"$chom" config init --project "$PROJECT" --output "$work/chom-recovery.toml" --state-dir "$work/state" \
  --repository "file:$work/repository" --url "$(fact url)/health" --ca-file "$(fact ca)" --connect-to "127.0.0.1:$HTTPS_PORT"
export CHOM_CONFIG=$work/chom-recovery.toml
"$chom" repo init --encryption none --pin
"$chom" config check

say "write load"
token=$(web --fail --data-urlencode "email=$(fact synthetic_email)" --data-urlencode "password@$(fact synthetic_password_file)" \
  "$(fact url)/api/login" | sed -n 's/.*"token":"\([^"]*\)".*/\1/p')
[ -n "$token" ] || die "the synthetic user cannot log in"
printf 'header = "Authorization: Bearer %s"\n' "$token" >"$work/auth"; chmod 600 "$work/auth"
place_order() { web --fail --config "$work/auth" --output /dev/null --data "quantity=$((RANDOM % 9 + 1))&unit_price=$((RANDOM % 90 + 1)).50" "$(fact url)/api/orders"; }
sql() { docker compose -f "$site/compose.yaml" exec -T mysql sh -c \
  'exec "$(command -v mariadb || command -v mysql)" --defaults-extra-file=/dev/stdin --host=127.0.0.1 --protocol=tcp -uroot -N -B -e "$1"' sh "$1" \
  < <(printf '[client]\npassword=%s\n' "$(cat "$(fact db_root_password_file)")"); }
for _ in $(seq 1 50); do place_order; done
echo "50 orders placed; $(sql 'SELECT COUNT(*) FROM chom.orders') in the table"

say "backup"
# Everything committed before this instant must be back at the end.
before=$(sql 'SELECT COUNT(*), COALESCE(SUM(CRC32(CONCAT_WS(0x00, id, user_id, quantity, unit_price))), 0) FROM chom.orders; SELECT COUNT(*), COALESCE(SUM(CRC32(CONCAT_WS(0x00, id, email))), 0) FROM chom.users')
last=$(sql 'SELECT MAX(id) FROM chom.orders')
"$chom" backup create --tag demo
"$chom" backup verify --latest
(for _ in $(seq 1 100); do place_order || exit 0; done) 2>/dev/null &
load_job=$!
wait "$load_job" || true
load_job=""
lost=$(( $(sql 'SELECT COUNT(*) FROM chom.orders') - $(cut -f1 <<<"$before" | head -n 1) ))
echo "$lost more orders were placed after the backup: they are the price of its age (RPO)"

say "disaster: tablespace files deleted, server killed"
docker compose -f "$site/compose.yaml" exec -T mysql sh -c 'rm -v /var/lib/mysql/chom/*.ibd | wc -l | sed "s/$/ tablespace files deleted/"'
docker compose -f "$site/compose.yaml" kill -s KILL mysql >/dev/null 2>&1
broken() { ! health; }
until_true 60 broken || die "the application still answers: nothing was broken"
echo "the application answers $(web --output /dev/null --write-out '%{http_code}' "$(fact url)/health" || true) instead of 200"

say "recovery"
recovery_from=$SECONDS
"$chom" recover database --latest --confirm "$PROJECT" | tee "$work/report.txt"
echo "seen from outside: $((SECONDS - recovery_from)) s"

say "proof"
until_true 30 health || die "the application does not answer after the recovery"
echo "the application answers 200"
after=$(sql "SELECT COUNT(*), COALESCE(SUM(CRC32(CONCAT_WS(0x00, id, user_id, quantity, unit_price))), 0) FROM chom.orders WHERE id <= $last; SELECT COUNT(*), COALESCE(SUM(CRC32(CONCAT_WS(0x00, id, email))), 0) FROM chom.users")
[ "$before" = "$after" ] || die "rows differ: before: $before; after: $after"
echo "every row committed before the backup is back: $(cut -f1 <<<"$after" | paste -sd' ' | sed 's/ / orders, /; s/$/ users/')"
place_order || die "no order can be placed after the recovery"
new=$(sql 'SELECT MAX(id) FROM chom.orders')
[ "$new" -gt $((last + lost)) ] || die "a new order got the id of a lost one: $new"
echo "a new order got id $new, above every lost one ($((last + lost)))"
"$chom" runs list
printf '\nfrom start to finish: %d s\n' $((SECONDS - begun))
