//! Takes keys out of a `CREATE TABLE`, to be built when the rows are there: in one pass over sorted entries instead of one
//! search a row.

use crate::mysql::quote;

/// A table without the keys that can wait, and what makes it whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) struct Divided {
    /// `CREATE TABLE` without them.
    pub(in crate::mysql) create: Vec<u8>,
    /// Definitions of secondary keys, in order.
    pub(in crate::mysql) keys: Vec<Vec<u8>>,
    /// Definitions of foreign keys, in order.
    pub(in crate::mysql) foreign: Vec<Vec<u8>>,
}

/// Whose rows are to come, which decides what may wait for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mysql) enum Rows {
    /// Of a backup of ours: each is there once, and whose parents are missing is nobody's business.
    Ours,
    /// Of a dump: unique keys decide which are taken, and foreign keys stay with the keys that they need. FULLTEXT keys
    /// wait as well. A definition that is not ASCII stays: it would be read in another character set.
    Dumped,
}

/// Divides the `CREATE TABLE` of an InnoDB table as a server writes it; `None` where nothing can wait, or the text is not as
/// expected.
///
/// What stays: the primary key; without one every unique key, since the first of them orders the rows; a key that
/// AUTO_INCREMENT needs; FULLTEXT, SPATIAL and VECTOR keys, which servers build by ways of their own; and the keys of a kind
/// in front of one that stays, because servers list the keys of one kind in the order in which they were made.
pub(in crate::mysql) fn divide(create: &[u8], rows: Rows) -> Option<Divided> {
    let (head, items, tail) = items(create)?;
    let has_primary = items.iter().any(|item| item.starts_with(b"PRIMARY KEY"));
    let counted = items
        .iter()
        .find(|item| item.starts_with(b"`") && quote::find(item, b" AUTO_INCREMENT", 0).is_some())
        .and_then(|item| name(item));
    let mut needs_key = counted.filter(|column| {
        !items.iter().any(|item| item.starts_with(b"PRIMARY KEY") && first_column(item) == Some(*column))
    });
    let is_dumped = rows == Rows::Dumped;
    let foreign = items.iter().filter(|item| Kind::of(item) == Kind::Foreign);
    let needed: Vec<_> =
        foreign.filter_map(|item| name(&item[quote::find(item, b" FOREIGN KEY (", 0)? + 14..])).collect();
    let is_needed = |item: &[u8]| is_dumped && first_column(item).is_some_and(|column| needed.contains(&column));
    let kinds: Vec<Kind> = items
        .iter()
        .map(|item| {
            let kind = Kind::of(item);
            match kind {
                Kind::Unique | Kind::Foreign if is_dumped => Kind::Other,
                Kind::Plain if is_needed(item) || (is_dumped && !item.is_ascii()) => Kind::KeptPlain,
                Kind::Special if is_dumped && item.starts_with(b"FULLTEXT KEY `") && item.is_ascii() => Kind::Fulltext,
                Kind::Unique if !has_primary => Kind::Other,
                Kind::Unique | Kind::Plain if needs_key.is_some() && first_column(item) == needs_key => {
                    needs_key = None;
                    if kind == Kind::Unique { Kind::KeptUnique } else { Kind::KeptPlain }
                }
                kind => kind,
            }
        })
        .collect();
    let last = |kept: &[Kind]| kinds.iter().rposition(|kind| kept.contains(kind));
    let after_unique = last(&[Kind::KeptUnique]);
    let after_plain = last(&[Kind::KeptPlain, Kind::Special]);
    let (mut kept, mut keys, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (item, kind)) in items.iter().zip(&kinds).enumerate() {
        let waits = match kind {
            Kind::Unique => after_unique.is_none_or(|at| index > at),
            Kind::Plain => after_plain.is_none_or(|at| index > at),
            Kind::Foreign => true,
            Kind::Fulltext => after_plain.is_none_or(|at| index > at),
            _ => false,
        };
        match (waits, kind) {
            (false, _) => kept.push(*item),
            (true, Kind::Foreign) => foreign.push(item.to_vec()),
            (true, _) => keys.push(item.to_vec()),
        }
    }
    if keys.is_empty() && foreign.is_empty() {
        return None;
    }
    let create = [head, b"\n  ", &kept.join(b",\n  ".as_slice()), b"\n", tail].concat();
    Some(Divided { create, keys, foreign })
}

