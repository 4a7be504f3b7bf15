//! Ways to the Engine's socket on the other side.
//!
//! One forward of that socket carries every connection as a channel of the master, at the price of a round trip. Where
//! the other side's sshd forbids it, or its Engine has no socket, each connection runs `docker system dial-stdio` there
//! instead, which takes a session and a process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{
    super::address::is_plain_path,
    master::{Master, Probe, bridge},
};
use crate::error::{Error, ErrorKind, Result};

/// Where an Engine listens when the other side's Docker CLI cannot be asked.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// A question that every Engine answers and that changes nothing.
///
/// # Source
/// Engine API 1.40, `SystemPingHead`.
const PING: &[u8] = b"HEAD /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
/// How long asking for the reason of a refused connection may take.
const REASON_WAIT: Duration = Duration::from_secs(2);

/// How connections reach the Engine.
pub(super) struct Ways {
    master: Arc<Master>,
    /// The other side's socket, where it is named.
    socket: Option<String>,
    found: tokio::sync::Mutex<Found>,
}

#[derive(Default)]
struct Found {
    way: Option<Way>,
    /// Forwards that were asked for: each gets a socket of its own, as the last may still be in the folder.
    forwards: u32,
}

#[derive(Debug, Clone)]
enum Way {
    /// This local socket is the other side's.
    Forward(PathBuf),
    /// `docker system dial-stdio`.
    Command,
}

impl Found {
    fn keep(&mut self, way: Way) -> Way {
        self.way = Some(way.clone());
        way
    }
}

enum Reached {
    Socket(UnixStream),
    Command,
}

impl Ways {
    pub(super) fn new(master: Arc<Master>, socket: Option<String>) -> Self {
        Self { master, socket, found: tokio::sync::Mutex::default() }
    }

    /// Carries one connection to the Engine. One that fails ends, and the reason is kept as the master's complaint.
    pub(super) async fn serve(&self, mut near: UnixStream) {
        match self.reach().await {
            Ok(Reached::Socket(mut far)) => {
                let ((mut near_read, mut near_write), (far_read, far_write)) = (near.split(), far.split());
                match bridge(&mut near_read, &mut near_write, far_read, far_write).await {
                    // The forward itself does not tell why nobody is there.
                    Ok(false) => self.ask_for_the_reason().await,
                    Ok(true) => self.master.settle(),
                    Err(_) => {}
                }
                let _ = near.shutdown().await;
            }
            Ok(Reached::Command) => {
                let (read, write) = near.into_split();
                self.master.carry(&[], &self.dial(), read, write).await;
            }
            Err(error) => self.master.complain(error.message()),
        }
    }

    async fn reach(&self) -> Result<Reached> {
        let mut found = self.found.lock().await;
        if let Some(Way::Forward(socket)) = &found.way {
            if let Ok(stream) = UnixStream::connect(socket).await {
                return Ok(Reached::Socket(stream));
            }
            // The master that held it is gone.
            found.way = None;
        }
        self.master.open().await?;
        let way = match found.way.clone() {
            Some(way) => way,
            None => self.find(&mut found).await?,
        };
        Ok(match way {
            Way::Forward(socket) => Reached::Socket(UnixStream::connect(socket).await?),
            Way::Command => Reached::Command,
        })
    }

    /// Finds a way that an Engine answers on, and keeps it.
    async fn find(&self, found: &mut Found) -> Result<Way> {
        let Some(remote) = self.remote_socket().await? else { return Ok(found.keep(Way::Command)) };
        found.forwards += 1;
        let local = self.master.folder().join(format!("e{}", found.forwards));
        let forward = |verb: &str| ["-O", verb, "-L", &format!("{}:{remote}", local.display())].map(String::from);
        if !self.master.run(&forward("forward"), &[]).await?.status.success() {
            // Not for ever: the master may just have been lost.
            return Ok(Way::Command);
        }
        // A forward takes every connection; whether it leads anywhere shows afterwards.
        let wait = self.master.timeout();
        if ping(&local, wait).await != Ping::Closed {
            return Ok(found.keep(Way::Forward(local)));
        }
        let by_command = self.master.probe(&[], &self.dial(), PING, wait).await?;
        // Asked again: the Engine may have come up in between.
        if matches!(by_command, Probe::Answered) && ping(&local, wait).await != Ping::Closed {
            return Ok(found.keep(Way::Forward(local)));
        }
        let _ = self.master.run(&forward("cancel"), &[]).await;
        if let Probe::Closed(said) = by_command {
            return Err(Error::new(ErrorKind::Unreachable, said));
        }
        tracing::info!(
            host = self.master.destination(),
            "sshd forwards no sockets: each request to the Engine opens an ssh session"
        );
        Ok(found.keep(Way::Command))
    }

    /// Asks the other side's Docker CLI, as `dial-stdio` would.
    async fn remote_socket(&self) -> Result<Option<String>> {
        if self.socket.is_some() {
            return Ok(self.socket.clone());
        }
        let ask = ["docker", "context", "inspect", "--format", "'{{.Endpoints.docker.Host}}'"].map(String::from);
        let output = self.master.run(&[], &ask).await?;
        if !output.status.success() {
            return Ok(Some(DEFAULT_SOCKET.into()));
        }
        let told = String::from_utf8_lossy(&output.stdout);
        Ok(told.trim().strip_prefix("unix://").filter(|path| is_plain_path(path)).map(Into::into))
    }

    fn dial(&self) -> Vec<String> {
        let mut command = vec!["docker".to_owned()];
        if let Some(socket) = &self.socket {
            command.extend(["--host".into(), format!("unix://{socket}")]);
        }
        command.extend(["system".into(), "dial-stdio".into()]);
        command
    }

    async fn ask_for_the_reason(&self) {
        if let Ok(Probe::Closed(said)) = self.master.probe(&[], &self.dial(), PING, REASON_WAIT).await {
            self.master.complain(said);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ping {
    Answered,
    /// It was taken, and nothing came: somebody is there.
    Silent,
    Closed,
}

async fn ping(socket: &Path, wait: Duration) -> Ping {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(PING).await?;
        stream.read(&mut [0]).await
    };
    match tokio::time::timeout(wait, ask).await {
        Ok(Ok(0) | Err(_)) => Ping::Closed,
        Ok(Ok(_)) => Ping::Answered,
        Err(_) => Ping::Silent,
    }
}
