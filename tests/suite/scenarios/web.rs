//! Faults of the web server.

use std::path::PathBuf;

use chom_recovery_tests::chaos;

use crate::site::{Fault, Seen, Site};

/// Puts a certificate of the site's own authority in the place of the served one: name and validity vary.
const ISSUE: &str = r#"set -e; cd /etc/nginx/certs; cp -p tls.crt tls.crt.kept
printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$NAME" >/tmp/ext
openssl req -new -key tls.key -subj "/CN=$NAME" -out /tmp/csr
openssl x509 -req -in /tmp/csr -CA /run/secrets/ca_cert -CAkey /run/secrets/ca_key -set_serial "0x$(openssl rand -hex 16)" \
  -sha256 -extfile /tmp/ext $DATES -out /tmp/leaf 2>/dev/null
cat /tmp/leaf /run/secrets/ca_cert >tls.crt; rm -f /tmp/ext /tmp/csr /tmp/leaf; nginx -s reload"#;

pub(crate) const BAD_CONFIGURATION: Fault = Fault {
    name: "bad-nginx-configuration",
    needs_root: false,
    make: |site| {
        site.edit(&configuration(site), "ssl default_server;", "ssl default_server");
        site.compose(&["restart", "nginx"]);
    },
    is_effective: |site| site.http() == Seen::Nothing,
    mend: |site| {
        site.unedit(&configuration(site));
        site.compose(&["restart", "nginx"]);
    },
};

pub(crate) const EXPIRED_CERTIFICATE: Fault = Fault {
    name: "expired-certificate",
    needs_root: false,
    make: |site| issue(site, "chom.test", "-not_before 20240101000000Z -not_after 20240201000000Z"),
    is_effective: |site| site.http() == Seen::BadCertificate,
    mend: put_certificate_back,
};

pub(crate) const MISMATCHED_CERTIFICATE: Fault = Fault {
    name: "mismatched-certificate",
    needs_root: false,
    make: |site| issue(site, "other.test", "-days 30"),
    is_effective: |site| site.http() == Seen::BadCertificate,
    mend: put_certificate_back,
};

pub(crate) const WRONG_UPSTREAM: Fault = Fault {
    name: "wrong-upstream",
    needs_root: false,
    make: |site| {
        site.edit(&configuration(site), "set $app app:9000;", "set $app app:9001;");
        reload(site);
    },
    is_effective: |site| site.http() == Seen::Status(502),
    mend: |site| {
        site.unedit(&configuration(site));
        reload(site);
    },
};

fn configuration(site: &Site) -> PathBuf {
    site.stack().site.join("nginx/site.conf")
}

fn reload(site: &Site) {
    site.compose(&["exec", "-T", "nginx", "nginx", "-s", "reload"]);
}

fn issue(site: &Site, name: &str, dates: &str) {
    chaos::shell(site.stack(), "nginx", &format!("NAME='{name}' DATES='{dates}'\n{ISSUE}"));
}

fn put_certificate_back(site: &Site) {
    chaos::shell(site.stack(), "nginx", "cd /etc/nginx/certs && mv tls.crt.kept tls.crt && nginx -s reload");
}
