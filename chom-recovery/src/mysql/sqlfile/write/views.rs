//! The order in which views can be made, and which cannot.

use std::collections::{BTreeMap, BTreeSet};

use crate::mysql::{
    SYSTEM_SCHEMAS,
    objects::{Objects, View},
};

type Key = (String, String);

/// Puts views behind those that they are built on. Second: views that name a table that is not there, or one of these
/// views: they are invalid, as they were at the source.
pub(super) fn ordered(objects: &Objects) -> (Vec<&View>, Vec<&View>) {
    let views: BTreeMap<Key, &View> = objects.views.iter().map(|v| ((v.schema.clone(), v.name.clone()), v)).collect();
    let tables: BTreeSet<Key> = objects
        .tables
        .iter()
        .map(|t| (t.schema.clone(), t.name.clone()))
        .chain(objects.sequences.iter().map(|s| (s.schema.clone(), s.name.clone())))
        .collect();
    let mut waiting: BTreeMap<Key, BTreeSet<Key>> = BTreeMap::new();
    for (key, view) in &views {
        let sources = sources(view.create.bytes()).into_iter().map(|(s, n)| (s.unwrap_or(view.schema.clone()), n));
        let sources = sources.filter(|s| !tables.contains(s) && !SYSTEM_SCHEMAS.contains(&s.0.as_str()));
        waiting.insert(key.clone(), sources.collect());
    }
    let mut ready: Vec<&View> = Vec::new();
    let mut made: BTreeSet<Key> = BTreeSet::new();
    loop {
        let next: Vec<Key> = waiting.iter().filter(|(_, on)| on.is_subset(&made)).map(|(key, _)| key.clone()).collect();
        if next.is_empty() {
            break;
        }
        for key in next {
            waiting.remove(&key);
            ready.push(views[&key]);
            made.insert(key);
        }
    }
    (ready, waiting.keys().map(|key| views[key]).collect())
}

/// Lists the tables and views that a statement selects from: in what servers write, names behind `from` and `join`.
fn sources(create: &[u8]) -> Vec<(Option<String>, String)> {
    let text = String::from_utf8_lossy(create);
    let mut found = Vec::new();
    let mut rest = text.as_ref();
    // Names of common tables are defined by the statement itself.
    let mut own = BTreeSet::new();
    let mut is_source = false;
    while let Some(c) = rest.chars().next() {
        match c {
            '\'' | '"' => {
                rest = &rest[text_end(rest, c)..];
                is_source = false;
            }
            '`' => {
                let (name, after) = name(rest);
                let (first, mut after) = (name, after);
                if is_source {
                    if let Some(second) = after.strip_prefix('.').filter(|r| r.starts_with('`')) {
                        let (name, end) = self::name(second);
                        found.push((Some(first), name));
                        after = end;
                    } else {
                        found.push((None, first));
                    }
                } else if is_common_table(after) {
                    own.insert(first);
                }
                rest = after;
                is_source = false;
            }
            _ if c.is_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                is_source = ["from", "join"].iter().any(|word| rest[..end].eq_ignore_ascii_case(word));
                rest = &rest[end..];
            }
            // `from (a join b)`
            '(' => rest = &rest[1..],
            _ if c.is_whitespace() => rest = &rest[c.len_utf8()..],
            _ => {
                is_source = false;
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    found.retain(|(schema, name)| schema.is_some() || !own.contains(name));
    found
}

/// Tells whether a name is followed by what defines it: `as (…`, perhaps behind its columns.
fn is_common_table(after: &str) -> bool {
    let mut after = after.trim_start();
    if after.starts_with('(') {
        after = after.split_once(')').map_or("", |(_, rest)| rest.trim_start());
    }
    after.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("as ("))
}

/// Length of a quoted text with its quotes.
fn text_end(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Takes a quoted name.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut rest = &text[1..];
    while let Some(at) = rest.find('`') {
        name.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(more) = rest.strip_prefix('`') else { return (name, rest) };
        name.push('`');
        rest = more;
    }
    (name + rest, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_stand_behind_from_and_join() {
        let of = |text: &str| {
            sources(text.as_bytes())
                .into_iter()
                .map(|(s, n)| s.map_or(n.clone(), |s| format!("{s}.{n}")))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of(
                "CREATE VIEW `v` AS select `a`.`id` AS `from`,'from `x`' AS `t` from ((`a` join `s`.`b``c` on((`a`.`id` = `b``c`.`id`))) left join `d` on(1)) where exists(select 1 from `e` limit 1)"
            ),
            ["a", "s.b`c", "d", "e"]
        );
        assert_eq!(of("CREATE VIEW `v` AS with `c` as (select 1 from `a`) select * from `c`"), ["a"]);
        assert_eq!(
            of("CREATE VIEW `v` AS with recursive `c` (`n`) as (select `n` from `a`) select `n` from `c`"),
            ["a"]
        );
        assert_eq!(of("CREATE VIEW `v` AS select 1 AS `1`"), Vec::<String>::new());
    }
}
