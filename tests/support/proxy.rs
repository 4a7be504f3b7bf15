//! A line between a client and a server that fails where a test wants it to.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFault {
    /// It ends, in order, after so many bytes.
    Cut(Way, u64),
    /// It is reset after so many bytes.
    Reset(Way, u64),
    /// It stays open and silent, both ways, after so many bytes.
    Stall(Way, u64),
    /// Every piece of data is late by this much.
    Delay(Duration),
}

/// The line. Connections take faults in the order in which they are accepted; those without one pass.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    faults: Mutex<VecDeque<LineFault>>,
    accepted: AtomicUsize,
    /// Ends every connection that is open.
    cut: Mutex<CancellationToken>,
}

impl FaultProxy {
    /// Listens on a free port of this host.
    ///
    /// # Panics
    /// There is none.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn(accept(listener, server, shared.clone()));
        Self { address, shared, accepting }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a fault for a connection to come.
    pub fn fail(&self, fault: LineFault) -> &Self {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).push_back(fault);
        self
    }

    /// Resets every open connection.
    pub fn cut_all(&self) {
        let mut cut = self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *cut).cancel();
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many faults no connection has met yet.
    pub fn faults_left(&self) -> usize {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut_all();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let fault = shared.faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let cut = shared.cut.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tokio::spawn(carry(client, server, fault, cut));
    }
}

/// How a connection ends.
enum End {
    Closed,
    Reset,
    Silent,
}

async fn carry(client: TcpStream, server: SocketAddr, fault: Option<LineFault>, cut: CancellationToken) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    // The halves come back, so that a reset can be made of them.
    let mut up = tokio::spawn(pass(client_read, server_write, fault, Way::Up));
    let mut down = tokio::spawn(pass(server_read, client_write, fault, Way::Down));
    let ended = tokio::select! {
        ended = &mut up => ended,
        ended = &mut down => ended,
        () = cut.cancelled() => {
            up.abort();
            down.abort();
            return;
        }
    };
    match ended {
        Ok(End::Silent) => cut.cancelled().await,
        Ok(End::Closed) => {
            // One side is done; the other may have more to say.
            let _ = tokio::time::timeout(Duration::from_secs(30), async {
                if up.is_finished() { down.await.map(|_| ()) } else { up.await.map(|_| ()) }
            })
            .await;
        }
        Ok(End::Reset) | Err(_) => {
            up.abort();
            down.abort();
        }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    fault: Option<LineFault>,
    way: Way,
) -> End {
    let limit = match fault {
        Some(LineFault::Cut(w, bytes) | LineFault::Reset(w, bytes) | LineFault::Stall(w, bytes)) if w == way => bytes,
        _ => u64::MAX,
    };
    let (mut piece, mut passed) = (vec![0; 16 << 10], 0_u64);
    loop {
        let got = match from.read(&mut piece).await {
            Ok(0) => {
                let _ = to.shutdown().await;
                return End::Closed;
            }
            Ok(got) => got,
            Err(_) => return End::Reset,
        };
        if let Some(LineFault::Delay(time)) = fault {
            tokio::time::sleep(time).await;
        }
        let allowed = usize::try_from(limit - passed).unwrap_or(usize::MAX).min(got);
        if to.write_all(&piece[..allowed]).await.is_err() {
            return End::Reset;
        }
        passed += allowed as u64;
        if passed < limit {
            continue;
        }
        match fault {
            Some(LineFault::Reset(..)) => {
                // Data that was received and is never read makes the kernel send a reset when the socket is dropped;
                // lingering for no time makes it sure.
                #[allow(deprecated)]
                let _ = to.as_ref().set_linger(Some(Duration::ZERO));
                return End::Reset;
            }
            Some(LineFault::Stall(..)) => return End::Silent,
            _ => {
                let _ = to.shutdown().await;
                return End::Reset;
            }
        }
    }
}
