#!/usr/bin/env bash
# Uses a running project as its clients and operators do, and puts back what it
# changes. PROJECT=chom check.sh [--faults]   (--faults: kills the database once)
set -uo pipefail
. "$(cd "$(dirname "$0")" && pwd -P)/lib.sh"

faults=no
case "${1:-}" in --faults) faults=yes;; '') ;; *) echo "usage: [PROJECT=chom] check.sh [--faults]" >&2; exit 2;; esac
site="$(site_dir "${PROJECT:-chom}")"
[ -r "$site/.env" ] || die 2 "no project at $site: run up.sh first"
port="$(env_get "$site/.env" HTTPS_PORT)"
flavour="$(env_get "$site/.env" STACK_DB)"
compose() { site_compose "$site" "$@"; }
work="$(mktemp -d)"; trap 'rm -rf "$work"' EXIT
umask 077

passed=0; failed=0
ok() { # ok NAME COMMAND...
  local name="$1"; shift
  if "$@" >"$work/out" 2>&1; then passed=$((passed+1)); echo "ok    $name"
  else failed=$((failed+1)); echo "FAIL  $name"; sed 's/^/      /' "$work/out" | head -n 12 | cut -c1-300; fi
}
is() { [ "$1" = "$2" ] || { echo "got '$1', expected '$2'"; return 1; }; }

