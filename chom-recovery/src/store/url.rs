//! Addresses of stores.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};

/// Where a store is, read from its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreUrl {
    /// A folder of this host.
    Local(PathBuf),
    /// A bucket, and the beginning of all keys in it: empty, or segments that end at a `/`.
    S3 { bucket: String, prefix: String },
    /// A folder of another host.
    Sftp { user: Option<String>, host: String, port: Option<u16>, path: String },
}

/// The forms, for hints.
const FORMS: &str = "write `file:/absolute/path`, `s3://bucket/prefix` or `sftp://[user@]host[:port]/absolute/path`";

/// Nothing of an address that was not understood goes into a message: it may hold a password.
fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, what).hint(FORMS)
}

impl StoreUrl {
    /// Reads an address; paths are taken as they stand, without percent-decoding.
    ///
    /// # Errors
    /// `InvalidInput`: not of one of the forms. `Unsupported`: a scheme that this version does not have.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').ok_or_else(|| bad("the address of the repository has no scheme"))?;
        match scheme {
            "file" => local(rest).map(Self::Local),
            "s3" => s3(rest),
            "sftp" => sftp(rest),
            "ssh" | "http" | "https" | "gs" | "az" => {
                Err(Error::new(ErrorKind::Unsupported, format!("repositories at `{scheme}:` are not in this version"))
                    .hint(FORMS))
            }
            _ => Err(bad("the address of the repository has an unknown scheme")),
        }
    }
}

fn local(rest: &str) -> Result<PathBuf> {
    let path = if rest.starts_with("//") {
        let path = rest.trim_start_matches('/');
        let slashes = rest.len() - path.len();
        if slashes < 3 {
            return Err(bad("a `file:` address names no host"));
        }
        format!("/{path}")
    } else {
        rest.to_owned()
    };
    if !path.starts_with('/') {
        return Err(bad(format!("`file:{}` is not an absolute path", path.escape_debug())));
    }
    checked_path("file:", &path)?;
    Ok(path.into())
}

fn checked_path(scheme: &str, path: &str) -> Result<()> {
    if path.split('/').any(|s| s == "..") {
        return Err(bad(format!("`{scheme}{}` holds `..`", path.escape_debug())));
    }
    if path.contains(|c: char| c.is_control()) {
        return Err(bad(format!("`{scheme}{}` holds a control character", path.escape_debug())));
    }
    Ok(())
}

fn s3(rest: &str) -> Result<StoreUrl> {
    let rest = rest.strip_prefix("//").ok_or_else(|| bad("an `s3:` address begins with `s3://`"))?;
    if rest.contains(['@', '?', '#']) {
        return Err(bad("an `s3:` address holds a bucket and a prefix only")
            .hint("write `s3://bucket/prefix`; keys and options go into `[repository.s3]`"));
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_bucket = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        && !bucket.starts_with(['-', '.']);
    if !is_bucket {
        return Err(bad("the bucket of an `s3:` address is 3 to 63 of a-z, 0-9, `-` and `.`"));
    }
    let prefix = prefix.trim_end_matches('/');
    let is_prefix = prefix.len() <= 256
        && prefix.split('/').all(|segment| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        });
    match (prefix, is_prefix) {
        ("", _) => Ok(StoreUrl::S3 { bucket: bucket.into(), prefix: String::new() }),
        (_, true) => Ok(StoreUrl::S3 { bucket: bucket.into(), prefix: format!("{prefix}/") }),
        (_, false) => Err(bad("the prefix of an `s3:` address is segments of letters, digits, `.`, `_` and `-`")),
    }
}

