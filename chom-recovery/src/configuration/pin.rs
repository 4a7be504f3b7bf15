//! Adds keys to a configuration file, and leaves every other byte as it is.

use std::{collections::BTreeSet, io::Write, os::unix::fs::PermissionsExt, path::Path};

use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use crate::{
    catalog::{Recipient, SignerId},
    error::{Error, ErrorKind, Result},
    system::System,
};

/// Adds a public key to `repository.signers` of a configuration file; comments and order stay. Tells whether the file
/// changed: a key that is there already is success.
///
/// The file is replaced as a whole, with its owner's permissions: a crash leaves the old one or the new one.
///
/// # Errors
/// `InvalidInput`: the file is no configuration.
pub fn pin_signer(path: &Path, signer: &SignerId) -> Result<bool> {
    change(path, |text| with_signer(text, signer))
}

/// Writes `repository.recipients` of a configuration file: these and no others. Otherwise as [`pin_signer`].
///
/// # Errors
/// `InvalidInput`: the file is no configuration.
pub fn pin_recipients(path: &Path, recipients: &[Recipient]) -> Result<bool> {
    change(path, |text| with_recipients(text, recipients))
}

/// Replaces a configuration file by what `changed` makes of it.
fn change(path: &Path, changed: impl FnOnce(&str) -> Result<Option<String>>) -> Result<bool> {
    let fail = |e: std::io::Error| Error::from(e).during(format!("cannot change `{}`", path.display()));
    // A link leads to the file that is meant; replacing the link itself would leave that one as it was.
    let path = &std::fs::canonicalize(path).map_err(fail)?;
    let text = std::fs::read_to_string(path).map_err(fail)?;
    let Some(text) = changed(&text).map_err(|e| e.with("file", path.display()))? else {
        return Ok(false);
    };
    System::parse(&text)?;
    let mode = std::fs::metadata(path).map_err(fail)?.permissions().mode() & 0o7777;
    let beside = path.with_extension(format!("toml.new-{}", std::process::id()));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
    })();
    if written.is_err() {
        // The new file, where it was made, is of no use to anybody.
        let _ = std::fs::remove_file(&beside);
    }
    written.map(|()| true).map_err(fail)
}

fn bad(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("configuration: {what}"))
}

fn repository(document: &mut DocumentMut) -> Result<&mut dyn TableLike> {
    let table = document.get_mut("repository").and_then(Item::as_table_like_mut);
    table.ok_or_else(|| bad("there is no table `repository`"))
}

/// Returns the changed text; `None` when they are there.
fn with_recipients(text: &str, recipients: &[Recipient]) -> Result<Option<String>> {
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| bad(e))?;
    let repository = repository(&mut document)?;
    let there = repository.get("recipients").and_then(Item::as_array);
    let there: Option<BTreeSet<_>> = there.map(|array| array.iter().filter_map(Value::as_str).collect());
    if there == Some(recipients.iter().map(Recipient::as_str).collect()) {
        return Ok(None);
    }
    let all: Array = recipients.iter().map(Recipient::as_str).collect();
    repository.insert("recipients", Item::Value(Value::Array(all)));
    Ok(Some(document.to_string()))
}

/// Returns the changed text; `None` when the key is there.
fn with_signer(text: &str, signer: &SignerId) -> Result<Option<String>> {
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| bad(e))?;
    let repository = repository(&mut document)?;
    let key = signer.to_string();
    if let Some(item) = repository.get_mut("signers") {
        let signers = item.as_array_mut().ok_or_else(|| bad("`repository.signers` is not a list"))?;
        if signers.iter().any(|s| s.as_str() == Some(&key)) {
            return Ok(None);
        }
        signers.push(key);
    } else {
        let signers: Array = [key].into_iter().collect();
        repository.insert("signers", Item::Value(Value::Array(signers)));
    }
    Ok(Some(document.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# ours
id = "chom"   # the id
[compose]
project = "chom"
[database]
service = "mysql"
password = { file = "/etc/db" }
[repository]
# where backups lie
url = "file:/var/backups/chom"

[[contacts]]   # last
role = "DBA"
reach = "555"
"#;

    fn key(byte: u8) -> SignerId {
        crate::catalog::Signer::from_seed(&[byte; 32]).id()
    }

    #[test]
    fn a_key_is_added_once_and_nothing_else_changes() {
        let first = with_signer(TEXT, &key(1)).unwrap().unwrap();
        assert_eq!(first.replace(&format!("signers = [\"{}\"]\n", key(1)), ""), TEXT);
        assert_eq!(System::parse(&first).unwrap().repository.signers, [key(1).to_string()]);
        assert!(with_signer(&first, &key(1)).unwrap().is_none());
        let second = with_signer(&first, &key(2)).unwrap().unwrap();
        assert_eq!(System::parse(&second).unwrap().repository.signers, [key(1).to_string(), key(2).to_string()]);
    }

    #[test]
    fn recipients_are_replaced_as_a_whole() {
        let pair: Vec<Recipient> = ["age1a", "age1b"].iter().map(|r| r.parse().unwrap()).collect();
        let first = with_recipients(TEXT, &pair).unwrap().unwrap();
        assert_eq!(first.replace("recipients = [\"age1a\", \"age1b\"]\n", ""), TEXT);
        assert_eq!(System::parse(&first).unwrap().repository.recipients, ["age1a", "age1b"]);
        let turned: Vec<_> = pair.iter().rev().cloned().collect();
        assert!(with_recipients(&first, &turned).unwrap().is_none());
        let second = with_recipients(&first, &["age1c".parse().unwrap(), pair[0].clone()]).unwrap().unwrap();
        assert_eq!(System::parse(&second).unwrap().repository.recipients, ["age1c", "age1a"]);
    }

    #[test]
    fn the_file_keeps_its_permissions_and_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.toml"), dir.path().join("link.toml"));
        std::fs::write(&real, TEXT).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(pin_signer(&link, &key(1)).unwrap());
        assert!(!pin_signer(&link, &key(1)).unwrap());
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_configuration_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.toml");
        std::fs::write(&path, "[repository]\nurl = \"file:/x\"\n").unwrap();
        assert_eq!(pin_signer(&path, &key(1)).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[repository]\nurl = \"file:/x\"\n");
    }
}
