//! What a step's body sees of its run.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Inner, Mode, lock};
use crate::{
    error::{Error, ErrorKind, Result},
    run::{
        events::Event,
        id::{EffectKey, RunId},
        journal,
        record::Entry,
    },
    secret,
};

/// Progress events of one step come at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Handed to the closures of a step. Cheap to clone.
#[derive(Clone)]
pub struct StepCx {
    inner: Arc<Inner>,
    key: EffectKey,
    cancel: CancellationToken,
    begun: Instant,
    last_progress: Arc<Mutex<Option<Instant>>>,
}

/// Evidence stored beside the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name given by the step.
    pub name: String,
    /// File below the run's directory; empty when planning, which stores nothing.
    pub file: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

impl StepCx {
    pub(crate) fn new(inner: &Arc<Inner>, step: &str, attempt: u32, cancel: CancellationToken) -> Self {
        let key = EffectKey { run: inner.id, step: step.to_owned(), attempt };
        Self { inner: inner.clone(), key, cancel, begun: Instant::now(), last_progress: Arc::default() }
    }

    /// Returns the name of this attempt, to name things after.
    pub fn key(&self) -> &EffectKey {
        &self.key
    }

    /// Returns the run's id.
    pub fn run_id(&self) -> RunId {
        self.key.run
    }

    /// Returns the number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.key.attempt
    }

    /// Returns the token that is cancelled when the run should stop or the step's time is over. A body that takes
    /// long looks at it; one that stops because of it returns an error of kind `Cancelled`.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits until the body should stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Tells how far the step is, in bytes.
    pub fn progress(&self, done: u64, total: Option<u64>) {
        {
            let mut last = lock(&self.last_progress);
            if total != Some(done) && last.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
                return;
            }
            *last = Some(Instant::now());
        }
        // Counts beyond 2^53 lose precision nobody sees in a rate.
        #[allow(clippy::cast_precision_loss)]
        let rate = done as f64 / self.begun.elapsed().as_secs_f64().max(1e-3);
        self.inner.events.send(Event::Progress { step: self.key.step.clone(), done, total, rate });
    }

    /// Says something: shown at once, and written to the journal with its next record.
    pub fn note(&self, text: impl AsRef<str>) {
        let text = secret::scrub(text.as_ref());
        tracing::info!(step = %self.key.step, "{text}");
        self.inner.events.send(Event::Note { step: self.key.step.clone(), text: text.clone() });
        if self.inner.mode != Mode::Plan {
            lock(&self.inner.book).notes.push(Entry::Note { step: self.key.step.clone(), text });
        }
    }

    /// Stores evidence in the run's directory and its hash in the journal. Text loses its secrets; other bytes that
    /// hold one are stored as text without it.
    ///
    /// # Errors
    /// `NoSpace`: the disk is full.
    pub async fn attach(&self, name: &str, bytes: &[u8]) -> Result<Attachment> {
        let text = String::from_utf8_lossy(bytes);
        let clean = secret::scrub(&text);
        let bytes = if clean == text { bytes.to_vec() } else { clean.into_bytes() };
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let safe: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
            .take(80)
            .collect();
        let mut attachment =
            Attachment { name: name.to_owned(), file: String::new(), bytes: bytes.len() as u64, sha256 };
        if self.inner.mode == Mode::Plan {
            return Ok(attachment);
        }
        // The hash keeps two of the same name apart and makes the same content the same file.
        attachment.file = format!("evidence/{}-{safe}", &attachment.sha256[..12]);
        let path = self.inner.directory.join(&attachment.file);
        tokio::task::spawn_blocking(move || store(&path, &bytes))
            .await
            .map_err(|e| Error::new(ErrorKind::Failed, "evidence was not stored").caused_by(e.to_string()))??;
        let entry = Entry::Attached {
            step: self.key.step.clone(),
            name: attachment.name.clone(),
            file: attachment.file.clone(),
            bytes: attachment.bytes,
            sha256: attachment.sha256.clone(),
        };
        self.inner.append(entry).await?;
        Ok(attachment)
    }
}

impl std::fmt::Debug for StepCx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepCx").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Writes a file that a crash leaves whole, or unnamed in the journal.
fn store(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |e: std::io::Error| Error::from(e).during(format!("cannot store evidence `{}`", path.display()));
    let directory = path.parent().unwrap_or(Path::new("."));
    journal::make_directory(directory)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    journal::sync_directory(directory).map_err(fail)
}
