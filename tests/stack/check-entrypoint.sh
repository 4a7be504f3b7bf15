#!/usr/bin/env bash
# The contract that the database images share with the official ones, on
# throw-away containers. Usage: check-entrypoint.sh [mysql|mariadb-11.8|mariadb-10.11]...
set -uo pipefail
. "$(cd "$(dirname "$0")" && pwd -P)/lib.sh"

[ $# -gt 0 ] || set -- mysql mariadb-11.8 mariadb-10.11
work="$(mktemp -d)"; id=''
drop() { [ -z "$id" ] || docker rm -fv "$id" >/dev/null 2>&1; id=''; }
trap 'drop; rm -rf "$work"' EXIT
passed=0; failed=0
ok() { local name="$1"; shift
  if "$@" >"$work/out" 2>&1; then passed=$((passed+1)); echo "ok    $db: $name"
  else failed=$((failed+1)); echo "FAIL  $db: $name"; sed 's/^/      /' "$work/out" | head -n 12 | cut -c1-300; fi; }
is() { [ "$1" = "$2" ] || { echo "got '$1', expected '$2'"; return 1; }; }

# q USER PASSWORD SQL: over TCP, so never from the temporary server
# shellcheck disable=SC2016
q() { printf '[client]\nuser="%s"\npassword="%s"\n' "$1" "${2//\\/\\\\}" | docker exec -i "$id" bash -c 'c=mysql; command -v mariadb >/dev/null && c=mariadb
  "$c" --defaults-extra-file=/dev/stdin --default-character-set=utf8mb4 --protocol=tcp -h 127.0.0.1 -N -B -e "$1"' q "$3"; }
up() { local root="$1"; wait_for 120 q root "$root" 'SELECT 1' || { docker logs "$id" 2>&1 | tail -n 8; return 1; }; }
query() { is "$(q "$1" "$2" "$3" 2>&1)" "$4"; }
logs_have() { docker logs "$id" 2>&1 | grep -- "$1" >/dev/null; }

mkdir -p "$work/init.d" "$work/bad.d"
cat >"$work/init.d/10-tables.sql" <<'SQL'
CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20));
DELIMITER //
CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END //
DELIMITER ;
INSERT INTO t VALUES (1, 'sql 🙂');
SQL
echo "INSERT INTO t VALUES (2, 'gz');"  | gzip >"$work/init.d/20-more.sql.gz"
echo "INSERT INTO t VALUES (3, 'zst');" | zstd -q >"$work/init.d/30-more.sql.zst"
echo "echo from-a-script-as-\$(id -un)" >"$work/init.d/40-run.sh"
head -c 40 "$work/init.d/20-more.sql.gz" >"$work/bad.d/10-cut.sql.gz"
odd="it's a \\ \"tricky\" \$p%w #d"
printf '%s\n' "$odd" >"$work/root.pw"; printf 'app-%s\n' "$odd" >"$work/app.pw"
chmod 0600 "$work"/*.pw; chmod 0755 "$work" "$work"/*.d

for db in "$@"; do
  image="$(db_image "$db")"
  server=mysqld; prefixes=(MYSQL); [ "$db" = mysql ] || { server=mariadbd; prefixes=(MARIADB MYSQL); }
  for p in "${prefixes[@]}"; do
    id="$(docker run -d -v "$work/init.d:/docker-entrypoint-initdb.d:ro" -v "$work/root.pw:/run/root.pw:ro" -v "$work/app.pw:/run/app.pw:ro" \
      -e "${p}_ROOT_PASSWORD_FILE=/run/root.pw" -e "${p}_DATABASE=shop_x" -e "${p}_USER=o'app" -e "${p}_PASSWORD_FILE=/run/app.pw" -e "${p}_INITDB_SKIP_TZINFO=1" \
      "$image" --max-connections=77)"
    ok "$p: first start with odd passwords from files" up "$odd"
    ok "$p: flags alone go to the server" query root "$odd" 'SELECT @@max_connections' 77
    ok "$p: .sql with DELIMITER, .sql.gz, .sql.zst" query root "$odd" "SELECT GROUP_CONCAT(v ORDER BY id) FROM shop_x.t" 'sql 🙂,gz,zst'
    ok "$p: the routine is there" query root "$odd" "SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema='shop_x'" 1
    ok "$p: .sh runs as mysql" logs_have from-a-script-as-mysql
    ok "$p: the user owns its database" query "o'app" "app-$odd" 'SELECT COUNT(*) FROM shop_x.t' 3
    denied() { ! q "o'app" "app-$odd" 'SELECT COUNT(*) FROM mysql.user' && ! q "o'app" "app-$odd" 'CREATE DATABASE shopax'; }
    ok "$p: and nothing else" denied
    no_empty() { ! q root '' 'SELECT 1'; }
    ok "$p: root needs its password" no_empty
    ok "$p: binary log is on, by row" query root "$odd" 'SELECT @@log_bin, @@binlog_format, @@server_id' $'1\tROW\t1'
    docker exec -u mysql "$id" cat /proc/1/cmdline /proc/1/environ | tr '\0' '\n' >"$work/seen"
    plain() { [ -s "$work/seen" ] && ! grep -F tricky "$work/seen"; }
    ok "$p: no password left in argv or environment" plain
    ok "$p: the server runs as uid 999" is "$(docker exec "$id" stat -c %u /proc/1)" 999
    docker stop -t 60 "$id" >/dev/null
    ok "$p: a stop is clean" is "$(docker inspect -f '{{.State.ExitCode}}' "$id")" 0
    docker start "$id" >/dev/null
    ok "$p: second start" up "$odd"
    ok "$p: does not load again" query root "$odd" 'SELECT COUNT(*) FROM shop_x.t' 3
    drop
  done

  id="$(docker run -d -e MYSQL_RANDOM_ROOT_PASSWORD=yes -e MYSQL_ROOT_HOST=localhost -e MYSQL_INITDB_SKIP_TZINFO=1 "$image" "$server" --innodb-buffer-pool-size=64M)"
  wait_for 120 logs_have 'GENERATED ROOT PASSWORD'
  pw="$(docker logs "$id" 2>&1 | sed -n 's/.*GENERATED ROOT PASSWORD: //p')"
  # shellcheck disable=SC2016
  local_root() { printf '[client]\nuser=root\npassword="%s"\n' "$pw" | docker exec -i "$id" bash -c 'c=mysql; command -v mariadb >/dev/null && c=mariadb; "$c" --defaults-extra-file=/dev/stdin -N -B -e "SELECT @@innodb_buffer_pool_size, @@port"'; }
  final() { is "$(local_root)" $'67108864\t3306'; }
  wait_for 60 final; ok "random root password, server named with flags" final
  remote() { ! q root "$pw" 'SELECT 1'; }
  ok "MYSQL_ROOT_HOST=localhost keeps TCP out" remote
  drop

  id="$(docker run -d "$image")"
  ended() { [ "$(docker inspect -f '{{.State.Running}}' "$id")" = false ]; }
  wait_for 60 ended; ok "no password option: refuses to start" logs_have MYSQL_ROOT_PASSWORD
  ok "with a failure" test "$(docker inspect -f '{{.State.ExitCode}}' "$id")" != 0
  drop
  id="$(docker run -d -e MYSQL_ROOT_PASSWORD=x -e MYSQL_DATABASE=d -e MYSQL_INITDB_SKIP_TZINFO=1 -v "$work/bad.d:/docker-entrypoint-initdb.d:ro" "$image")"
  wait_for 120 ended; ok "a cut .gz fails the first start" test "$(docker inspect -f '{{.State.ExitCode}}' "$id")" != 0
  drop
  ok "another command is run as it is" is "$(docker run --rm "$image" echo hello)" hello
  ok "--version" docker run --rm "$image" --version
  ok "a named server with --version" docker run --rm "$image" mysqld --version
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
