//! Reaches an Engine through the operator's own `ssh`: its configuration, agent and known hosts, strictly checked.
//!
//! One master connection is opened and shared; each connection of the client, and each dial into a container, is a
//! further channel of it. What the client sees is a local listener: a socket in a private folder for the Engine, a
//! loopback port for a container.

use std::{
    fmt,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    process::Command,
    task::{JoinHandle, JoinSet},
};

use super::address::Address;
use crate::{
    backend::Endpoint,
    error::{Error, ErrorKind, Result},
};

/// Seconds that an unused master connection outlives this process.
const MASTER_PERSISTS: u32 = 120;
/// How long a channel that is refused may take to end.
const CHANNEL_WAIT: Duration = Duration::from_secs(2);
/// What ssh says when the other side does not forward at all, or finds no way.
///
/// # Source
/// OpenSSH, `channels.c` (`reason2txt`), followed by the other side's `strerror`.
const CLOSED_WAYS: &[&str] = &["administratively prohibited", "No route to host", "unreachable", "timed out"];

/// A host that is reached over ssh.
pub(super) struct SshHost {
    shared: Arc<Shared>,
    socket: PathBuf,
    accepting: JoinHandle<()>,
}

struct Shared {
    options: Vec<String>,
    destination: String,
    folder: PathBuf,
    timeout: Duration,
    opening: tokio::sync::Mutex<()>,
    complaint: Mutex<Option<String>>,
}

impl fmt::Debug for SshHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshHost").field("destination", &self.shared.destination).finish_non_exhaustive()
    }
}