/// Writes the statement that adds definitions to a table.
pub(super) fn add(schema: &str, table: &str, definitions: &[Vec<u8>]) -> Vec<u8> {
    let mut sql = format!("ALTER TABLE {} ", quote::qualified(schema, table)).into_bytes();
    for (nth, definition) in definitions.iter().enumerate() {
        sql.extend_from_slice(if nth == 0 { b"ADD " } else { b", ADD " });
        sql.extend_from_slice(definition);
    }
    sql
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unique,
    Plain,
    /// Stays, because AUTO_INCREMENT needs it.
    KeptUnique,
    KeptPlain,
    /// A key that is built by a way of its own.
    Special,
    /// Such a key of a dump, which waits.
    Fulltext,
    Foreign,
    Other,
}

impl Kind {
    fn of(item: &[u8]) -> Self {
        let begins = |word: &[u8]| item.starts_with(word);
        let has = |word: &[u8]| quote::find(item, word, 0).is_some();
        if begins(b"UNIQUE KEY ") {
            // Uniqueness of periods and of long values rests on more than the key's columns.
            if has(b"WITHOUT OVERLAPS") || has(b"USING HASH") { Self::KeptUnique } else { Self::Unique }
        } else if begins(b"KEY ") {
            Self::Plain
        } else if [b"FULLTEXT".as_slice(), b"SPATIAL", b"VECTOR"].into_iter().any(begins) {
            Self::Special
        } else if begins(b"CONSTRAINT ") && has(b"FOREIGN KEY") {
            Self::Foreign
        } else {
            Self::Other
        }
    }
}

/// Divides a statement into what is in front of its columns and keys, those, and what follows them, from the bracket on.
fn items(create: &[u8]) -> Option<(&[u8], Vec<&[u8]>, &[u8])> {
    let open = quote::find(create, b"(", 0)?;
    let body = &create[open + 1..];
    let (mut items, mut depth, mut begin, mut quoted, mut i) = (Vec::new(), 0_usize, 0, None, 0);
    while i < body.len() {
        let b = body[i];
        match (quoted, b) {
            (Some(q), b'\\') if q != b'`' => i += 1,
            (Some(q), _) if q == b => quoted = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"' | b'`') => quoted = Some(b),
            (None, b'(') => depth += 1,
            (None, b')') if depth == 0 => {
                items.push(body[begin..i].trim_ascii());
                return Some((&create[..=open], items, &body[i..]));
            }
            (None, b')') => depth -= 1,
            (None, b',') if depth == 0 => {
                items.push(body[begin..i].trim_ascii());
                begin = i + 1;
            }
            (None, _) => {}
        }
        i += 1;
    }
    None
}

/// The quoted name with which a text begins, quotes included.
fn name(text: &[u8]) -> Option<&[u8]> {
    let mut i = 1;
    (text.first() == Some(&b'`')).then_some(())?;
    while i < text.len() {
        match (text[i], text.get(i + 1)) {
            (b'`', Some(b'`')) => i += 2,
            (b'`', _) => return Some(&text[..=i]),
            _ => i += 1,
        }
    }
    None
}

