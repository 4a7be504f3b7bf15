//! What this library makes on an Engine: one-off containers, and ways to dial into them.

use std::fmt;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Labels, Mount};
use crate::secret::Secret;

/// A container of ours.
#[derive(Debug, Clone)]
pub struct OneOff {
    /// Name on the Engine, unique: the key to find it by.
    pub name: String,
    /// Image reference or id. It must be on the host: nothing is pulled during a recovery.
    pub image: String,
    /// Replaces the image's entry point when set.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments.
    pub command: Vec<String>,
    /// Environment, visible in `inspect`: no secrets.
    pub env: Vec<(String, String)>,
    /// User.
    pub user: Option<String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Files to put into the container before it starts.
    pub files: Vec<OneOffFile>,
    /// What it can reach.
    pub network: Network,
    /// Names that lead to the container itself: what is tested without a network may look names up.
    pub own_names: Vec<String>,
    /// Labels; [`RUN_LABEL`](super::RUN_LABEL) is required.
    pub labels: Labels,
    /// Limit of memory in bytes.
    pub memory: Option<u64>,
    /// `false` only creates it.
    pub start: bool,
}

/// A file put into a container of ours before it starts; the folder must exist in the image.
#[derive(Debug, Clone)]
pub struct OneOffFile {
    /// Absolute path.
    pub path: String,
    /// Content.
    pub content: Secret,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a container of ours can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Nothing, not even this process.
    None,
    /// A network of its own without a way out, which [`Backend::endpoint`](super::Backend::endpoint) can dial into.
    Isolated,
}

/// Both ways of a connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection, however it was made.
pub(crate) type Connection = Box<dyn Duplex>;

/// An address that can be dialled while this value lives.
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    _guard: Option<Box<dyn Send + Sync>>,
    /// Where no address leads there.
    connect: Option<Box<dyn Fn() -> Connection + Send + Sync>>,
}

impl Endpoint {
    /// Makes an endpoint; `guard` keeps a tunnel open until it is dropped.
    pub fn new(host: impl Into<String>, port: u16, guard: Option<Box<dyn Send + Sync>>) -> Self {
        Self { host: host.into(), port, _guard: guard, connect: None }
    }

    /// Makes an endpoint of a simulated server, which lies within this process.
    #[cfg(feature = "testing")]
    pub(crate) fn within_process(
        host: &str,
        port: u16,
        connect: impl Fn() -> Connection + Send + Sync + 'static,
    ) -> Self {
        Self { connect: Some(Box::new(connect)), ..Self::new(host, port, None) }
    }

    /// Connects to what lies within this process; `None`: it has to be dialled.
    pub(crate) fn connect_within(&self) -> Option<Connection> {
        self.connect.as_ref().map(|connect| connect())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
