//! Mending an environment file with a good one: keys are set, added and taken out; all other lines stay as they are.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Environment, syntax::Block};

/// How much of it is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Extent {
    /// What cannot be read, and these, which are wrong or missing.
    Broken(Vec<String>),
    /// Every key.
    All,
}

/// What changes, without values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Key, or the line where there is none.
    pub(crate) what: String,
    pub(crate) how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    Set,
    Added,
    Removed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            How::Set => "set",
            How::Added => "added",
            How::Removed => "taken out",
        };
        write!(f, "{} {how}", self.what)
    }
}

impl Environment {
    /// Mends it with a good one. Returns the text, and what changes.
    pub(crate) fn mended(&self, good: &Self, extent: &Extent) -> (String, Vec<Change>) {
        match extent {
            Extent::All => (good.blocks.iter().map(|block| &*block.text).collect(), self.differences(good)),
            Extent::Broken(wanted) => self.with_broken_replaced(good, wanted),
        }
    }

    fn with_broken_replaced(&self, good: &Self, wanted: &[String]) -> (String, Vec<Change>) {
        let of_good = |name: &str| good.last(name).filter(|block| block.pair().is_some());
        let (mut lines, mut changes) = (Vec::new(), Vec::new());
        for block in &self.blocks {
            let counts = block.name().filter(|name| self.last(name).is_some_and(|last| std::ptr::eq(last, block)));
            if !block.is_faulty() && !counts.is_some_and(|name| wanted.iter().any(|wanted| wanted == name)) {
                lines.push(ended(&block.text));
                continue;
            }
            let better = counts.and_then(of_good);
            if better.is_some_and(|better| better.pair() == block.pair()) {
                lines.push(ended(&block.text));
                continue;
            }
            lines.extend(better.map(|better| ended(&better.text)));
            let how = if better.is_some() { How::Set } else { How::Removed };
            changes.push(Change { what: block.label(), how });
        }
        for better in wanted.iter().filter(|name| self.last(name).is_none()).filter_map(|name| of_good(name)) {
            lines.push(ended(&better.text));
            changes.push(Change { what: better.label(), how: How::Added });
        }
        (lines.concat(), changes)
    }

    fn differences(&self, good: &Self) -> Vec<Change> {
        let (here, there) = (self.names(), good.names());
        let mut changes: Vec<Change> = self
            .blocks
            .iter()
            .filter(|b| b.is_faulty())
            .map(|b| Change { what: b.label(), how: How::Removed })
            .collect();
        for name in here.union(&there) {
            let how = match (self.get(name), good.get(name)) {
                (ours, theirs) if ours == theirs => continue,
                (None, _) => How::Added,
                (_, None) => How::Removed,
                _ => How::Set,
            };
            let block = self.last(name).or_else(|| good.last(name));
            changes.extend(block.map(|block| Change { what: block.label(), how }));
        }
        changes
    }
}

/// The last line of a file may have no end.
fn ended(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

impl Block {
    /// Tells whether two blocks say the same; for tests.
    #[cfg(test)]
    fn says(&self, name: &str, value: &str) -> bool {
        self.pair() == Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "APP_KEY=0123456789abcdef\nAPP_ENV=production\nDB_HOST=mysql\nDB_DATABASE=shop\nDB_USERNAME=shop\n\
                        MAIL_FROM=\"a b\"\nOLD=1\n";

    fn mend(text: &str, extent: &Extent) -> (Environment, Vec<String>, String) {
        let (mended, changes) = Environment::read(text).mended(&Environment::read(GOOD), extent);
        (Environment::read(&mended), changes.iter().map(ToString::to_string).collect(), mended)
    }

    fn broken(wanted: &[&str]) -> Extent {
        Extent::Broken(wanted.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn only_what_is_broken_is_replaced() {
        let text = "# ours\nAPP_KEY=0123456789abcdef\nAPP_ENV=staging\nDB_HOST=\nDB_DATABASE=shop\nMAIL_FROM=a b\nNEW=2\n\
                    TITLE=two words";
        let (mended, changes, all) = mend(text, &broken(&["DB_HOST", "DB_USERNAME"]));
        assert_eq!((mended.faults(false), mended.gaps()), (vec![], vec![]));
        assert_eq!(changes, ["`DB_HOST` set", "`MAIL_FROM` set", "`TITLE` taken out", "`DB_USERNAME` added"]);
        assert!(all.starts_with("# ours\n"), "{all}");
        assert!(mended.blocks.iter().any(|b| b.says("NEW", "2")) && mended.get("OLD").is_none());
        assert_eq!(mended.get("APP_ENV"), Some("staging"), "a newer setting is nobody's fault");
    }

    #[test]
    fn a_key_is_replaced_where_it_is_wanted_and_where_it_counts() {
        let rest = GOOD.split_once('\n').unwrap().1;
        let (mended, changes, _) = mend(&format!("APP_KEY=base64:x\n{rest}"), &broken(&["APP_KEY"]));
        assert_eq!(
            (mended.get("APP_KEY"), &changes[..]),
            (Some("0123456789abcdef"), &["`APP_KEY` set".to_owned()][..])
        );
        let other = format!("APP_KEY=fedcba9876543210\n{rest}");
        let (mended, changes, _) = mend(&other, &broken(&[]));
        assert_eq!((mended.get("APP_KEY"), changes.len()), (Some("fedcba9876543210"), 0));
        let (mended, _, all) = mend(&format!("APP_KEY=\n{other}"), &broken(&["APP_KEY"]));
        assert_eq!(mended.get("APP_KEY"), Some("0123456789abcdef"));
        assert!(all.starts_with("APP_KEY=\n"), "a line that does not count stays: {all}");
    }

    #[test]
    fn what_is_wanted_and_the_same_in_both_is_no_change() {
        let (_, changes, all) =
            mend(&GOOD.replace("DB_HOST=mysql", "DB_HOST=other"), &broken(&["DB_HOST", "DB_USERNAME"]));
        assert_eq!((changes, all.as_str()), (vec!["`DB_HOST` set".to_owned()], GOOD));
    }

    #[test]
    fn a_quote_that_is_missing_takes_no_other_setting_with_it() {
        let text = format!("MAIL_FROM=\"a b\n{GOOD}MAIL_PASSWORD=\"s3cret\"\n");
        let (mended, changes, _) = mend(&text, &broken(&[]));
        assert_eq!(mended.get("MAIL_PASSWORD"), Some("s3cret"), "{changes:?}");
        assert_eq!((mended.get("MAIL_FROM"), mended.faults(false)), (Some("a b"), vec![]));
    }

    #[test]
    fn all_of_it_is_that_of_the_backup_and_the_difference_names_keys_alone() {
        let (_, changes, all) = mend("APP_KEY=hunter2\nNEW=2\nOLD=1\n", &Extent::All);
        assert_eq!(all, GOOD);
        let changes = changes.join(", ");
        assert!(changes.contains("`APP_KEY` set") && changes.contains("`NEW` taken out"), "{changes}");
        assert!(
            changes.contains("`DB_HOST` added") && !changes.contains("OLD") && !changes.contains("hunter2"),
            "{changes}"
        );
    }
}
