//! What else is backed up, besides the database.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    catalog::Name,
    error::{Error, ErrorKind, Result},
};

/// Name of the component that holds the database.
pub const DATABASE: &str = "database";

/// A tree of files that is backed up beside the database.
///
/// Where it lies is said in one of three ways: `path` alone is a folder of this host, `service` and `path` a folder in the
/// service's container that is mounted there, `volume` a volume of the project.
///
/// # Examples
/// ```
/// let component: chom_recovery::system::Component = toml::from_str(r#"
///     name = "uploads"
///     service = "app"
///     path = "/var/www/html/storage/app"
///     exclude = ["*.tmp"]
/// "#).unwrap();
/// assert_eq!(component.kind, chom_recovery::system::TreeKind::Files);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Name in backups: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`.
    pub name: String,
    /// What it is, for people; it is stored in the same way.
    #[serde(default)]
    pub kind: TreeKind,
    /// Compose service whose container knows `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Absolute path: in the container of `service`, else on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Volume, by its name in the Compose file or its full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// What is taken, as patterns of a `.gitignore` at the root of the tree; empty: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// What is left out, in the same notation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

/// What a tree is to the system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeKind {
    /// Files of the application, uploads among them.
    #[default]
    Files,
    /// Configuration.
    Config,
    /// Certificates and their keys.
    Certificates,
    /// A volume.
    Volume,
    /// The snapshot that redis writes when it is asked for one; redis tells where it lies.
    Redis,
}

impl Component {
    fn check(&self) -> Result<()> {
        let bad = |what: &str| {
            Err(Error::new(ErrorKind::InvalidInput, format!("configuration: component `{}` {what}", self.name)))
        };
        self.name.parse::<Name>().map_err(|e| e.during("configuration: a component"))?;
        if self.name == DATABASE {
            return bad("bears the name of the database's own component");
        }
        match (&self.service, &self.path, &self.volume) {
            (None, None, None) if self.kind == TreeKind::Redis => {
                if !(self.include.is_empty() && self.exclude.is_empty()) {
                    return bad("is one file of redis's: there is nothing to include or exclude");
                }
            }
            _ if self.kind == TreeKind::Redis => return bad("is redis's: redis itself tells where its snapshot lies"),
            (_, Some(path), None) if path.is_absolute() => {}
            (None, None, Some(_)) => {}
            (_, Some(_), None) => return bad("has a `path` that is not absolute"),
            (Some(_), None, _) => return bad("has a `service` and no `path` in it"),
            (_, Some(_), Some(_)) => return bad("has a `path` and a `volume`: say one of them"),
            (None, None, None) => return bad("says neither `path` nor `volume`"),
        }
        crate::files::Rules::new(&self.include, &self.exclude)
            .map_err(|e| e.during(format!("configuration: component `{}`", self.name)))?;
        Ok(())
    }
}

/// Refuses components that cannot be told apart, or found.
pub(super) fn check(components: &[Component]) -> Result<()> {
    let mut names = BTreeSet::new();
    for component in components {
        component.check()?;
        if !names.insert(&component.name) {
            let twice = format!("configuration: two components are called `{}`", component.name);
            return Err(Error::new(ErrorKind::InvalidInput, twice));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct File {
            components: Vec<Component>,
        }
        check(&toml::from_str::<File>(text).unwrap().components)
    }

    #[test]
    fn what_cannot_be_found_or_told_apart_is_refused() {
        for (text, why) in [
            ("[[components]]\nname = 'a'", "neither"),
            ("[[components]]\nname = 'a'\npath = 'b'", "not absolute"),
            ("[[components]]\nname = 'a'\nservice = 'app'", "no `path`"),
            ("[[components]]\nname = 'a'\nkind = 'redis'\nexclude = ['b']", "nothing to include"),
            ("[[components]]\nname = 'a'\nkind = 'redis'\npath = '/b'", "redis itself"),
            ("[[components]]\nname = 'a'\npath = '/b'\nvolume = 'c'", "say one"),
            ("[[components]]\nname = 'database'\npath = '/b'", "own component"),
            ("[[components]]\nname = 'A/b'\npath = '/b'", "not a name"),
            ("[[components]]\nname = 'a'\npath = '/b'\nexclude = ['[z-a]']", "[z-a]"),
            ("[[components]]\nname = 'a'\npath = '/b'\n[[components]]\nname = 'a'\npath = '/c'", "two components"),
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains(why), "{text}: {error}");
        }
        for text in [
            "name = 'a'\nkind = 'redis'",
            "name = 'a'\npath = '/b'",
            "name = 'a'\nservice = 'app'\npath = '/b'",
            "name = 'a'\nvolume = 'c'",
        ] {
            checked(&format!("[[components]]\n{text}")).unwrap();
        }
    }
}