/// The first column of a key's definition, quotes included.
fn first_column(item: &[u8]) -> Option<&[u8]> {
    name(&item[quote::find(item, b"(", 0)? + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str) -> Option<(String, Vec<String>, Vec<String>)> {
        let create = format!(
            "CREATE TABLE `t (` (\n  {}\n) ENGINE=InnoDB COMMENT='x) KEY `k` (`a`)'",
            lines.replace('|', ",\n  ")
        );
        let divided = divide(create.as_bytes(), Rows::Ours)?;
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
        let create = text(&divided.create);
        let kept = create.strip_prefix("CREATE TABLE `t (` (\n  ").unwrap();
        let kept = kept.strip_suffix("\n) ENGINE=InnoDB COMMENT='x) KEY `k` (`a`)'").unwrap();
        Some((
            kept.replace(",\n  ", "|"),
            divided.keys.iter().map(text).collect(),
            divided.foreign.iter().map(text).collect(),
        ))
    }

    #[test]
    fn secondary_and_foreign_keys_wait() {
        let (kept, keys, foreign) = of(
            "`id` int NOT NULL AUTO_INCREMENT COMMENT 'a, KEY `x` (`y`)'|`a` decimal(5,2) DEFAULT '1,2'|PRIMARY KEY (`id`)|UNIQUE KEY `u` (`a`)|KEY `k` (`a`,`id`)|CONSTRAINT `f` FOREIGN KEY (`a`) REFERENCES `p` (`id`)|CONSTRAINT `c` CHECK (`a` > 0)",
        )
        .unwrap();
        assert_eq!(
            kept,
            "`id` int NOT NULL AUTO_INCREMENT COMMENT 'a, KEY `x` (`y`)'|`a` decimal(5,2) DEFAULT '1,2'|PRIMARY KEY (`id`)|CONSTRAINT `c` CHECK (`a` > 0)"
        );
        assert_eq!(keys, ["UNIQUE KEY `u` (`a`)", "KEY `k` (`a`,`id`)"]);
        assert_eq!(foreign, ["CONSTRAINT `f` FOREIGN KEY (`a`) REFERENCES `p` (`id`)"]);
        assert_eq!(
            String::from_utf8(add("s", "t", &[b"KEY `a` (`a`)".to_vec(), b"KEY `b` (`b`)".to_vec()])).unwrap(),
            "ALTER TABLE `s`.`t` ADD KEY `a` (`a`), ADD KEY `b` (`b`)"
        );
    }

    #[test]
    fn a_key_that_something_rests_on_stays_and_those_of_its_kind_in_front_of_it() {
        assert_eq!(of("`a` int|PRIMARY KEY (`a`)"), None);
        // Rows of a table without a primary key lie in the order of a unique key.
        let (kept, keys, _) = of("`a` int NOT NULL|UNIQUE KEY `u` (`a`)|KEY `k` (`a`)").unwrap();
        assert_eq!((kept.as_str(), keys), ("`a` int NOT NULL|UNIQUE KEY `u` (`a`)", vec!["KEY `k` (`a`)".to_owned()]));
        let (kept, keys, _) =
            of("`a` int|`n` int AUTO_INCREMENT|PRIMARY KEY (`a`)|KEY `x` (`a`)|KEY `n` (`n`)|KEY `y` (`a`)").unwrap();
        assert_eq!(kept, "`a` int|`n` int AUTO_INCREMENT|PRIMARY KEY (`a`)|KEY `x` (`a`)|KEY `n` (`n`)");
        assert_eq!(keys, ["KEY `y` (`a`)"]);
        let (kept, keys, _) =
            of("`a` int|PRIMARY KEY (`a`)|UNIQUE KEY `h` (`b`) USING HASH|KEY `k` (`a`)|FULLTEXT KEY `f` (`b`)")
                .unwrap_or_default();
        assert_eq!((kept.as_str(), keys.len()), ("", 0));
    }

    #[test]
    fn a_text_that_does_not_end_is_left_alone() {
        assert_eq!(divide(b"CREATE TABLE `t` (`a` int, KEY `k` (`a`)", Rows::Ours), None);
        assert_eq!(divide(b"CREATE TABLE `t`", Rows::Ours), None);
    }
}
