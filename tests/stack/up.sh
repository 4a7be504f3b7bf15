#!/usr/bin/env bash
# Brings up one project of the reference stack and waits until it really works.
#   DB=mysql|mariadb-11.8|mariadb-10.11 PROJECT=chom HTTPS_PORT=8443 up.sh [--seed N] [--no-build] [--monitoring]
# Prints one line of JSON with the facts (also in the site folder as facts.json).
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd -P)/lib.sh"

seed=200; build=yes; monitoring=no; timeout="${UP_TIMEOUT:-300}"
while [ $# -gt 0 ]; do
  case "$1" in
    --seed) seed="${2:?}"; shift 2;;
    --no-build) build=no; shift;;
    --monitoring) monitoring=yes; shift;;
    -h|--help) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 0;;
    *) die 2 "unknown argument: $1";;
  esac
done
[[ "$seed" =~ ^[0-9]+$ ]] || die 2 "--seed takes a number, not '$seed'"

begin=$(now)
project="${PROJECT:-chom}"
[[ "$project" =~ ^[a-z0-9][a-z0-9_-]*$ ]] || die 2 "PROJECT '$project' is no Compose project name"
site="$(site_dir "$project")"
# What is not given stays as it was when the project was made.
port="${HTTPS_PORT:-$(env_get "$site/.env" HTTPS_PORT)}"; port="${port:-8443}"
db="${DB:-$(env_get "$site/.env" STACK_DB)}"; db="${db:-mysql}"
image="$(db_image "$db")"
was="$(env_get "$site/.env" STACK_DB)"
[ -z "$was" ] || [ "$was" = "$db" ] || die 2 "project $project was made with DB=$was: its data cannot be opened by $db (down.sh --volumes first)"

if ! engine_up || ! compose_up || ! has openssl; then "$here/setup.sh"; fi
if [ "$build" = yes ]; then
  if [ "$monitoring" = yes ]; then "$here/build.sh" --db "$db" --monitoring; else "$here/build.sh" --db "$db"; fi
fi

