//! Recovery of the web server on the reference stack: each way in which it breaks is mended, proven from outside, and the
//! broken state is back after a rollback.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use chom_recovery_tests::{
    Stack, chaos,
    cli::{Bench, code, shown},
};
use serde_json::Value;

/// A bench with a backup of what the web server is made of; what the test breaks is put right at its end.
struct Web {
    bench: Bench,
    configuration: Vec<u8>,
}

impl Web {
    fn open(test: &str) -> Option<Self> {
        let bench = Bench::open(test)?;
        let created = bench.run(&["backup", "create", "--component", "nginx", "--component", "certs"]);
        assert_eq!(code(&created), 0, "{created:?}");
        let configuration = std::fs::read(file(bench.stack())).unwrap();
        Some(Self { bench, configuration })
    }

    fn stack(&self) -> &Stack {
        self.bench.stack()
    }

    /// Puts a broken configuration on the disk.
    fn break_configuration(&self) -> Vec<u8> {
        let text = String::from_utf8(self.configuration.clone()).unwrap();
        let broken = text.replacen("listen 8443", "liste 8443", 1);
        assert_ne!(broken, text);
        std::fs::write(file(self.stack()), &broken).unwrap();
        broken.into_bytes()
    }

    /// Puts a certificate beside the good one, in its place, or a key that is not its own.
    fn certificate(&self, script: &str) {
        let make = format!(
            "cd /etc/nginx/certs && openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -keyout /tmp/k -out /tmp/r -subj /CN=chom.test && printf subjectAltName=DNS:chom.test >/tmp/e && {script}"
        );
        chaos::shell(self.stack(), "nginx", &make);
    }

    fn restart(&self) {
        chaos::docker(&["restart", "--timeout", "5", &self.container()]);
    }

    fn container(&self) -> String {
        format!("{}-nginx-1", self.stack().project)
    }

    fn hash(&self, path: &str) -> String {
        let volume = format!("{}_certs:/v:ro", self.stack().project);
        let arguments = ["run", "--rm", "--network", "none", "-v", &volume, "--entrypoint", "sha256sum"];
        let output = chaos::docker(&[&arguments[..], &[&self.stack().db_image, path]].concat());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Recovers; what the run achieved.
    fn recover(&self) -> Value {
        self.bench.recover(&["nginx"], "nginx/look")
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Else it would hold the lock of the Engine.
            self.bench.run(&["rollback", "--yes"]);
        }
        std::fs::write(file(self.stack()), &self.configuration).unwrap();
        // The next start makes new ones.
        chaos::in_volume(self.stack(), &format!("{}_certs", self.stack().project), "rm -f /v/tls.crt /v/tls.key");
        self.restart();
        let pruned = self.bench.run(&["runs", "prune", "--older-than", "0", "--yes"]);
        if !self.bench.is_served_in_time() {
            eprintln!("the web server does not serve after the test: {pruned:?}");
        }
    }
}

fn file(stack: &Stack) -> PathBuf {
    stack.site.join("nginx/site.conf")
}

fn any(list: &Value, what: &str) -> bool {
    list.as_array().unwrap().iter().any(|line| line.as_str().unwrap().contains(what))
}

#[test]
fn a_bad_configuration_is_replaced_by_the_newest_that_nginx_takes() {
    let Some(web) = Web::open("a_bad_configuration_is_replaced_by_the_newest_that_nginx_takes") else { return };
    let broken = web.break_configuration();
    // It is backed up as well: the newest backup does not pass.
    let created = web.bench.run(&["backup", "create", "--component", "nginx"]);
    assert_eq!(code(&created), 0, "{created:?}");
    web.restart();
    assert_eq!(web.bench.status(), None, "it ends at its start");

    let planned = web.bench.run(&["plan", "recover", "nginx"]);
    assert_eq!(code(&planned), 0, "{}", shown(&planned));
    assert!(shown(&planned).contains("nginx/configuration/swap-folders"), "{}", shown(&planned));
    let nobody = web.bench.run(&["recover", "nginx"]);
    assert_eq!(code(&nobody), 5, "{}", shown(&nobody));
    assert_eq!(std::fs::read(file(web.stack())).unwrap(), broken, "a plan changes nothing");

    let achieved = web.recover();
    assert!(any(&achieved["found"], "site.conf:2: unknown directive \"liste\""), "{achieved}");
    assert!(any(&achieved["done"], "`site.conf` differs"), "{achieved}");
    assert!(any(&achieved["to_review"], "a newer backup would not do"), "{achieved}");
    assert_eq!(std::fs::read(file(web.stack())).unwrap(), web.configuration);

    web.bench.roll_back();
    assert_eq!(std::fs::read(file(web.stack())).unwrap(), broken, "exactly what was there");
    assert_eq!(web.bench.status(), None);
    web.recover();
}

