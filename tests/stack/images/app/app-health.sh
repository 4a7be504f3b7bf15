#!/bin/bash
# Is this container's own process doing its work?
set -euo pipefail
case "${1:?}" in
  app)
    SCRIPT_NAME=/fpm-ping SCRIPT_FILENAME=/fpm-ping REQUEST_METHOD=GET cgi-fcgi -bind -connect 127.0.0.1:9000 | grep -q pong ;;
  queue)
    # A worker does not loop in maintenance mode, and a job may take 75 s.
    [ -e /srv/app/storage/framework/down ] && exit 0
    [ -n "$(find /run/chom/queue.beat -mmin -2 2>/dev/null)" ] ;;
  scheduler)
    [ -n "$(find /run/chom/scheduler.beat -mmin -3 2>/dev/null)" ] ;;
esac
