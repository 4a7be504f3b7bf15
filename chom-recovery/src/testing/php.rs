//! PHP and an application of Laravel in the simulated world: as much of both as recoveries ask for.
//!
//! Code is files in a mount of the container; what has no mount lies in its image, and is whole. PHP can read a file that
//! closes each brace it opens. The application boots when PHP can read every file and its settings can be used: those of the
//! cached configuration, where there is one, else those of the environment file.

use std::{io, path::Path};

use bytes::Bytes;
use serde_json::json;

use super::{
    database::text,
    sim::{SimBackend, SimCommand, SimLife, SimStart},
    tree,
};
use crate::{
    backend::{ExecResult, HealthCheck},
    environment::{Environment, KEY},
    troubleshoot::CACHE,
};

/// Image of the application and its workers.
pub const IMAGE: &str = "php";

/// What `artisan schedule:list` prints.
const SCHEDULE: &str = "  * * * * *  php artisan report:send ..... Next Due: 1 minute from now\n";

/// Registers PHP at a backend.
pub(super) fn register(backend: &SimBackend) {
    backend.program(IMAGE, |start| {
        if start.argv.first().is_some_and(|program| program == "find") {
            return lint(start);
        }
        let is_ours = start.container.service.is_empty();
        SimLife::Runs(if is_ours { HealthCheck::Absent } else { HealthCheck::Healthy })
    });
    backend.command("php", async |command: SimCommand| Ok(run(&command)?));
}

/// Says why an application in a folder of this host does not boot; `None`: it does.
pub(super) fn fault(folder: &Path) -> io::Result<Option<String>> {
    if !folder.exists() {
        return Ok(None);
    }
    let code = tree::read(folder)?;
    if let Some(file) = code.iter().find_map(|(name, text)| (is_php(name) && !is_whole(text)).then_some(name)) {
        return Ok(Some(format!("PHP Parse error:  syntax error, unexpected end of file in {file}")));
    }
    let settings = match text(&folder.join(CACHE))? {
        None => text(&folder.join(".env"))?,
        cached => cached,
    };
    let settings = Environment::read(&settings.unwrap_or_default());
    Ok(if !settings.unreadable().is_empty() {
        Some("The environment file is invalid!".into())
    } else if !settings.has(KEY) || settings.key_fault().is_some() {
        Some("No application encryption key has been specified.".into())
    } else {
        None
    })
}

fn is_php(name: &str) -> bool {
    name.ends_with(".php") && !["vendor", "node_modules", "storage"].iter().any(|of| name.split('/').any(|d| d == *of))
}

fn is_whole(text: &str) -> bool {
    text.matches('{').count() == text.matches('}').count()
}

/// `find FOLDER -path PATTERN -prune -o … -exec php -l {} ;`
fn lint(start: &mut SimStart) -> SimLife {
    let at = start.argv.get(1).cloned().unwrap_or_default();
    let pruned: Vec<String> = start.argv.windows(2).filter(|w| w[0] == "-path").map(|w| w[1].clone()).collect();
    let is_pruned = |path: &str| {
        Path::new(path).ancestors().any(|above| {
            let above = above.to_string_lossy();
            pruned.iter().any(|pattern| match pattern.strip_prefix('*') {
                Some(end) => above.ends_with(end),
                None => *above == **pattern,
            })
        })
    };
    let Ok(code) = tree::read(&start.path(&at)) else {
        start.print(format!("find: '{at}': No such file or directory"), true);
        return SimLife::Ends(1);
    };
    for (name, text) in code.iter().filter(|(name, _)| name.ends_with(".php")) {
        let path = format!("{at}/{name}");
        if is_pruned(&path) {
            continue;
        }
        let says = if is_whole(text) { "No syntax errors detected in" } else { "Errors parsing" };
        start.print(format!("{says} {path}"), false);
    }
    SimLife::Ends(0)
}

fn run(command: &SimCommand) -> io::Result<ExecResult> {
    let argument = |at: usize| command.argv.get(at).map_or("", String::as_str);
    if argument(1) == "-r" {
        let folder = command.path(argument(3));
        let code = if folder.exists() { tree::read(&folder)? } else { tree::Tree::new() };
        let code: Vec<_> = code.iter().filter(|(name, _)| is_php(name)).collect();
        let broken: Vec<_> =
            code.iter().filter(|(_, text)| !is_whole(text)).map(|(name, _)| format!("{name}:1")).collect();
        return Ok(ended(0, json!({ "checked": code.len(), "broken": broken }).to_string()));
    }
    let Some(folder) = argument(1).strip_suffix("/artisan") else {
        return Ok(ended(1, format!("Could not open input file: {}", argument(1))));
    };
    Ok(match (fault(&command.path(folder))?, argument(2)) {
        (Some(fault), _) => ended(255, fault),
        (None, "schedule:list") => ended(0, SCHEDULE.to_owned()),
        (None, _) => ended(0, String::new()),
    })
}

fn ended(exit_code: i64, said: String) -> ExecResult {
    ExecResult { exit_code, stdout: Bytes::from(said), stderr: Bytes::new() }
}
