//! `repo`: the backup repository.

use std::path::Path;

use chom_recovery::{
    Error, ErrorKind, Recovery, Result,
    catalog::{Encryption, Identities, Recipient, Recipients},
    configuration::{pin_recipients, pin_signer},
    secret::SecretSource,
};
use serde_json::json;

use crate::{
    args::{EncryptionChoice, ReaderKeys, Repo},
    exit::Exit,
    session::Session,
};

pub(crate) async fn run(session: &Session, command: Repo) -> Result<Exit> {
    match command {
        Repo::Init { encryption, keys, pin } => init(session, encryption, keys, pin).await,
        Repo::InitCopy => init_copy(session).await,
        Repo::Recipients { keys, pin } => change_recipients(session, keys, pin).await,
    }
}

async fn init_copy(session: &Session) -> Result<Exit> {
    let system = session.system()?;
    let id = Recovery::init_copy(&system).await?;
    let url = system.repository.on_copy()?.url;
    session.output.show("repository", &json!({ "repository": id, "url": url }), |output| {
        output.line(format!("copy of repository {id} at {url}"));
        output.say("chom-recovery backup copy fills it");
    });
    Ok(Exit::Ok)
}

async fn init(session: &Session, choice: EncryptionChoice, keys: ReaderKeys, pin: bool) -> Result<Exit> {
    let encryption = match choice {
        EncryptionChoice::Age => {
            let (recipients, escrow) = read(keys).await?;
            Encryption::Age { recipients, escrow }
        }
        EncryptionChoice::None if keys.recipients.is_empty() => Encryption::None,
        EncryptionChoice::None => {
            return Err(Error::new(ErrorKind::InvalidInput, "`--encryption none` takes no recipients")
                .hint("write `--encryption age`"));
        }
    };
    let (path, system) = (session.config_path()?, session.system()?);
    let made = Recovery::create_repository(&system, encryption).await?;
    let is_pinned = pin && pin_all(&path, &made)?;
    let found = json!({
        "repository": made.repository,
        "signer": made.signer,
        "recipients": made.recipients,
        "url": system.repository.url,
        "pinned_in": is_pinned.then_some(&path),
    });
    session.output.show("repository", &found, |output| {
        output.line(format!("repository {} at {}", made.repository, system.repository.url));
        output.line(format!("signers = [\"{}\"]", made.signer));
        if !made.recipients.is_empty() {
            output.line(recipients_line(&made.recipients));
        }
        if is_pinned {
            output.say(format!("pinned in {}", path.display()));
        } else if !pin {
            output.say(format!("add that to [repository] in {}; without it no backup is trusted", path.display()));
        }
        output.say(match choice {
            EncryptionChoice::None => "the repository is not encrypted: whoever can read it can read the data",
            EncryptionChoice::Age => "the escrow identity opens what is written; keep it offline, it is not kept here",
        });
    });
    Ok(Exit::Ok)
}

async fn change_recipients(session: &Session, keys: ReaderKeys, pin: bool) -> Result<Exit> {
    let (recipients, escrow) = read(keys).await?;
    let path = session.config_path()?;
    let record = session.open_without_engine()?.change_recipients(&recipients, &escrow).await?;
    let is_pinned = pin && pin_recipients(&path, &record.recipients)?;
    session.output.show("recipients", &record, |output| {
        output.line(recipients_line(&record.recipients));
        if is_pinned {
            output.say(format!("pinned in {}", path.display()));
        } else if !pin {
            output.say(format!("write that into [repository] of {}; until then no backup is made", path.display()));
        }
        output.say("earlier backups keep their recipients: keep the old identities as long as those backups");
    });
    Ok(Exit::Ok)
}

fn pin_all(path: &Path, made: &chom_recovery::catalog::Initialized) -> Result<bool> {
    let is_changed = pin_signer(path, &made.signer)?;
    Ok((!made.recipients.is_empty() && pin_recipients(path, &made.recipients)?) || is_changed)
}

fn recipients_line(recipients: &[Recipient]) -> String {
    let all: Vec<_> = recipients.iter().map(|r| format!("\"{r}\"")).collect();
    format!("recipients = [{}]", all.join(", "))
}

async fn read(keys: ReaderKeys) -> Result<(Recipients, Identities)> {
    let recipients = Recipients::parse(&keys.recipients)?;
    let file = keys.escrow_identity.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "`--escrow-identity FILE` is missing")
            .hint("name the identity file of the recipient that is kept offline: it is proven to work, and not kept")
    })?;
    Ok((recipients, Identities::read(&SecretSource::File(file)).await?))
}