# --- the site folder: what /opt/chom is on a real host ------------------------
umask 077
mkdir -p "$site/secrets" "$site/ca"; chmod 0700 "$site"
secret() { [ -s "$site/secrets/$1" ] || { openssl rand -base64 24 | tr -d '\n=' | tr '+/' '-_' >"$site/secrets/.$1.new" && mv "$site/secrets/.$1.new" "$site/secrets/$1"; }; }
secret db_root_password; secret db_app_password; secret synthetic_password
if [ ! -s "$site/ca/ca.crt" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -sha256 \
    -subj "/CN=$project test CA" -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$site/ca/ca.key" -out "$site/ca/.ca.crt" 2>/dev/null && mv "$site/ca/.ca.crt" "$site/ca/ca.crt"
fi
if [ ! -s "$site/.env" ]; then
  cat >"$site/.env.new" <<ENV
# Compose
COMPOSE_PROJECT_NAME=$project
STACK_DB=$db
DB_IMAGE=$image
HTTPS_PORT=$port
TLS_NAME=chom.test
# Laravel
APP_NAME=chom
APP_ENV=production
APP_DEBUG=false
APP_KEY=base64:$(openssl rand -base64 32)
APP_URL=https://chom.test
LOG_CHANNEL=stack
LOG_LEVEL=info
DB_CONNECTION=mysql
DB_HOST=mysql
DB_PORT=3306
DB_DATABASE=chom
DB_USERNAME=chom
DB_PASSWORD_FILE=/run/chom/db_app_password
REDIS_HOST=redis
REDIS_PORT=6379
REDIS_DB=0
REDIS_CACHE_DB=1
REDIS_PREFIX=chom_database_
CACHE_DRIVER=redis
QUEUE_CONNECTION=redis
SYNTHETIC_EMAIL=synthetic@example.test
SYNTHETIC_PASSWORD_FILE=/run/chom/synthetic_password
ENV
  mv "$site/.env.new" "$site/.env"
elif [ "$(env_get "$site/.env" HTTPS_PORT)" != "$port" ]; then
  # In place: the containers hold this very file.
  sed "s/^HTTPS_PORT=.*/HTTPS_PORT=$port/" "$site/.env" >"$site/.env.new" && cat "$site/.env.new" >"$site/.env" && rm -f "$site/.env.new"
fi
cmp -s "$here/compose.yaml" "$site/compose.yaml" || cp "$here/compose.yaml" "$site/compose.yaml"
umask 022
# A deployment: once, so that what a test or an operator changed stays as it is.
if [ ! -e "$site/app/artisan" ]; then
  cp -R "$here/app" "$site/"; chmod -R u=rwX,go=rX "$site/app"; chmod 0755 "$site/app/artisan"
  mkdir -p "$site/app/storage"; ln -sfn /run/chom/app.env "$site/app/.env"
fi
if [ ! -e "$site/nginx/site.conf" ]; then
  mkdir -p "$site/nginx"; cp "$here/nginx/site.conf" "$site/nginx/"; chmod -R u=rwX,go=rX "$site/nginx"
fi
if [ "$monitoring" = yes ]; then
  mkdir -p "$site/monitoring/rules" "$site/monitoring/textfile"; chmod 0755 "$site/monitoring" "$site/monitoring"/*/
  for file in prometheus alertmanager; do
    [ -e "$site/monitoring/$file.yml" ] || install -m 0644 "$here/monitoring/$file.yml" "$site/monitoring/$file.yml"
  done
  [ -n "$(env_get "$site/.env" PROMETHEUS_PORT)" ] \
    || printf 'PROMETHEUS_PORT=%s\nALERTMANAGER_PORT=%s\n' "$(( port + 1000 ))" "$(( port + 2000 ))" >>"$site/.env"
fi

compose() { site_compose "$site" "$@"; }

# --- start --------------------------------------------------------------------
say "starting $project ($db) from $site"
# Compose gives up at the first "unhealthy", which on a loaded machine is often only "not yet": asked again, it goes on
# waiting, while any other error ends the start at once.
start() { # start [SERVICE...]: all without names
  local end=$(( $(now) + timeout )) tried
  while :; do
    tried="$(compose up -d --wait --wait-timeout "$timeout" "$@" 2>&1)" && return
    printf '%s\n' "$tried" >>"$site/up.log"
    case "$tried" in *unhealthy*) [ "$(now)" -ge "$end" ] || { sleep 1; continue; };; esac
    printf '%s\n' "$tried" | tail -n 20 >&2
    compose ps -a --format 'table {{.Service}}\t{{.Status}}' >&2 || true
    die 1 "the services of $project did not become healthy within $timeout s"
  done
}
artisan() { compose exec -T app php artisan "$@"; }
: >"$site/up.log"
# The workers come last: without tables they end at once, and the Engine waits longer before each new try.
start app
artisan migrate --force >"$site/migrate.log" 2>&1 || { tail -n 20 "$site/migrate.log" >&2; die 1 "migrate failed"; }
artisan chom:seed --if-empty --users="$seed" >&2
start
[ "$monitoring" = no ] || compose --profile monitoring up -d --no-recreate prometheus alertmanager node-exporter >>"$site/up.log" 2>&1 \
  || { tail -n 20 "$site/up.log" >&2; die 1 "the monitoring of $project does not start"; }

# --- ready? asked from outside, as a user and as a client would ----------------
url="https://chom.test:$port"
https_ready() {
  [ "$(curl --silent --max-time 5 --cacert "$site/ca/ca.crt" --resolve "chom.test:$port:127.0.0.1" "$url/health" | tr -d ' ' | cut -c1-14)" = '{"status":"ok"' ]
}
sql_ready() { compose exec -T mysql db-health; }
monitoring_ready() {
  curl --silent --fail --max-time 5 "http://127.0.0.1:$(env_get "$site/.env" PROMETHEUS_PORT)/-/ready" \
    && curl --silent --fail --max-time 5 "http://127.0.0.1:$(env_get "$site/.env" ALERTMANAGER_PORT)/-/ready"
}
redis_ready() { [ "$(compose exec -T redis redis-cli ping)" = PONG ]; }
wait_for "$timeout" sql_ready   || die 1 "no authenticated SQL over TCP within $timeout s"
wait_for "$timeout" redis_ready || die 1 "no PONG from redis within $timeout s"
wait_for "$timeout" https_ready || die 1 "$url/health is not ok within $timeout s: $(curl -sS --max-time 5 --cacert "$site/ca/ca.crt" --resolve "chom.test:$port:127.0.0.1" "$url/health" 2>&1 | head -c 400)"
[ "$monitoring" = no ] || wait_for "$timeout" monitoring_ready || die 1 "Prometheus and Alertmanager are not ready within $timeout s"

version="$(compose exec -T mysql sh -c 'mariadbd --version 2>/dev/null || mysqld --version' | sed -n 's/.* Ver \([^ ]*\) .*/\1/p')"
port_or_null() { local port; port="$(env_get "$site/.env" "$1")"; printf '%s\n' "${port:-null}"; }
printf '{"project":"%s","url":"%s","host":"chom.test","port":%s,"ca":"%s","site":"%s","compose":"%s","env":"%s","db":"%s","db_image":"%s","db_version":"%s","db_name":"chom","db_user":"chom","db_root_password_file":"%s","db_app_password_file":"%s","synthetic_email":"synthetic@example.test","synthetic_password_file":"%s","prometheus_port":%s,"alertmanager_port":%s,"redis_prefix":"chom_database_","queue_key":"chom_database_queues:default","seconds":%s}\n' \
  "$project" "$url" "$port" "$site/ca/ca.crt" "$site" "$site/compose.yaml" "$site/.env" "$db" "$image" "$version" \
  "$site/secrets/db_root_password" "$site/secrets/db_app_password" "$site/secrets/synthetic_password" \
  "$(port_or_null PROMETHEUS_PORT)" "$(port_or_null ALERTMANAGER_PORT)" "$(( $(now) - begin ))" | tee "$site/facts.json"
