//! Tar streams in and out of containers and volumes: no total timeout, but bytes have to keep moving.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bollard::{
    body_full, body_try_stream,
    query_parameters::{
        ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

use super::{
    client::{Connection, checked_name},
    error::{Effect, map},
    helper::{HELPER_MOUNT, Helper, volume_mount},
};
use crate::{
    backend::{
        Place,
        tar_scan::{FolderEntry, TarScan},
    },
    error::{Error, ErrorKind, Result},
    stream::ByteStream,
};

impl Connection {
    /// Reads a path as a tar stream.
    pub(super) async fn read_archive(self: &Arc<Self>, project: &str, place: &Place, path: &str) -> Result<ByteStream> {
        let (target, helper) = self.target(project, place, path, true).await?;
        let container = helper.as_ref().map_or_else(|| place_name(place), |helper| &helper.id).to_owned();
        let what = format!("read `{path}` of {}", shown(place));
        let options = DownloadFromContainerOptionsBuilder::default().path(&target).build();
        let mut body = self.bulk.download_from_container(checked_name(&container)?, Some(options)).boxed();
        // The first piece is asked for here, so that a missing path is an error of the call.
        let first = match tokio::time::timeout(self.options.stall_timeout, body.next()).await {
            Ok(Some(Ok(first))) => first,
            Ok(Some(Err(error))) => return Err(self.explain(map(error, Effect::Read, what))),
            Ok(None) => return Err(Error::new(ErrorKind::Corrupt, format!("cannot {what}: the Engine sent nothing"))),
            Err(_) => return Err(stalled(&what, self.options.stall_timeout)),
        };
        let reader = Download {
            body: stream::once(async move { Ok(first) }).chain(body).boxed(),
            scan: TarScan::default(),
            helper,
            connection: Arc::clone(self),
            what,
            ended: false,
        };
        Ok(Box::pin(stream::unfold(reader, Download::step)))
    }

    /// Unpacks a tar stream below an existing folder.
    pub(super) async fn write_archive(
        self: &Arc<Self>,
        project: &str,
        place: &Place,
        path: &str,
        tar: ByteStream,
    ) -> Result<()> {
        let (target, helper) = self.target(project, place, path, false).await?;
        let container = helper.as_ref().map_or_else(|| place_name(place), |helper| &helper.id).to_owned();
        let what = format!("write into `{path}` of {}", shown(place));
        // Asked for first: an Engine that refuses in the middle of a body cuts the connection, and tells nothing.
        let there = ContainerArchiveInfoOptionsBuilder::default().path(&target).build();
        let there = self.control.get_container_archive_info(checked_name(&container)?, Some(there));
        let result = match self.read(&what, there).await {
            Ok(_) => self.upload(&container, &target, &what, tar).await,
            Err(error) => Err(error),
        };
        let result = match result {
            // The Engine leaves the folder itself as it was, and a volume's root has an owner and a mode too.
            Ok(Some(root)) => self.set_folder(&container, &target, &what, root).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Some(helper) = helper {
            let removed = helper.remove().await;
            result.and(removed)
        } else {
            result
        }
    }

    async fn upload(&self, container: &str, target: &str, what: &str, tar: ByteStream) -> Result<Option<FolderEntry>> {
        let watch = Arc::new(Watch::new());
        let body = Upload { tar, watch: Arc::clone(&watch), scan: TarScan::default(), ended: false };
        let options = UploadToContainerOptionsBuilder::default().path(target).build();
        let request = self.bulk.upload_to_container(checked_name(container)?, Some(options), body_try_stream(body));
        let sent = async {
            request.await.map_err(|error| match watch.outcome().failure.take() {
                // What broke the stream is the cause; the Engine only saw it end early.
                Some(ours) => ours.during(format!("cannot {what}")),
                None => self.explain(map(error, Effect::Change, what)),
            })
        };
        tokio::select! {
            sent = sent => sent?,
            () = watch.stall(self.options.stall_timeout) => return Err(stalled(what, self.options.stall_timeout)),
        }
        // The Engine stops reading at the closing blocks, and takes an archive without them for a whole one.
        let mut outcome = watch.outcome();
        match outcome.failure.take() {
            Some(error) => Err(error.during(format!("cannot {what}"))),
            None if outcome.is_whole => Ok(outcome.root),
            None => Err(Error::new(
                ErrorKind::Corrupt,
                format!("cannot {what}: the Engine answered before it had the whole archive"),
            )),
        }
    }

    /// Sets owner and mode of a folder, with an archive that holds nothing else.
    async fn set_folder(&self, container: &str, folder: &str, what: &str, entry: FolderEntry) -> Result<()> {
        let Some((parent, name)) = folder.trim_end_matches(['/', '.']).rsplit_once('/') else { return Ok(()) };
        if name.is_empty() {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_uid(entry.uid);
        header.set_gid(entry.gid);
        header.set_mode(entry.mode);
        header.set_mtime(entry.mtime);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, format!("{name}/"), &[][..])?;
        let parent = if parent.is_empty() { "/" } else { parent };
        self.put(container, parent, what, builder.into_inner()?).await
    }

    /// Puts a small archive into a container.
    pub(super) async fn put(&self, container: &str, folder: &str, what: &str, tar: Vec<u8>) -> Result<()> {
        let options = UploadToContainerOptionsBuilder::default().path(folder).build();
        let request =
            self.control.upload_to_container(checked_name(container)?, Some(options), body_full(Bytes::from(tar)));
        self.change(what, request).await
    }

    /// Where the Engine finds a path: in the container, or in a helper that mounts the volume.
    async fn target(
        self: &Arc<Self>,
        project: &str,
        place: &Place,
        path: &str,
        read_only: bool,
    ) -> Result<(String, Option<Helper>)> {
        if path.contains('\0') || path.split('/').any(|part| part == "..") {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not a plain path", path.escape_debug())));
        }
        match place {
            Place::Container(_) if path.starts_with('/') => Ok((path.to_owned(), None)),
            Place::Container(name) => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("`{path}` is not an absolute path in container `{name}`"),
            )),
            Place::Volume(name) => {
                // Mounting a volume that is not there would make an empty one.
                self.volume(name).await?;
                let helper = self.idle_helper(project, volume_mount(name, read_only)).await?;
                let path = path.trim_start_matches('/');
                let target = if path.is_empty() || path == "." {
                    format!("{HELPER_MOUNT}/.")
                } else {
                    format!("{HELPER_MOUNT}/{path}")
                };
                Ok((target, Some(helper)))
            }
        }
    }
}

