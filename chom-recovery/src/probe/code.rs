//! Whether the application's code can be parsed, its environment file read, and its own login to the database works.
//!
//! Two commands in the application's container, neither of which changes anything: PHP's own parser over every file, and
//! `artisan migrate:status`, which boots the application as it is and reads one table with the application's account.
//! What they print is classed, never shown: it may hold values of the environment file.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;

use super::{
    Class, Health, HealthProbe,
    logs::{Topic, topic},
    net,
};
use crate::{
    backend::{Backend, BackendExt, ExecRequest, ExecResult},
    system::{Maintenance, System},
};

/// How long one of the commands may take.
const COMMAND: Duration = Duration::from_secs(12);

/// Parses every PHP file below the folder, and names those that cannot be parsed, by file and line alone.
const PARSE: &str = r"
$root = rtrim($argv[1], '/'); $checked = 0; $broken = [];
$wanted = static fn ($f) => !($f->isDir() && in_array($f->getFilename(), ['vendor', 'node_modules', 'storage'], true));
$tree = new RecursiveDirectoryIterator($root, FilesystemIterator::SKIP_DOTS);
$files = new RecursiveIteratorIterator(new RecursiveCallbackFilterIterator($tree, $wanted),
    RecursiveIteratorIterator::LEAVES_ONLY, RecursiveIteratorIterator::CATCH_GET_CHILD);
foreach ($files as $f) {
    if ($f->getExtension() !== 'php' || $f->getSize() > 2000000 || $checked >= 5000) { continue; }
    $checked++;
    try { token_get_all((string) @file_get_contents($f->getPathname()), TOKEN_PARSE); }
    catch (ParseError $e) { $broken[] = substr($f->getPathname(), strlen($root) + 1) . ':' . $e->getLine(); }
}
echo json_encode(['checked' => $checked, 'broken' => array_slice($broken, 0, 20)]);
";

/// Asks whether the application's code and configuration are usable.
#[derive(Debug)]
pub struct CodeProbe {
    backend: Arc<dyn Backend>,
    service: String,
    directory: String,
    user: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Parsed {
    checked: u64,
    broken: Vec<String>,
}

impl CodeProbe {
    /// Makes the probe `code`; `None`: where the code lies is not known.
    pub fn of(system: &System, backend: Arc<dyn Backend>) -> Option<Self> {
        let Maintenance::Laravel { directory, user, .. } = &system.application.maintenance else { return None };
        Some(Self {
            backend,
            service: system.application.service.clone(),
            directory: directory.trim_end_matches('/').to_owned(),
            user: user.clone(),
        })
    }

    async fn ask(&self) -> Health {
        let container = match net::running(&self.backend, &self.service).await {
            Ok(container) => container.name,
            // That it does not run is told by the probe of its container.
            Err(why) => return Health::inconclusive(why.summary).class(Class::NotRunning),
        };
        let artisan = format!("{}/artisan", self.directory);
        let parse = ["php", "-r", PARSE, &self.directory];
        let boot = ["php", &artisan, "migrate:status", "--no-interaction", "--no-ansi"];
        let (parsed, booted) = tokio::join!(self.run(&container, &parse), self.run(&container, &boot));
        let parsed = parsed.and_then(|result| {
            serde_json::from_slice::<Parsed>(&result.stdout)
                .map_err(|_| Health::inconclusive("PHP's parser did not tell what it found"))
        });
        judge(parsed, booted)
    }

    async fn run(&self, container: &str, argv: &[&str]) -> Result<ExecResult, Health> {
        let mut request = ExecRequest::new(argv.iter().copied());
        request.user.clone_from(&self.user);
        self.backend
            .run(container, request, COMMAND)
            .await
            .map_err(|error| Health::inconclusive(format!("`{}` could not be run: {error}", argv[0])))
    }
}

#[async_trait]
impl HealthProbe for CodeProbe {
    fn name(&self) -> &'static str {
        "code"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, self.ask()).await.fact("service", &self.service)
    }
}

fn judge(parsed: Result<Parsed, Health>, booted: Result<ExecResult, Health>) -> Health {
    if let Ok(found) = &parsed
        && !found.broken.is_empty()
    {
        let some = found.broken.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        return Health::down(format!("{} files cannot be parsed: {some}", found.broken.len()))
            .class(Class::Syntax)
            .fact("files", found.broken.join(", "));
    }
    let booted = match booted {
        Ok(booted) => booted,
        Err(why) => return why,
    };
    if booted.exit_code != 0 {
        return refused(&booted);
    }
    match parsed {
        Ok(found) => Health::healthy(format!("{} files can be parsed, and the application boots", found.checked))
            .class(Class::Ok),
        Err(why) => why,
    }
}

/// Tells what an application that did not boot complained of.
fn refused(booted: &ExecResult) -> Health {
    let said = [&booted.stdout, &booted.stderr].map(|b| String::from_utf8_lossy(b).into_owned()).concat();
    match topic(&said) {
        Topic::Syntax => Health::down("the application does not boot: its code cannot be parsed").class(Class::Syntax),
        Topic::Environment => {
            Health::down("the application does not boot: its environment file cannot be used").class(Class::Environment)
        }
        Topic::Authentication => {
            Health::down("the application boots, and the database refuses its account").class(Class::Authentication)
        }
        Topic::DatabaseUnreachable => {
            Health::degraded("the application boots, and does not reach its database").class(Class::Unreachable)
        }
        other => Health::degraded(format!("`artisan migrate:status` ended with {}: {other}", booted.exit_code))
            .class(Class::Errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    fn ended(exit_code: i64, said: &str) -> ExecResult {
        ExecResult { exit_code, stdout: said.to_owned().into(), stderr: bytes::Bytes::new() }
    }

    fn parsed(broken: &[&str]) -> Result<Parsed, Health> {
        Ok(Parsed { checked: 9, broken: broken.iter().map(|f| (*f).to_owned()).collect() })
    }

    #[test]
    fn what_the_application_complains_of_is_classed_and_not_shown() {
        for (said, class) in [
            ("In Connection.php line 829:\n  SQLSTATE[HY000] [1045] Access denied for user 'x'", Class::Authentication),
            (
                "The environment file is invalid!\nFailed to parse dotenv file. Encountered ... [hunter2]",
                Class::Environment,
            ),
            ("PHP Parse error:  syntax error, unexpected token \"}\" in /srv/x.php on line 3", Class::Syntax),
            ("SQLSTATE[HY000] [2002] Connection refused", Class::Unreachable),
            ("Migration table not found.", Class::Errors),
        ] {
            let health = judge(parsed(&[]), Ok(ended(1, said)));
            assert_eq!(health.class_of(), Some(class), "{said}");
            assert!(!format!("{health:?}").contains("hunter2"));
        }
    }

    #[test]
    fn broken_files_come_first_and_what_could_not_be_asked_is_not_healthy() {
        let health = judge(parsed(&["app/A.php:3"]), Ok(ended(1, "[1045]")));
        assert_eq!((health.status, health.class_of()), (Status::Down, Some(Class::Syntax)));
        assert!(health.summary.contains("app/A.php:3"));
        assert_eq!(judge(parsed(&[]), Ok(ended(0, ""))).status, Status::Healthy);
        let silent = || Health::inconclusive("as told");
        assert_eq!(judge(Err(silent()), Ok(ended(0, ""))).status, Status::Inconclusive);
        assert_eq!(judge(parsed(&[]), Err(silent())).status, Status::Inconclusive);
    }
}
