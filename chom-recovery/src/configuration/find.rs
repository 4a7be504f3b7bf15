//! Where the configuration is looked for.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Name of the file in a working directory.
pub const FILE_NAME: &str = "chom-recovery.toml";

/// Where the process is, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Directory in which, and in those above which, [`FILE_NAME`] is looked for.
    pub working: Option<PathBuf>,
    /// The user's configuration file.
    pub user: Option<PathBuf>,
    /// The host's.
    pub host: PathBuf,
}

impl Places {
    /// Finds those of this process: the working directory, `$XDG_CONFIG_HOME/chom-recovery/config.toml`
    /// (`~/.config` by default) and `/etc/chom-recovery/config.toml`.
    pub fn of_this_process() -> Self {
        let strategy = etcetera::choose_base_strategy().ok();
        Self {
            working: std::env::current_dir().ok(),
            user: strategy.map(|s| etcetera::BaseStrategy::config_dir(&s).join("chom-recovery/config.toml")),
            host: "/etc/chom-recovery/config.toml".into(),
        }
    }
}

/// Finds the configuration: `explicit`, else upwards from the working directory, else the user's, else the host's.
///
/// # Errors
/// `NotFound`: there is none; the message names every place. An explicit file is not looked for elsewhere.
pub fn find(explicit: Option<&Path>, places: &Places) -> Result<PathBuf> {
    let hint = "write one with `chom-recovery config init --project NAME`";
    if let Some(path) = explicit {
        return if path.is_file() {
            Ok(path.to_owned())
        } else {
            Err(Error::new(ErrorKind::NotFound, format!("there is no configuration file `{}`", path.display()))
                .hint(hint))
        };
    }
    let upwards = places.working.iter().flat_map(|dir| dir.ancestors()).map(|dir| dir.join(FILE_NAME));
    let candidates = upwards.chain(places.user.clone()).chain([places.host.clone()]);
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        let shown = |path: &Option<PathBuf>| path.as_ref().map_or_else(|| "-".into(), |p| p.display().to_string());
        Error::new(ErrorKind::NotFound, "there is no configuration file")
            .with("upwards from", shown(&places.working))
            .with("user", shown(&places.user))
            .with("host", places.host.display())
            .hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_file_wins_and_an_explicit_one_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        let places = Places {
            working: Some(deep.clone()),
            user: Some(dir.path().join("user.toml")),
            host: dir.path().join("host.toml"),
        };
        let missing = find(None, &places).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("user.toml") && missing.to_string().contains("host.toml"), "{missing}");

        for nearer in
            [places.host.clone(), dir.path().join("user.toml"), dir.path().join(FILE_NAME), deep.join(FILE_NAME)]
        {
            std::fs::write(&nearer, "").unwrap();
            assert_eq!(find(None, &places).unwrap(), nearer);
        }
        let explicit = dir.path().join("not-there.toml");
        assert_eq!(find(Some(&explicit), &places).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(find(Some(&places.host), &places).unwrap(), places.host);
    }
}
