//! Work on a blocking thread between two byte streams, with bounded queues.
//!
//! A channel that is closed means nothing: only an explicit end message ends a stream well. So neither a dropped
//! future nor a panic can make a cut stream look whole.

use bytes::Bytes;
use futures::StreamExt;
use tokio::{sync::mpsc, sync::oneshot, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::{Error, ErrorKind, Result},
    stream::ByteStream,
};

/// Pieces that may wait between two sides.
const QUEUE: usize = 4;

enum Message {
    Data(Bytes),
    End,
    Failed(Error),
}

/// The blocking side of a stream that is read.
pub(crate) struct Input {
    messages: mpsc::Receiver<Message>,
    has_ended: bool,
}

impl Input {
    /// Returns the next piece, or `None`, from then on, when the producer said that it is done.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>> {
        if self.has_ended {
            return Ok(None);
        }
        match self.messages.blocking_recv() {
            Some(Message::Data(piece)) => Ok(Some(piece)),
            Some(Message::End) => {
                self.has_ended = true;
                Ok(None)
            }
            Some(Message::Failed(error)) => Err(error),
            None => Err(Error::new(ErrorKind::Cancelled, "the producer of a stream went away before its end")),
        }
    }
}

/// The blocking side of a stream that is written.
pub(crate) struct Output(mpsc::Sender<Bytes>);

impl Output {
    /// Hands over a piece; waits while the queue is full.
    pub(crate) fn send(&self, piece: Bytes) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        self.0
            .blocking_send(piece)
            .map_err(|_| Error::new(ErrorKind::Cancelled, "the consumer of a stream went away before its end"))
    }
}

fn feed(mut stream: ByteStream) -> (Input, AbortOnDropHandle<()>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let pump = tokio::spawn(async move {
        loop {
            let message = match stream.next().await {
                Some(Ok(piece)) => Message::Data(piece),
                Some(Err(error)) => Message::Failed(error),
                None => Message::End,
            };
            let is_last = !matches!(message, Message::Data(_));
            if sender.send(message).await.is_err() || is_last {
                break;
            }
        }
    });
    (Input { messages: receiver, has_ended: false }, AbortOnDropHandle::new(pump))
}

async fn join<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|e| Err(Error::new(ErrorKind::Failed, "a blocking task ended by panic").caused_by(e)))
}

/// Runs blocking work.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    join(tokio::task::spawn_blocking(work)).await
}

/// Reads a stream on a blocking thread. Dropping the future makes the work's next read fail with `Cancelled`.
pub(crate) async fn consume<T: Send + 'static>(
    stream: ByteStream,
    work: impl FnOnce(&mut Input) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (mut input, feeding) = feed(stream);
    let result = join(tokio::task::spawn_blocking(move || work(&mut input))).await;
    drop(feeding);
    result
}

/// Writes a stream on a blocking thread; the stream ends with the work's error, if it has one.
pub(crate) fn produce(work: impl FnOnce(&Output) -> Result<()> + Send + 'static) -> ByteStream {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let task = tokio::task::spawn_blocking(move || work(&Output(sender)));
    Box::pin(futures::stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
        if let Some(piece) = receiver.recv().await {
            return Some((Ok(piece), (receiver, task)));
        }
        match join(task?).await {
            Ok(()) => None,
            Err(error) => Some((Err(error), (receiver, None))),
        }
    }))
}

/// Puts blocking work between two streams. The second value resolves once the work succeeded.
pub(crate) fn transform<T: Send + 'static>(
    stream: ByteStream,
    work: impl FnOnce(&mut Input, &Output) -> Result<T> + Send + 'static,
) -> (ByteStream, oneshot::Receiver<T>) {
    let (mut input, feeding) = feed(stream);
    let (done, outcome) = oneshot::channel();
    let output = produce(move |output| {
        // A receiver that is gone only means that nobody asks for the result.
        let _ = done.send(work(&mut input, output)?);
        Ok(())
    });
    let output = output.map(move |item| {
        let _fed = &feeding;
        item
    });
    (Box::pin(output), outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream;

    #[tokio::test]
    async fn a_panic_of_the_work_never_looks_like_an_end() {
        let stream = produce(|out| {
            out.send(Bytes::from_static(b"half"))?;
            panic!("bug");
        });
        let error = stream::collect(stream, 100).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
    }

    #[tokio::test]
    async fn an_error_of_the_source_reaches_the_work_as_it_was() {
        let source: ByteStream = Box::pin(futures::stream::iter([
            Ok(Bytes::from_static(b"a")),
            Err(Error::new(ErrorKind::Unreachable, "gone")),
        ]));
        let result = consume(source, |input| {
            while input.next()?.is_some() {}
            Ok(())
        });
        assert_eq!(result.await.unwrap_err().kind(), ErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn dropping_the_consumer_ends_the_work_although_its_source_is_stuck() {
        let (told, ended) = std::sync::mpsc::channel();
        let (stream, _) = transform(Box::pin(futures::stream::pending()), move |input, _| {
            let result = input.next().map(|_| ());
            told.send(result.as_ref().err().map(Error::kind)).expect("test listens");
            result
        });
        drop(stream);
        let kind = tokio::task::spawn_blocking(move || ended.recv_timeout(std::time::Duration::from_secs(10)));
        assert_eq!(kind.await.unwrap().unwrap(), Some(ErrorKind::Cancelled));
    }
}
