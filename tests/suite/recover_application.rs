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
        for entry in std::fs::read_dir(self.stack().site.join("app/bootstrap/cache")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("config.php") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
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
    // Else the plan is of containers that are not ready yet, and does not fit once they are.
    chaos::up(site.stack(), &[]);
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

/// An environment file that holds the application's password itself, as most do.
fn with_password(site: &Code, password: &str) -> String {
    let said = format!("DB_PASSWORD={password}");
    let lines =
        site.environment.lines().map(|line| if line.starts_with("DB_PASSWORD_FILE=") { said.as_str() } else { line });
    format!("{}\n", lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_login_that_the_database_refuses_comes_from_the_newest_backup_that_is_let_in() {
    let Some(site) = Code::open("a_login_that_the_database_refuses_comes_from_the_newest_backup_that_is_let_in") else {
        return;
    };
    let stack = site.stack();
    site.bench.configure(&format!(
        "[synthetic]\nurl = \"{}\"\nuser = \"{}\"\npassword = {{ file = \"{}\" }}\nca_file = \"{}\"\n\
         connect_to = \"127.0.0.1:{}\"\nupload = \"/api/upload\"\n",
        stack.url,
        "synthetic@example.test",
        stack.site.join("secrets/synthetic_password").display(),
        stack.ca.display(),
        stack.port,
    ));
    let password = std::fs::read_to_string(stack.site.join("secrets/db_app_password")).unwrap();
    let good = with_password(&site, password.trim());
    site.configure(&good);
    assert!(site.bench.is_served_in_time());
    let back_up = || assert_eq!(code(&site.bench.run(&["backup", "create", "--component", "config"])), 0);
    back_up();
    let broken = with_password(&site, "Hunter2-Hunter3");
    site.configure(&broken);
    assert_ne!(site.bench.status().as_deref(), Some("200"));
    // It is backed up as well: the newest backup does not log in.
    back_up();
    let (_, diagnosed) = site.bench.query(&["--json", "diagnose"]);
    let first = &diagnosed["diagnoses"][0];
    assert_eq!(first["cause"], "application-credentials", "{diagnosed}");
    assert_eq!(first["command"], "chom-recovery recover application", "{diagnosed}");

    let achieved = site.recover();
    let text = achieved.to_string();
    assert!(text.contains("the database refuses the application's account"), "{text}");
    assert!(text.contains(": `DB_PASSWORD` set\"") && text.contains("a newer backup would not do"), "{text}");
    assert!(!text.contains("Hunter") && !text.contains(password.trim()), "{text}");
    assert_eq!(std::fs::read_to_string(environment(stack)).unwrap(), good);
    let state = site.bench.folder().join("state");
    assert!(!holds(&state, "Hunter2") && !holds(&state, password.trim()), "no value in the journal");
    for proof in ["until-synthetic-user", "until-signs-of-life"] {
        assert!(holds(&state, &format!("application/{proof}")), "{proof} belongs to the proof");
    }

    site.bench.roll_back();
    assert_eq!(std::fs::read_to_string(environment(stack)).unwrap(), broken, "exactly what was there");
    assert_ne!(site.bench.status().as_deref(), Some("200"));
}

#[test]
fn a_cached_login_that_the_database_refuses_is_set_aside_where_the_file_has_the_right_one() {
    let test = "a_cached_login_that_the_database_refuses_is_set_aside_where_the_file_has_the_right_one";
    let Some(site) = Code::open(test) else { return };
    let password = std::fs::read_to_string(site.stack().site.join("secrets/db_app_password")).unwrap();
    let good = with_password(&site, password.trim());
    site.configure(&with_password(&site, "Hunter2-Hunter3"));
    chaos::compose(site.stack(), &["exec", "-T", "app", "php", "artisan", "config:cache"]);
    site.configure(&good);
    // Younger than the file: its age does not give it away.
    let cache = site.stack().site.join("app/bootstrap/cache/config.php");
    std::fs::File::options().append(true).open(&cache).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    assert_ne!(site.bench.status().as_deref(), Some("200"));
    let achieved = site.recover();
    assert!(achieved["found"].to_string().contains("is not what the environment file says"), "{achieved}");
    assert!(achieved["done"].to_string().contains("cached configuration"), "{achieved}");
    assert!(!cache.exists() && std::fs::read_to_string(environment(site.stack())).unwrap() == good);
    site.bench.roll_back();
    assert!(cache.exists(), "exactly what was there");
}

/// Ids of the images that the application's services have.
fn images(site: &Code) -> Vec<String> {
    let id = |service: &str| {
        let container = format!("{}-{service}-1", site.stack().project);
        site.bench.docker(&["inspect", "--format", "{{.Image}}", &container])
    };
    ["app", "queue", "scheduler"].map(id).into()
}

#[test]
fn services_are_put_back_on_the_images_that_a_backup_recorded() {
    let Some(site) = Code::open("services_are_put_back_on_the_images_that_a_backup_recorded") else { return };
    let project = &site.stack().project;
    let (released, good) = (format!("{project}-broken:2"), images(&site));
    site.bench.docker(&["commit", "--change", "ENTRYPOINT [\"false\"]", &format!("{project}-app-1"), &released]);
    std::fs::write(environment(site.stack()), format!("{}APP_IMAGE={released}\n", site.environment)).unwrap();
    chaos::compose(site.stack(), &["up", "-d", "--no-deps", "app", "queue", "scheduler"]);
    let bad = images(&site);
    assert!(good.iter().zip(&bad).all(|(good, bad)| good != bad), "{good:?} {bad:?}");
    assert_ne!(site.bench.status().as_deref(), Some("200"));

    // Nothing is put back unasked; it is said what is wrong, and what mends it.
    let failed = site.bench.run(&["recover", "application", "--yes"]);
    assert_eq!(code(&failed), 4, "{}", shown(&failed));
    assert!(shown(&failed).contains("recover application --method image"), "{}", shown(&failed));
    site.bench.roll_back();
    assert_eq!(images(&site), bad);

    let planned = site.bench.run(&["plan", "recover", "application", "--method", "image"]);
    assert_eq!(code(&planned), 0, "{}", shown(&planned));
    assert!(shown(&planned).contains("application/images/replace"), "{}", shown(&planned));
    let achieved = site.bench.recover(&["application", "--method", "image"], "application/images/replace");
    let text = achieved.to_string();
    assert!(text.contains(&good[0]) && text.contains(&bad[0]) && text.contains("docker compose up"), "{text}");
    assert_eq!(images(&site), good);
    let again = site.bench.run(&["plan", "recover", "application", "--method", "image"]);
    assert_eq!(code(&again), 6, "{}", shown(&again));
    assert!(shown(&again).contains("runs on the image that backup"), "{}", shown(&again));

    site.bench.roll_back();
    assert_eq!(images(&site), bad);
    assert_ne!(site.bench.status().as_deref(), Some("200"));
    drop(site);
    chaos::docker(&["rmi", "--force", &released]);
}

/// Tells whether a file, or a file below a folder, holds a text.
fn holds(path: &std::path::Path, text: &str) -> bool {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().flatten().any(|entry| holds(&entry.path(), text));
    }
    std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}
