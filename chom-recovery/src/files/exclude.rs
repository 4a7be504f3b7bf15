//! Which paths of a tree are left out.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::entry::TreePath;
use crate::error::{Error, ErrorKind, Result};

/// Patterns with the meaning that they have in a `.gitignore` at the root of the tree.
///
/// What is below an excluded folder is excluded with it. Where `include` has patterns, only what they match, and the
/// folders above it, is taken.
///
/// # Source
/// gitignore(5).
#[derive(Debug, Clone)]
pub struct Rules {
    exclude: Gitignore,
    include: Option<Gitignore>,
}

impl Rules {
    /// Takes everything.
    pub fn none() -> Self {
        Self { exclude: Gitignore::empty(), include: None }
    }

    /// Reads patterns.
    ///
    /// # Errors
    /// `InvalidInput`: a pattern cannot be read.
    pub fn new<S: AsRef<str>>(include: &[S], exclude: &[S]) -> Result<Self> {
        let include = if include.is_empty() { None } else { Some(compile(include)?) };
        Ok(Self { exclude: compile(exclude)?, include })
    }

    /// Tells whether an entry is taken. Its folder was asked about before.
    pub fn takes(&self, path: &TreePath, is_folder: bool) -> bool {
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        if self.exclude.matched(path, is_folder).is_ignore() {
            return false;
        }
        match &self.include {
            // A folder may hold something that is asked for; whether it does is seen when it is walked.
            Some(include) => is_folder || include.matched_path_or_any_parents(path, false).is_ignore(),
            None => true,
        }
    }

    /// Tells whether folders that hold nothing that is taken are left out.
    pub fn is_selective(&self) -> bool {
        self.include.is_some()
    }

    /// Tells whether a folder itself is asked for.
    pub fn asks_for(&self, path: &TreePath) -> bool {
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        self.include.as_ref().is_none_or(|i| i.matched_path_or_any_parents(path, true).is_ignore())
    }
}

fn compile<S: AsRef<str>>(patterns: &[S]) -> Result<Gitignore> {
    let bad = |pattern: &str, e: ignore::Error| {
        Error::new(ErrorKind::InvalidInput, format!("`{pattern}` is not a pattern"))
            .caused_by(e.to_string())
            .hint("patterns are written as in a .gitignore: `node_modules/`, `*.log`, `/storage/framework/cache/`")
    };
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let pattern = pattern.as_ref();
        builder.add_line(None, pattern).map_err(|e| bad(pattern, e))?;
    }
    builder.build().map_err(|e| bad("", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_in_a_gitignore() {
        let rules = Rules::new(&[], &["vendor", "node_modules/", "/storage/logs/*.log", "*.tmp", "!keep.tmp"]).unwrap();
        for (text, is_folder, taken) in [
            ("vendor", true, false),
            ("packages/vendor", true, false),
            ("node_modules", true, false),
            ("node_modules", false, true),
            ("storage/logs/laravel.log", false, false),
            ("other/storage/logs/laravel.log", false, true),
            ("a/b.tmp", false, false),
            ("a/keep.tmp", false, true),
        ] {
            assert_eq!(rules.takes(&path(text), is_folder), taken, "{text}");
        }
    }

    #[test]
    fn what_is_included_excludes_the_rest() {
        let rules = Rules::new(&["/.env", "/docker/"], &["*.bak"]).unwrap();
        for (text, taken) in
            [(".env", true), ("docker/nginx/a.conf", true), ("docker/a.bak", false), ("app/.env", false)]
        {
            assert_eq!(rules.takes(&path(text), false), taken, "{text}");
        }
        assert!(rules.asks_for(&path("docker/nginx")));
        assert!(!rules.asks_for(&path("app")));
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_named() {
        let error = Rules::new(&[], &["[z-a]", "b"]).unwrap_err();
        assert!(error.message().contains("[z-a]"), "{error}");
    }
}
