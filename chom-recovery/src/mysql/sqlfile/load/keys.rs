//! Leaves secondary indexes out of a `CREATE TABLE`, to be added after the rows: sorting all keys once is faster than
//! finding the place of each.

use crate::mysql::load::keys::{Rows, divide};

/// A definition in two steps, whose result is the definition itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Deferred {
    /// The statement without the indexes.
    pub(super) create: Vec<u8>,
    /// What `ALTER TABLE` adds: each element is one statement's part.
    pub(super) adds: Vec<Vec<u8>>,
}

/// Divides a definition as the servers write it: one column, key or constraint a line. `None`: nothing can be left out.
///
/// Servers list keys in the order in which they were made, so only the last ones are left out. Unique keys stay, since
/// they decide which rows are taken. So do keys that a foreign key or an AUTO_INCREMENT column may need: without one the
/// server would refuse the table, or make a key of its own. InnoDB builds one FULLTEXT index at a time.
///
/// # Source
/// MySQL 9 manual, "FOREIGN KEY Constraints", "InnoDB Full-Text Indexes"; MariaDB documentation, "Foreign Keys".
pub(super) fn defer(create: &[u8]) -> Option<Deferred> {
    let begin = memchr::memmem::find(create, b" (\n")?;
    let end = begin + memchr::memmem::find(&create[begin..], b"\n)")?;
    let says = |text: &[u8], word: &[u8]| memchr::memmem::find(text, word).is_some();
    let (body, options) = (&create[begin..end], &create[end..]);
    // Other engines keep no rows apart from their keys; versioned tables take no ALTER.
    if !says(options, b") ENGINE=InnoDB") || says(options, b"SYSTEM VERSIONING") || says(body, b"\n  PERIOD FOR") {
        return None;
    }
    let divided = divide(create, Rows::Dumped)?;
    let add = |keys: Vec<Vec<u8>>| keys.iter().map(|key| [b"ADD ", &key[..]].concat()).collect::<Vec<_>>();
    let (fulltext, plain): (Vec<_>, Vec<_>) = divided.keys.into_iter().partition(|key| key.starts_with(b"FULLTEXT"));
    let mut adds = add(fulltext);
    if !plain.is_empty() {
        adds.insert(0, add(plain).join(&b", "[..]));
    }
    Some(Deferred { create: divided.create, adds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str], options: &str) -> Vec<u8> {
        format!("CREATE TABLE `t` (\n  {}\n) ENGINE={options}", lines.join(",\n  ")).into_bytes()
    }

    fn shown(create: &[u8]) -> Option<(String, Vec<String>)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        defer(create).map(|d| (text(&d.create), d.adds.iter().map(|a| text(a)).collect()))
    }

    #[test]
    fn plain_keys_come_later_and_what_is_needed_stays() {
        let lines = [
            "`id` int NOT NULL AUTO_INCREMENT",
            "`a (b` int",
            "`c` text",
            "PRIMARY KEY (`id`)",
            "UNIQUE KEY `u` (`c`(9))",
            "KEY `for (``a` (`a (b`)",
            "KEY `x` (`c`(9),`id`)",
            "KEY `y` ((`id` + 1)) /*!80000 INVISIBLE */",
            "FULLTEXT KEY `f` (`c`)",
            "FULLTEXT KEY `g` (`c`)",
            "CONSTRAINT `fk` FOREIGN KEY (`a (b`) REFERENCES `u` (`id`)",
        ];
        let (create, adds) = shown(&table(&lines, "InnoDB AUTO_INCREMENT=5")).unwrap();
        let kept: Vec<_> = lines[..6].iter().chain(&lines[10..]).copied().collect();
        assert_eq!(create.as_bytes(), table(&kept, "InnoDB AUTO_INCREMENT=5"));
        assert_eq!(
            adds,
            [
                "ADD KEY `x` (`c`(9),`id`), ADD KEY `y` ((`id` + 1)) /*!80000 INVISIBLE */",
                "ADD FULLTEXT KEY `f` (`c`)",
                "ADD FULLTEXT KEY `g` (`c`)"
            ]
        );
    }

    #[test]
    fn only_the_last_keys_are_left_out_and_the_comma_before_them_goes() {
        let lines = ["`id` int AUTO_INCREMENT", "`a` int", "KEY `a` (`a`)", "KEY `id` (`id`)"];
        assert_eq!(shown(&table(&lines, "InnoDB")), None);
        let lines = ["`id` int", "SPATIAL KEY `s` (`g`)", "KEY `b` (`id`)"];
        let (create, adds) = shown(&table(&lines, "InnoDB")).unwrap();
        assert_eq!(create.as_bytes(), table(&lines[..2], "InnoDB"));
        assert_eq!(adds, ["ADD KEY `b` (`id`)"]);
    }

    #[test]
    fn what_is_written_otherwise_is_left_as_it_is() {
        let lines = ["`id` int", "KEY `a` (`id`)"];
        assert_eq!(shown(&table(&lines, "MyISAM")), None);
        assert_eq!(shown(&table(&lines, "InnoDB WITH SYSTEM VERSIONING")), None);
        assert_eq!(shown(b"CREATE TABLE t (id int, KEY (id)) ENGINE=InnoDB"), None);
        assert_eq!(shown(&table(&["`id` int", "KEY `\u{e9}` (`id`)"], "InnoDB")), None);
        for cut in 0..60 {
            let create = table(&lines, "InnoDB");
            let _ = defer(&create[..cut.min(create.len())]);
        }
    }
}
