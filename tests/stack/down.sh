#!/usr/bin/env bash
# Removes the containers and networks of PROJECT; with --volumes its data and
# its site folder (secrets, keys) too.
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd -P)/lib.sh"

volumes=no
case "${1:-}" in
  --volumes) volumes=yes;;
  '') ;;
  -h|--help) echo "usage: [PROJECT=chom] down.sh [--volumes]"; exit 0;;
  *) die 2 "unknown argument: $1";;
esac
project="${PROJECT:-chom}"
site="$(site_dir "$project")"
engine_up || die 6 "no Docker Engine answers"
if [ -r "$site/compose.yaml" ]; then compose() { site_compose "$site" --profile monitoring "$@"; }
else compose() { docker compose -p "$project" "$@"; }; fi
if [ "$volumes" = yes ]; then
  compose down --volumes --remove-orphans >&2
  # What recoveries of this project left: containers, and volumes with what production had before.
  docker ps -aq --filter label=chom-recovery.run --filter "name=^/?$project-(candidate-|recovery-lock)" | xargs -r docker rm -f >/dev/null
  docker volume ls -q --filter label=chom-recovery.run --filter "name=^${project}_.*__r_" | xargs -r docker volume rm >/dev/null
  # Not "rm -rf $site": the folder may be one that the user chose.
  # The web user's files among the code can be removed by root alone, which a container is.
  if [ "$(id -u)" != 0 ] && [ -d "$site/app/bootstrap/cache" ]; then
    docker run --rm --entrypoint rm -v "$site/app:/srv/app" chom/app:latest -rf /srv/app/bootstrap/cache
  fi
  rm -rf "$site/secrets" "$site/ca" "$site/app" "$site/nginx" "$site/monitoring"
  rm -f "$site/.env" "$site/compose.yaml" "$site/facts.json" "$site/up.log" "$site/migrate.log"
  rmdir "$site" 2>/dev/null || true
  say "$project and its data are gone"
else
  compose down --remove-orphans >&2
  say "$project is down; its volumes and $site are kept"
fi
