//! Reads an object: several requests are under way, their answers are handed on in order.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use openssh_sftp_client_lowlevel::{FileType, HandleOwned};
use tokio_util::task::AbortOnDropHandle;

use super::{Inner, error::Failure, info_of, missing, session::Session};
use crate::{
    error::{Error, ErrorKind, Result},
    store::Key,
    stream::ByteStream,
};

/// Requests under way.
const AHEAD: usize = 8;

/// An open file; closed when dropped.
pub(super) struct RemoteFile {
    key: Key,
    session: Arc<Session>,
    handle: Arc<HandleOwned>,
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        close_later(&self.session, &self.handle);
    }
}

/// Closes a handle without waiting; requests that still use it were sent before.
pub(super) fn close_later(session: &Arc<Session>, handle: &Arc<HandleOwned>) {
    if session.is_lost() {
        return;
    }
    let (session, handle) = (session.clone(), HandleOwned::clone(handle));
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        // A handle that stays open is closed with the session.
        runtime.spawn(async move { session.close(handle).await });
    }
}

type Answer = Result<Option<Bytes>, Failure>;

/// A read that is under way, from where to where.
struct Ahead {
    range: Range<u64>,
    answer: AbortOnDropHandle<Answer>,
}

struct Reading {
    file: RemoteFile,
    /// What was not asked for yet.
    rest: Range<u64>,
    ahead: VecDeque<Ahead>,
}

impl Inner {
    /// Opens an object and tells its length.
    pub(super) async fn open_object(&self, key: &Key) -> Result<(RemoteFile, u64)> {
        let session = self.session().await?;
        let path = self.path(key.as_str());
        let fail = |f: Failure| f.during(format!("cannot read `{key}`"));
        let seen = match session.stat(&path).await {
            Ok(seen) if seen.get_filetype() == Some(FileType::Directory) => return Err(missing(key)),
            Ok(seen) => seen,
            Err(Failure::Absent) => {
                self.check_root(&session).await?;
                return Err(missing(key));
            }
            Err(failure) => return Err(fail(failure)),
        };
        // Opening would follow a link, or wait at a pipe.
        info_of(key.clone(), &seen)?;
        let handle = match session.open_file(&path, false).await {
            Ok(handle) => Arc::new(handle),
            Err(Failure::Absent) => return Err(missing(key)),
            Err(failure) => return Err(fail(failure)),
        };
        let file = RemoteFile { key: key.clone(), session, handle };
        let attributes = file.session.stat_open(&file.handle).await.map_err(fail)?;
        let length = info_of(key.clone(), &attributes)?.length;
        Ok((file, length))
    }
}

impl RemoteFile {
    fn ask(&self, range: Range<u64>) -> Ahead {
        let (session, handle, offset) = (self.session.clone(), self.handle.clone(), range.start);
        let length = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        let asking = tokio::spawn(async move { session.read(&handle, offset, length).await });
        Ahead { range, answer: AbortOnDropHandle::new(asking) }
    }

    /// Streams a range, which ends within the file as it was when it was opened.
    pub(super) fn stream(self, range: Range<u64>) -> ByteStream {
        let reading = Reading { file: self, rest: range, ahead: VecDeque::new() };
        Box::pin(futures::stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|piece| (piece, reading)))
        }))
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.ahead.len() < AHEAD && !self.rest.is_empty() {
            let end = self.rest.end.min(self.rest.start + u64::from(self.file.session.piece()));
            self.ahead.push_back(self.file.ask(self.rest.start..end));
            self.rest.start = end;
        }
        let Some(Ahead { range, answer }) = self.ahead.pop_front() else { return Ok(None) };
        let key = &self.file.key;
        let answer = answer
            .await
            .map_err(|e| Error::new(ErrorKind::Failed, format!("reading `{key}` ended by panic")).caused_by(e))?;
        let wanted = range.end - range.start;
        match answer.map_err(|f| f.during(format!("cannot read `{key}`")))? {
            Some(bytes) if bytes.len() as u64 > wanted => {
                Err(Error::new(ErrorKind::Corrupt, format!("the server sent more of `{key}` than was asked for")))
            }
            Some(bytes) if !bytes.is_empty() => {
                // A server may give less than was asked for; what is missing comes next.
                let got = range.start + bytes.len() as u64;
                if got < range.end {
                    self.ahead.push_front(self.file.ask(got..range.end));
                }
                Ok(Some(bytes))
            }
            _ => Err(Error::new(ErrorKind::Corrupt, format!("object `{key}` ended early"))
                .with("missing bytes", wanted + self.rest.end - self.rest.start + self.waiting())),
        }
    }

    fn waiting(&self) -> u64 {
        self.ahead.iter().map(|a| a.range.end - a.range.start).sum()
    }
}
