//! One sftp session: a child `ssh -s … sftp`, and requests over its pipes.
//!
//! Requests may be under way together; each is answered within a deadline, or the whole session counts as lost.

use std::{
    borrow::Cow,
    num::NonZeroUsize,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use openssh_sftp_client_lowlevel::{
    CreateFlags, Data, Extensions, FileAttrs, HandleOwned, Id, NameEntry, OpenOptions, Permissions, Queue, ReadEnd,
    SharedData, Statvfs, UnixTimeStamp, WriteEnd, connect,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, Command},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Place, error::Failure};
use crate::{
    error::{Error, ErrorKind, Result},
    ssh,
    system::SftpSettings,
};

/// Bytes of one read or write, where the server sets no other limit: every server must take 32 KiB.
///
/// # Source
/// draft-ietf-secsh-filexfer-02, section 3: packets of 34000 bytes.
const PIECE: u32 = 32 << 10;
/// Bytes of one read or write, whatever the server would take.
const MOST: u32 = 128 << 10;
/// How much is kept of what ssh says.
const COMPLAINT: usize = 4 << 10;

/// Hands packets to the task that writes them.
#[derive(Debug)]
struct Outbox(mpsc::UnboundedSender<Bytes>);

impl Queue for Outbox {
    fn push(&self, bytes: Bytes) {
        // A writer that is gone has cancelled the session already.
        let _ = self.0.send(bytes);
    }

    fn extend(&self, header: Bytes, body: &[&[Bytes]]) {
        let length = header.len() + body.iter().flat_map(|part| part.iter()).map(Bytes::len).sum::<usize>();
        let mut packet = BytesMut::with_capacity(length);
        packet.extend_from_slice(&header);
        for piece in body.iter().flat_map(|part| part.iter()) {
            packet.extend_from_slice(piece);
        }
        self.push(packet.freeze());
    }
}

type Shared = SharedData<BytesMut, Outbox>;
type Requests = WriteEnd<BytesMut, Outbox>;

/// An open session; the child ends when it is dropped.
pub(super) struct Session {
    shared: Shared,
    extensions: Extensions,
    lost: CancellationToken,
    complaint: Arc<Mutex<Vec<u8>>>,
    timeout: Duration,
    piece: u32,
    _tasks: [AbortOnDropHandle<()>; 3],
    _child: Child,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("extensions", &self.extensions).field("lost", &self.is_lost()).finish()
    }
}

