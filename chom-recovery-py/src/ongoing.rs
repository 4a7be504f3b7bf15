//! A run in a task of its own.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

use chom_recovery::{
    Error, ErrorKind, ErrorRecord, Result,
    recovery::Going,
    run::{EventStream, RunId},
};
use futures::StreamExt;
use pyo3::prelude::*;
use pyo3_async_runtimes::tokio::{future_into_py, get_runtime};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    convert::{raise, to_json},
    process,
};

/// Events kept for a reader that is busy; those after them are counted and left out.
const WAITING_EVENTS: usize = 256;

/// A run that is going on. Its task belongs to the runtime: no await of Python's owns it, so that none can drop it.
#[pyclass(frozen, module = "chom_recovery._native")]
pub(crate) struct Ongoing {
    id: Arc<OnceLock<RunId>>,
    token: CancellationToken,
    events: Arc<Mutex<mpsc::Receiver<String>>>,
    end: watch::Receiver<Option<Result<String, ErrorRecord>>>,
}

impl std::fmt::Debug for Ongoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ongoing").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Ongoing {
    /// Starts a run, and follows it to its end.
    pub(crate) fn start(token: CancellationToken, start: impl Future<Output = Result<Going>> + Send + 'static) -> Self {
        let id = Arc::new(OnceLock::new());
        let (sender, events) = mpsc::channel(WAITING_EVENTS);
        let begun = id.clone();
        Self::spawn(id, token, events, async move {
            let mut going = start.await?;
            let _ = begun.set(going.id());
            if let Some(events) = going.events() {
                tokio::spawn(forward(events, sender));
            }
            to_json(&going.finish().await?)
        })
    }

    /// Follows work on a run whose id is known and that tells nothing on its way.
    pub(crate) fn quiet(
        id: RunId,
        token: CancellationToken,
        work: impl Future<Output = Result<String>> + Send + 'static,
    ) -> Self {
        Self::spawn(Arc::new(OnceLock::from(id)), token, mpsc::channel(1).1, work)
    }

    fn spawn(
        id: Arc<OnceLock<RunId>>,
        token: CancellationToken,
        events: mpsc::Receiver<String>,
        work: impl Future<Output = Result<String>> + Send + 'static,
    ) -> Self {
        let (sender, end) = watch::channel(None);
        let task = async move {
            let result = work.await.map_err(|e| e.to_record());
            // Nobody waiting is fine: the journal has it.
            let _ = sender.send(Some(result));
        };
        process::runs().spawn_on(task, get_runtime().handle());
        Self { id, token, events: Arc::new(Mutex::new(events)), end }
    }
}

/// Hands events on as JSON until the run ends or nobody reads any more.
async fn forward(mut events: EventStream, sender: mpsc::Sender<String>) {
    while let Some(event) = events.next().await {
        let Ok(text) = to_json(&event) else { continue };
        if sender.send(text).await.is_err() {
            break;
        }
    }
}

#[pymethods]
impl Ongoing {
    /// The run's id; `None` before it began.
    #[getter]
    fn id(&self) -> Option<String> {
        self.id.get().map(ToString::to_string)
    }

    /// Asks the run to stop at the next step boundary. Returns at once.
    fn cancel(&self) {
        self.token.cancel();
    }

    /// Waits for the next event; `None` at the end.
    fn next_event<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        process::check()?;
        let events = self.events.clone();
        future_into_py(py, async move { Ok(events.lock().await.recv().await) })
    }

    /// Waits for the end, and returns the report or raises. Cancelling it stops nothing; it may be called again.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        process::check()?;
        let mut end = self.end.clone();
        future_into_py(py, async move {
            let result = match end.wait_for(Option::is_some).await {
                Ok(result) => result.clone(),
                Err(_) => None,
            };
            let lost = || Err(Error::new(ErrorKind::Failed, "the run's task ended without a word").to_record());
            result.unwrap_or_else(lost).map_err(|e| raise(&e))
        })
    }
}
