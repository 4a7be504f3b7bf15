//! The text of a draft.

use std::{fmt::Write, path::Path};

use super::{look::Found, trees::TreePlace};
use crate::system::Compose;

/// Quotes a string for TOML.
fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

fn list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|i| quote(i)).collect::<Vec<_>>().join(", "))
}

/// Writes the file. Everything in it can be read back.
pub(super) fn write(compose: &Compose, found: &Found) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = compose_file(&mut out, compose, found);
    out
}

fn compose_file(out: &mut String, compose: &Compose, found: &Found) -> std::fmt::Result {
    writeln!(out, "# Drafted by `chom-recovery config init` from what ran. Look it through, then try it:")?;
    writeln!(out, "#   chom-recovery config check")?;
    if !found.missing.is_empty() {
        writeln!(out, "#\n# To be filled in:")?;
        for line in &found.missing {
            writeln!(out, "# - {line}")?;
        }
    }
    writeln!(
        out,
        "\n# Names the system in backups, journals and locks. Never change it: its backups would not be found."
    )?;
    writeln!(out, "id = {}", quote(&found.id))?;
    writeln!(out, "# Journals and keys. Not on the disk of the database: a full one would stop a recovery.")?;
    match &found.state_dir {
        Some(dir) => writeln!(out, "state_dir = {}", path(dir))?,
        None => writeln!(out, "# state_dir = \"/var/lib/chom-recovery\"")?,
    }
    writeln!(out, "\n[compose]\nproject = {}", quote(&compose.project))?;
    match (&compose.host, &compose.context) {
        (Some(host), _) => writeln!(out, "host = {}", quote(host))?,
        (None, Some(context)) => writeln!(out, "context = {}", quote(context))?,
        (None, None) => {
            writeln!(out, "# host = \"ssh://user@host\"   # else DOCKER_HOST, DOCKER_CONTEXT, local socket")?;
        }
    }
    database(out, found)?;
    application(out, found)?;
    nginx(out, found)?;
    redis(out, found)?;
    http(out, found)?;
    monitoring(out, found)?;
    performance(out)?;
    trees(out, found)?;
    writeln!(out, "\n[repository]\n# `chom-recovery repo init --pin` makes it and adds its keys.")?;
    writeln!(out, "url = {}", quote(&found.repository))?;
    writeln!(out, "\n[objectives]\n# Longest downtime, and largest loss, that the business tolerates.")?;
    writeln!(out, "database = {{ rto = \"30m\", rpo = \"15m\" }}\nbackup_age = \"24h\"")?;
    writeln!(out, "\n# Printed by `chom-recovery card`.")?;
    writeln!(out, "# [[contacts]]\n# role = \"DevOps Lead\"\n# reach = \"+00 000 0000\"\n# when = \"at once\"")
}

fn database(out: &mut String, found: &Found) -> std::fmt::Result {
    let database = &found.database;
    writeln!(out, "\n[database]\nservice = {}", quote(&database.service))?;
    writeln!(out, "# Reads everything, locks, creates accounts: root, or one with the same rights.")?;
    writeln!(out, "user = \"root\"\npassword = {{ file = {} }}", path(&database.password_file))?;
    writeln!(out, "data_dir = {}", quote(&database.data_dir))
}

fn application(out: &mut String, found: &Found) -> std::fmt::Result {
    let application = &found.application;
    writeln!(out, "\n[application]\nservice = {}", quote(&application.service))?;
    writeln!(out, "web_service = {}", quote(&application.web_service))?;
    writeln!(out, "# Every other service that writes to the database: they are stopped for a swap.")?;
    writeln!(out, "workers = {}", list(&application.workers))?;
    if let Some(directory) = &application.directory {
        writeln!(out, "logs = {}", list(&[format!("{directory}/storage/logs/laravel.log")]))?;
    }
    if application.has_php_fpm {
        writeln!(out, "# Asked directly, without the web server, by `diagnose`.")?;
        writeln!(out, "php_fpm = {{ port = 9000 }}")?;
    }
    match &application.environment {
        Some((component, file)) => {
            writeln!(out, "# Settings and keys; a column with values encrypted by the application proves its key:")?;
            writeln!(out, "#   environment = {{ ..., encrypted = \"schema.users.secret\" }}")?;
            writeln!(out, "environment = {{ component = {}, path = {} }}", quote(component), path(file))?;
        }
        None => writeln!(out, "# environment = {{ component = \"config\", path = \".env\" }}")?,
    }
    writeln!(out, "# Table and time column that tell what was written last: they measure what a restore loses.")?;
    writeln!(out, "# newest_row = [\"schema.audit_log.created_at\"]")?;
    match &application.directory {
        Some(directory) => {
            writeln!(out, "maintenance = {{ kind = \"laravel\", directory = {} }}", quote(directory))
        }
        None => writeln!(out, "maintenance = {{ kind = \"none\" }}"),
    }
}

/// Which of the components are the web server's, where they can be told.
fn nginx(out: &mut String, found: &Found) -> std::fmt::Result {
    let web = &found.application.web_service;
    let of_web = |place: &TreePlace| matches!(place, TreePlace::Mounted { service, .. } if service == web);
    let trees = || found.trees.iter().filter(|tree| tree.obstacle.is_none());
    let configuration = trees().find(|tree| tree.kind == "config" && of_web(&tree.place));
    let certificates = trees().find(|tree| tree.kind == "certificates");
    if configuration.is_none() && certificates.is_none() {
        return Ok(());
    }
    writeln!(out, "\n[nginx]\n# Components below that `recover nginx` takes good files from.")?;
    for (key, tree) in [("configuration", configuration), ("certificates", certificates)] {
        if let Some(tree) = tree {
            writeln!(out, "{key} = {}", quote(&tree.name))?;
        }
    }
    Ok(())
}

