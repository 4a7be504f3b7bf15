//! `metrics`: backups and drills as Prometheus reads them.

use std::path::Path;

use chom_recovery::{
    Result,
    report::{alert_rules, exposition, publish},
};

use crate::{exit::Exit, output::write_out, session::Session};

pub(crate) async fn metrics(session: &Session, file: Option<&Path>, rules: bool) -> Result<Exit> {
    let recovery = session.open_without_engine()?;
    if rules {
        write_out(&alert_rules(recovery.system()));
        return Ok(Exit::Ok);
    }
    let (metrics, failure) = recovery.metrics().await?;
    match file {
        Some(file) => publish(file, &exposition(&metrics))?,
        None => session.output.show("metrics", &metrics, |_| write_out(&exposition(&metrics))),
    }
    // Written all the same: that the repository does not answer is a metric too.
    failure.map_or(Ok(Exit::Ok), Err)
}
