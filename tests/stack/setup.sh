#!/usr/bin/env bash
# Makes a machine ready for the reference stack: Docker Engine, Compose v2 and a
# few tools. Idempotent. Exit 6: something is missing and cannot be installed here.
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd -P)/lib.sh"

case "${1:-}" in
  -h|--help) echo "usage: setup.sh   (installs what is missing, starts dockerd if no Engine answers)"; exit 0;;
  '') ;;
  *) die 2 "unknown argument: $1";;
esac

begin=$(now)
machine_lock

tool_pkgs=()
need_tool() { has "$1" || tool_pkgs+=("$2"); }
need_tool mmdebstrap mmdebstrap
need_tool openssl openssl
need_tool curl curl
need_tool ssh openssh-client
need_tool sshd openssh-server
need_tool flock util-linux
need_tool python3 python3-minimal
need_tool zstd zstd
need_tool xz xz-utils
# What a person reads a backup with when this program is gone: a test does what the documentation says.
need_tool age age
need_tool jq jq
need_tool xxd xxd
need_tool mariadb mariadb-client
[ -r /usr/share/keyrings/debian-archive-keyring.gpg ] || tool_pkgs+=(debian-archive-keyring)

start_engine=no
if engine_up; then
  say "Engine answers: $(docker version --format '{{.Server.Version}}')"
else
  start_engine=yes
  has dockerd || tool_pkgs+=(docker.io)
  # From Debian 13 on the client is a package of its own.
  if ! has docker && is_debian && [ "$(cut -d. -f1 /etc/debian_version)" != 12 ]; then tool_pkgs+=(docker-cli); fi
  if [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] && ! has apparmor_parser; then tool_pkgs+=(apparmor); fi
  has iptables || tool_pkgs+=(iptables)
fi

if [ ${#tool_pkgs[@]} -gt 0 ]; then
  is_debian || die 6 "missing: ${tool_pkgs[*]} — this is not Debian: install them (Docker Engine >= 20.10 for docker.io) by hand, then run again"
  [ "$(id -u)" = 0 ] || die 6 "missing: ${tool_pkgs[*]} — run this once as root, or: apt-get install ${tool_pkgs[*]}"
  say "installing ${tool_pkgs[*]}"
  log="$machine_state/apt.log"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${tool_pkgs[@]}"; } >"$log" 2>&1 \
    || die 6 "apt-get install ${tool_pkgs[*]} failed (no network, or no such package): see $log"
fi

if [ "$start_engine" = yes ] && [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; then
  say "starting the docker service"
  systemctl start docker && { wait_for 90 engine_up || true; }
fi
if [ "$start_engine" = yes ] && ! engine_up; then
  [ "$(id -u)" = 0 ] || die 6 "no Docker Engine answers — start it as root (systemctl start docker), or run this as root, or add yourself to the docker group"
  rm -f "$machine_state/dockerd.pid"
  say "starting dockerd (log: $machine_state/dockerd.log)"
  # Small networks: of the default ones there are 31, and tests beside one another want more.
  # 9>&- : the daemon must not keep our lock.
  setsid dockerd --pidfile "$machine_state/dockerd.pid" \
    --default-address-pool base=172.17.0.0/16,size=24 --default-address-pool base=172.18.0.0/16,size=24 >>"$machine_state/dockerd.log" 2>&1 </dev/null 9>&- &
  dockerd_pid=$!
  alive_and_not_up() { ! kill -0 "$dockerd_pid" 2>/dev/null || engine_up; }
  wait_for 90 alive_and_not_up || die 6 "dockerd did not answer within 90 s: see $machine_state/dockerd.log"
  engine_up || die 6 "dockerd stopped at once: $(grep -E 'level=(fatal|error)|failed to start' "$machine_state/dockerd.log" | tail -n 1 | cut -c1-300)"
  # Recorded with its start time, so that teardown cannot hit a recycled pid.
  pid="$(cat "$machine_state/dockerd.pid")"
  printf '%s %s\n' "$pid" "$(awk '{print $22}' "/proc/$pid/stat")" >"$machine_state/dockerd.started"
  say "Engine $(docker version --format '{{.Server.Version}}') is up (pid $pid)"
fi

if ! compose_up; then
  is_debian || die 6 "missing: docker compose v2 — install the Compose plugin of your system"
  [ "$(id -u)" = 0 ] || die 6 "missing: docker compose v2 — run this once as root, or put the plugin into ~/.docker/cli-plugins"
  need_mirror
  say "fetching Compose v2 (Debian trixie's docker-compose)"
  d="$machine_state/apt-trixie"; mkdir -p "$d/lists/partial" "$d/cache/archives/partial"
  # A private apt: signatures are checked, the machine's own sources stay as they are.
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$mirror" >"$d/sources.list"
  cat >"$d/apt.conf" <<CONF
Dir::Etc::sourcelist "$d/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$d/lists";
Dir::State::status "/dev/null";
Dir::Cache "$d/cache";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Sandbox::User "root";
CONF
  log="$machine_state/compose-fetch.log"
  (
    export APT_CONFIG="$d/apt.conf"
    cd "$d" && rm -f docker-compose_*.deb && apt-get update && apt-get download docker-compose
  ) >"$log" 2>&1 || die 6 "cannot fetch docker-compose from the trixie archive (no network?): see $log"
  rm -rf "$d/x" && dpkg -x "$d"/docker-compose_*.deb "$d/x"
  plugin="$(find "$d/x" -type f -name docker-compose -perm -u+x -print -quit)"
  [ -n "$plugin" ] || die 6 "the docker-compose package holds no docker-compose program"
  install -D -m 0755 "$plugin" /usr/local/lib/docker/cli-plugins/docker-compose
  rm -rf "$d/x" "$d"/docker-compose_*.deb "$d/lists" "$d/cache"
  compose_up || die 6 "the installed docker-compose does not run: $(docker compose version 2>&1 | tail -n 1)"
fi
say "Compose $(docker compose version --short)"
say "ready in $(( $(now) - begin )) s"
