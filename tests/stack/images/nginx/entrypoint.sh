#!/bin/bash
# Issues the server's certificate from the test CA when there is none that is
# good for a day or more, then runs nginx.
set -euo pipefail
certs=/etc/nginx/certs; name="${TLS_NAME:-chom.test}"
ca_cert=/run/secrets/ca_cert; ca_key=/run/secrets/ca_key
good() {
  [ -s "$certs/tls.crt" ] && [ -s "$certs/tls.key" ] &&
    openssl x509 -in "$certs/tls.crt" -noout -checkend 86400 >/dev/null &&
    openssl x509 -in "$certs/tls.crt" -noout -checkhost "$name" | grep -q 'does match' &&
    openssl verify -CAfile "$ca_cert" "$certs/tls.crt" >/dev/null 2>&1
}
if [ "${1:-}" = nginx ] && ! good; then
  echo "issuing a certificate for $name" >&2
  umask 077
  tmp="$(mktemp -d "$certs/.new.XXXXXX")"; trap 'rm -rf "$tmp"' EXIT
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$tmp/tls.key" -out "$tmp/tls.csr" -subj "/CN=$name" 2>/dev/null
  printf 'subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n' "$name" >"$tmp/ext"
  openssl x509 -req -in "$tmp/tls.csr" -CA "$ca_cert" -CAkey "$ca_key" -set_serial "0x$(openssl rand -hex 16)" \
    -days "${TLS_DAYS:-90}" -sha256 -extfile "$tmp/ext" -out "$tmp/leaf.crt" 2>/dev/null
  cat "$tmp/leaf.crt" "$ca_cert" >"$tmp/tls.crt"
  mv "$tmp/tls.key" "$certs/tls.key"; mv "$tmp/tls.crt" "$certs/tls.crt"; chmod 0644 "$certs/tls.crt"
  rm -rf "$tmp"; trap - EXIT
fi
exec "$@"
