# Shared by the scripts of this folder. Source it, don't run it.
# shellcheck shell=bash

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"

# Machine-wide state (Engine's pid and log, downloaded indexes): not per project.
if [ -n "${CHOM_STACK_STATE:-}" ]; then machine_state="$CHOM_STACK_STATE"
elif [ "$(id -u)" = 0 ]; then machine_state="/var/lib/chom-stack"
else machine_state="${XDG_STATE_HOME:-$HOME/.local/state}/chom-stack"; fi

me="$(basename "$0" .sh)"

say() { printf '%s: %s\n' "$me" "$*" >&2; }
die() { local rc="$1"; shift; printf '%s: %s\n' "$me" "$*" >&2; exit "$rc"; }
has() { command -v "$1" >/dev/null 2>&1; }
now() { date +%s; }

# wait_for SECONDS COMMAND...: polls until the command succeeds or the deadline passes.
wait_for() {
  local end=$(( $(now) + $1 )); shift
  until "$@" >/dev/null 2>&1; do
    [ "$(now)" -lt "$end" ] || return 1
    sleep 0.3
  done
}

engine_up() { has docker && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
compose_up() { docker compose version >/dev/null 2>&1; }

is_debian() { [ -r /etc/debian_version ] && has apt-get; }

# The URL of the Debian main archive this machine uses, read from its own apt
# sources (deb822 and one-line), so that no host is named here.
debian_mirror() {
  if [ -n "${CHOM_DEBIAN_MIRROR:-}" ]; then printf '%s\n' "${CHOM_DEBIAN_MIRROR%/}"; return; fi
  local f url
  url="$({
      for f in /etc/apt/sources.list.d/*.sources; do
        [ -r "$f" ] && awk '
          function flush() { if (types ~ /(^| )deb( |$)/ && enabled !~ /^no/) { n = split(uris, u, " "); for (i = 1; i <= n; i++) print u[i], comps } types = uris = comps = enabled = "" }
          /^[ \t]*$/ { flush(); next } /^#/ { next }
          tolower($1) == "types:"      { $1 = ""; types = $0 }
          tolower($1) == "uris:"       { $1 = ""; uris = $0 }
          tolower($1) == "components:" { $1 = ""; comps = $0 }
          tolower($1) == "enabled:"    { enabled = tolower($2) }
          END { flush() }' "$f"
      done
      for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -r "$f" ] && sed -n 's/^[ \t]*deb[ \t]\{1,\}\(\[[^]]*\][ \t]*\)\{0,1\}\([^ \t]*\)[ \t]\{1,\}[^ \t]*[ \t]\{1,\}\(.*\)$/\2 \3/p' "$f"
      done
      true
    } | awk '{
      u = $1; sub(/\/+$/, "", u)
      if ((" " $0 " ") !~ / main /) next
      if (u ~ /^mirror\+file:/) { p = u; sub(/^mirror\+file:(\/\/)?/, "", p); if ((getline line < p) > 0) { split(line, w, /[ \t]/); u = w[1]; sub(/\/+$/, "", u) } }
      if (u ~ /^https?:\/\/.*\/debian$/) { print u; exit }
    }')"
  printf '%s\n' "$url"
}

need_mirror() {
  mirror="$(debian_mirror)"
  [ -n "$mirror" ] || die 6 "no Debian archive found in this machine's apt sources; set CHOM_DEBIAN_MIRROR to the URL of one (it ends in /debian)"
}

# One script at a time changes what all projects share.
machine_lock() {
  mkdir -p "$machine_state" 2>/dev/null || die 6 "cannot write $machine_state; run as root or set CHOM_STACK_STATE to a directory you own"
  exec 9>"$machine_state/lock"
  flock -w 1800 9 || die 1 "another setup or build has held $machine_state/lock for 30 minutes"
}
machine_unlock() { exec 9>&-; }

db_image() {
  case "$1" in
    mysql)         echo chom/mysql:9.7 ;;
    mariadb-11.8)  echo chom/mariadb:11.8 ;;
    mariadb-10.11) echo chom/mariadb:10.11 ;;
    *) die 2 "unknown database flavour '$1' (mysql, mariadb-11.8 or mariadb-10.11)" ;;
  esac
}

# The folder a project is deployed to: compose.yaml, .env, secrets/, ca/.
site_dir() { printf '%s\n' "${SITE_DIR:-$here/.state/$1}"; }

env_get() { # env_get FILE NAME
  if [ -r "$1" ]; then sed -n "s/^$2=//p" "$1" | tail -n 1; fi
}

# The caller's shell must not override what the project's own .env says.
site_compose() { # site_compose SITE ARGUMENTS...
  local site="$1"; shift
  env -u COMPOSE_PROJECT_NAME -u COMPOSE_FILE -u COMPOSE_PROFILES -u DB_IMAGE -u APP_IMAGE -u NGINX_IMAGE -u REDIS_IMAGE \
    -u HTTPS_PORT -u HTTPS_BIND -u TLS_NAME -u TLS_DAYS -u MONITORING_IMAGE -u PROMETHEUS_PORT -u ALERTMANAGER_PORT \
    docker compose -f "$site/compose.yaml" "$@"
}
