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
    environment: String,
}

impl Code {
    fn open(test: &str) -> Option<Self> {
        let bench = Bench::open(test)?;
        let path = bench.folder().join("chom-recovery.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let drafted = "environment = { component = \"config\", path = \".env\" }";
        assert!(text.contains(drafted), "the draft finds the environment file: {text}");
        let proven = drafted.replace(" }", ", encrypted = \"chom.users.phone\" }");
        let text = text.replacen("[application]\n", "[application]\nsoak = \"3s\"\n", 1).replace(drafted, &proven);
        std::fs::write(&path, text).unwrap();
        for component in ["app", "config"] {
            let created = bench.run(&["backup", "create", "--component", component]);
            assert_eq!(code(&created), 0, "{created:?}");
        }
        let routes = std::fs::read(file(bench.stack())).unwrap();
        let environment = std::fs::read_to_string(environment(bench.stack())).unwrap();
        Some(Self { bench, routes, environment })
    }

    fn stack(&self) -> &Stack {
        self.bench.stack()
    }

    /// Writes another environment file, and lets the application start with it.
    fn configure(&self, text: &str) {
        // In place: the containers hold this very file.
        std::fs::write(environment(self.stack()), text).unwrap();
        chaos::compose(self.stack(), &["restart", "app", "queue"]);
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
        std::fs::write(environment(self.stack()), &self.environment).unwrap();
        chaos::up(self.stack(), &[]);
        chaos::compose(self.stack(), &["restart", "app", "queue", "scheduler"]);
        self.bench.run(&["runs", "prune", "--older-than", "0", "--yes"]);
        if !self.bench.is_served_in_time() {
            eprintln!("the application does not serve after the test");
        }
    }
}

fn file(stack: &Stack) -> PathBuf {
    stack.site.join("app/routes/web.php")
}

fn environment(stack: &Stack) -> PathBuf {
    stack.site.join(".env")
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
fn an_application_that_hangs_is_started_anew() {
    let Some(site) = Code::open("an_application_that_hangs_is_started_anew") else { return };
    let stop = "for p in /proc/[0-9]*; do id=${p#/proc/}; [ $id -gt 1 ] || continue; \
                case \"$(cat $p/comm 2>/dev/null)\" in php-fpm*) kill -s STOP $id;; esac; done";
    chaos::shell(site.stack(), "app", stop);
    assert_ne!(site.bench.status().as_deref(), Some("200"));
    let achieved = site.recover();
    assert!(achieved["found"].to_string().contains("php-fpm took the request"), "{achieved}");
    assert!(achieved["done"].to_string().contains("started anew"), "{achieved}");
    site.bench.roll_back();
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

#[test]
fn a_broken_environment_file_is_mended_key_by_key_and_is_back_after_a_rollback() {
    let Some(site) = Code::open("a_broken_environment_file_is_mended_key_by_key_and_is_back_after_a_rollback") else {
        return;
    };
    let kept: Vec<&str> = site.environment.lines().filter(|line| !line.starts_with("DB_HOST=")).collect();
    let broken = format!("{}\nAPP_TITLE=hunter2 hunter3\nDB_HOST=\nMAIL_FROM=\"A newer setting\"\n", kept.join("\n"));
    site.configure(&broken);
    assert_ne!(site.bench.status().as_deref(), Some("200"));
    let (_, diagnosed) = site.bench.query(&["--json", "diagnose"]);
    assert!(diagnosed.to_string().contains("recover application"), "{diagnosed}");
    // It is backed up as well: the newest backup does not pass.
    let created = site.bench.run(&["backup", "create", "--component", "config"]);
    assert_eq!(code(&created), 0, "{created:?}");

    let achieved = site.recover();
    let text = achieved.to_string();
    assert!(text.contains("`APP_TITLE` taken out") && text.contains("`DB_HOST` set"), "{text}");
    assert!(text.contains("a newer backup would not do") && !text.contains("hunter"), "{text}");
    assert!(text.contains("APP_KEY opens what the database holds"), "{text}");
    let mended = std::fs::read_to_string(environment(site.stack())).unwrap();
    assert!(
        mended.contains("MAIL_FROM=\"A newer setting\"") && mended.contains("DB_HOST=mysql"),
        "nothing else changes"
    );
    let journal = std::fs::read_dir(site.bench.folder().join("state")).unwrap();
    assert!(journal.flatten().all(|entry| !holds(&entry.path(), "hunter2")), "no value in the journal");

    site.bench.roll_back();
    assert_eq!(std::fs::read_to_string(environment(site.stack())).unwrap(), broken, "exactly what was there");
}

#[test]
fn a_key_that_opens_nothing_is_replaced_by_the_one_that_does() {
    let Some(site) = Code::open("a_key_that_opens_nothing_is_replaced_by_the_one_that_does") else { return };
    let other = "APP_KEY=base64:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let lines: Vec<&str> =
        site.environment.lines().map(|line| if line.starts_with("APP_KEY=") { other } else { line }).collect();
    site.configure(&format!("{}\n", lines.join("\n")));
    let achieved = site.recover();
    assert!(achieved["done"].to_string().contains("`APP_KEY` set"), "{achieved}");
    assert_eq!(std::fs::read_to_string(environment(site.stack())).unwrap(), site.environment);
}

#[test]
fn a_service_that_runs_with_a_broken_copy_is_started_with_the_file_as_it_is() {
    let Some(site) = Code::open("a_service_that_runs_with_a_broken_copy_is_started_with_the_file_as_it_is") else {
        return;
    };
    chaos::shell(site.stack(), "app", "printf 'APP_TITLE=two words\\n' >>/run/chom/app.env");
    assert_ne!(site.bench.status().as_deref(), Some("200"));
    let achieved = site.recover();
    assert!(achieved["found"].to_string().contains("a broken copy of the environment file"), "{achieved}");
    assert_eq!(std::fs::read_to_string(environment(site.stack())).unwrap(), site.environment, "the file is as it was");
    site.bench.roll_back();
}

#[test]
fn what_is_named_is_replaced_as_planned_though_nothing_is_broken() {
    let Some(site) = Code::open("what_is_named_is_replaced_as_planned_though_nothing_is_broken") else { return };
    let newer = format!("{}MAIL_FROM=\"A newer setting\"\n", site.environment);
    site.configure(&newer);
    let plan = site.bench.folder().join("plan.json");
    let plan = plan.to_str().unwrap();
    let planned = site.bench.run(&["plan", "recover", "application", "--method", "config", "-o", plan]);
    assert_eq!(code(&planned), 0, "{}", shown(&planned));
    assert!(shown(&planned).contains("application/environment/exchange"), "{}", shown(&planned));
    let achieved = site.bench.recover(&["application", "--plan", plan], "application/look");
    assert!(achieved["done"].to_string().contains("`MAIL_FROM` taken out"), "{achieved}");
    assert_eq!(std::fs::read_to_string(environment(site.stack())).unwrap(), site.environment);
    site.bench.roll_back();
    assert_eq!(std::fs::read_to_string(environment(site.stack())).unwrap(), newer);
    assert_eq!(site.bench.status().as_deref(), Some("200"));
}

/// Tells whether a file, or a file below a folder, holds a text.
fn holds(path: &std::path::Path, text: &str) -> bool {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().flatten().any(|entry| holds(&entry.path(), text));
    }
    std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}
