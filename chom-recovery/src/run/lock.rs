//! One run at a time for each system.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    run::{clock::Clock, id::RunId},
};

/// A lock that other hosts see too, for example a container with a fixed name on the Engine.
///
/// The engine takes it after the journal says that the run began, so that a lock always names a run that can be
/// resumed, and gives it back when the run is closed.
#[async_trait]
pub trait SystemLock: fmt::Debug + Send + Sync + 'static {
    /// Takes the lock for a run, atomically; the same run taking it again is success.
    ///
    /// # Errors
    /// `Locked`: another run holds it; the message names that run.
    async fn acquire(&self, run: &RunId) -> Result<()>;

    /// Gives the lock back; one that this run does not hold is left alone.
    async fn release(&self, run: &RunId) -> Result<()>;

    /// Names the run that holds it.
    async fn holder(&self) -> Result<Option<RunId>>;
}

/// Who wrote a lock file. For messages only: the kernel's lock decides, so that a dead holder or a reused process id
/// cannot block anybody.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    boot_id: String,
    run: RunId,
}

/// The lock of a system on this host, held as long as the value lives.
#[derive(Debug)]
pub(crate) struct LocalLock(File);

impl LocalLock {
    /// Takes `<state_dir>/<system>.lock` for a run.
    pub(crate) fn acquire(state_dir: &Path, system: &str, run: RunId, clock: &dyn Clock) -> Result<Self> {
        let path = state_dir.join(format!("{system}.lock"));
        let fail = |e: std::io::Error| Error::from(e).during(format!("cannot lock `{}`", path.display()));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let mut error = Error::new(ErrorKind::Locked, format!("another run holds system `{system}`"));
                if let Ok(holder) = serde_json::from_str::<Holder>(&text) {
                    error = error.with("run", holder.run).with("pid", holder.pid);
                }
                return Err(error.hint("wait for it, or cancel it; `chom-recovery runs list` shows it"));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(fail(e)),
        }
        let holder = Holder { pid: std::process::id(), boot_id: clock.boot_id(), run };
        let text = serde_json::to_string(&holder).unwrap_or_default();
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes())).map_err(fail)?;
        Ok(Self(file))
    }
}

impl Drop for LocalLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of the same name.
        let _ = self.0.set_len(0);
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::clock::SystemClock;

    #[test]
    fn the_second_is_told_which_run_holds_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId::after(1, None).unwrap();
        let held = LocalLock::acquire(dir.path(), "chom", run, &SystemClock).unwrap();
        let error = LocalLock::acquire(dir.path(), "chom", run, &SystemClock).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains(&run.to_string()), "{error}");
        LocalLock::acquire(dir.path(), "other", run, &SystemClock).unwrap();
        drop(held);
        LocalLock::acquire(dir.path(), "chom", run, &SystemClock).unwrap();
    }

    #[test]
    fn what_a_dead_holder_left_in_the_file_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId::after(1, None).unwrap();
        // This process's own id: a test of the id would say that the holder lives.
        let left = Holder { pid: std::process::id(), boot_id: SystemClock.boot_id(), run };
        std::fs::write(dir.path().join("chom.lock"), serde_json::to_string(&left).unwrap()).unwrap();
        LocalLock::acquire(dir.path(), "chom", run, &SystemClock).unwrap();
    }
}
