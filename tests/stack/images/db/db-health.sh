#!/bin/bash
# Healthy = an authenticated query over TCP works. Never the socket: it answers
# while the entrypoint's temporary first-start server runs. Never "ping": it
# succeeds on "access denied". The password goes through a pipe, not argv.
set -euo pipefail
: "${HEALTH_USER:?}" "${HEALTH_PASSWORD_FILE:?}"
client=mysql; command -v mariadb >/dev/null && client=mariadb
pw="$(<"$HEALTH_PASSWORD_FILE")"
cnf() { printf '[client]\nuser="%s"\npassword="%s"\n' "$HEALTH_USER" "${pw//\\/\\\\}"; }
[ "$("$client" --defaults-extra-file=<(cnf) --protocol=tcp --host=127.0.0.1 --port=3306 \
      --connect-timeout=3 --skip-column-names --batch -e 'SELECT 1')" = 1 ]
