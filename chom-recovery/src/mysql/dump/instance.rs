//! What belongs to the whole instance: plugins, files of tables, and what a logical dump leaves out.

use std::{collections::BTreeMap, fmt::Write as _};

use super::objects::Reader;
use crate::{
    error::{Error, Result},
    mysql::{
        info::Flavour,
        objects::{Plugin, Tablespace, Text},
        quote,
        server::Server,
        session::{Role, Row, lossy, server_code},
    },
};

/// Table → number that InnoDB gave its rows: another number under the same name means other rows.
pub(in crate::mysql) type Identities = BTreeMap<String, u64>;

/// Reads the identities of all tables and partitions of InnoDB; `None` where the account may not see them.
pub(in crate::mysql) async fn identities(server: &Server) -> Result<Option<Identities>> {
    let mut session = server.session(Role::Read).await?;
    let found = async {
        let mut found = Identities::new();
        // The view's name differs between servers, and differed between versions of MySQL.
        let view = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'information_schema' \
                    AND TABLE_NAME IN ('INNODB_TABLES', 'INNODB_SYS_TABLES')";
        let Some(view) = session.row(view).await?.map(|r| r.text(0)).transpose()? else { return Ok(None) };
        for row in session.rows(format!("SELECT NAME, TABLE_ID FROM information_schema.{view}")).await? {
            found.insert(row.bytes(0).map(lossy).unwrap_or_default(), row.number(1)?.unwrap_or_default());
        }
        Ok(Some(found))
    }
    .await;
    session.close().await;
    match found {
        Err(e) if refused(&e) => Ok(None),
        other => other,
    }
}

/// Tells whether the server refused a question for want of a privilege.
fn refused(error: &Error) -> bool {
    matches!(server_code(error), Some(1044 | 1142 | 1143 | 1227))
}

impl Reader<'_> {
    /// Plugins and components that were installed by a statement. Accounts and tables may need them.
    pub(super) async fn plugins(&mut self) -> Result<Vec<Plugin>> {
        let mut plugins = Vec::new();
        let rows = self.ask("plugins", "SELECT name, dl FROM mysql.plugin ORDER BY name").await?;
        for row in rows {
            let name = row.text(0)?;
            let create = format!("INSTALL PLUGIN {} SONAME {}", quote::ident(&name), quote::text(&row.text(1)?));
            plugins.push(Plugin { name, create: Text::new(create) });
        }
        if self.flavour == Flavour::Mysql {
            let sql = "SELECT component_urn FROM mysql.component ORDER BY component_group_id, component_id";
            for row in self.ask("components", sql).await? {
                let name = row.text(0)?;
                let create = Text::new(format!("INSTALL COMPONENT {}", quote::text(&name)));
                plugins.push(Plugin { name, create });
            }
        }
        Ok(plugins)
    }

    /// General tablespaces. Their files come back in the data directory.
    ///
    /// # Source
    /// MySQL manual, "CREATE TABLESPACE Statement", "The `INFORMATION_SCHEMA` `INNODB_TABLESPACES` Table".
    pub(super) async fn tablespaces(&mut self) -> Result<Vec<Tablespace>> {
        let sql = "SELECT t.*, d.PATH FROM information_schema.INNODB_TABLESPACES t \
                   JOIN information_schema.INNODB_DATAFILES d ON d.SPACE = t.SPACE \
                   WHERE t.SPACE_TYPE = 'General' AND t.NAME <> 'mysql' ORDER BY t.NAME";
        if self.flavour != Flavour::Mysql {
            return Ok(Vec::new());
        }
        let mut tablespaces = Vec::new();
        for row in self.ask("general tablespaces", sql).await? {
            let (name, path) = (row.named("NAME")?, row.named("PATH")?);
            let file = path.rsplit('/').next().unwrap_or(&path);
            if path.strip_prefix("./").unwrap_or(&path) != file {
                self.warnings.push(format!(
                    "the file of tablespace `{name}` is outside of the data directory ({path}): it comes back inside"
                ));
            }
            let mut create = format!("CREATE TABLESPACE {} ADD DATAFILE {}", quote::ident(&name), quote::text(file));
            for (option, column) in [("FILE_BLOCK_SIZE", "ZIP_PAGE_SIZE"), ("AUTOEXTEND_SIZE", "AUTOEXTEND_SIZE")] {
                let value = row.named(column)?;
                if !matches!(value.as_str(), "" | "0") {
                    let _ = write!(create, " {option} = {value}");
                }
            }
            let encryption = row.named("ENCRYPTION")?;
            if !encryption.is_empty() {
                let _ = write!(create, " ENCRYPTION = {}", quote::text(&encryption));
            }
            if encryption == "Y" {
                self.warn_of_encryption(&format!("tablespace `{name}`"));
            }
            create.push_str(" ENGINE = InnoDB");
            tablespaces.push(Tablespace { name, create: Text::new(create) });
        }
        Ok(tablespaces)
    }

    /// Takes out of a `CREATE TABLE` where its files are: a candidate has no other place than its volume. Warns of
    /// options that a candidate must be able to follow.
    pub(super) fn table_options(&mut self, table: &str, create: &[u8]) -> Text {
        let without = without_directories(create);
        if without != create {
            self.warnings.push(format!(
                "table `{table}` has files outside of the data directory (DATA DIRECTORY): they come back inside"
            ));
        }
        let options = without.windows(3).rposition(|w| w == b"\n) ").unwrap_or(0);
        let options = &without[options..];
        // MariaDB quotes the names of an engine's own options.
        let text = lossy(options).to_ascii_lowercase();
        let encrypted = text.contains("`encrypted`='yes'") || text.contains("`encrypted`=yes");
        if encrypted || quote::find(options, b" ENCRYPTION='Y'", 0).is_some() {
            self.warn_of_encryption(&format!("table `{table}`"));
        }
        Text::new(without)
    }

    fn warn_of_encryption(&mut self, what: &str) {
        self.warnings.push(format!(
            "{what} is encrypted at rest: a candidate needs the same keys, and its rows in the backup are only as \
             secret as the repository"
        ));
    }

    /// Names what the instance keeps and a logical dump does not.
    pub(super) async fn left_out(&mut self) -> Result<()> {
        let mut questions = vec![
            ("loadable functions (CREATE FUNCTION … SONAME)", "SELECT name FROM mysql.func ORDER BY name"),
            ("servers of FEDERATED tables (CREATE SERVER)", "SELECT Server_name FROM mysql.servers ORDER BY 1"),
        ];
        if self.flavour == Flavour::Mysql {
            questions.extend([
                (
                    "settings made by SET PERSIST",
                    "SELECT VARIABLE_NAME FROM performance_schema.persisted_variables ORDER BY 1",
                ),
                (
                    "replication channels of this server as a replica",
                    "SELECT CONCAT('`', CHANNEL_NAME, '`') FROM performance_schema.replication_connection_configuration \
                     WHERE HOST <> '' AND CHANNEL_NAME NOT LIKE 'group\\_replication\\_%' ORDER BY 1",
                ),
                (
                    "second passwords (RETAIN CURRENT PASSWORD)",
                    "SELECT CONCAT(User, '@', Host) FROM mysql.user \
                     WHERE JSON_CONTAINS_PATH(User_attributes, 'one', '$.additional_password') ORDER BY 1",
                ),
            ]);
        }
        for (what, sql) in questions {
            let names = self.ask(what, sql).await?.iter().map(|r| r.text(0)).collect::<Result<Vec<_>>>()?;
            if !names.is_empty() {
                self.warnings.push(format!("not part of a logical backup: {what}: {}", names.join(", ")));
            }
        }
        Ok(())
    }

    /// Asks for what may be absent or forbidden; a question that was refused becomes a warning.
    async fn ask(&mut self, what: &str, sql: &str) -> Result<Vec<Row>> {
        match self.session.rows(sql).await {
            // An older server has no such table (1146, 1109) or column (1054).
            Err(e) if matches!(server_code(&e), Some(1054 | 1109 | 1146)) => Ok(Vec::new()),
            Err(e) if refused(&e) => {
                self.warnings.push(format!("the account may not see {what}: they are not looked at"));
                Ok(Vec::new())
            }
            other => other,
        }
    }
}

