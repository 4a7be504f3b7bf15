//! Leaves secondary indexes out of a `CREATE TABLE`, to be added after the rows: sorting all keys once is faster than
//! finding the place of each.

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
    let begin = memchr::memmem::find(create, b" (\n")? + 3;
    let end = begin + memchr::memmem::find(&create[begin..], b"\n)")?;
    let (body, options) = (&create[begin..end], &create[end..]);
    let says = |text: &[u8], word: &[u8]| memchr::memmem::find(text, word).is_some();
    // Other engines keep no rows apart from their keys; versioned tables take no ALTER.
    if !says(options, b") ENGINE=InnoDB") || says(options, b"SYSTEM VERSIONING") || says(body, b"\n  PERIOD FOR") {
        return None;
    }
    let lines: Vec<&[u8]> = body.split(|b| *b == b'\n').collect();
    if !lines.iter().all(|line| line.starts_with(b"  ")) {
        return None;
    }
    let needed = needed(&lines);
    let is_last = |line: &[u8]| line.starts_with(b"  CONSTRAINT ") || line.starts_with(b"  CHECK ");
    let last = lines.iter().rposition(|line| !is_last(line))?;
    let is_plain = |line: &&&[u8]| {
        let is_key = line.starts_with(b"  KEY `") && first_column(line).is_some_and(|c| !needed.contains(&c));
        // Other bytes would be read in the character set of the statement.
        line.is_ascii() && (is_key || line.starts_with(b"  FULLTEXT KEY `"))
    };
    let count = lines[..=last].iter().rev().take_while(is_plain).count();
    if count == 0 || count == lines.len() {
        return None;
    }
    let from = last + 1 - count;
    let without_comma = |line: &[u8]| line.strip_suffix(b",").unwrap_or(line).to_vec();
    let (mut plain, mut adds) = (Vec::new(), Vec::new());
    for line in &lines[from..=last] {
        let add = [b"ADD ", &without_comma(&line[2..])[..]].concat();
        if line.starts_with(b"  FULLTEXT") { adds.push(add) } else { plain.push(add) }
    }
    if !plain.is_empty() {
        adds.insert(0, plain.join(&b", "[..]));
    }
    let mut kept: Vec<Vec<u8>> = lines[..from].iter().chain(&lines[last + 1..]).map(|line| line.to_vec()).collect();
    if let Some(line) = kept.last_mut() {
        *line = without_comma(line);
    }
    Some(Deferred { create: [&create[..begin], &kept.join(&b'\n'), options].concat(), adds })
}

/// Lists the columns whose keys stay.
fn needed<'a>(lines: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut needed = Vec::new();
    for line in lines {
        if let Some(at) = memchr::memmem::find(line, b" FOREIGN KEY (") {
            needed.extend(first_column(&line[at..]));
        } else if line.starts_with(b"  `") && memchr::memmem::find(line, b" AUTO_INCREMENT").is_some() {
            needed.extend(quoted(&line[2..]));
        }
    }
    needed
}

/// Returns the first column in a key's list, in its quotes; an expression is not one.
fn first_column(line: &[u8]) -> Option<&[u8]> {
    // The key's own name may hold a bracket.
    let name = line.iter().position(|b| *b == b'`').and_then(|at| quoted(&line[at..]).map(|name| at + name.len()));
    let from = match (line.iter().position(|b| *b == b'('), name) {
        (Some(bracket), Some(end)) if bracket > end => bracket,
        (Some(bracket), _) if line.starts_with(b" FOREIGN KEY (") => bracket,
        (_, Some(end)) => end + line[end..].iter().position(|b| *b == b'(')?,
        _ => return None,
    };
    match line.get(from + 1)? {
        b'`' => quoted(&line[from + 1..]),
        // A functional index needs no column.
        _ => Some(b"("),
    }
}

/// Returns the quoted name at the begin.
fn quoted(text: &[u8]) -> Option<&[u8]> {
    let mut at = 1;
    loop {
        at += text.get(at..)?.iter().position(|b| *b == b'`')?;
        if text.get(at + 1) != Some(&b'`') {
            return Some(&text[..=at]);
        }
        at += 2;
    }
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
