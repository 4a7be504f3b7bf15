//! JSON documents of MySQL, exactly.
//!
//! A document of MySQL may hold values that its text cannot tell apart: dates and times and binary strings look like
//! strings, decimals like doubles, unsigned integers like signed ones. So a second cell follows the text: an object of
//! path → `[type, text]` for each such value, or NULL, as for nearly every document. A function of the candidate puts
//! the types back. MariaDB keeps documents as text; there is nothing to tell.

use std::fmt::Write as _;

use super::{
    info::{Flavour, Version},
    objects::Objects,
    quote,
    session::Session,
};
use crate::error::Result;

/// Schema of the function while rows are loaded.
pub(super) const HELPERS: &str = "chom_recovery_load";

/// Tells whether a server can say which types the values of a document have.
///
/// # Source
/// MySQL 8.0 manual, "Derived Tables": outer references since 8.0.14.
pub(super) fn tells_types(flavour: Flavour, version: Version, data_type: &str) -> bool {
    flavour == Flavour::Mysql && version >= Version(8, 0, 14) && data_type == "json"
}

/// Condition that a value has a type which its text does not tell. Text of an integer from 2^32 on is read as unsigned, and
/// one that does not fit a signed integer could be nothing else.
fn hidden(value: &str) -> String {
    format!(
        "(JSON_TYPE({value}) NOT IN ('OBJECT', 'ARRAY', 'STRING', 'INTEGER', 'DOUBLE', 'BOOLEAN', 'NULL') \
         AND NOT (JSON_TYPE({value}) = 'UNSIGNED INTEGER' AND {value} > 9223372036854775807) \
         OR JSON_TYPE({value}) = 'INTEGER' AND {value} > 4294967295)"
    )
}

/// Writes the expression of the second cell of a document. `column` is quoted.
///
/// The look for hidden types is cheap, the walk that finds their paths is not: it is done for documents that need it.
pub(super) fn types(column: &str) -> String {
    let inside = |path: &str| {
        let hidden = hidden("chom_i.v");
        format!("EXISTS (SELECT 1 FROM JSON_TABLE({column}, '{path}' COLUMNS (v JSON PATH '$')) chom_i WHERE {hidden})")
    };
    format!(
        "IF({} OR {} OR {}, (WITH RECURSIVE chom_w (p, v) AS (SELECT CAST('$' AS CHAR(16000000)), {column} UNION ALL \
         SELECT CONCAT(chom_w.p, IF(JSON_TYPE(chom_w.v) = 'OBJECT', CONCAT('.', CAST(chom_c.k AS CHAR)), CONCAT('[', chom_c.n - 1, ']'))), \
         IF(JSON_TYPE(chom_w.v) = 'OBJECT', JSON_EXTRACT(chom_w.v, CONCAT('$.', CAST(chom_c.k AS CHAR))), chom_c.k) \
         FROM chom_w, JSON_TABLE(IF(JSON_TYPE(chom_w.v) = 'OBJECT', JSON_KEYS(chom_w.v), chom_w.v), '$[*]' \
         COLUMNS (n FOR ORDINALITY, k JSON PATH '$')) chom_c WHERE JSON_TYPE(chom_w.v) IN ('OBJECT', 'ARRAY')) \
         SELECT JSON_OBJECTAGG(p, JSON_ARRAY(JSON_TYPE(v), JSON_UNQUOTE(v))) FROM chom_w WHERE {}), NULL)",
        hidden(column),
        inside("$**.*"),
        inside("$**[*]"),
        hidden("v"),
    )
}

/// Writes the expression that makes a document of its text and its types.
pub(super) fn document(text: &str, types: &str) -> String {
    let json = |v: &str| format!("CAST(CONVERT({v} USING utf8mb4) AS JSON)");
    format!("IF({types} IS NULL, {}, `{HELPERS}`.`typed`({}, {}))", json(text), json(text), json(types))
}

/// Tells whether a dump has documents whose types were told.
pub(super) fn needed(objects: &Objects) -> bool {
    objects.tables.iter().flat_map(|t| &t.columns).any(|c| c.json_types)
}

/// Makes the function.
pub(super) async fn make_helpers(session: &mut Session) -> Result<()> {
    make_store(session).await?;
    make_functions(session).await
}

/// Statements that make the function.
pub(super) fn helpers() -> [String; 5] {
    let [schema, table, row] = store();
    [schema, table, row, opaque_function(), typed_function()]
}

/// Statements that make the schema of the functions, and the table that they work with.
fn store() -> [String; 3] {
    let schema = quote::ident(HELPERS);
    [
        format!("CREATE DATABASE {schema} CHARACTER SET utf8mb4"),
        // A value has the type of the column that it comes from; local variables of all BLOB types have one and the same.
        format!("CREATE TABLE {schema}.`blobs` (t tinyblob, m mediumblob, l longblob) ENGINE = InnoDB"),
        format!("INSERT INTO {schema}.`blobs` VALUES (NULL, NULL, NULL)"),
    ]
}

/// Makes the schema of the functions, and the table that they work with.
pub(super) async fn make_store(session: &mut Session) -> Result<()> {
    for statement in store() {
        session.run(statement).await?;
    }
    Ok(())
}

