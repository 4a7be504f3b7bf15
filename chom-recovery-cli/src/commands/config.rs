//! `config`: drafts, tries and shows the configuration.

use std::sync::Arc;

use chom_recovery::{
    Error, ErrorKind, Result,
    backend::{
        Backend,
        docker::{DockerBackend, DockerOptions},
    },
    configuration::{CheckReport, DraftRequest, RecallRequest, Verdict, check, draft, recall},
    secret::SecretSource,
    system::{Compose, SystemId},
};
use comfy_table::{Cell, Color};
use serde_json::json;

use crate::{
    args::{Config, ConfigInit, ConfigRecover},
    exit::Exit,
    human,
    output::Output,
    session::Session,
};

pub(crate) async fn run(session: &Session, command: Config) -> Result<Exit> {
    match command {
        Config::Init(options) => init(session, options).await,
        Config::Recover(options) => recover(session, options).await,
        Config::Check => {
            let system = session.system()?;
            session.output.terminal.begin("trying everything");
            let report = check(&system).await;
            session.output.terminal.end();
            session.output.show("config_check", &report, |output| print_check(output, &report));
            Ok(report.into_result().err().map_or(Exit::Ok, |error| error.kind().into()))
        }
        Config::Show => show(session),
    }
}

async fn init(session: &Session, options: ConfigInit) -> Result<Exit> {
    let mut compose = Compose { project: options.project, ..Compose::default() };
    session.choose_engine(&mut compose);
    let backend: Arc<dyn Backend> = Arc::new(DockerBackend::connect(&compose, DockerOptions::default()).await?);
    let request = DraftRequest {
        compose,
        repository: options.repository,
        state_dir: options.state_dir,
        database_password_file: options.database_password_file,
        url: options.url,
        ca_file: options.ca_file,
        connect_to: options.connect_to,
    };
    let draft = draft(&backend, &request).await?;
    draft.write(&options.output)?;
    let found = json!({ "file": options.output, "guessed": draft.guessed, "missing": draft.missing });
    session.output.show("config_draft", &found, |output| {
        let palette = output.talk_palette();
        output.line(options.output.display());
        for line in &draft.guessed {
            output.say(format!("guessed  {line}"));
        }
        for line in &draft.missing {
            output.say(format!("{} {line}", palette.yellow("FILL IN ")));
        }
        output.say(format!(
            "next: look it through, then chom-recovery --config {} config check",
            options.output.display()
        ));
    });
    Ok(Exit::Ok)
}

async fn recover(session: &Session, options: ConfigRecover) -> Result<Exit> {
    let request = RecallRequest {
        store: options.from.as_str().into(),
        signers: options.signers,
        // The file has to be found from everywhere later on.
        identity: absolute(session.identity())?,
        system: options.system.map(SystemId::try_from).transpose()?,
        state_dir: options.state_dir,
    };
    let recalled = recall(&request).await?;
    recalled.write(&options.output)?;
    let found = json!({ "file": options.output, "recalled": recalled });
    session.output.show("config_recovered", &found, |output| {
        output.line(options.output.display());
        output.say(format!(
            "of system {}, from backup {}, data of {}",
            recalled.system,
            recalled.backup,
            human::time(recalled.point)
        ));
        let trees = recalled.components.join(", ");
        output
            .say(format!("next: restore the files ({trees}), start the project, recover the database: see the README"));
    });
    Ok(Exit::Ok)
}

fn absolute(sources: Vec<SecretSource>) -> Result<Vec<SecretSource>> {
    let absolute = |source| match source {
        SecretSource::File(path) => Ok(SecretSource::File(std::path::absolute(path)?)),
        other => Ok(other),
    };
    sources.into_iter().map(absolute).collect()
}

fn show(session: &Session) -> Result<Exit> {
    let (path, system) = (session.config_path()?, session.system()?);
    let text = toml::to_string(&system)
        .map_err(|e| Error::new(ErrorKind::Failed, "the configuration cannot be written as TOML").caused_by(e))?;
    session.output.show("config", &json!({ "file": path, "system": system }), |output| {
        output.line(format!("# {}\n{}", path.display(), text.trim_end()));
    });
    Ok(Exit::Ok)
}

fn print_check(output: &Output, report: &CheckReport) {
    let mut table = output.table(&["", "WHAT", "SEEN"]);
    for line in &report.lines {
        let verdict = match line.verdict {
            Verdict::Ok => Cell::new("ok").fg(Color::Green),
            Verdict::Warning => Cell::new("warning").fg(Color::Yellow),
            Verdict::Skipped => Cell::new("skipped"),
            Verdict::Unhealthy => Cell::new("UNHEALTHY").fg(Color::Red),
            Verdict::Failed => Cell::new("FAILED").fg(Color::Red),
        };
        let hint = line.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
        table.add_row([verdict, Cell::new(&line.what), Cell::new(format!("{}{hint}", line.detail))]);
    }
    output.line(table.trim_fmt());
}
