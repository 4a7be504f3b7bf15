#!/usr/bin/env bash
# Builds the images of the reference stack: only what the given database flavours
# need, and only what changed.
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd -P)/lib.sh"

usage() { echo "usage: build.sh [--db mysql|mariadb-11.8|mariadb-10.11|all]... [--db-only] [--monitoring] [--refresh]   (default: \$DB, else mysql)"; }
dbs=(); refresh=no; with_app=yes; with_monitoring=no
while [ $# -gt 0 ]; do
  case "$1" in
    --db) if [ "${2:-}" = all ]; then dbs+=(mysql mariadb-11.8 mariadb-10.11); else dbs+=("${2:?}"); fi; shift 2;;
    --db-only) with_app=no; shift;;
    --monitoring) with_monitoring=yes; shift;;
    --refresh) refresh=yes; shift;;
    -h|--help) usage; exit 0;;
    *) usage >&2; exit 2;;
  esac
done
[ ${#dbs[@]} -gt 0 ] || dbs=("${DB:-mysql}")
for db in "${dbs[@]}"; do db_image "$db" >/dev/null; done

begin=$(now)
engine_up || die 6 "no Docker Engine answers: run setup.sh first"
machine_lock
logs="$machine_state/build"; mkdir -p "$logs"
mirror=''
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0

label='chom.stack.inputs'
image_label() { docker image inspect -f "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null || true; }
image_id() { docker image inspect -f '{{.Id}}' "$1"; }
# The same bytes for the same tree, whatever umask or clock it was checked out with.
context() { tar -C "$here" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' -cf - "$@"; }

# build_image TAG DOCKERFILE BASE CONTEXT_PATH... ; more build args in build_args
build_args=()
build_image() {
  local tag="$1" file="$2" base="$3" hash begin log; shift 3
  begin=$(now); log="$logs/${tag//[\/:]/_}.log"
  hash="$( { context "$@"; printf '%s\n' "$(image_id "$base")" "$file" "${build_args[@]}"; } | sha256sum | cut -d' ' -f1)"
  if [ "$(image_label "$tag")" = "$hash" ]; then return 0; fi
  say "building $tag"
  if ! context "$@" | docker build --network=host --force-rm --label "$label=$hash" \
        --build-arg "BASE=$base" "${build_args[@]}" -t "$tag" -f "$file" - >"$log" 2>&1; then
    tail -n 25 "$log" >&2; die 1 "building $tag failed: see $log"
  fi
  say "built $tag in $(( $(now) - begin )) s"
}

registry_answers() { # asked once: without a registry each question can take seconds
  local memo="$machine_state/registry.answer"
  if [ ! -e "$logs/.asked" ]; then
    if [ "${CHOM_STACK_PULL:-1}" = 1 ] && timeout 6 docker manifest inspect debian:trixie-slim >/dev/null 2>&1; then echo yes; else echo no; fi >"$memo"
    touch "$logs/.asked"
  fi
  [ "$(cat "$memo")" = yes ]
}

base() { # base SUITE: image chom/base-SUITE
  local suite="$1" from="chom/rootfs-$1" log="$logs/rootfs-$1.log" tar begin
  if ! image_id "$from" >/dev/null 2>&1 || [ "$refresh" = yes ]; then
    begin=$(now)
    if registry_answers && timeout 300 docker pull -q "debian:$suite-slim" >"$log" 2>&1; then
      docker tag "debian:$suite-slim" "$from"
    else
      need_mirror
      [ "$(id -u)" = 0 ] || die 6 "no registry answers for debian:$suite-slim, and making it with mmdebstrap needs root"
      has mmdebstrap || die 6 "no registry answers for debian:$suite-slim, and mmdebstrap is missing: run setup.sh"
      say "making Debian $suite with mmdebstrap"
      tar="$machine_state/rootfs-$suite.tar"
      mmdebstrap --variant=minbase --include=ca-certificates --dpkgopt=force-unsafe-io \
        --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' "$suite" "$tar" \
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$log" 2>&1 \
        || { tail -n 15 "$log" >&2; die 6 "cannot make Debian $suite from $mirror (no network?): see $log"; }
      docker import --change 'CMD ["bash"]' "$tar" "$from" >>"$log"
      rm -f "$tar"
    fi
    say "Debian $suite is there after $(( $(now) - begin )) s"
  fi
  mirror="$(debian_mirror)"
  build_args=(--build-arg "SUITE=$suite" --build-arg "MIRROR=$mirror")
  build_image "chom/base-$suite" images/base/Dockerfile "$from" images/base
  build_args=()
}

db() {
  local image; image="$(db_image "$1")"
  case "$1" in
    mysql)         base sid;      build_image "$image" images/mysql/Dockerfile   chom/base-sid      images/db images/mysql ;;
    mariadb-11.8)                 build_image "$image" images/mariadb/Dockerfile chom/base-trixie   images/db images/mariadb ;;
    mariadb-10.11) base bookworm; build_image "$image" images/mariadb/Dockerfile chom/base-bookworm images/db images/mariadb ;;
  esac
}

# Two chains, one a core: mostly they wait for the network.
rm -f "$logs/.asked"; registry_answers || true
( [[ " ${dbs[*]} " != *" mysql "* ]] || db mysql
  [[ " ${dbs[*]} " != *" mariadb-10.11 "* ]] || db mariadb-10.11 ) & other=$!
rc=0
( if [ "$with_app" = yes ] || [[ " ${dbs[*]} " = *" mariadb-11.8 "* ]]; then base trixie; fi
  [[ " ${dbs[*]} " != *" mariadb-11.8 "* ]] || db mariadb-11.8
  if [ "$with_app" = yes ]; then
    build_image chom/app:latest   images/app/Dockerfile   chom/base-trixie images/app
    build_image chom/nginx:latest images/nginx/Dockerfile chom/base-trixie images/nginx
    build_image chom/redis:latest images/redis/Dockerfile chom/base-trixie images/redis
  fi
  if [ "$with_monitoring" = yes ]; then
    [ "$with_app" = yes ] || base trixie
    build_image chom/monitoring:latest images/monitoring/Dockerfile chom/base-trixie images/monitoring
  fi ) || rc=$?
wait "$other" || rc=$?
[ "$rc" = 0 ] || exit "$rc"
say "images are up to date ($(( $(now) - begin )) s)"
