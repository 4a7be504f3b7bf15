//! Reaches an Engine through the operator's own `ssh`: its configuration, agent and known hosts, strictly checked.
//!
//! One master connection is opened and shared; each connection of the client, and each dial into a container, is a
//! further channel of it. What the client sees is a local listener: a socket in a private folder for the Engine, a
//! loopback port for a container.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener},
    task::{JoinHandle, JoinSet},
};

use self::{
    engine::Ways,
    master::{Master, Probe},
};
use super::address::Address;
use crate::{
    backend::Endpoint,
    error::{Error, ErrorKind, Result},
};

mod engine;
mod master;

/// How long a channel that is refused may take to end.
const CHANNEL_WAIT: Duration = Duration::from_secs(2);
/// What ssh says when the other side does not forward at all, or finds no way.
///
/// # Source
/// OpenSSH, `channels.c` (`reason2txt`), followed by the other side's `strerror`.
const CLOSED_WAYS: &[&str] = &["administratively prohibited", "No route to host", "unreachable", "timed out"];

/// A host that is reached over ssh.
pub(super) struct SshHost {
    master: Arc<Master>,
    socket: PathBuf,
    accepting: JoinHandle<()>,
}

impl fmt::Debug for SshHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshHost").field("destination", &self.master.destination()).finish_non_exhaustive()
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
        let mut options: Vec<String> = Vec::new();
        if let Some(config) = config {
            options.extend(["-F".into(), config.display().to_string()]);
        }
        if let Some(user) = user {
            options.extend(["-l".into(), user.clone()]);
        }
        if let Some(port) = port {
            options.extend(["-p".into(), port.to_string()]);
        }
        let master = Arc::new(Master::new(host, options, timeout)?);
        master.open().await?;
        let path = master.folder().join("engine");
        let listener = UnixListener::bind(&path).map_err(|e| Error::from(e).during("cannot open a local socket"))?;
        let ways = Arc::new(Ways::new(Arc::clone(&master), socket.clone()));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let ways = Arc::clone(&ways);
                connections.spawn(async move { ways.serve(stream).await });
            }
        });
        Ok(Self { master, socket: path, accepting })
    }

    /// The socket that leads to the Engine.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Adds to a failed request what ssh said last.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.master.complaint() {
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
        self.master.open().await?;
        self.try_forward(&target).await?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let local = listener.local_addr()?.port();
        let master = Arc::clone(&self.master);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (master, target) = (Arc::clone(&master), target.clone());
                connections.spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let (read, write) = stream.into_split();
                    master.carry(&["-W".into(), target], &[], read, write).await;
                });
            }
        });
        Ok(Endpoint::new("127.0.0.1", local, Some(Box::new(Forward(accepting)))))
    }

    /// Opens a channel to `target` once, to tell a way that is closed from a server that is not there yet.
    async fn try_forward(&self, target: &str) -> Result<()> {
        // A server need not speak first: a channel that stays is open.
        let try_once = async |more: &[&str]| {
            let options: Vec<String> = [more, &["-W", target]].concat().into_iter().map(String::from).collect();
            self.master.probe(&options, &[], b"", CHANNEL_WAIT).await
        };
        if !matches!(try_once(&[]).await?, Probe::Closed(_)) {
            return Ok(());
        }
        // A shared connection keeps the reason for itself; one of its own tells.
        let Probe::Closed(text) = try_once(&["-S", "none"]).await? else { return Ok(()) };
        let Some(reason) = text.lines().rfind(|line| CLOSED_WAYS.iter().any(|said| line.contains(said))) else {
            // Refused: the path is open and nobody listens yet, which the caller's own connection will tell.
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::Precondition,
            format!("`{}` does not forward to {target}: {}", self.master.destination(), reason.trim()),
        )
        .hint("allow TCP forwarding in its sshd, or set the service's `address`"))
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
