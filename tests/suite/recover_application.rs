//! Recovery of the application on the reference stack: what broke is mended, proven from outside, and the broken state is
//! back after a rollback.

use std::path::PathBuf;

use chom_recovery_tests::{
    Stack, chaos,
    cli::{Bench, code, shown},
};
use serde_json::Value;

/// A bench with a backup of the code; what the test breaks is put right at its end.
struct Code {
    bench: Bench,
    routes: Vec<u8>,
}

impl Code {
    fn open(test: &str) -> Option<Self> {
        let bench = Bench::open(test)?;
        let path = bench.folder().join("chom-recovery.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("[application]\n", "[application]\nsoak = \"3s\"\n", 1)).unwrap();
        let created = bench.run(&["backup", "create", "--component", "app"]);
        assert_eq!(code(&created), 0, "{created:?}");
        let routes = std::fs::read(file(bench.stack())).unwrap();
        Some(Self { bench, routes })
    }

    fn stack(&self) -> &Stack {
        self.bench.stack()
    }

    /// Recovers; what the run achieved.
    fn recover(&self) -> Value {
        self.bench.recover(&["application"], "application/look")
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Else it would hold the lock of the Engine.
            self.bench.run(&["rollback", "--yes"]);
        }
        std::fs::write(file(self.stack()), &self.routes).unwrap();
        chaos::up(self.stack(), &[]);
        chaos::compose(self.stack(), &["restart", "app"]);
        self.bench.run(&["runs", "prune", "--older-than", "0", "--yes"]);
        if !self.bench.is_served_in_time() {
            eprintln!("the application does not serve after the test");
        }
    }
}

fn file(stack: &Stack) -> PathBuf {
    stack.site.join("app/routes/web.php")
}

#[test]
fn code_that_php_cannot_read_is_replaced_by_the_newest_that_it_can() {
    let Some(site) = Code::open("code_that_php_cannot_read_is_replaced_by_the_newest_that_it_can") else { return };
    let broken = [&site.routes[..], b"\nthis is no php (;\n"].concat();
    std::fs::write(file(site.stack()), &broken).unwrap();
    chaos::compose(site.stack(), &["restart", "app"]);
    assert_ne!(site.bench.status().as_deref(), Some("200"));
    // It is backed up as well: the newest backup does not pass.
    let created = site.bench.run(&["backup", "create", "--component", "app"]);
    assert_eq!(code(&created), 0, "{created:?}");
    let planned = site.bench.run(&["plan", "recover", "application"]);
    assert_eq!(code(&planned), 0, "{}", shown(&planned));
    assert!(shown(&planned).contains("application/code/swap-folders"), "{}", shown(&planned));

    let achieved = site.recover();
    let text = achieved.to_string();
    assert!(text.contains("Errors parsing routes/web.php") && text.contains("1 paths had another content"), "{text}");
    assert!(text.contains("a newer backup would not do"), "{text}");
    assert_eq!(std::fs::read(file(site.stack())).unwrap(), site.routes);

    site.bench.roll_back();
    assert_eq!(std::fs::read(file(site.stack())).unwrap(), broken, "exactly what was there");
    assert_ne!(site.bench.status().as_deref(), Some("200"));
}

#[test]
fn a_killed_application_is_started_and_stopped_again_by_a_rollback() {
    let Some(site) = Code::open("a_killed_application_is_started_and_stopped_again_by_a_rollback") else { return };
    chaos::kill(site.stack(), "app");
    assert_ne!(site.bench.status().as_deref(), Some("200"));
    let achieved = site.recover();
    assert!(achieved["found"].to_string().contains("exit code 137"), "{achieved}");
    site.bench.roll_back();
    assert_ne!(site.bench.status().as_deref(), Some("200"));
}

#[test]
fn a_database_that_is_down_is_not_mended_here() {
    let Some(site) = Code::open("a_database_that_is_down_is_not_mended_here") else { return };
    chaos::compose(site.stack(), &["stop", "mysql"]);
    let refused = site.bench.run(&["recover", "application", "--yes"]);
    let undone = site.bench.run(&["rollback", "--yes"]);
    chaos::up(site.stack(), &[]);
    assert_eq!(code(&refused), 6, "{}", shown(&refused));
    assert!(shown(&refused).contains("recover database"), "{}", shown(&refused));
    assert_eq!(code(&undone), 0, "{}", shown(&undone));
}
