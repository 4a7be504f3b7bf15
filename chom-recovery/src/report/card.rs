//! The quick-reference card: what to type, whom to call and where things are, without looking anything up.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::system::System;

/// A card to print and keep where it can be read when nothing works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// System.
    pub system: String,
    /// Compose project.
    pub project: String,
    /// Recovery time objective of the database, for people.
    pub rto: String,
    /// Recovery point objective of the database.
    pub rpo: String,
    /// What to type, in the order in which it is needed.
    pub commands: Vec<CardLine>,
    /// Where things are.
    pub places: Vec<CardLine>,
    /// Whom to call.
    pub contacts: Vec<CardLine>,
}

/// A line of the card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardLine {
    /// What it is for.
    pub what: String,
    /// What to type, or where it is, or whom to call.
    pub text: String,
}

fn line(what: impl Into<String>, text: impl Into<String>) -> CardLine {
    CardLine { what: what.into(), text: text.into() }
}

/// Makes the card of a system whose configuration lies in `file`.
pub fn card(system: &System, file: &Path, engine_address: &str) -> Card {
    let command = |rest: &str| format!("chom-recovery {rest}").trim_end().to_owned();
    let project = &system.compose.project;
    let commands = vec![
        line("what is wrong, and what next", command("")),
        line("why", command("diagnose")),
        line("what a recovery would do", command("plan recover database")),
        line("recover the database", command("recover database --latest")),
        line("the backup before the newest", command("recover database --previous")),
        line("go on after a crash", command("resume")),
        line("put back what was there before", command("rollback")),
        line("what happened", command("runs show")),
        line("keep users out, let them in", command("maintenance on|off")),
        line("is it well now", command("health --mode post-recovery")),
        line("why it fails or hangs", command("troubleshoot restore|hang|start|permissions|application")),
        line("end a recovery", command("close")),
        line("backups", command("backup list")),
        line("take one", command("backup create")),
        line(
            "on a machine that has nothing",
            command(&format!(
                "config recover --from {} --signer {} --identity FILE",
                system.repository.copy.as_ref().map_or(&system.repository.url, |copy| &copy.url),
                system.repository.signers.first().map_or("HEX", String::as_str)
            )),
        ),
    ];
    let database = &system.database;
    let mut places = vec![
        line("configuration", file.display().to_string()),
        line("Engine", engine_address),
        line("Compose project", project.as_str()),
        line("database", format!("service {}, data in {}", database.service, database.data_dir)),
        line("database password", database.password.to_string()),
        line(
            "application",
            format!("service {}, in front of it {}", system.application.service, system.application.web_service),
        ),
        line("writers, stopped for a swap", system.writers().join(", ")),
        line("backups", system.repository.url.as_str()),
        line("journals and keys", system.state_dir().display().to_string()),
    ];
    if !system.repository.signers.is_empty() {
        places.push(line("backups are signed by", system.repository.signers.join(", ")));
    }
    places.extend(system.repository.copy.iter().map(|copy| line("their copy", copy.url.as_str())));
    places.extend(system.application.logs.iter().map(|log| line("log", log.as_str())));
    places.extend(system.http.iter().map(|http| line(format!("check {}", http.name), http.url.as_str())));
    let contacts = system
        .contacts
        .iter()
        .map(|c| {
            let when = c.when.as_ref().map_or_else(String::new, |when| format!(" ({when})"));
            line(c.role.as_str(), format!("{}{when}", c.reach))
        })
        .collect();
    let objective = system.objectives.database;
    Card {
        system: system.id.to_string(),
        project: project.clone(),
        rto: format!("{} min", objective.rto.as_secs() / 60),
        rpo: format!("{} min", objective.rpo.as_secs() / 60),
        commands,
        places,
        contacts,
    }
}
