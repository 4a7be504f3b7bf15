//! Who listens on a port of this host.

use std::{collections::BTreeSet, fs, path::Path};

/// Names the processes that listen on a TCP port, as far as this user may look; empty: none, or nobody can tell.
///
/// # Source
/// proc(5): `/proc/net/tcp`, state `0A` is LISTEN, ports are hexadecimal; `/proc/PID/fd` has links `socket:[INODE]`.
pub(super) fn listeners(port: u16) -> Vec<String> {
    let mut sockets = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        sockets.extend(listening(&fs::read_to_string(table).unwrap_or_default(), port));
    }
    if sockets.is_empty() {
        return Vec::new();
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<String> = processes.filter_map(|process| holder(&process.path(), &sockets)).collect();
    found.sort();
    found
}

/// Finds the inodes of sockets that listen on a port.
fn listening(table: &str, port: u16) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    let sockets = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (local.ends_with(&wanted) && *state == "0A").then(|| format!("socket:[{inode}]"))
    });
    sockets.collect()
}

fn holder(process: &Path, sockets: &BTreeSet<String>) -> Option<String> {
    let pid: u32 = process.file_name()?.to_str()?.parse().ok()?;
    let mut files = fs::read_dir(process.join("fd")).ok()?.flatten();
    files.find(|file| fs::read_link(file.path()).is_ok_and(|to| sockets.contains(&*to.to_string_lossy())))?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = listeners(port);
        assert!(found.iter().any(|one| one.contains(&format!("process {}", std::process::id()))), "{found:?}");
        drop(listener);
        assert_eq!(listeners(port), [""; 0]);
    }
}
