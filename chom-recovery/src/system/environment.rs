//! Where the application's environment file lies, among what is backed up.

use std::path::{Component as Part, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Component, System};
use crate::error::{Error, ErrorKind, Result};

/// The file that the application's settings and keys come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentFile {
    /// Component that holds it.
    pub component: String,
    /// Its path within the component.
    #[serde(default = "dot_env")]
    pub path: PathBuf,
    /// Column whose values the application encrypted with its key, as `schema.table.column`: they prove the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<String>,
}

fn dot_env() -> PathBuf {
    ".env".into()
}

impl EnvironmentFile {
    /// Returns schema, table and column of what is encrypted, where that is said.
    pub(crate) fn column(&self) -> Option<(&str, &str, &str)> {
        let mut words = self.encrypted.as_deref()?.split('.');
        let column = (words.next()?, words.next()?, words.next()?);
        words.next().is_none().then_some(column)
    }
}

impl System {
    /// Returns the application's environment file, and the component that holds it.
    pub fn environment_file(&self) -> Option<(&EnvironmentFile, &Component)> {
        let file = self.application.environment.as_ref()?;
        Some((file, self.components.iter().find(|component| component.name == file.component)?))
    }

    /// Refuses what cannot be found.
    pub(super) fn check_environment(&self) -> Result<()> {
        let Some(file) = &self.application.environment else { return Ok(()) };
        let bad = |what: String| Err(Error::new(ErrorKind::InvalidInput, format!("configuration: {what}")));
        if self.environment_file().is_none() {
            let what =
                format!("`application.environment.component` = `{}` is none of the `components`", file.component);
            return bad(what).map_err(|e: Error| e.hint("name one, or add it as `[[components]]`"));
        }
        if !is_below(&file.path) {
            let path = file.path.display();
            return bad(format!("`application.environment.path` = `{path}` is not a path within the component"));
        }
        if file.encrypted.is_some() && file.column().is_none() {
            let column = file.encrypted.as_deref().unwrap_or_default();
            return bad(format!("`application.environment.encrypted`: `{column}` is not `schema.table.column`"));
        }
        Ok(())
    }
}

fn is_below(path: &Path) -> bool {
    path.file_name().is_some() && path.components().all(|part| matches!(part, Part::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_out_is_refused() {
        for (path, is_good) in [(".env", true), ("app/.env", true), ("/etc/x", false), ("../.env", false), ("", false)]
        {
            assert_eq!(is_below(Path::new(path)), is_good, "{path}");
        }
    }

    #[test]
    fn a_column_has_three_words() {
        let column = |text: &str| {
            let file: EnvironmentFile = toml::from_str(&format!("component = \"c\"\nencrypted = \"{text}\"")).unwrap();
            assert_eq!(file.path, Path::new(".env"));
            file.column().is_some()
        };
        assert!(column("shop.users.phone") && !column("users.phone") && !column("a.b.c.d"));
    }
}
