//! `repo`: the backup repository.

use chom_recovery::{Recovery, Result, catalog::Encryption, configuration::pin_signer};
use serde_json::json;

use crate::{
    args::{EncryptionChoice, Repo},
    exit::Exit,
    session::Session,
};

pub(crate) async fn run(session: &Session, command: Repo) -> Result<Exit> {
    let Repo::Init { encryption, pin } = command;
    let EncryptionChoice::None = encryption;
    let (path, system) = (session.config_path()?, session.system()?);
    let made = Recovery::create_repository(&system, Encryption::None).await?;
    let is_pinned = pin && pin_signer(&path, &made.signer)?;
    let found = json!({
        "repository": made.repository,
        "signer": made.signer,
        "url": system.repository.url,
        "pinned_in": is_pinned.then_some(&path),
    });
    session.output.show("repository", &found, |output| {
        output.line(format!("repository {} at {}", made.repository, system.repository.url));
        output.line(format!("signers = [\"{}\"]", made.signer));
        if is_pinned {
            output.say(format!("pinned in {}", path.display()));
        } else if !pin {
            output.say(format!("add that line to [repository] in {}; without it no backup is trusted", path.display()));
        }
        output.say("the repository is not encrypted: whoever can read it can read the data");
    });
    Ok(Exit::Ok)
}
