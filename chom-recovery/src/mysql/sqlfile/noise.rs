//! Messages of programs that were written into a dump, where standard error went into the same file.

/// Beginnings of such lines. No statement begins so.
const BEGINNINGS: [&[u8]; 22] = [
    b"mysqldump:",
    b"mysqldump.exe:",
    b"/usr/bin/mysqldump:",
    b"mariadb-dump:",
    b"/usr/bin/mariadb-dump:",
    b"mariadb-dump.exe:",
    b"mysqlpump:",
    b"mysql:",
    b"Warning:",
    b"WARNING:",
    b"[Warning]",
    b"ERROR ",
    b"ERROR:",
    b"Error:",
    b"Error response from daemon",
    b"Error executing",
    b"OCI runtime",
    b"docker:",
    b"bash:",
    b"sh:",
    b"the input device is not a TTY",
    b"Enter password:",
];

/// Words of a line that only warns.
const HARMLESS: [&[u8]; 6] =
    [b"[Warning]", b"Warning:", b"WARNING:", b"[Note]", b"Deprecated program name", b"Enter password:"];

/// Judges the beginning of a line: `None` is no message, `Some(true)` tells of an error.
pub(super) fn judge(rest: &[u8]) -> Option<bool> {
    if !BEGINNINGS.iter().any(|b| rest.starts_with(b)) {
        return None;
    }
    let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()).min(400);
    let line = &rest[..end];
    Some(!HARMLESS.iter().any(|word| memchr::memmem::find(line, word).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_from_errors() {
        let password = b"mysqldump: [Warning] Using a password on the command line interface can be insecure.\n";
        assert_eq!(judge(password), Some(false));
        assert_eq!(judge(b"mysqldump: Deprecated program name. It will be removed in a future release\n"), Some(false));
        assert_eq!(judge(b"mysqldump: Error 2013: Lost connection to MySQL server during query"), Some(true));
        assert_eq!(judge(b"mysqldump: Got error: 1045: Access denied"), Some(true));
        assert_eq!(judge(b"INSERT INTO t VALUES (1)"), None);
    }
}
