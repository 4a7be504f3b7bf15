//! Durability that a candidate goes without while it is loaded, since after a crash it is thrown away, not recovered; and how
//! fast it may write.

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        info::Flavour,
        session::{Session, server_code},
    },
};

/// Redo log of a MariaDB while it is loaded, in bytes: a small one is written out again and again.
const REDO: u64 = 512 << 20;

/// Pages that a server may write a second in the background, as MySQL has it since 8.4. With the 200 of MariaDB and of older
/// versions a load waits for the writing of pages, on two cores for 40 % of its time.
const IO: u64 = 10_000;

/// What was given up, and how it was before.
#[derive(Debug, Default)]
pub(in crate::mysql) struct Relaxed {
    redo_log: bool,
    variables: Vec<(&'static str, String)>,
}

/// Gives up what the server lets go.
///
/// # Source
/// MySQL 8.0 manual, "Disabling Redo Logging" (8.0.21): it switches the doublewrite buffer off as well. MariaDB's
/// `innodb_doublewrite` can be set while it runs since 11.0, `innodb_log_file_size` since 10.9.
pub(in crate::mysql) async fn relax(session: &mut Session, flavour: Flavour) -> Result<Relaxed> {
    let mut relaxed = Relaxed::default();
    if flavour == Flavour::Mysql {
        match session.run("ALTER INSTANCE DISABLE INNODB REDO_LOG").await {
            Ok(_) => relaxed.redo_log = true,
            // Unknown to a version before 8.0.21 (1064), or not allowed to the account (1227).
            Err(e) if matches!(server_code(&e), Some(1064 | 1227)) => {}
            Err(e) => return Err(e.during("the redo log is switched off")),
        }
    }
    relaxed.set(session, "innodb_flush_log_at_trx_commit", |_| Some("0".into())).await?;
    relaxed.raise(session, "innodb_io_capacity_max", 2 * IO).await?;
    relaxed.raise(session, "innodb_io_capacity", IO).await?;
    if flavour == Flavour::Mariadb {
        relaxed.set(session, "innodb_doublewrite", |_| Some("OFF".into())).await?;
        relaxed.raise(session, "innodb_log_file_size", REDO).await?;
    }
    Ok(relaxed)
}

impl Relaxed {
    /// Sets a variable to what `wanted` makes of its value, where the server has it and lets it be set.
    async fn set(
        &mut self,
        session: &mut Session,
        name: &'static str,
        wanted: impl FnOnce(&str) -> Option<String>,
    ) -> Result<()> {
        let Some(now) = read(session, name).await? else { return Ok(()) };
        let Some(wanted) = wanted(&now).filter(|wanted| *wanted != now) else { return Ok(()) };
        match session.run(format!("SET GLOBAL {name} = {wanted}")).await {
            Ok(_) => self.variables.push((name, now)),
            // Read-only in this version (1238), or not allowed to the account (1227).
            Err(e) if matches!(server_code(&e), Some(1227 | 1238)) => {}
            Err(e) => return Err(e.during(format!("`{name}` is set to {wanted}"))),
        }
        Ok(())
    }

    /// Sets a variable to a number, where it is less.
    async fn raise(&mut self, session: &mut Session, name: &'static str, to: u64) -> Result<()> {
        self.set(session, name, |now| now.parse::<u64>().ok().filter(|now| *now < to).map(|_| to.to_string())).await
    }

    /// Puts everything back, and proves by the server's own word that it is.
    ///
    /// # Errors
    /// `Failed`: the server says otherwise.
    pub(in crate::mysql) async fn restore(self, session: &mut Session) -> Result<()> {
        for (name, before) in self.variables.iter().rev() {
            session.run(format!("SET GLOBAL {name} = {before}")).await.map_err(|e| e.during(format!("`{name}`")))?;
        }
        if self.redo_log {
            session.run("ALTER INSTANCE ENABLE INNODB REDO_LOG").await?;
        }
        for (name, before) in &self.variables {
            let now = read(session, name).await?;
            if now.as_ref() != Some(before) {
                return Err(Error::new(ErrorKind::Failed, format!("`{name}` of the candidate is not as it was"))
                    .with("was", before)
                    .with("is", now.unwrap_or_default()));
            }
        }
        prove_durable(session).await
    }
}

/// Makes sure that an InnoDB server writes its redo log.
///
/// # Errors
/// `Failed`: it does not.
pub(super) async fn prove_durable(session: &mut Session) -> Result<()> {
    let state = session.row("SHOW GLOBAL STATUS LIKE 'Innodb_redo_log_enabled'").await?;
    // MariaDB, and MySQL before 8.0.21, cannot be without one.
    let Some(state) = state else { return Ok(()) };
    match state.text(1)?.as_str() {
        "ON" => Ok(()),
        other => Err(Error::new(ErrorKind::Failed, "the candidate's redo log is not switched on again")
            .with("Innodb_redo_log_enabled", other)
            .hint("its data would not survive a crash: start the recovery again, it builds a new candidate")),
    }
}

async fn read(session: &mut Session, name: &str) -> Result<Option<String>> {
    let row = session.row(format!("SHOW GLOBAL VARIABLES LIKE '{name}'")).await?;
    row.map(|row| row.text(1)).transpose()
}
