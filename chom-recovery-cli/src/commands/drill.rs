//! `drill`: rehearses a recovery.

use chom_recovery::{
    Result,
    procedure::{database::WantedKind, drill::Request},
    recovery::RunOptions,
};

use crate::{args::Which, consent::login_name, exit::Exit, session::Session, watch::watch};

pub(crate) async fn drill(
    session: &Session,
    which: &Which,
    kind: WantedKind,
    operator: Option<String>,
) -> Result<Exit> {
    let recovery = session.open().await?;
    let options = RunOptions { operator: operator.or_else(|| Some(login_name())), ..RunOptions::default() };
    let going = recovery.drill(Request { backup: which.selector()?, kind }, options).await?;
    watch(session, &recovery, going).await
}
