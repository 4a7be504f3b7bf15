//! Whether rows may be turned into what `LOAD DATA` reads: asked of the server, once for each table.

use std::{collections::HashMap, sync::Arc};

use super::{
    indexes::Key,
    values::{Plan, Take},
};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{quote, session::Session, sqlfile::statement::insert_columns},
};

/// What the settings of the dump mean for its rows.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Whether a row needs the one it refers to, and so must come later.
    pub(super) checks_foreign_keys: bool,
    /// Character set of its texts, where it is one of Unicode and backslashes escape.
    charset: Option<String>,
}

/// Answers that hold until the next statement that is no INSERT.
#[derive(Debug, Default)]
pub(super) struct Plans {
    state: Option<State>,
    of: HashMap<(Key, Vec<u8>), Option<Arc<Plan>>>,
}

impl Plans {
    pub(super) fn forget(&mut self) {
        self.state = None;
        self.of.clear();
    }

    pub(super) async fn state(&mut self, session: &mut Session) -> Result<State> {
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        let sql = "SELECT @@session.foreign_key_checks, @@session.character_set_client, \
                   @@session.character_set_connection, @@session.sql_mode, @@global.local_infile";
        let row = session.row(sql).await?;
        let row = row.ok_or_else(|| Error::new(ErrorKind::Failed, "the session did not tell its settings"))?;
        let (client, connection) = (row.text(1)?, row.text(2)?);
        let is_unicode = client == connection && matches!(client.as_str(), "utf8mb4" | "utf8mb3" | "utf8");
        let is_usual = is_unicode && !row.text(3)?.contains("NO_BACKSLASH_ESCAPES") && row.number(4)? == Some(1);
        let state = State { checks_foreign_keys: row.number(0)? != Some(0), charset: is_usual.then_some(client) };
        self.state = Some(state.clone());
        Ok(state)
    }

    /// Plans for rows behind `head`, which ends with `VALUES`. `None`: they are inserted as they stand.
    pub(super) async fn of(&mut self, session: &mut Session, table: &Key, head: &[u8]) -> Result<Option<Arc<Plan>>> {
        let Some(charset) = self.state(session).await?.charset else { return Ok(None) };
        let key = (table.clone(), head.to_vec());
        if let Some(plan) = self.of.get(&key) {
            return Ok(plan.clone());
        }
        let plan = match insert_columns(head) {
            Some(named) => columns(session, table, &named).await?,
            None => None,
        };
        let plan = plan.map(|columns| Arc::new(Plan::new(&table.0, &table.1, &columns, &charset)));
        self.of.insert(key, plan.clone());
        Ok(plan)
    }
}

/// Reads the columns that an INSERT fills. `None`: the table's engine cannot take rows back, or a column is computed or of
/// a type that is not known here.
async fn columns(
    session: &mut Session,
    (schema, table): &Key,
    named: &[String],
) -> Result<Option<Vec<(String, Take)>>> {
    let sql = format!(
        "SELECT c.COLUMN_NAME, LOWER(c.DATA_TYPE), c.CHARACTER_SET_NAME, UPPER(c.EXTRA), t.ENGINE, t.TABLE_TYPE \
         FROM information_schema.COLUMNS c JOIN information_schema.TABLES t USING (TABLE_SCHEMA, TABLE_NAME) \
         WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} ORDER BY c.ORDINAL_POSITION",
        quote::text(schema),
        quote::text(table)
    );
    let mut all = Vec::new();
    for row in session.rows(sql).await? {
        let (name, extra) = (row.text(0)?, row.text(3)?);
        if row.text(4)? != "InnoDB" || row.text(5)? != "BASE TABLE" {
            return Ok(None);
        }
        let is_computed =
            ["VIRTUAL GENERATED", "STORED GENERATED", "PERSISTENT"].iter().any(|word| extra.contains(word));
        let take = Take::of(&row.text(1)?, row.optional(2)?.as_deref()).filter(|_| !is_computed);
        all.push((name, take, extra.contains("INVISIBLE")));
    }
    let chosen: Option<Vec<_>> = if named.is_empty() {
        all.into_iter().filter(|(.., is_invisible)| !is_invisible).map(|(name, take, _)| Some((name, take?))).collect()
    } else {
        let of = |name: &String| {
            let (name, take, _) = all.iter().find(|(n, ..)| n == name)?;
            Some((name.clone(), (*take)?))
        };
        named.iter().map(of).collect()
    };
    Ok(chosen.filter(|columns| !columns.is_empty()))
}