fn redis(out: &mut String, found: &Found) -> std::fmt::Result {
    let Some(redis) = &found.redis else { return Ok(()) };
    writeln!(out, "\n[redis]\nservice = {}", quote(&redis.service))?;
    writeln!(out, "database = {}\nprefix = {}", redis.database, quote(&redis.prefix))?;
    writeln!(out, "queues = {}", list(std::slice::from_ref(&redis.queue)))?;
    match &redis.heartbeat_key {
        Some(key) => writeln!(out, "heartbeat_key = {}", quote(key))?,
        None => writeln!(out, "# heartbeat_key = \"scheduler:heartbeat\"")?,
    }
    writeln!(out, "\n# What proves a single worker: `recover queue`, `recover scheduler`.\n[partial]")?;
    match &redis.queue_heartbeat_key {
        Some(key) => writeln!(out, "queue_heartbeat_key = {}", quote(key)),
        None => writeln!(out, "# queue_heartbeat_key = \"queue:heartbeat\""),
    }
}

fn performance(out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n# How far `recover performance` may go; a check is slow after its `slow_after`.\n[performance]")?;
    writeln!(out, "# Longer statements that only read may be ended, with approval; never those of these accounts.")?;
    writeln!(out, "long_statement = \"10s\"\nnever_end = []")?;
    writeln!(out, "# Most containers of a service that takes jobs.\nmost_workers = 3")
}

fn monitoring(out: &mut String, found: &Found) -> std::fmt::Result {
    let settings = &found.monitoring;
    writeln!(
        out,
        "\n# Asked after a recovery, and before it is closed. What is not named, a person has to vouch for."
    )?;
    // A key of a table has to stand below its head.
    writeln!(out, "{}[monitoring]", if settings.is_absent() { "# " } else { "" })?;
    match &settings.prometheus {
        Some(server) => {
            writeln!(out, "prometheus = {{ url = {} }}", quote(&server.url))?;
            writeln!(out, "# Jobs that have to be scraped, or job/instance.\ntargets = {}", list(&settings.targets))?;
        }
        None => {
            writeln!(out, "# prometheus = {{ url = \"http://127.0.0.1:9090\" }}\n# targets = [\"node\"]")?;
        }
    }
    match &settings.alertmanager {
        Some(server) => {
            writeln!(out, "alertmanager = {{ url = {} }}", quote(&server.url))?;
            writeln!(out, "# Matchers of this system's alerts; without them every alert is meant.")?;
        }
        None => writeln!(out, "# alertmanager = {{ url = \"http://127.0.0.1:9093\" }}")?,
    }
    writeln!(out, "# alerts = ['service=\"shop\"']")?;
    match &settings.loki {
        Some(server) => {
            writeln!(out, "loki = {{ url = {} }}\nlogs = {}", quote(&server.url), quote(&settings.logs))?;
        }
        None => {
            writeln!(out, "# loki = {{ url = \"http://127.0.0.1:3100\" }}\n# logs = '{{compose_project=\"shop\"}}'")?;
        }
    }
    writeln!(out, "\n# An account that stands for a user: it logs in and out.")?;
    writeln!(out, "# [synthetic]\n# url = \"https://example.org\"\n# user = \"synthetic@example.org\"")?;
    writeln!(out, "# password = {{ file = \"/etc/chom-recovery/synthetic\" }}\n# upload = \"/api/upload\"")
}

fn trees(out: &mut String, found: &Found) -> std::fmt::Result {
    if found.trees.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n# Files, backed up with the database. Those of the project hold secrets: encrypt the repository."
    )?;
    for tree in &found.trees {
        let mut block = String::new();
        writeln!(block, "[[components]]\nname = {}", quote(&tree.name))?;
        if tree.kind != "files" {
            writeln!(block, "kind = {}", quote(tree.kind))?;
        }
        match &tree.place {
            TreePlace::Volume(volume) => writeln!(block, "volume = {}", quote(volume))?,
            TreePlace::Path(folder) => writeln!(block, "path = {}", path(folder))?,
            TreePlace::Mounted { service, target } => {
                writeln!(block, "service = {}\npath = {}", quote(service), quote(target))?;
            }
            TreePlace::Redis => {}
        }
        if !tree.include.is_empty() {
            writeln!(block, "include = {}", list(&tree.include))?;
        }
        if !tree.exclude.is_empty() {
            writeln!(block, "exclude = {}", list(&tree.exclude))?;
        }
        if let Some(why) = tree.obstacle {
            writeln!(out, "\n# Only proposed: {why}.")?;
            block.lines().try_for_each(|line| writeln!(out, "# {line}"))?;
        } else {
            write!(out, "\n{block}")?;
        }
    }
    Ok(())
}

fn http(out: &mut String, found: &Found) -> std::fmt::Result {
    let Some(http) = &found.http else {
        return writeln!(out, "\n# [[http]]\n# name = \"health\"\n# url = \"https://example.org/health\"");
    };
    writeln!(out, "\n[[http]]\nname = \"health\"\nurl = {}", quote(&http.url))?;
    if let Some(file) = &http.ca_file {
        writeln!(out, "ca_file = {}", path(file))?;
    }
    if let Some(address) = &http.connect_to {
        writeln!(out, "connect_to = {}", quote(&address.to_string()))?;
    }
    writeln!(out, "\n# A second place to look from: it tells a host that is down from a network between.")?;
    writeln!(out, "# [[vantage]]\n# name = \"office\"\n# ssh = \"user@elsewhere\"")
}