fn place_name(place: &Place) -> &str {
    match place {
        Place::Container(name) | Place::Volume(name) => name,
    }
}

fn shown(place: &Place) -> String {
    match place {
        Place::Container(name) => format!("container `{name}`"),
        Place::Volume(name) => format!("volume `{name}`"),
    }
}

fn stalled(what: &str, limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("cannot {what}: no byte moved for {} s", limit.as_secs()))
        .hint("look whether the Engine and its disk still answer")
}

/// An archive on its way out.
struct Download {
    body: stream::BoxStream<'static, Result<Bytes, bollard::errors::Error>>,
    scan: TarScan,
    helper: Option<Helper>,
    connection: Arc<Connection>,
    what: String,
    ended: bool,
}

impl Download {
    /// The clock runs only while somebody waits for the next piece, so that a slow consumer is no stall.
    async fn step(mut self) -> Option<(Result<Bytes>, Self)> {
        if self.ended {
            return None;
        }
        let limit = self.connection.options.stall_timeout;
        let item = match tokio::time::timeout(limit, self.body.next()).await {
            Ok(Some(Ok(bytes))) => match self.scan.push(&bytes) {
                Ok(()) => return Some((Ok(bytes), self)),
                Err(error) => Err(error.during(format!("cannot {}", self.what))),
            },
            Ok(Some(Err(error))) => Err(self.connection.explain(map(error, Effect::Read, &self.what))),
            Ok(None) => self.scan.finish().map_err(|error| error.during(format!("cannot {}", self.what))),
            Err(_) => Err(stalled(&self.what, limit)),
        };
        self.ended = true;
        let removed = match self.helper.take() {
            Some(helper) => helper.remove().await,
            None => Ok(()),
        };
        match item.and(removed) {
            Ok(()) => None,
            Err(error) => Some((Err(error), self)),
        }
    }
}

/// What the producer of an upload and its watchdog share.
struct Watch {
    /// When bytes last moved, or the producer was last waited for.
    moved: Mutex<Instant>,
    /// Whether the next piece is being waited for: then the Engine is not to blame.
    producing: AtomicBool,
    outcome: Mutex<Outcome>,
}

/// What became of an upload, as far as its producer knows.
#[derive(Default)]
struct Outcome {
    failure: Option<Error>,
    /// Whether the closing blocks were handed over.
    is_whole: bool,
    root: Option<FolderEntry>,
}

impl Watch {
    fn new() -> Self {
        Self { moved: Mutex::new(Instant::now()), producing: AtomicBool::new(false), outcome: Mutex::default() }
    }

    fn touch(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn outcome(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the Engine has not taken a byte for `limit`.
    async fn stall(&self, limit: Duration) {
        loop {
            let still = self.moved.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            if self.producing.load(Ordering::Relaxed) {
                tokio::time::sleep(limit / 4).await;
            } else if still >= limit {
                return;
            } else {
                tokio::time::sleep(limit.saturating_sub(still)).await;
            }
        }
    }
}

/// An archive on its way in.
struct Upload {
    tar: ByteStream,
    watch: Arc<Watch>,
    scan: TarScan,
    ended: bool,
}

impl Stream for Upload {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.tar.poll_next_unpin(cx);
        self.watch.producing.store(polled.is_pending(), Ordering::Relaxed);
        self.watch.touch();
        let result = match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(bytes))) => match self.scan.push(&bytes) {
                Ok(()) => {
                    if self.scan.is_complete() {
                        let mut outcome = self.watch.outcome();
                        (outcome.is_whole, outcome.root) = (true, self.scan.root());
                    }
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Err(error) => Err(error),
            },
            Poll::Ready(Some(Err(error))) => Err(error),
            Poll::Ready(None) => self.scan.finish(),
        };
        self.ended = true;
        match result {
            Ok(()) => Poll::Ready(None),
            Err(error) => {
                self.watch.outcome().failure = Some(error.to_record().into());
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}
