//! Mending an environment file with a good one: keys are set, added and taken out; all other lines stay as they are.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Environment, NEEDED, syntax::Block};

/// How much of it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What cannot be read, what is needed and missing, and a key that is malformed or proven wrong.
    Broken {
        /// The key is proven wrong: values that it should open stay closed.
        with_key: bool,
    },
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
    pub(crate) fn mended(&self, good: &Self, extent: Extent) -> (String, Vec<Change>) {
        match extent {
            Extent::All => (good.blocks.iter().map(|block| &*block.text).collect(), self.differences(good)),
            Extent::Broken { with_key } => self.with_broken_replaced(good, with_key),
        }
    }

    fn with_broken_replaced(&self, good: &Self, with_key: bool) -> (String, Vec<Change>) {
        let of_good =
            |name: &str| good.blocks.iter().find(|block| block.pair().is_some_and(|(known, _)| known == name));
        let replaces_key = with_key || self.key_fault().is_some();
        let (mut lines, mut changes, mut set) = (Vec::new(), Vec::new(), Vec::new());
        for block in &self.blocks {
            let is_bad_key = replaces_key && block.name() == Some("APP_KEY");
            let is_empty = block
                .name()
                .is_some_and(|name| NEEDED.contains(&name) && block.pair().is_none_or(|(_, value)| value.is_empty()));
            if !(block.is_faulty() || is_bad_key || is_empty) {
                lines.push(ended(&block.text));
                continue;
            }
            let better = block.name().filter(|name| !set.contains(name)).and_then(of_good);
            match (better, block.name()) {
                (Some(better), Some(name)) => {
                    set.push(name);
                    lines.push(ended(&better.text));
                    changes.push(Change { what: block.label(), how: How::Set });
                }
                _ => changes.push(Change { what: block.label(), how: How::Removed }),
            }
        }
        for name in self.missing() {
            if let Some(better) = of_good(name).filter(|_| !set.contains(&name)) {
                lines.push(ended(&better.text));
                changes.push(Change { what: better.label(), how: How::Added });
            }
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
                (None, _) => How::Added,
                (_, None) => How::Removed,
                (ours, theirs) if ours == theirs => continue,
                _ => How::Set,
            };
            changes.push(Change { what: format!("`{name}`"), how });
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

    fn mend(text: &str, extent: Extent) -> (Environment, Vec<String>, String) {
        let (mended, changes) = Environment::read(text).mended(&Environment::read(GOOD), extent);
        (Environment::read(&mended), changes.iter().map(ToString::to_string).collect(), mended)
    }

    #[test]
    fn only_what_is_broken_is_replaced() {
        let text = "# ours\nAPP_KEY=0123456789abcdef\nAPP_ENV=staging\nDB_HOST=\nDB_DATABASE=shop\nMAIL_FROM=a b\nNEW=2\n\
                    TITLE=two words";
        let (mended, changes, all) = mend(text, Extent::Broken { with_key: false });
        assert_eq!(mended.faults(), [""; 0]);
        assert_eq!(changes, ["`DB_HOST` set", "`MAIL_FROM` set", "`TITLE` taken out", "`DB_USERNAME` added"]);
        assert!(all.starts_with("# ours\n"), "{all}");
        assert!(mended.blocks.iter().any(|b| b.says("NEW", "2")) && mended.get("OLD").is_none());
        assert_eq!(mended.get("APP_ENV"), Some("staging"), "a newer setting is nobody's fault");
    }

    #[test]
    fn a_key_is_replaced_where_it_is_malformed_or_proven_wrong() {
        let rest = GOOD.split_once('\n').unwrap().1;
        let (mended, changes, _) = mend(&format!("APP_KEY=base64:x\n{rest}"), Extent::Broken { with_key: false });
        assert_eq!(
            (mended.get("APP_KEY"), &changes[..]),
            (Some("0123456789abcdef"), &["`APP_KEY` set".to_owned()][..])
        );
        let other = format!("APP_KEY=fedcba9876543210\n{rest}");
        let (mended, changes, _) = mend(&other, Extent::Broken { with_key: false });
        assert_eq!((mended.get("APP_KEY"), changes.len()), (Some("fedcba9876543210"), 0));
        let (mended, ..) = mend(&other, Extent::Broken { with_key: true });
        assert_eq!(mended.get("APP_KEY"), Some("0123456789abcdef"));
    }

    #[test]
    fn all_of_it_is_that_of_the_backup_and_the_difference_names_keys_alone() {
        let (_, changes, all) = mend("APP_KEY=hunter2\nNEW=2\nOLD=1\n", Extent::All);
        assert_eq!(all, GOOD);
        let changes = changes.join(", ");
        assert!(changes.contains("`APP_KEY` set") && changes.contains("`NEW` taken out"), "{changes}");
        assert!(
            changes.contains("`DB_HOST` added") && !changes.contains("OLD") && !changes.contains("hunter2"),
            "{changes}"
        );
    }
}
