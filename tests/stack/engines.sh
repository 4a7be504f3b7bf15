#!/usr/bin/env bash
# Unpacks the Docker Engines of newer Debian suites, each into a root folder of its own; nothing is installed and
# nothing is started. Prints the folders, separated by colons: what CHOM_TEST_ENGINES takes.
#   engines.sh [--refresh] [SUITE...]     default: trixie sid (Engines 26 and 28)
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd -P)/lib.sh"

suites=(); refresh=no
while [ $# -gt 0 ]; do
  case "$1" in
    --refresh) refresh=yes; shift;;
    -h|--help) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 0;;
    -*) die 2 "unknown argument: $1";;
    *) suites+=("$1"); shift;;
  esac
done
[ ${#suites[@]} -gt 0 ] || suites=(trixie sid)

[ "$(id -u)" = 0 ] || die 6 "unpacking an Engine needs root"
has mmdebstrap || die 6 "mmdebstrap is missing: run setup.sh"
machine_lock
need_mirror
engines="$machine_state/engines"; mkdir -p "$engines"

unpack() { # unpack SUITE
  local root="$engines/$1" new="$engines/.$1.new" log="$engines/$1.log" begin
  [ "$refresh" = no ] && [ -x "$root/usr/sbin/dockerd" ] && return
  begin=$(now)
  rm -rf "$new"
  # Packages are unpacked, not configured: no script of theirs runs.
  mmdebstrap --variant=extract --include=docker.io,containerd,runc,iptables,base-files,dash,mount \
    --dpkgopt=force-unsafe-io --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' "$1" "$new" \
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$log" 2>&1 \
    || { tail -n 15 "$log" >&2; die 6 "cannot unpack the Engine of Debian $1 from $mirror (no network?): see $log"; }
  # What configuring would have linked.
  for name in iptables ip6tables; do ln -sf xtables-nft-multi "$new/usr/sbin/$name"; done
  rm -rf "$root"; mv "$new" "$root"
  say "Debian $1: $(chroot "$root" /usr/sbin/dockerd --version) ($(( $(now) - begin )) s)"
}

found=''
for suite in "${suites[@]}"; do
  [[ "$suite" =~ ^[a-z]+$ ]] || die 2 "'$suite' is no Debian suite"
  unpack "$suite"
  found="$found${found:+:}$engines/$suite"
done
printf '%s\n' "$found"