/// Makes the functions.
pub(super) async fn make_functions(session: &mut Session) -> Result<()> {
    session.run(opaque_function()).await?;
    session.run(typed_function()).await.map(drop)
}

/// Takes the function away.
pub(super) async fn drop_helpers(session: &mut Session) -> Result<()> {
    session.run(format!("DROP DATABASE IF EXISTS {}", quote::ident(HELPERS))).await.map(drop)
}

/// Puts values of types that JSON text cannot tell in the place of their texts.
fn typed_function() -> String {
    // The number of digits after the point is part of a decimal, and of its type.
    let mut decimals = String::new();
    for scale in 0..=30 {
        let _ = write!(decimals, "WHEN {scale} THEN SET doc = JSON_SET(doc, p, CAST(v AS DECIMAL(65,{scale}))); ");
    }
    format!(
        "CREATE FUNCTION `{HELPERS}`.`typed`(doc JSON, types JSON) RETURNS JSON MODIFIES SQL DATA BEGIN \
         DECLARE i INT DEFAULT 0; DECLARE paths JSON DEFAULT JSON_KEYS(types); DECLARE entry JSON; \
         DECLARE p, t, v LONGTEXT CHARACTER SET utf8mb4; DECLARE ts TIMESTAMP(6); \
         WHILE i < JSON_LENGTH(paths) DO \
         SET p = JSON_UNQUOTE(JSON_EXTRACT(paths, CONCAT('$[', i, ']'))); \
         SET entry = JSON_EXTRACT(types, CONCAT('$.', JSON_QUOTE(p))); \
         SET t = JSON_UNQUOTE(JSON_EXTRACT(entry, '$[0]')), v = JSON_UNQUOTE(JSON_EXTRACT(entry, '$[1]')); \
         CASE t WHEN 'DATE' THEN SET doc = JSON_SET(doc, p, CAST(v AS DATE)); \
         WHEN 'TIME' THEN SET doc = JSON_SET(doc, p, CAST(v AS TIME(6))); \
         WHEN 'DATETIME' THEN SET doc = JSON_SET(doc, p, CAST(v AS DATETIME(6))); \
         WHEN 'TIMESTAMP' THEN SET ts = v; SET doc = JSON_SET(doc, p, ts); \
         WHEN 'INTEGER' THEN SET doc = JSON_SET(doc, p, CAST(v AS SIGNED)); \
         WHEN 'UNSIGNED INTEGER' THEN SET doc = JSON_SET(doc, p, CAST(v AS UNSIGNED)); \
         WHEN 'DECIMAL' THEN CASE IF(LOCATE('.', v) > 0, LENGTH(v) - LOCATE('.', v), 0) {decimals} END CASE; \
         ELSE SET doc = `{HELPERS}`.`opaque`(doc, p, SUBSTRING_INDEX(v, ':', 2), FROM_BASE64(SUBSTRING(v, LOCATE(':', v, 8) + 1))); \
         END CASE; SET i = i + 1; END WHILE; RETURN doc; END"
    )
}

/// Puts a binary string of one of the column types that JSON tells apart into a document. A type that is not known
/// here is an error (CASE without a match), not another value.
fn opaque_function() -> String {
    let (mut variables, mut fixed, mut bits) = (String::new(), String::new(), String::new());
    let cases = |word: &str, bytes: usize, size: usize, variables: &mut String, cases: &mut String| {
        let name = format!("{word}{size}");
        let _ = write!(variables, "DECLARE {name} {word}({size}); ");
        let _ = write!(cases, "WHEN {bytes} THEN SET {name} = raw; SET doc = JSON_SET(doc, p, {name}); ");
    };
    for bytes in 0..=255 {
        cases("BINARY", bytes, bytes, &mut variables, &mut fixed);
    }
    for bytes in 1..=8 {
        cases("BIT", bytes, bytes * 8, &mut variables, &mut bits);
    }
    let column = |name: &str| {
        format!(
            "UPDATE `{HELPERS}`.`blobs` SET {name} = raw; SELECT JSON_SET(doc, p, {name}) INTO doc FROM `{HELPERS}`.`blobs`;"
        )
    };
    format!(
        "CREATE FUNCTION `{HELPERS}`.`opaque`(doc JSON, p LONGTEXT CHARACTER SET utf8mb4, kind VARCHAR(40), raw LONGBLOB) \
         RETURNS JSON MODIFIES SQL DATA BEGIN DECLARE short VARBINARY(65535); DECLARE plain BLOB; {variables} \
         CASE kind WHEN 'base64:type249' THEN {} WHEN 'base64:type250' THEN {} WHEN 'base64:type251' THEN {} \
         WHEN 'base64:type252' THEN SET plain = raw; SET doc = JSON_SET(doc, p, plain); \
         WHEN 'base64:type15' THEN SET short = raw; SET doc = JSON_SET(doc, p, short); \
         WHEN 'base64:type254' THEN CASE LENGTH(raw) {fixed} END CASE; \
         WHEN 'base64:type16' THEN CASE LENGTH(raw) {bits} END CASE; END CASE; RETURN doc; END",
        column("t"),
        column("m"),
        column("l"),
    )
}