impl SshHost {
    /// Opens the master connection and a local socket that leads to the Engine.
    ///
    /// # Errors
    /// `Authentication`: the host's key is not known or changed, or the login was refused. `Unreachable`: the rest.
    pub(super) async fn open(address: &Address, config: Option<&Path>, timeout: Duration) -> Result<Self> {
        let Address::Ssh { user, host, port, socket } = address else {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{address}` is not an ssh address")));
        };
        let folder = private_folder()?;
        let mut options: Vec<String> = Vec::new();
        if let Some(config) = config {
            options.extend(["-F".into(), config.display().to_string()]);
        }
        let control = format!("ControlPath={}/m", folder.display());
        let connect = format!("ConnectTimeout={}", timeout.as_secs().max(1));
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            "RemoteCommand=none",
            "RequestTTY=no",
            &connect,
            &control,
        ] {
            options.extend(["-o".into(), option.into()]);
        }
        if let Some(user) = user {
            options.extend(["-l".into(), user.clone()]);
        }
        if let Some(port) = port {
            options.extend(["-p".into(), port.to_string()]);
        }
        let shared = Arc::new(Shared {
            options,
            destination: host.clone(),
            folder,
            timeout,
            opening: tokio::sync::Mutex::default(),
            complaint: Mutex::default(),
        });
        shared.open_master().await?;
        let path = shared.folder.join("engine");
        let listener = UnixListener::bind(&path).map_err(|e| Error::from(e).during("cannot open a local socket"))?;
        let mut remote = vec!["docker".to_owned()];
        if let Some(socket) = socket {
            remote.extend(["--host".into(), format!("unix://{socket}")]);
        }
        remote.extend(["system".into(), "dial-stdio".into()]);
        let task = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (task, remote) = (Arc::clone(&task), remote.clone());
                connections.spawn(async move {
                    let (read, write) = stream.into_split();
                    task.carry(&[], &remote, read, write).await;
                });
            }
        });
        Ok(Self { shared, socket: path, accepting })
    }

    /// The socket that leads to the Engine.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Adds to a failed request what ssh said last.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.shared.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(text) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::OutcomeUnknown) => {
                error.with("ssh", text)
            }
            _ => error,
        }
    }

    /// Opens a loopback port that leads to `target` as the other host sees it.
    ///
    /// # Errors
    /// `Precondition`: the other side refuses to forward.
    pub(super) async fn forward(&self, target: &str, port: u16) -> Result<Endpoint> {
        let target = if target.contains(':') { format!("[{target}]:{port}") } else { format!("{target}:{port}") };
        self.shared.open_master().await?;
        self.shared.try_forward(&target).await?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let local = listener.local_addr()?.port();
        let shared = Arc::clone(&self.shared);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (shared, target) = (Arc::clone(&shared), target.clone());
                connections.spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let (read, write) = stream.into_split();
                    shared.carry(&["-W".into(), target], &[], read, write).await;
                });
            }
        });
        Ok(Endpoint::new("127.0.0.1", local, Some(Box::new(Forward(accepting)))))
    }
}

impl Drop for SshHost {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Ends a forward when its endpoint is dropped.
struct Forward(JoinHandle<()>);

impl Drop for Forward {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shared {
    fn command(&self, more: &[String]) -> Command {
        let mut command = Command::new("ssh");
        command.args(&self.options).args(more).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Opens the master connection unless it is there.
    async fn open_master(&self) -> Result<()> {
        let _one_at_a_time = self.opening.lock().await;
        if self.folder.join("m").exists() {
            return Ok(());
        }
        let persist = format!("ControlPersist={MASTER_PERSISTS}");
        let mut command = self.command(&["-M", "-N", "-f", "-o", &persist, "--", &self.destination].map(String::from));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let output = tokio::time::timeout(self.timeout, command.output())
            .await
            .map_err(|_| Error::new(ErrorKind::Timeout, format!("ssh to `{}` was not open in time", self.destination)))?
            .map_err(|e| Error::from(e).of_kind(ErrorKind::Precondition).during("cannot run `ssh`"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(refusal(&self.destination, &String::from_utf8_lossy(&output.stderr)))
    }

    /// Runs one `ssh` channel between a local connection and the other side, with half-close both ways.
    async fn carry(
        &self,
        options: &[String],
        remote: &[String],
        mut read: impl AsyncRead + Unpin,
        mut write: impl AsyncWrite + Unpin,
    ) {
        let _ = self.open_master().await;
        let mut command = self.command(options);
        command.arg("--").arg(&self.destination).args(remote);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(e) => return self.complain(e.to_string()),
        };
        let (Some(mut stdin), Some(mut stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return;
        };
        let upward = async {
            let _ = tokio::io::copy(&mut read, &mut stdin).await;
            // Closing the pipe is the half-close: the other side reads the end of the stream.
            drop(stdin);
            std::future::pending::<()>().await;
        };
        let downward = async {
            let _ = tokio::io::copy(&mut stdout, &mut write).await;
            let _ = write.shutdown().await;
        };
        // The connection is over when the other side has nothing more to say, or nobody listens any more.
        tokio::select! {
            () = upward => {}
            () = downward => {}
        }
        let mut text = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(2), async {
            let _ = stderr.take(4096).read_to_end(&mut text).await;
            child.wait().await
        });
        if let Ok(Ok(status)) = ended.await
            && !status.success()
        {
            self.complain(last_line(&String::from_utf8_lossy(&text)));
        }
    }

    fn complain(&self, text: String) {
        if !text.is_empty() {
            *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        }
    }

    /// Opens a channel to `target` once, to tell a way that is closed from a server that is not there yet.
    async fn try_forward(&self, target: &str) -> Result<()> {
        if self.channel(&[], target).await?.is_none() {
            return Ok(());
        }
        // A shared connection keeps the reason for itself; one of its own tells.
        let Some(text) = self.channel(&["-S".into(), "none".into()], target).await? else { return Ok(()) };
        if CLOSED_WAYS.iter().any(|said| text.contains(said)) {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("`{}` does not forward to {target}: {}", self.destination, reason(&text)),
            )
            .hint("allow TCP forwarding in its sshd, or set the service's `address`"));
        }
        // Refused: the path is open and nobody listens yet, which the caller's own connection will tell.
        Ok(())
    }

    /// Opens a channel to `target` and returns what ssh says where it ends at once. One that stays is open, though
    /// nothing need come: a server need not speak first.
    async fn channel(&self, options: &[String], target: &str) -> Result<Option<String>> {
        let mut command = self.command(&[options, &["-W", target, "--", &self.destination].map(String::from)].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| Error::from(e).during("cannot run `ssh`"))?;
        let _open = child.stdin.take();
        let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Ok(None);
        };
        let mut first = [0];
        match tokio::time::timeout(CHANNEL_WAIT, stdout.read(&mut first)).await {
            Ok(Ok(0) | Err(_)) => {}
            Ok(Ok(_)) | Err(_) => return Ok(None),
        }
        let mut text = String::new();
        let _ = tokio::time::timeout(CHANNEL_WAIT, stderr.read_to_string(&mut text)).await;
        Ok(Some(text))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.folder.join("m").exists() {
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

fn last_line(text: &str) -> String {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// The line that tells why a channel was not opened.
fn reason(text: &str) -> String {
    let told = text.lines().rfind(|line| CLOSED_WAYS.iter().any(|said| line.contains(said)));
    told.map_or_else(|| last_line(text), |line| line.trim().to_owned())
}

fn refusal(destination: &str, text: &str) -> Error {
    let says = |what: &str| text.contains(what);
    let message = format!("ssh to `{destination}` failed: {}", last_line(text));
    if says("HOST IDENTIFICATION HAS CHANGED") {
        Error::new(ErrorKind::Authentication, format!("the host key of `{destination}` is not the known one"))
            .hint("find out why before anything else; somebody may stand in between")
    } else if says("Host key verification failed") || says("host key is known") {
        Error::new(ErrorKind::Authentication, format!("the host key of `{destination}` is not known"))
            .hint(format!("compare it with the host's own and accept it with `ssh {destination}`"))
    } else if says("Permission denied") || says("Too many authentication failures") {
        Error::new(ErrorKind::Authentication, message).hint("load the key into the ssh agent")
    } else {
        Error::new(ErrorKind::Unreachable, message)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_ssh_are_told_apart() {
        let kind = |text: &str| refusal("h", text).kind();
        assert_eq!(
            kind("No ED25519 host key is known for h\nHost key verification failed."),
            ErrorKind::Authentication
        );
        assert_eq!(kind("ops@h: Permission denied (publickey)."), ErrorKind::Authentication);
        assert_eq!(kind("ssh: connect to host h port 22: Connection refused"), ErrorKind::Unreachable);
        let changed =
            refusal("h", "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.");
        assert!(changed.message().contains("not the known one"));
    }
}
