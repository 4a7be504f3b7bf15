#!/bin/bash
# nginx answers TLS with a certificate of our CA for the right name. Whether the
# application behind it works is another question.
set -euo pipefail
exec curl --silent --show-error --fail --max-time 4 --output /dev/null \
  --cacert /run/secrets/ca_cert --resolve "${TLS_NAME:-chom.test}:8443:127.0.0.1" "https://${TLS_NAME:-chom.test}:8443/nginx-health"