#[test]
fn a_key_of_another_certificate_is_replaced() {
    let Some(web) = Web::open("a_key_of_another_certificate_is_replaced") else { return };
    let good = web.hash("/v/tls.key");
    web.certificate("cat /tmp/k >tls.key");
    let bad = web.hash("/v/tls.key");
    web.restart();
    assert_eq!(web.bench.status(), None, "it ends at its start");
    let achieved = web.recover();
    assert!(any(&achieved["found"], "key values mismatch"), "{achieved}");
    assert_eq!(web.hash("/v/tls.key"), good);
    web.bench.roll_back();
    assert_eq!(web.hash("/v/tls.key"), bad, "exactly what was there");
    assert_eq!(web.bench.status(), None);
}

const EXPIRED: &str = "openssl x509 -req -in /tmp/r -CA /run/secrets/ca_cert -CAkey /run/secrets/ca_key -set_serial 7 \
                       -not_before 20240101000000Z -not_after 20240201000000Z -extfile /tmp/e -out /tmp/c && \
                       cp tls.crt /tmp/good.crt && cp tls.key /tmp/good.key && \
                       cat /tmp/c /run/secrets/ca_cert >tls.crt && cat /tmp/k >tls.key && nginx -s reload";

/// Waits until users see what was broken.
fn until_refused(web: &Web) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while web.bench.status().is_some() {
        assert!(Instant::now() < deadline, "an expired certificate is accepted");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn an_expired_certificate_is_replaced_by_one_that_clients_accept() {
    let Some(web) = Web::open("an_expired_certificate_is_replaced_by_one_that_clients_accept") else { return };
    let good = web.hash("/v/tls.crt");
    web.certificate(EXPIRED);
    until_refused(&web);
    let achieved = web.recover();
    assert!(any(&achieved["found"], "xpired"), "{achieved}");
    assert_eq!(web.hash("/v/tls.crt"), good);
    web.bench.roll_back();
    assert_ne!(web.hash("/v/tls.crt"), good, "the stack's own start makes a new one of the expired one");

    // No backup that would do: a person has to, and is told how.
    web.certificate(EXPIRED);
    until_refused(&web);
    let created = web.bench.run(&["backup", "create", "--component", "certs", "--tag", "bad"]);
    assert_eq!(code(&created), 0, "{created:?}");
    let refused = web.bench.run(&["recover", "nginx", "--yes", "--with-tag", "bad"]);
    assert_eq!(code(&refused), 6, "{}", shown(&refused));
    assert!(shown(&refused).contains("get a new certificate"), "{}", shown(&refused));
    web.bench.roll_back();
}

#[test]
fn a_renewed_certificate_that_nobody_loaded_needs_no_restart() {
    let Some(web) = Web::open("a_renewed_certificate_that_nobody_loaded_needs_no_restart") else { return };
    web.certificate(EXPIRED);
    until_refused(&web);
    chaos::shell(
        web.stack(),
        "nginx",
        "cd /etc/nginx/certs && cat /tmp/good.crt >tls.crt && cat /tmp/good.key >tls.key",
    );
    let started = || chaos::docker(&["inspect", "-f", "{{.State.StartedAt}}", &web.container()]).stdout;
    let before = started();
    let achieved = web.recover();
    assert_eq!(achieved["done"], serde_json::json!(["the web server read its files again"]), "{achieved}");
    assert_eq!(started(), before, "no connection was ended");
    let again = web.recover();
    assert_eq!(again["done"], serde_json::json!([]), "{again}");
}

#[test]
fn a_stopped_web_server_is_started_and_stopped_again_by_a_rollback() {
    let Some(web) = Web::open("a_stopped_web_server_is_started_and_stopped_again_by_a_rollback") else { return };
    chaos::kill(web.stack(), "nginx");
    web.recover();
    web.bench.roll_back();
    assert_eq!(web.bench.status(), None);
}

#[test]
fn what_is_behind_the_web_server_is_not_mended_here() {
    let Some(web) = Web::open("what_is_behind_the_web_server_is_not_mended_here") else { return };
    chaos::compose(web.stack(), &["stop", "app"]);
    let refused = web.bench.run(&["recover", "nginx", "--yes"]);
    let undone = web.bench.run(&["rollback", "--yes"]);
    chaos::compose(web.stack(), &["start", "app"]);
    assert_eq!(code(&refused), 6, "{}", shown(&refused));
    assert!(shown(&refused).contains("recover application"), "{}", shown(&refused));
    assert_eq!(code(&undone), 0, "{}", shown(&undone));
}
