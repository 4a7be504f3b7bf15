//! Files that others read while they are written anew.

use std::{
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use crate::error::{Error, ErrorKind, Result};

/// Puts a text into a file at once: a reader sees the old one or the new one, whole and readable by everybody (0644).
///
/// # Errors
/// Those of writing; the old file stays then.
pub fn publish(path: &Path, text: &str) -> Result<()> {
    let refused = |e: std::io::Error| Error::from(e).during(format!("cannot write `{}`", path.display()));
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not the name of a file", path.display())));
    };
    // Beside it, and without the ending that the collector looks for.
    let fresh = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let _ = std::fs::remove_file(&fresh);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        // Whatever the umask takes away.
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    written.map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_everybody_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chom.prom");
        for text in ["first\n", "second\n"] {
            publish(&path, text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = publish(&folder.path().join("absent/chom.prom"), "x").unwrap_err();
        assert!(error.message().contains("absent/chom.prom"), "{error}");
    }
}
