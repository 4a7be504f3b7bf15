//! MySQL's own copy of its data directory.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        Position, Server,
        info::Flavour,
        quote,
        server::position,
        session::{Role, Session, server_code},
    },
};

/// How long an interrupted copy may take to end.
const END: Duration = Duration::from_mins(1);

/// A copy that a MySQL server made of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloned {
    /// Binary log position right before the copy began. The copy holds all that came before it, and some of what came after:
    /// a server says of a copy of itself no position. The GTIDs that a server on the copy calls executed are exact.
    pub position: Option<Position>,
    /// Begin, by the server's clock.
    pub begun: DateTime<Utc>,
    /// End, by the server's clock: nothing that was committed later is in it.
    pub ended: DateTime<Utc>,
    /// Whether the plugin had to be installed; it stays.
    pub installed_plugin: bool,
}

/// Makes the server copy its data directory into a folder of its own filesystem, while it serves.
///
/// # Errors
/// `Precondition`: the plugin `clone` is not in this server's build, or the account lacks the privilege `BACKUP_ADMIN` (and
/// `INSERT` on `mysql.plugin`, where the plugin is to be installed). `Locked`: another copy is being made. `NoSpace`: the
/// folder's filesystem is full. `Failed`: the folder exists, or the server may not make it.
///
/// # Source
/// MySQL manual, "The Clone Plugin", "Cloning Data Locally".
pub async fn clone_to(server: &Server, folder: &str) -> Result<Cloned> {
    if server.info().flavour != Flavour::Mysql {
        return Err(Error::new(ErrorKind::Unsupported, "only MySQL copies its own data directory"));
    }
    let mut session = server.session(Role::Read).await?;
    let connection = session.id();
    let copied = copy(&mut session, folder).await;
    if copied.is_err() {
        // Where the connection was lost, the statement may still run.
        server.kill(&[connection]).await;
    }
    let copied = copied?;
    session.close().await;
    Ok(copied)
}

async fn copy(session: &mut Session, folder: &str) -> Result<Cloned> {
    let installed_plugin = install_plugin(session).await?;
    let (begun, position) = (session.now().await?, position(session, Flavour::Mysql).await?);
    session.run(statement(folder)).await.map_err(|e| match server_code(&e) {
        Some(1227) => e.of_kind(ErrorKind::Precondition).hint("GRANT BACKUP_ADMIN ON *.* TO the configured account"),
        // ER_CLONE_TOO_MANY_CONCURRENT_CLONES
        Some(3634) => e.of_kind(ErrorKind::Locked).hint("a server makes one copy at a time: wait for the other"),
        Some(1021 | 3014) => e.of_kind(ErrorKind::NoSpace),
        _ => e.during("the server could not copy its data directory"),
    })?;
    Ok(Cloned { position, begun, ended: session.now().await?, installed_plugin })
}

/// Installs the plugin where it is not active; tells whether it did.
async fn install_plugin(session: &mut Session) -> Result<bool> {
    let sql = "SELECT PLUGIN_STATUS FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'clone'";
    match session.row(sql).await?.map(|row| row.text(0)).transpose()?.as_deref() {
        Some("ACTIVE") => Ok(false),
        Some(status) => {
            let what = format!("MySQL's plugin `clone` is installed and {}", status.to_lowercase());
            Err(Error::new(ErrorKind::Precondition, what).hint("the server's log says why; or take a logical backup"))
        }
        None => {
            session.run("INSTALL PLUGIN clone SONAME 'mysql_clone.so'").await.map_err(|e| {
                e.of_kind(ErrorKind::Precondition)
                    .during("MySQL's plugin `clone` cannot be installed")
                    .hint("a build without it cannot copy itself: take a logical backup")
            })?;
            Ok(true)
        }
    }
}

fn statement(folder: &str) -> String {
    format!("CLONE LOCAL DATA DIRECTORY = {}", quote::text(folder))
}

/// Ends copies into folders whose path begins so, which somebody who is gone had begun, and waits until they have ended.
///
/// # Errors
/// `Timeout`: one goes on.
pub async fn end_clones(server: &Server, prefix: &str) -> Result<()> {
    if server.info().flavour != Flavour::Mysql {
        return Ok(());
    }
    let mut session = server.session(Role::Read).await?;
    // Compared as text, not by LIKE: a prefix may hold its wildcards.
    let begin = statement(prefix);
    let begin = begin.trim_end_matches('\'');
    let sql = format!(
        "SELECT PROCESSLIST_ID FROM performance_schema.threads WHERE PROCESSLIST_ID <> CONNECTION_ID() \
         AND LEFT(PROCESSLIST_INFO, {}) = {}",
        begin.chars().count(),
        quote::text(begin)
    );
    let end = tokio::time::Instant::now() + END;
    loop {
        let running: Vec<u64> =
            session.rows(&*sql).await?.iter().filter_map(|row| row.number(0).transpose()).collect::<Result<_>>()?;
        let Some(first) = running.first() else { break };
        if tokio::time::Instant::now() > end {
            let what = format!("an interrupted copy of the data directory goes on in connection {first}");
            return Err(Error::new(ErrorKind::Timeout, what).hint(format!("KILL {first}, then run the backup again")));
        }
        for id in &running {
            // One that ended by itself meanwhile is no matter.
            let _ = session.run(format!("KILL {id}")).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    session.close().await;
    Ok(())
}

/// Reads a server's clock.
///
/// # Errors
/// Those of a query.
pub async fn server_time(server: &Server) -> Result<DateTime<Utc>> {
    let mut session = server.session(Role::Read).await?;
    let now = session.now().await?;
    session.close().await;
    Ok(now)
}

impl Server {
    /// Names files of InnoDB that lie outside of the data directory.
    pub(super) async fn files_outside(&self) -> Result<Vec<String>> {
        let mut session = self.session(Role::Read).await?;
        let view = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'information_schema' \
                    AND TABLE_NAME IN ('INNODB_DATAFILES', 'INNODB_SYS_DATAFILES', 'INNODB_SYS_TABLESPACES')";
        let views: Vec<_> = session.rows(view).await?.iter().map(|r| r.text(0)).collect::<Result<_>>()?;
        let mut outside = Vec::new();
        // MariaDB 10.6 and later keep the path beside the tablespace.
        if let Some(view) = views.first() {
            let column = if view == "INNODB_SYS_TABLESPACES" { "FILENAME" } else { "PATH" };
            for row in session.rows(format!("SELECT {column} FROM information_schema.{view}")).await? {
                let path = row.text(0)?;
                if path.starts_with('/') && !path.starts_with(&self.info().data_dir) {
                    outside.push(path);
                }
            }
        }
        session.close().await;
        Ok(outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_cannot_end_the_statement() {
        assert_eq!(statement("/var/tmp/a"), "CLONE LOCAL DATA DIRECTORY = '/var/tmp/a'");
        assert!(!statement("/var/tmp/a'; DROP").contains("a'; DROP"));
    }
}
