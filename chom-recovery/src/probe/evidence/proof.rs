//! Whether a bundle is as it was gathered.

use std::{collections::BTreeSet, io::Read, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{EvidenceManifest, MANIFEST};
use crate::error::{Error, ErrorKind, Result};

/// Longest manifest that is read.
const MANIFEST_LIMIT: u64 = 4 << 20;

/// What looking at a bundle found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceProof {
    /// The bundle's own list.
    pub manifest: EvidenceManifest,
    /// SHA-256 of the list, in hex: what was noted when it was gathered has to be equal.
    pub manifest_sha256: String,
    /// Files whose length and hash are as listed.
    pub proven: u64,
    /// What is not as listed.
    pub findings: Vec<String>,
}

/// Reads every file of a bundle and compares it with the manifest.
///
/// # Errors
/// `NotFound`: there is no manifest; the gathering was interrupted. `Corrupt`: it cannot be read.
pub fn verify(directory: &Path) -> Result<EvidenceProof> {
    let path = directory.join(MANIFEST);
    let mut text = Vec::new();
    let file = std::fs::File::open(&path).map_err(|e| {
        Error::from(e)
            .during(format!("cannot read `{}`", path.display()))
            .hint("name the folder that `evidence collect` printed; one without a manifest was not finished")
    })?;
    file.take(MANIFEST_LIMIT).read_to_end(&mut text)?;
    let manifest: EvidenceManifest = serde_json::from_slice(&text)
        .map_err(|e| Error::new(ErrorKind::Corrupt, format!("`{}` is no manifest", path.display())).caused_by(e))?;
    let (mut proven, mut findings) = (0, Vec::new());
    for file in &manifest.files {
        match check(directory, &file.name, file.bytes, &file.sha256) {
            Ok(()) => proven += 1,
            Err(why) => findings.push(format!("{}: {why}", file.name.escape_debug())),
        }
    }
    let listed: BTreeSet<&str> = manifest.files.iter().map(|f| f.name.as_str()).chain([MANIFEST]).collect();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !listed.contains(name.as_str()) {
            findings.push(format!("{}: it was not there when the bundle was gathered", name.escape_debug()));
        }
    }
    Ok(EvidenceProof { manifest, manifest_sha256: hex::encode(Sha256::digest(&text)), proven, findings })
}

/// Compares one file.
fn check(directory: &Path, name: &str, bytes: u64, sha256: &str) -> std::result::Result<(), String> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err("its name leads out of the folder".into());
    }
    let path = directory.join(name);
    let meta = std::fs::symlink_metadata(&path).map_err(|e| e.to_string())?;
    if !meta.is_file() || meta.len() != bytes {
        return Err(format!("it has {} bytes instead of {bytes}", meta.len()));
    }
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(&path).map_err(|e| e.to_string())?;
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece).map_err(|e| e.to_string())? {
            0 => break,
            length => hash.update(&piece[..length]),
        }
    }
    if hex::encode(hash.finalize()) != sha256 {
        return Err("its content is not what was gathered".into());
    }
    Ok(())
}