fn sftp(rest: &str) -> Result<StoreUrl> {
    let rest = rest.strip_prefix("//").ok_or_else(|| bad("an `sftp:` address begins with `sftp://`"))?;
    let (authority, path) = rest.split_once('/').ok_or_else(|| bad("an `sftp:` address has a path"))?;
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if let Some(user) = user {
        if user.contains(':') {
            return Err(bad("an `sftp:` address holds no password")
                .hint("log in with a key: the agent's, or one that your ssh configuration names for the host"));
        }
        // `ssh` puts user and host into commands of the configuration, such as `ProxyCommand`.
        if user.is_empty() || user.starts_with('-') || !user.bytes().all(is_plain) {
            return Err(bad("the user of an `sftp:` address is letters, digits, `.`, `_` and `-`"));
        }
    }
    let (host, port) = if let Some(literal) = host.strip_prefix('[') {
        let (address, port) =
            literal.split_once(']').ok_or_else(|| bad("the `[` of an `sftp:` address is not closed"))?;
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(bad("what stands in `[]` in an `sftp:` address is not an IPv6 address"));
        }
        (address, port.strip_prefix(':'))
    } else {
        let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
        if host.is_empty() || host.starts_with('-') || !host.bytes().all(is_plain) {
            return Err(bad("the host of an `sftp:` address is letters, digits, `.`, `_` and `-`"));
        }
        (host, port)
    };
    let port = port
        .map(|port| port.parse::<u16>().ok().filter(|p| *p > 0))
        .map(|port| port.ok_or_else(|| bad("the port of an `sftp:` address is a number from 1 to 65535")))
        .transpose()?;
    let path = format!("/{}", path.trim_matches('/'));
    if path == "/" {
        return Err(bad("an `sftp:` address names a folder below `/`"));
    }
    checked_path("sftp:", &path)?;
    Ok(StoreUrl::Sftp { user: user.map(Into::into), host: host.into(), port, path })
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let local = |path: &str| StoreUrl::Local(path.into());
        assert_eq!(StoreUrl::parse("file:/var/backups").unwrap(), local("/var/backups"));
        assert_eq!(StoreUrl::parse("file:///var/backups").unwrap(), local("/var/backups"));
        let s3 = |bucket: &str, prefix: &str| StoreUrl::S3 { bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!(StoreUrl::parse("s3://chom-backups").unwrap(), s3("chom-backups", ""));
        assert_eq!(StoreUrl::parse("s3://chom-backups/").unwrap(), s3("chom-backups", ""));
        assert_eq!(StoreUrl::parse("s3://chom.backups/a/b-1/").unwrap(), s3("chom.backups", "a/b-1/"));
        let sftp = |user: Option<&str>, host: &str, port, path: &str| StoreUrl::Sftp {
            user: user.map(Into::into),
            host: host.into(),
            port,
            path: path.into(),
        };
        assert_eq!(StoreUrl::parse("sftp://nas/backups").unwrap(), sftp(None, "nas", None, "/backups"));
        assert_eq!(
            StoreUrl::parse("sftp://ops@nas.example:2222/srv/chom backups/").unwrap(),
            sftp(Some("ops"), "nas.example", Some(2222), "/srv/chom backups")
        );
        assert_eq!(StoreUrl::parse("sftp://[fd00::1]:22/b").unwrap(), sftp(None, "fd00::1", Some(22), "/b"));
    }

    #[test]
    fn bad_addresses_are_refused_with_a_reason_and_without_a_password() {
        for (url, kind) in [
            ("/var/backups", ErrorKind::InvalidInput),
            ("file:backups", ErrorKind::InvalidInput),
            ("file://host/backups", ErrorKind::InvalidInput),
            ("file:/var/../etc", ErrorKind::InvalidInput),
            ("s3:bucket", ErrorKind::InvalidInput),
            ("s3://AKIA:pass@bucket/x", ErrorKind::InvalidInput),
            ("s3://bucket/../x", ErrorKind::InvalidInput),
            ("s3://bucket/a//b", ErrorKind::InvalidInput),
            ("s3://bu/x", ErrorKind::InvalidInput),
            ("sftp://user:pass@host/x", ErrorKind::InvalidInput),
            ("sftp://-oProxyCommand=pass@host/x", ErrorKind::InvalidInput),
            ("sftp://-oProxyCommand=x/x", ErrorKind::InvalidInput),
            ("sftp://host;id/x", ErrorKind::InvalidInput),
            ("sftp://host:0/x", ErrorKind::InvalidInput),
            ("sftp://host", ErrorKind::InvalidInput),
            ("sftp://host/", ErrorKind::InvalidInput),
            ("sftp://host/a/../b", ErrorKind::InvalidInput),
            ("ssh://user:pass@host/x", ErrorKind::Unsupported),
            ("ftp://user:pass@host/x", ErrorKind::InvalidInput),
        ] {
            let error = StoreUrl::parse(url).unwrap_err();
            assert_eq!(error.kind(), kind, "{url}");
            assert!(!error.to_string().contains("pass@"), "{error}");
            assert!(error.hint_text().is_some(), "{url}");
        }
    }
}
