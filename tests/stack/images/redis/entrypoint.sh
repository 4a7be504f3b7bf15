#!/bin/bash
# As in the official image: flags only, or redis-server with flags; data in /data; user redis.
set -euo pipefail
case "${1:-}" in -*|*.conf) set -- redis-server "$@" ;; esac
if [ "${1:-}" = redis-server ] && [ "$(id -u)" = 0 ]; then
  find . \! -user redis -exec chown redis:redis '{}' +
  exec setpriv --reuid=redis --regid=redis --init-groups -- "$@" --protected-mode no
fi
exec "$@"
