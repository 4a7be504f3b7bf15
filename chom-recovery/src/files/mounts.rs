//! What is mounted below a folder.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use crate::error::{Error, ErrorKind, Result};

/// Refuses a folder below which another filesystem is mounted: it would go along where the folder is renamed, and be
/// emptied where the folder is removed.
///
/// # Source
/// proc_pid_mountinfo(5).
///
/// # Errors
/// `Unsupported`: there is a mount below the folder.
pub fn refuse_mounts_below(folder: &Path) -> Result<()> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    match mount_points(&text).into_iter().find(|point| *point != folder && point.starts_with(&folder)) {
        None => Ok(()),
        Some(point) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("`{}` is mounted below `{}`", point.display(), folder.display()),
        )
        .hint("make it a component of its own, or restore into a new folder: `--target FOLDER`")),
    }
}

fn mount_points(text: &[u8]) -> Vec<PathBuf> {
    let fields = text.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    fields.map(|field| OsString::from_vec(unescape(field)).into()).collect()
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), field);
    while let [first, more @ ..] = rest {
        let digits = more.get(..3).filter(|_| *first == b'\\');
        let code = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        (out, rest) = match code {
            Some(code) => ([&out[..], &[code]].concat(), &more[3..]),
            None => ([&out[..], &[*first]].concat(), more),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/a rw\n30 22 0:5 / /srv/a\\040b rw - tmpfs none rw\n";
        assert_eq!(mount_points(text), [Path::new("/"), Path::new("/srv/a b")]);
    }

    #[test]
    fn what_is_mounted_below_is_found_and_the_folder_itself_is_none() {
        assert_eq!(refuse_mounts_below(Path::new("/")).unwrap_err().kind(), ErrorKind::Unsupported);
        let folder = tempfile::tempdir().unwrap();
        refuse_mounts_below(folder.path()).unwrap();
        refuse_mounts_below(Path::new("/proc/self/nothing")).unwrap();
    }
}