# http METHOD PATH [curl arguments]: body to $work/body, headers to $work/head, sets $code
http() {
  local method="$1" path="$2"; shift 2
  code="$(curl --silent --show-error --max-time 30 -X "$method" --cacert "$site/ca/ca.crt" --resolve "chom.test:$port:127.0.0.1" \
    -D "$work/head" -o "$work/body" -w '%{http_code}' "$@" "https://chom.test:$port$path" 2>"$work/curl.err")" || code="curl: $(cat "$work/curl.err")"
}
json() { python3 -c 'import json,sys
v=json.load(open(sys.argv[1]))
for k in sys.argv[2].split("."): v=v[int(k)] if isinstance(v,list) else v[k]
print(v if not isinstance(v,bool) else str(v).lower())' "$work/body" "$1"; }
auth() { local m="$1" p="$2"; shift 2; http "$m" "$p" -H "@$work/auth" "$@"; }
post() { local p="$1"; shift; auth POST "$p" -H 'Content-Type: application/json' "$@"; }
expect() { is "$code" "$1" || { head -c 300 "$work/body"; return 1; }; }
# shellcheck disable=SC2016
sql() { compose exec -T mysql bash -c 'c=mysql; command -v mariadb >/dev/null && c=mariadb
  "$c" --defaults-extra-file=<(printf "[client]\nuser=root\npassword=\"%s\"\n" "$(cat /run/secrets/db_root_password)") --default-character-set=utf8mb4 --protocol=tcp -h 127.0.0.1 -N -B chom -e "$1"' sql "$1"; }
eventually() { local s="$1"; shift; wait_for "$s" "$@" || { "$@"; return 1; }; }

http GET /health;      ok "GET /health is 200 over verified TLS" expect 200
ok "and says ok" is "$(json status)" ok
http GET /api/status;  ok "GET /api/status is 200" expect 200
ok "scheduler's heartbeat is fresh" test "$(json scheduler.heartbeat_age_s)" -le 65
ok "queue worker's heartbeat is fresh" test "$(json queue.heartbeat_age_s)" -le 30
users="$(json users)"
ok "it has users" test "$users" -gt 1
wrong_name() { ! curl --silent --max-time 5 --cacert "$site/ca/ca.crt" --resolve "other.test:$port:127.0.0.1" "https://other.test:$port/health"; }
ok "another host name fails TLS" wrong_name
no_ca() { ! curl --silent --max-time 5 --resolve "chom.test:$port:127.0.0.1" "https://chom.test:$port/health"; }
ok "without the CA TLS fails" no_ca
http GET /nginx-health; ok "/nginx-health is not for outside" expect 403
http GET /no-such-page; ok "an unknown page is 404" expect 404

printf 'Authorization: Bearer nonsense\n' >"$work/auth"
auth GET /api/users/1; ok "a wrong token is 401" expect 401
http GET /api/users/1; ok "no token is 401" expect 401
http POST /api/login -H 'Content-Type: application/json' -d '{"email":"synthetic@example.test","password":"wrong"}'
ok "a wrong password is 422" expect 422
printf '{"email":"synthetic@example.test","password":"%s"}' "$(cat "$site/secrets/synthetic_password")" >"$work/login"
http POST /api/login -H 'Content-Type: application/json' -d "@$work/login"
ok "the synthetic user logs in" expect 200
printf 'Authorization: Bearer %s\n' "$(json token)" >"$work/auth"; uid="$(json user_id)"
auth GET "/api/users/$uid"; ok "GET /api/users/{id} is 200" expect 200
ok "its encrypted column opens with APP_KEY" is "$(json phone)" '+49 30 0000000'
auth GET /api/users/4000000000; ok "an unknown user is 404" expect 404

tag="check-$$-$RANDOM"
post /api/users -d "{\"name\":\"Ünï 🙂\",\"email\":\"$tag@example.test\",\"password\":\"long-enough-$tag\",\"phone\":\"+1 555\",\"preferences\":{\"a\":[1,\"é\"]}}"
ok "POST /api/users is 201" expect 201; new="$(json id)"
auth GET "/api/users/$new"; ok "it comes back as it was" is "$(json name) $(json phone) $(json preferences.a.1)" 'Ünï 🙂 +1 555 é'
post /api/users -d "{\"name\":\"x\",\"email\":\"$tag@example.test\",\"password\":\"long-enough-$tag\"}"
ok "the same e-mail again is 422" expect 422
post /api/orders -d '{"quantity":3,"unit_price":"19.9900","note":"check"}'
ok "POST /api/orders is 201" expect 201; order="$(json id)"; ref="$(json reference)"
auth GET "/api/orders/$order"; ok "the generated total is right" is "$(json total)" 71.96
ok "trigger and procedure work" is "$(sql "CALL cancel_order('$ref'); SELECT COUNT(*) FROM audit_log WHERE subject='$ref' AND action='order.status'")" 1

head -c 300000 /dev/urandom >"$work/file"; sum="$(sha256sum "$work/file" | cut -d' ' -f1)"
auth POST /api/upload -F "file=@$work/file"; ok "POST /api/upload is 201" expect 201; up="$(json id)"
auth GET "/api/upload/$up"; ok "the upload comes back" is "$(sha256sum "$work/body" | cut -d' ' -f1)" "$sum"
auth DELETE "/api/upload/$up"; ok "DELETE is 204" expect 204
auth GET "/api/upload/$up"; ok "then it is gone" expect 404

post /api/jobs -d '{"count":3}'; ok "POST /api/jobs is 202" expect 202; job="$(json ids.2)"
done_job() { is "$(sql "SELECT COUNT(*) FROM audit_log WHERE subject='$job' AND action='job.done'")" 1; }
ok "the worker runs them" eventually 20 done_job
compose stop -t 5 queue >/dev/null 2>&1
post /api/jobs -d '{}'; job="$(json ids.0)"
ok "without a worker the job waits under its Redis key" is "$(compose exec -T redis redis-cli llen chom_database_queues:default)" 1
compose start queue >/dev/null 2>&1
ok "a started worker takes it" eventually 60 done_job
failed_before="$(sql 'SELECT COUNT(*) FROM failed_jobs')"
post /api/jobs -d '{"fail":true}'; job="$(json ids.0)"
failed_now() { is "$(sql 'SELECT COUNT(*) FROM failed_jobs')" $((failed_before + 1)); }
ok "a failing job goes to failed_jobs" eventually 20 failed_now

post /api/jobs -d '{"sleep_ms":4000}'; job="$(json ids.0)"
reserved() { [ "$(compose exec -T redis redis-cli zcard chom_database_queues:default:reserved)" = 1 ]; }
wait_for 10 reserved
compose stop queue >/dev/null 2>&1
ok "stopping the worker lets its job end" done_job
compose start queue >/dev/null 2>&1

# The runbook's way, as root.
compose exec -T app php artisan down --retry=60 >/dev/null 2>&1
http GET /health; ok "down: /health is 503" expect 503
ok "with Retry-After" grep -qi '^retry-after: 60' "$work/head"
http GET /api/status; ok "down: /api/status is 503" expect 503
auth GET "/api/users/$uid"; ok "down: the API is 503" expect 503
compose exec -T app php artisan down --retry=15 --refresh=5 --secret="$tag" --render=errors::503 >/dev/null 2>&1
compose exec -T app php artisan up >/dev/null 2>&1; compose exec -T app php artisan down --retry=15 --secret="$tag" --render=errors::503 >/dev/null 2>&1
http GET /health; ok "down --render: 503" expect 503
ok "down --render: Retry-After" grep -qi '^retry-after: 15' "$work/head"
http GET "/$tag" -c "$work/jar"; http GET /health -b "$work/jar"; ok "down --secret lets the operator in" expect 200
compose exec -T scheduler php artisan up >/dev/null 2>&1
http GET /health; ok "up (from another container): 200" expect 200
compose exec -T app touch storage/framework/nginx-maintenance
http GET /health; ok "nginx's own maintenance page: 503" expect 503
ok "with Retry-After too" grep -qi '^retry-after:' "$work/head"
compose exec -T app rm -f storage/framework/nginx-maintenance
ok "artisan as root leaves no file of root's" is "$(compose exec -T app find storage -user root)" ''
compose exec -T app php artisan chom:status >"$work/body" 2>/dev/null; ok "artisan chom:status" is "$(json status)" ok

healthy() { [ "$(compose ps --format '{{.Health}}' | sort -u)" = healthy ]; }
ok "all services are healthy" eventually 120 healthy
secrets_in() { grep -F -f "$site/secrets/db_root_password" -f "$site/secrets/db_app_password" -f "$work/key" "$1" >/dev/null; }
env_get "$site/.env" APP_KEY >"$work/key"
compose exec -T -u mysql mysql cat /proc/1/cmdline /proc/1/environ | tr '\0' '\n' >"$work/seen"
clean() { [ -s "$work/seen" ] && ! secrets_in "$work/seen"; }
ok "no password in the server's argv or environment" clean
compose ps -q | xargs docker inspect >"$work/seen"
ok "no password in docker inspect" clean

compose restart -t 10 app >/dev/null 2>&1
back() { http GET /health; expect 200; }
ok "a restarted app needs no restart of nginx" eventually 30 back
compose stop -t 10 app >/dev/null 2>&1
http GET /health; ok "without app nginx says 502" expect 502
compose up -d --force-recreate --wait app >/dev/null 2>&1
ok "a new app container is found" eventually 30 back

if [ "$faults" = yes ]; then
  # A kill by API is no crash to the restart policy: it stays down until started.
  id="$(compose ps -q mysql)"
  docker kill -s KILL "$id" >/dev/null
  http GET /health; ok "database killed: /health is 503" expect 503
  ok "and names the database" is "$(json checks.database.ok) $(json checks.redis.ok)" 'false true'
  docker start "$id" >/dev/null 2>&1
  ok "it recovers from the crash" eventually 120 back
  auth GET "/api/users/$new"; ok "with the data" expect 200
  docker kill -s KILL "$(compose ps -q redis)" >/dev/null
  http GET /health; ok "redis killed: /health is 503" expect 503
  compose start redis >/dev/null 2>&1
  ok "it comes back" eventually 60 back
  ok "all services are healthy again" eventually 180 healthy
fi

post /api/logout; ok "logout is 204" expect 204
auth GET "/api/users/$uid"; ok "then the token is dead" expect 401
sql "DELETE FROM users WHERE id=$new; DELETE FROM orders WHERE id=$order; DELETE FROM failed_jobs WHERE payload LIKE '%$job%'" >/dev/null
echo "database: $flavour"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
