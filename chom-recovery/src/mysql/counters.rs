//! AUTO_INCREMENT counters of a whole server.

use super::{quote, server::Server, session::Role};
use crate::error::Result;

/// An AUTO_INCREMENT counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Value that the next row gets.
    pub next: u64,
    /// Largest value that the column can hold.
    pub largest: u64,
}

impl Server {
    /// Reads every AUTO_INCREMENT counter of the schemas that are not the server's own.
    ///
    /// After a restart MySQL tells the last id that was given out, not the next, until somebody has opened the table. Each
    /// is opened for that; one that cannot be is told as it is.
    pub async fn counters(&self) -> Result<Vec<Counter>> {
        let mut session = self.session(Role::Read).await?;
        let sql = format!(
            "SELECT t.TABLE_SCHEMA, t.TABLE_NAME, t.AUTO_INCREMENT, c.COLUMN_TYPE \
             FROM information_schema.TABLES t JOIN information_schema.COLUMNS c \
             ON c.TABLE_SCHEMA = t.TABLE_SCHEMA AND c.TABLE_NAME = t.TABLE_NAME \
             AND LOWER(c.EXTRA) LIKE '%auto_increment%' \
             WHERE t.AUTO_INCREMENT IS NOT NULL AND t.TABLE_SCHEMA NOT IN ({})",
            quote::system_schemas()
        );
        for row in session.rows(sql.as_str()).await? {
            let _ =
                session.rows(format!("SELECT 1 FROM {} LIMIT 0", quote::qualified(&row.text(0)?, &row.text(1)?))).await;
        }
        let rows = session.rows(sql).await?;
        session.close().await;
        rows.iter()
            .map(|row| {
                Ok(Counter {
                    schema: row.text(0)?,
                    table: row.text(1)?,
                    next: row.number(2)?.unwrap_or(1),
                    largest: largest(&row.text(3)?),
                })
            })
            .collect()
    }
}

/// Largest value of an integer column.
///
/// # Source
/// MySQL 9 manual, "Integer Types"; the same in MariaDB.
fn largest(column_type: &str) -> u64 {
    let lower = column_type.to_ascii_lowercase();
    let bits = match lower.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default() {
        "tinyint" => 8,
        "smallint" => 16,
        "mediumint" => 24,
        "int" | "integer" => 32,
        // FLOAT and DOUBLE columns can count too; they are exact up to here.
        "float" => 25,
        "double" => 54,
        _ => 64,
    };
    if lower.contains("unsigned") { u64::MAX >> (64 - bits) } else { u64::MAX >> (65 - bits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_follows_width_and_sign() {
        assert_eq!(largest("tinyint(3) unsigned"), 255);
        assert_eq!(largest("smallint"), 32_767);
        assert_eq!(largest("mediumint unsigned"), 16_777_215);
        assert_eq!(largest("int(11)"), 2_147_483_647);
        assert_eq!(largest("bigint unsigned"), u64::MAX);
        assert_eq!(largest("bigint(20)"), i64::MAX.unsigned_abs());
    }
}
