//! Second places to look from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// A place elsewhere that tells whether the service is seen from there: `[[vantage]]`.
///
/// It is asked by `diagnose`, and tells a host that is down from a network between here and there. Either `ssh` or `url`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vantage {
    /// Name of the place.
    pub name: String,
    /// `[user@]host` of a host elsewhere that ssh reaches without a question: the first `[[http]]` check is made from
    /// there. Nothing is run on it; only TCP forwarding is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<String>,
    /// URL of a check that somebody else makes: its answer tells whether the service is seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// With `url`: text in the body that means that the service is seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// With `url`: additional trusted CA certificates, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// Refuses places that cannot be asked.
pub(super) fn check(places: &[Vantage]) -> Result<()> {
    let mut names = std::collections::BTreeSet::new();
    for place in places {
        let bad = |what: &str| {
            Err(Error::new(ErrorKind::InvalidInput, format!("configuration: vantage `{}` {what}", place.name)))
        };
        if !names.insert(&place.name) {
            return bad("is there twice");
        }
        match (&place.ssh, &place.url) {
            (None, None) | (Some(_), Some(_)) => return bad("needs either `ssh` or `url`"),
            (Some(host), None) if host.is_empty() || host.starts_with('-') => {
                return bad("has no host to reach by ssh");
            }
            (None, Some(url)) if !url.starts_with("https://") && !url.starts_with("http://") => {
                return bad("has a `url` that is none");
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_way_and_a_name_of_its_own() {
        let place = |ssh: Option<&str>, url: Option<&str>| Vantage {
            name: "office".into(),
            ssh: ssh.map(str::to_owned),
            url: url.map(str::to_owned),
            contains: None,
            ca_file: None,
        };
        let good = place(Some("ops@elsewhere"), None);
        assert!(check(std::slice::from_ref(&good)).is_ok());
        assert!(check(&[place(None, Some("https://monitor.example/x"))]).is_ok());
        for bad in [
            vec![place(None, None)],
            vec![place(Some("h"), Some("https://x"))],
            vec![place(Some("-oProxyCommand=x"), None)],
            vec![place(None, Some("monitor.example"))],
            vec![good.clone(), good],
        ] {
            assert_eq!(check(&bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
    }
}