/// Drops ` DATA DIRECTORY='...'` and ` INDEX DIRECTORY='...'`, also of partitions, which have blanks around `=`.
fn without_directories(create: &[u8]) -> Vec<u8> {
    let mut cuts: Vec<_> = [" DATA DIRECTORY", " INDEX DIRECTORY"]
        .iter()
        .flat_map(|word| quote::find_all(create, word.as_bytes()).map(|at| (at, at + word.len())).collect::<Vec<_>>())
        .collect();
    cuts.sort_unstable();
    let (mut out, mut from) = (Vec::with_capacity(create.len()), 0);
    for (at, after) in cuts {
        let Some(begin) = create[after..].iter().position(|b| *b == b'\'') else { continue };
        let value = after + begin;
        // Only `=` and blanks may be between the words and the value.
        if !create[after..value].iter().all(|b| matches!(b, b' ' | b'=')) {
            continue;
        }
        let mut end = value + 1;
        while end < create.len() {
            match create[end] {
                b'\\' => end += 1,
                b'\'' if create.get(end + 1) == Some(&b'\'') => end += 1,
                b'\'' => break,
                _ => {}
            }
            end += 1;
        }
        out.extend_from_slice(&create[from..at]);
        from = (end + 1).min(create.len());
    }
    out.extend_from_slice(&create[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_go_and_what_only_looks_like_them_stays() {
        let create = b"CREATE TABLE `t` (\n  `a` int COMMENT ' DATA DIRECTORY=''/x'''\n) ENGINE=MyISAM DATA DIRECTORY='/it''s/' INDEX DIRECTORY='/b/' COMMENT='c'";
        let text = String::from_utf8(without_directories(create)).unwrap();
        assert_eq!(text, "CREATE TABLE `t` (\n  `a` int COMMENT ' DATA DIRECTORY=''/x'''\n) ENGINE=MyISAM COMMENT='c'");
        let partition = b"(PARTITION p VALUES LESS THAN (1) DATA DIRECTORY = '/a' ENGINE = InnoDB)";
        assert_eq!(without_directories(partition), b"(PARTITION p VALUES LESS THAN (1) ENGINE = InnoDB)");
    }
}
