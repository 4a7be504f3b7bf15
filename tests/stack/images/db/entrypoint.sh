#!/bin/bash
# First start and start of MySQL or MariaDB, with the contract of the official
# images: MYSQL_* (and, for MariaDB, MARIADB_*) variables, each secret also as
# *_FILE, /docker-entrypoint-initdb.d, a temporary server without network, then
# exec of the server with the given flags. Passwords never get into an argv.
set -Eeuo pipefail
shopt -s nullglob

log()  { printf '%s [entrypoint] %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }
fail() { log "ERROR: $*"; exit 1; }

if command -v mariadbd >/dev/null; then flavour=mariadb; server=mariadbd; client=mariadb
else flavour=mysql; server=mysqld; client=mysql; fi
socket=/run/mysqld/mysqld.sock

# --- variables ------------------------------------------------------------
# One name for each setting: MARIADB_X and MYSQL_X are the same to MariaDB.
loaded_from_file=()
setting() { # setting NAME: MYSQL_NAME from itself, its _FILE, or MARIADB_ twins
  local name="$1" prefix var file value='' found=''
  local prefixes=(MYSQL); [ "$flavour" = mariadb ] && prefixes=(MARIADB MYSQL)
  for prefix in "${prefixes[@]}"; do
    var="${prefix}_$name"; file="${var}_FILE"
    if [ -n "${!var:-}" ] && [ -n "${!file:-}" ] && [ -z "${ENTRYPOINT_AS_USER:-}" ]; then
      fail "both $var and $file are set (they exclude each other)"
    fi
    [ -n "$found" ] && continue
    if [ -n "${!var:-}" ]; then value="${!var}"; found="$var"
    elif [ -n "${!file:-}" ]; then
      value="$(<"${!file}")" || fail "cannot read ${!file} ($file)"
      found="$var"; loaded_from_file+=("$var")
    fi
  done
  printf -v "MYSQL_$name" '%s' "$value"
}
settings() {
  local n
  for n in ROOT_PASSWORD ROOT_HOST DATABASE USER PASSWORD RANDOM_ROOT_PASSWORD ALLOW_EMPTY_PASSWORD \
           ALLOW_EMPTY_ROOT_PASSWORD ONETIME_PASSWORD INITDB_SKIP_TZINFO; do setting "$n"; done
  : "${MYSQL_ROOT_HOST:=%}"
  MYSQL_ALLOW_EMPTY_PASSWORD="${MYSQL_ALLOW_EMPTY_PASSWORD:-$MYSQL_ALLOW_EMPTY_ROOT_PASSWORD}"
}

# --- SQL on the temporary server -------------------------------------------
root_password_now=''
cnf() { printf '[client]\nuser=root\npassword="%s"\n' "${root_password_now//\\/\\\\}"; }
sql() { # sql [--no-db] [client arguments]; statements on standard input
  local db=()
  if [ "${1:-}" = --no-db ]; then shift; elif [ -n "$MYSQL_DATABASE" ]; then db=(--database="$MYSQL_DATABASE"); fi
  "$client" --defaults-extra-file=<(cnf) --protocol=socket --socket="$socket" --comments \
    --default-character-set=utf8mb4 "${db[@]}" "$@"
}
quoted() { local s="${1//\\/\\\\}"; printf "'%s'" "${s//\'/\\\'}"; }
# shellcheck disable=SC2016
ident()  { printf '`%s`' "${1//\`/\`\`}"; }

temp_pid=''
temp_start() {
  local extra=()
  if [ "$flavour" = mariadb ]; then extra=(--skip-log-bin --expire-logs-days=0 --skip-slave-start --loose-innodb_buffer_pool_load_at_startup=0)
  else extra=(--loose-mysqlx=OFF --skip-replica-start); fi
  "$@" --skip-networking --default-time-zone=SYSTEM --socket="$socket" "${extra[@]}" &
  temp_pid=$!
  local end=$(( SECONDS + ${ENTRYPOINT_TEMP_TIMEOUT:-300} ))
  until sql --no-db -e 'SELECT 1' >/dev/null 2>&1; do
    kill -0 "$temp_pid" 2>/dev/null || fail "the temporary server stopped (see above)"
    [ "$SECONDS" -lt "$end" ] || fail "the temporary server did not answer in time"
    sleep 0.2
  done
}
temp_stop() {
  kill -TERM "$temp_pid"
  local rc=0; wait "$temp_pid" || rc=$?
  temp_pid=''
  [ "$rc" = 0 ] || fail "the temporary server ended with $rc"
}
trap '[ -z "$temp_pid" ] || { kill -TERM "$temp_pid" 2>/dev/null; wait "$temp_pid"; }; exit 143' TERM INT

create_datadir() {
  log "creating the data directory ($flavour)"
  if [ "$flavour" = mariadb ]; then
    mariadb-install-db --datadir="$datadir" --auth-root-authentication-method=normal --skip-test-db \
      --old-mode=UTF8_IS_UTF8MB3 --default-time-zone=SYSTEM --enforce-storage-engine= --skip-log-bin \
      --expire-logs-days=0 --loose-innodb_buffer_pool_load_at_startup=0 --loose-innodb_buffer_pool_dump_at_shutdown=0 \
      "${@:2}" >/dev/null
  else
    "$@" --initialize-insecure --default-time-zone=SYSTEM
  fi
}

set_up_accounts() {
  if [ -n "$MYSQL_RANDOM_ROOT_PASSWORD" ]; then
    MYSQL_ROOT_PASSWORD="$(head -c 24 /dev/urandom | base64 | tr -d '\n')"
    log "GENERATED ROOT PASSWORD: $MYSQL_ROOT_PASSWORD"
  fi
  local pw host; pw="$(quoted "$MYSQL_ROOT_PASSWORD")"
  {
    echo 'SET @@SESSION.SQL_LOG_BIN=0;'
    [ "$flavour" = mariadb ] && echo "DELETE FROM mysql.global_priv WHERE User='' OR (User='root' AND Host<>'localhost'); FLUSH PRIVILEGES;"
    if [ -n "$MYSQL_ROOT_HOST" ] && [ "$MYSQL_ROOT_HOST" != localhost ]; then
      host="$(quoted "$MYSQL_ROOT_HOST")"
      echo "CREATE USER 'root'@$host IDENTIFIED BY $pw; GRANT ALL ON *.* TO 'root'@$host WITH GRANT OPTION;"
      [ "$flavour" = mysql ] && [ -n "$MYSQL_ONETIME_PASSWORD" ] && echo "ALTER USER 'root'@$host PASSWORD EXPIRE;"
    fi
    echo "DROP DATABASE IF EXISTS test;"
    # Last: from here on the connection needs the password.
    echo "ALTER USER 'root'@'localhost' IDENTIFIED BY $pw;"
  } | sql --no-db --database=mysql --binary-mode
  root_password_now="$MYSQL_ROOT_PASSWORD"
  if [ -n "$MYSQL_DATABASE" ]; then
    log "creating database $MYSQL_DATABASE"
    echo "CREATE DATABASE IF NOT EXISTS $(ident "$MYSQL_DATABASE");" | sql --no-db
  fi
  if [ -n "$MYSQL_USER" ] && [ -n "$MYSQL_PASSWORD" ]; then
    log "creating user $MYSQL_USER"
    {
      echo "CREATE USER $(quoted "$MYSQL_USER")@'%' IDENTIFIED BY $(quoted "$MYSQL_PASSWORD");"
      # `_` and `%` are wildcards in the database name of a GRANT.
      [ -z "$MYSQL_DATABASE" ] || { d="${MYSQL_DATABASE//_/\\_}"; echo "GRANT ALL ON $(ident "${d//%/\\%}").* TO $(quoted "$MYSQL_USER")@'%';"; }
    } | sql --no-db --binary-mode
  fi
}

run_init_files() {
  local f
  for f in /docker-entrypoint-initdb.d/*; do
    case "$f" in
      *.sh) log "running $f"; if [ -x "$f" ]; then "$f"; else
              # shellcheck disable=SC1090
              . "$f"; fi ;;
      *.sql)     log "loading $f"; sql <"$f" ;;
      *.sql.gz)  log "loading $f"; gunzip -c "$f" | sql ;;
      *.sql.xz)  log "loading $f"; xz -dc "$f" | sql ;;
      *.sql.zst) log "loading $f"; zstd -dc "$f" | sql ;;
      *) log "ignoring $f" ;;
    esac
  done
}

# --- main -------------------------------------------------------------------
[ "${1:0:1}" = - ] && set -- "$server" "$@"
case "${1:-}" in
  mysqld|mariadbd) shift; set -- "$server" "$@" ;;
  *) exec "$@" ;;
esac
datadir=/var/lib/mysql
for a in "$@"; do
  case "$a" in
    --help|-'?'|--version|-V|--print-defaults) exec "$@" ;;
    --datadir=*) datadir="${a#--datadir=}" ;;
  esac
done

if [ -z "${ENTRYPOINT_AS_USER:-}" ]; then settings; fi
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$datadir" /run/mysqld
  find "$datadir" /run/mysqld \! -user mysql -exec chown mysql:mysql '{}' +
  # Secret files may be readable by root alone: they were read above and go on
  # in the environment of this one exec.
  export ENTRYPOINT_AS_USER=1 HOME=/var/lib/mysql ENTRYPOINT_UNSET="${loaded_from_file[*]:-}"
  for v in "${!MYSQL_@}"; do case "$v" in *_FILE) ;; *) export "${v?}";; esac; done
  exec setpriv --reuid=mysql --regid=mysql --init-groups -- "$0" "$@"
fi
if [ -n "${ENTRYPOINT_AS_USER:-}" ]; then
  read -ra loaded_from_file <<<"${ENTRYPOINT_UNSET:-}"
fi

if [ ! -d "$datadir/mysql" ]; then
  if [ -z "$MYSQL_ROOT_PASSWORD$MYSQL_ALLOW_EMPTY_PASSWORD$MYSQL_RANDOM_ROOT_PASSWORD" ]; then
    fail "the data directory is empty and no password option is set: give one of MYSQL_ROOT_PASSWORD, MYSQL_ALLOW_EMPTY_PASSWORD, MYSQL_RANDOM_ROOT_PASSWORD"
  fi
  [ "$MYSQL_USER" != root ] || fail "MYSQL_USER=root: root is made from MYSQL_ROOT_PASSWORD"
  ls /docker-entrypoint-initdb.d/ >/dev/null || fail "cannot read /docker-entrypoint-initdb.d"
  create_datadir "$@"
  temp_start "$@"
  if [ -z "$MYSQL_INITDB_SKIP_TZINFO" ]; then
    tz="$(command -v mariadb-tzinfo-to-sql || command -v mysql_tzinfo_to_sql || true)"
    [ -z "$tz" ] || "$tz" /usr/share/zoneinfo 2>/dev/null | sql --no-db --database=mysql
  fi
  set_up_accounts
  run_init_files
  temp_stop
  log "first start is done; starting the server"
fi

for v in "${loaded_from_file[@]}" ; do unset "$v" "MYSQL_${v#*_}"; done
unset ENTRYPOINT_AS_USER ENTRYPOINT_UNSET
for v in "${!MYSQL_@}"; do [ -n "${!v}" ] || unset "$v"; done
exec "$@"
