//! The master connection, and channels of it.

use std::{
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    process::Command,
};

use crate::{
    error::{Error, ErrorKind, Result},
    ssh::{self, last_line, refusal},
};

/// Seconds that an unused master connection outlives this process.
const MASTER_PERSISTS: u32 = 120;
/// How long an ended channel may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A connection to another host: opened once, and again after a loss.
pub(super) struct Master {
    options: Vec<String>,
    destination: String,
    folder: PathBuf,
    timeout: Duration,
    opening: tokio::sync::Mutex<()>,
    complaint: Mutex<Option<String>>,
}

/// What became of a channel that was opened to see whether it can be.
#[derive(Debug)]
pub(super) enum Probe {
    /// Something came back.
    Answered,
    /// It stays open, and nothing came in the time given.
    Silent,
    /// It ended; this is what ssh said.
    Closed(String),
}

impl Master {
    /// Prepares a connection: `options` beside ours, which are strict and ask nobody.
    pub(super) fn new(destination: &str, mut options: Vec<String>, timeout: Duration) -> Result<Self> {
        let folder = private_folder()?;
        let control = format!("ControlPath={}", control_path(&folder).display());
        let connect = format!("ConnectTimeout={}", timeout.as_secs().max(1));
        for option in ssh::STRICT.iter().copied().chain([connect.as_str(), &control]) {
            options.extend(["-o".into(), option.into()]);
        }
        let (opening, complaint) = Default::default();
        Ok(Self { options, destination: destination.to_owned(), folder, timeout, opening, complaint })
    }

    pub(super) fn destination(&self) -> &str {
        &self.destination
    }

    /// The folder for sockets, which no other user can enter.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How long anything may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Opens the connection unless it is there.
    ///
    /// # Errors
    /// `Authentication`: the host's key is not known or changed, or the login was refused. `Timeout`. `Unreachable`:
    /// the rest.
    pub(super) async fn open(&self) -> Result<()> {
        let _one_at_a_time = self.opening.lock().await;
        let control = control_path(&self.folder);
        match UnixStream::connect(&control).await {
            Ok(_) => return Ok(()),
            // Of a master that was killed: it would keep a new one away.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(&control);
            }
            Err(_) => {}
        }
        let persist = format!("ControlPersist={MASTER_PERSISTS}");
        let mut command = self.command(&["-M", "-N", "-f", "-o", &persist].map(String::from), &[]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let output = self.finish(command).await?;
        if output.status.success() {
            return Ok(());
        }
        Err(refusal(&self.destination, &String::from_utf8_lossy(&output.stderr)))
    }

    /// Runs a command on the other side, or one of ssh's own on the connection, to its end.
    pub(super) async fn run(&self, options: &[String], remote: &[String]) -> Result<Output> {
        let mut command = self.command(options, remote);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.finish(command).await
    }

    /// Runs one channel between a local connection and the other side, with half-close both ways.
    pub(super) async fn carry(
        &self,
        options: &[String],
        remote: &[String],
        mut read: impl AsyncRead + Unpin,
        mut write: impl AsyncWrite + Unpin,
    ) {
        let _ = self.open().await;
        let mut command = self.command(options, remote);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(e) => return self.complain(e.to_string()),
        };
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return;
        };
        let answered = bridge(&mut read, &mut write, stdout, stdin).await.unwrap_or(true);
        // Where nothing came, the reason has to be there before the client sees the end.
        if answered {
            let _ = write.shutdown().await;
        }
        let mut text = Vec::new();
        let ended = tokio::time::timeout(LAST_WORDS, async {
            let _ = stderr.take(4096).read_to_end(&mut text).await;
            child.wait().await
        });
        match ended.await {
            Ok(Ok(status)) if status.success() => self.settle(),
            Ok(_) => self.complain(String::from_utf8_lossy(&text)),
            Err(_) => {}
        }
        let _ = write.shutdown().await;
    }

    /// Opens a channel, sends `said` and tells what comes of it.
    pub(super) async fn probe(
        &self,
        options: &[String],
        remote: &[String],
        said: &[u8],
        wait: Duration,
    ) -> Result<Probe> {
        let mut command = self.command(options, remote);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot_run)?;
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Ok(Probe::Silent);
        };
        let _ = stdin.write_all(said).await;
        match tokio::time::timeout(wait, stdout.read(&mut [0])).await {
            Ok(Ok(0) | Err(_)) => {}
            Ok(Ok(_)) => return Ok(Probe::Answered),
            Err(_) => return Ok(Probe::Silent),
        }
        let mut text = String::new();
        let _ = tokio::time::timeout(LAST_WORDS, stderr.read_to_string(&mut text)).await;
        Ok(Probe::Closed(text))
    }

    /// What ssh said last about a connection that failed.
    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the last line of what ssh said.
    pub(super) fn complain(&self, text: impl AsRef<str>) {
        let line = last_line(text.as_ref());
        if !line.is_empty() {
            *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
        }
    }

    /// Forgets what ssh said: the way is open.
    pub(super) fn settle(&self) {
        *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn command(&self, more: &[String], remote: &[String]) -> Command {
        let mut command = Command::new("ssh");
        command.args(&self.options).args(more).arg("--").arg(&self.destination).args(remote);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn finish(&self, mut command: Command) -> Result<Output> {
        tokio::time::timeout(self.timeout, command.output())
            .await
            .map_err(|_| Error::new(ErrorKind::Timeout, format!("ssh to `{}` was not open in time", self.destination)))?
            .map_err(cannot_run)
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if control_path(&self.folder).exists() {
            let _ = std::process::Command::new("ssh")
                .args(&self.options)
                .args(["-O", "exit", "--", &self.destination])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Carries bytes both ways until the far side has nothing more to say or nobody listens any more, and tells whether
/// the far side said anything. The end of what is sent is handed on; that of what is received is the caller's to tell.
pub(super) async fn bridge(
    near_read: &mut (impl AsyncRead + Unpin),
    near_write: &mut (impl AsyncWrite + Unpin),
    mut far_read: impl AsyncRead + Unpin,
    mut far_write: impl AsyncWrite + Unpin,
) -> io::Result<bool> {
    let upward = async {
        let _ = tokio::io::copy(near_read, &mut far_write).await;
        // The half-close: the other side reads the end of the stream.
        let _ = far_write.shutdown().await;
        drop(far_write);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = upward => Ok(false),
        copied = tokio::io::copy(&mut far_read, near_write) => copied.map(|bytes| bytes > 0),
    }
}

fn control_path(folder: &Path) -> PathBuf {
    folder.join("m")
}

fn cannot_run(error: io::Error) -> Error {
    Error::from(error).of_kind(ErrorKind::Precondition).during("cannot run `ssh`")
}

/// Makes a folder that no other user can enter. Its path is short: a socket's path holds 107 bytes at most.
fn private_folder() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let base = if base.as_os_str().len() <= 60 { base } else { PathBuf::from("/tmp") };
    let path = base.join(format!("chom-{}", hex::encode(rand::random::<[u8; 6]>())));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .map_err(|e| Error::from(e).during(format!("cannot make `{}`", path.display())))?;
    Ok(path)
}