fn command(place: &Place, settings: &SftpSettings) -> Command {
    let mut command = Command::new("ssh");
    if let Some(config) = &settings.ssh_config {
        command.arg("-F").arg(config);
    }
    let connect = format!("ConnectTimeout={}", settings.timeout.as_secs().max(1));
    // A shared connection of the operator's is used where there is one; none is left behind.
    let own = ["ControlMaster=no", "ClearAllForwardings=yes", "ForwardAgent=no", "PermitLocalCommand=no", &connect];
    for option in ssh::STRICT.iter().copied().chain(own) {
        command.args(["-o", option]);
    }
    if let Some(user) = &place.user {
        command.args(["-l", user]);
    }
    if let Some(port) = place.port {
        command.args(["-p", &port.to_string()]);
    }
    command.args(["-s", "--", &place.host, "sftp"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn write_packets(mut packets: mpsc::UnboundedReceiver<Bytes>, mut to: ChildStdin, lost: CancellationToken) {
    let _lost = lost.drop_guard();
    while let Some(packet) = packets.recv().await {
        if to.write_all(&packet).await.is_err() {
            return;
        }
    }
}

async fn keep_complaints(mut from: ChildStderr, to: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 1024];
    while let Ok(got @ 1..) = from.read(&mut piece).await {
        let mut kept = to.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&piece[..got]);
        let surplus = kept.len().saturating_sub(COMPLAINT);
        kept.drain(..surplus);
    }
}

impl Session {
    /// Logs in and agrees on the protocol.
    ///
    /// # Errors
    /// `Authentication`: the host's key is not known or changed, or the login was refused. `Unreachable`: no answer.
    /// `Precondition`: no `ssh` here, or no sftp there.
    pub(super) async fn open(place: &Place, settings: &SftpSettings) -> Result<Self> {
        let mut child = command(place, settings).spawn().map_err(|e| {
            Error::from(e).of_kind(ErrorKind::Precondition).during("cannot run `ssh`").hint("install openssh-client")
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::new(ErrorKind::Failed, "`ssh` has no pipes"));
        };
        let complaint = Arc::new(Mutex::new(Vec::new()));
        let complaining = AbortOnDropHandle::new(tokio::spawn(keep_complaints(stderr, complaint.clone())));
        let (outbox, packets) = mpsc::unbounded_channel();
        let lost = CancellationToken::new();
        let writing = AbortOnDropHandle::new(tokio::spawn(write_packets(packets, stdin, lost.clone())));
        let requests: Requests =
            connect(Outbox(outbox), ()).map_err(|e| Failure::from(e).during("cannot begin an sftp session"))?;
        let shared = requests.into_shared_data();

        let buffer = NonZeroUsize::new(64 << 10).unwrap_or(NonZeroUsize::MIN);
        let mut incoming = Box::pin(ReadEnd::new(stdout, buffer, shared.clone()));
        let hello = tokio::time::timeout(settings.timeout, incoming.as_mut().receive_server_hello_pinned()).await;
        let extensions = match hello {
            Ok(Ok(extensions)) => extensions,
            Ok(Err(_)) => return Err(refused(place, &mut child, complaining, &complaint).await),
            Err(_) => {
                return Err(Error::new(ErrorKind::Timeout, format!("`{place}` did not begin an sftp session in time")));
            }
        };
        let ending = lost.clone();
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            let _lost = ending.drop_guard();
            while incoming.as_mut().read_in_one_packet_pinned().await.is_ok() {}
        }));
        let mut session = Self {
            shared,
            extensions,
            lost,
            complaint,
            timeout: settings.timeout,
            piece: PIECE,
            _tasks: [complaining, writing, reading],
            _child: child,
        };
        if extensions.contains(Extensions::LIMITS) {
            let limits = session
                .ask(|requests, id| {
                    requests.send_limits_request(id).map(openssh_sftp_client_lowlevel::AwaitableLimits::wait)
                })
                .await
                .map_err(|f| f.during("cannot ask the sftp server for its limits"))?;
            let allowed = [limits.read_len, limits.write_len].into_iter().filter(|l| *l > 0).min();
            session.piece = allowed.and_then(|l| u32::try_from(l).ok()).unwrap_or(PIECE).min(MOST);
        }
        tracing::debug!(%place, ?extensions, piece = session.piece, "sftp session open");
        Ok(session)
    }

    /// Whether it cannot be used any more.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Bytes of one read or write.
    pub(super) fn piece(&self) -> u32 {
        self.piece
    }

    /// Sends one request and waits for its answer; silence beyond the deadline makes the session lost.
    async fn ask<T, F>(
        &self,
        send: impl FnOnce(&mut Requests, Id<BytesMut>) -> Result<F, openssh_sftp_client_lowlevel::Error>,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<(Id<BytesMut>, T), openssh_sftp_client_lowlevel::Error>>,
    {
        let id = self.shared.create_response_id();
        let waiting = send(&mut WriteEnd::new(self.shared.clone()), id)?;
        tokio::select! {
            biased;
            answer = waiting => Ok(answer?.1),
            () = self.lost.cancelled() => Err(Failure::Lost(self.gone())),
            () = tokio::time::sleep(self.timeout) => {
                self.lost.cancel();
                Err(Failure::Lost(Error::new(
                    ErrorKind::Timeout,
                    format!("the sftp server gave no answer for {} s", self.timeout.as_secs()),
                )))
            }
        }
    }

    fn gone(&self) -> Error {
        let error = Error::new(ErrorKind::Unreachable, "the sftp connection is lost");
        let said = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        match ssh::last_line(&String::from_utf8_lossy(&said)) {
            line if line.is_empty() => error,
            line => error.with("ssh", line),
        }
    }

    /// Makes a new file, for its owner alone, and opens it for writing; it must not exist.
    pub(super) async fn create(&self, path: &str) -> Result<HandleOwned, Failure> {
        let mut attributes = FileAttrs::new();
        attributes.set_permissions(Permissions::READ_BY_OWNER | Permissions::WRITE_BY_OWNER);
        let request = OpenOptions::new().write(true).create(name(path), CreateFlags::Excl, attributes);
        self.ask(|requests, id| {
            requests.send_open_file_request(id, request).map(openssh_sftp_client_lowlevel::AwaitableHandle::wait)
        })
        .await
    }

    /// Opens an existing file for reading, or for writing.
    pub(super) async fn open_file(&self, path: &str, write: bool) -> Result<HandleOwned, Failure> {
        let request = OpenOptions::new().read(!write).write(write).open(name(path));
        self.ask(|requests, id| {
            requests.send_open_file_request(id, request).map(openssh_sftp_client_lowlevel::AwaitableHandle::wait)
        })
        .await
    }

    pub(super) async fn close(&self, handle: HandleOwned) -> Result<(), Failure> {
        self.ask(|requests, id| {
            requests
                .send_close_request(id, Cow::Borrowed(&handle))
                .map(openssh_sftp_client_lowlevel::AwaitableStatus::wait)
        })
        .await
    }

    pub(super) async fn write(&self, handle: &HandleOwned, offset: u64, data: Bytes) -> Result<(), Failure> {
        self.ask(|requests, id| {
            requests
                .send_write_request_zero_copy(id, Cow::Borrowed(handle), offset, &[data])
                .map(openssh_sftp_client_lowlevel::AwaitableStatus::wait)
        })
        .await
    }

    /// Reads up to `length` bytes; `None` at the end of the file.
    pub(super) async fn read(&self, handle: &HandleOwned, offset: u64, length: u32) -> Result<Option<Bytes>, Failure> {
        let data = self
            .ask(|requests, id| {
                requests
                    .send_read_request(id, Cow::Borrowed(handle), offset, length, None)
                    .map(openssh_sftp_client_lowlevel::AwaitableData::wait)
            })
            .await?;
        Ok(match data {
            Data::Buffer(bytes) => Some(bytes.freeze()),
            Data::AllocatedBox(bytes) => Some(bytes.into()),
            Data::Eof => None,
        })
    }

    /// Has the server make a file durable. `false`: it does not offer that.
    pub(super) async fn sync(&self, handle: &HandleOwned) -> Result<bool, Failure> {
        if !self.extensions.contains(Extensions::FSYNC) {
            return Ok(false);
        }
        self.ask(|requests, id| {
            requests
                .send_fsync_request(id, Cow::Borrowed(handle))
                .map(openssh_sftp_client_lowlevel::AwaitableStatus::wait)
        })
        .await?;
        Ok(true)
    }

    pub(super) async fn stat_open(&self, handle: &HandleOwned) -> Result<FileAttrs, Failure> {
        self.ask(|requests, id| {
            requests
                .send_fstat_request(id, Cow::Borrowed(handle))
                .map(openssh_sftp_client_lowlevel::AwaitableAttrs::wait)
        })
        .await
    }

    /// Looks at a path without following a symbolic link.
    pub(super) async fn stat(&self, path: &str) -> Result<FileAttrs, Failure> {
        self.ask(|requests, id| {
            requests.send_lstat_request(id, name(path)).map(openssh_sftp_client_lowlevel::AwaitableAttrs::wait)
        })
        .await
    }

    pub(super) async fn set_modified(&self, path: &str, time: UnixTimeStamp) -> Result<(), Failure> {
        let mut attributes = FileAttrs::new();
        attributes.set_time(time, time);
        self.ask(|requests, id| {
            requests
                .send_setstat_request(id, name(path), attributes)
                .map(openssh_sftp_client_lowlevel::AwaitableStatus::wait)
        })
        .await
    }

    /// Renames with `SSH_FXP_RENAME`, which does not replace what is there.
    ///
    /// # Source
    /// draft-ietf-secsh-filexfer-02, section 6.5: an error if the new name exists. `posix-rename@openssh.com` replaces.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.ask(|requests, id| {
            requests
                .send_rename_request(id, name(from), name(to))
                .map(openssh_sftp_client_lowlevel::AwaitableStatus::wait)
        })
        .await
    }

    pub(super) async fn remove(&self, path: &str) -> Result<(), Failure> {
        self.ask(|requests, id| {
            requests.send_remove_request(id, name(path)).map(openssh_sftp_client_lowlevel::AwaitableStatus::wait)
        })
        .await
    }

    /// Makes a folder for its owner alone.
    pub(super) async fn make_folder(&self, path: &str) -> Result<(), Failure> {
        let mut attributes = FileAttrs::new();
        let own = Permissions::READ_BY_OWNER | Permissions::WRITE_BY_OWNER | Permissions::EXECUTE_BY_OWNER;
        attributes.set_permissions(own);
        self.ask(|requests, id| {
            requests
                .send_mkdir_request(id, name(path), attributes)
                .map(openssh_sftp_client_lowlevel::AwaitableStatus::wait)
        })
        .await
    }

    pub(super) async fn remove_folder(&self, path: &str) -> Result<(), Failure> {
        self.ask(|requests, id| {
            requests.send_rmdir_request(id, name(path)).map(openssh_sftp_client_lowlevel::AwaitableStatus::wait)
        })
        .await
    }

    pub(super) async fn open_folder(&self, path: &str) -> Result<HandleOwned, Failure> {
        self.ask(|requests, id| {
            requests.send_opendir_request(id, name(path)).map(openssh_sftp_client_lowlevel::AwaitableHandle::wait)
        })
        .await
    }

    /// Reads some entries of an open folder; none at its end.
    pub(super) async fn read_folder(&self, handle: &HandleOwned) -> Result<Box<[NameEntry]>, Failure> {
        self.ask(|requests, id| {
            requests
                .send_readdir_request(id, Cow::Borrowed(handle))
                .map(openssh_sftp_client_lowlevel::AwaitableNameEntries::wait)
        })
        .await
    }

    /// Asks for the room on the filesystem of a path. `None`: the server does not offer that.
    pub(super) async fn room(&self, path: &str) -> Result<Option<Statvfs>, Failure> {
        if !self.extensions.contains(Extensions::STATVFS) {
            return Ok(None);
        }
        self.ask(|requests, id| {
            requests.send_statvfs_request(id, name(path)).map(openssh_sftp_client_lowlevel::AwaitableStatvfs::wait)
        })
        .await
        .map(Some)
    }
}

fn name(path: &str) -> Cow<'_, Path> {
    Cow::Borrowed(Path::new(path))
}

/// Tells why there is no session, from what ssh says when it ends.
async fn refused(
    place: &Place,
    child: &mut Child,
    complaining: AbortOnDropHandle<()>,
    complaint: &Mutex<Vec<u8>>,
) -> Error {
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        let status = child.wait().await;
        let _ = complaining.await;
        status
    });
    let status = ended.await.ok().and_then(Result::ok);
    let text = String::from_utf8_lossy(&complaint.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    // ssh ends with 255 for a failure of its own, else with the status of what ran over there.
    if text.contains("subsystem request failed") || status.is_some_and(|s| s.code() != Some(255)) {
        return Error::new(ErrorKind::Precondition, format!("`{}` has no sftp for this account", place.host))
            .with("ssh", ssh::last_line(&text))
            .hint("its sshd needs a line `Subsystem sftp internal-sftp`");
    }
    ssh::refusal(&place.host, &text)
}
