#!/bin/bash
# Roles: app (php-fpm), queue, scheduler; anything else is run as it is.
set -euo pipefail

storage=/srv/app/storage
if [ "$(id -u)" = 0 ]; then
  # Secret files come readable by root alone. The web user gets its own copies, in memory.
  install -d -o root -g www-data -m 0770 /run/chom
  for f in app_env:app.env db_app_password:db_app_password synthetic_password:synthetic_password; do
    [ ! -r "/run/secrets/${f%%:*}" ] || install -o root -g www-data -m 0440 "/run/secrets/${f%%:*}" "/run/chom/${f##*:}"
  done
  # Only what is missing: the volume's owners and modes are data too.
  for d in app app/uploads framework framework/cache framework/cache/data framework/sessions framework/views logs; do
    [ -d "$storage/$d" ] || install -d -o www-data -g www-data -m 0750 "$storage/$d"
  done
  [ "$(stat -c %U "$storage")" = www-data ] || chown www-data:www-data "$storage"
  [ "$(stat -c %U /srv/app/bootstrap/cache)" = www-data ] || chown www-data:www-data /srv/app/bootstrap/cache
fi
as_web() {
  if [ "$(id -u)" = 0 ]; then exec setpriv --reuid=www-data --regid=www-data --init-groups -- "$@"; else exec "$@"; fi
}

case "${1:-app}" in
  app)   exec php-fpm8.4 --nodaemonize --force-stderr --allow-to-run-as-root ;;
  queue) as_web php artisan queue:work redis --queue="${REDIS_QUEUE:-default}" --sleep=1 --tries=3 --timeout=75 --max-time=3600 ;;
  scheduler)
    # The first heartbeat at once: the scheduler's own comes with the next minute.
    php artisan chom:heartbeat scheduler || echo "no first heartbeat; the scheduler goes on" >&2
    as_web php artisan schedule:work ;;
  *) exec "$@" ;;
esac
