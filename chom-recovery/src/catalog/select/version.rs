//! Which server can take which backup.

use crate::{
    catalog::{facts::Flavour, manifest::ComponentKind},
    error::{Error, ErrorKind, Result},
};

/// Checks that a server can take a backup of a kind.
///
/// A logical backup goes into the same flavour and the same or a newer release series; a physical one into the same
/// series, at the same or a newer patch level.
///
/// # Errors
/// `Precondition`: it cannot. `InvalidInput`: a version that cannot be read.
///
/// # Source
/// MySQL manual, "Upgrade paths" and "Downgrading MySQL": data files go to the next series only and never back, and
/// a downgrade within a series is by dump. MariaDB knowledge base, "Downgrading between major versions": unsupported.
///
/// # Examples
/// ```
/// use chom_recovery::catalog::{ComponentKind::Logical, Flavour::Mariadb, compatible};
/// let backup = (Mariadb, "10.11.6-MariaDB-0+deb12u1");
/// assert!(compatible(Logical, backup, (Mariadb, "11.8.2-MariaDB")).is_ok());
/// assert!(compatible(Logical, backup, (Mariadb, "10.6.21-MariaDB")).is_err());
/// ```
pub fn compatible(kind: ComponentKind, backup: (Flavour, &str), server: (Flavour, &str)) -> Result<()> {
    let describe = |why: &str| {
        Error::new(ErrorKind::Precondition, format!("the backup does not go into this server: {why}"))
            .with("backup", format!("{} {}", backup.0, backup.1))
            .with("server", format!("{} {}", server.0, server.1))
            .hint("use the image that the backup's manifest names")
    };
    if backup.0 != server.0 {
        return Err(describe("it is of another flavour"));
    }
    let (from, to) = (parse(backup.1)?, parse(server.1)?);
    let (from_series, to_series) = ((from.0, from.1), (to.0, to.1));
    if to_series < from_series {
        return Err(describe("the server is older"));
    }
    if kind == ComponentKind::Physical {
        if to_series != from_series {
            return Err(describe("data files go into the same release series only"));
        }
        if to.2 < from.2 {
            return Err(describe("data files never go into an older release"));
        }
    }
    Ok(())
}

fn parse(version: &str) -> Result<(u32, u32, u32)> {
    // Old MariaDB puts a MySQL version in front, for replicas that know no two digits.
    let text = version.strip_prefix("5.5.5-").unwrap_or(version);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut numbers = text[..end].split('.').map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Ok((major, minor, patch)),
        (Some(Ok(major)), Some(Ok(minor)), None) => Ok((major, minor, 0)),
        _ => Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is no server version", version.escape_debug()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ComponentKind::{Logical, Physical};
    use Flavour::{Mariadb, Mysql};

    #[test]
    fn the_matrix_of_versions() {
        for (kind, backup, server, is_fine) in [
            (Logical, (Mysql, "8.0.36"), (Mysql, "8.0.36"), true),
            (Logical, (Mysql, "8.0.36"), (Mysql, "8.0.30"), true),
            (Logical, (Mysql, "8.0.36"), (Mysql, "9.7.0"), true),
            (Logical, (Mysql, "8.4.2"), (Mysql, "8.0.40"), false),
            (Logical, (Mysql, "9.7.0-debug"), (Mysql, "9.6.0"), false),
            (Logical, (Mariadb, "10.11.6-MariaDB-0+deb12u1"), (Mariadb, "11.8.2-MariaDB"), true),
            (Logical, (Mariadb, "11.8.2-MariaDB"), (Mariadb, "10.11.6-MariaDB"), false),
            (Logical, (Mariadb, "5.5.5-10.11.6-MariaDB"), (Mariadb, "10.11.6-MariaDB"), true),
            (Logical, (Mariadb, "10.11.6-MariaDB"), (Mysql, "8.0.36"), false),
            (Physical, (Mysql, "8.0.36"), (Mysql, "8.0.37"), true),
            (Physical, (Mysql, "8.0.36"), (Mysql, "8.0.35"), false),
            (Physical, (Mysql, "8.0.36"), (Mysql, "8.4.0"), false),
        ] {
            let result = compatible(kind, backup, server);
            assert_eq!(result.is_ok(), is_fine, "{kind:?} {backup:?} {server:?} {result:?}");
            assert!(result.err().is_none_or(|e| e.kind() == ErrorKind::Precondition));
        }
        assert_eq!(
            compatible(Logical, (Mysql, "eight"), (Mysql, "8.0.1")).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}
