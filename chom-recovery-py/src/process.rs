//! What belongs to the process: its runtime's owner, and its end.

use std::{
    sync::{LazyLock, OnceLock, mpsc},
    time::Duration,
};

use pyo3::{exceptions::PyRuntimeError, prelude::*};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The process that started the runtime.
static OWNER: OnceLock<u32> = OnceLock::new();
/// Parent of the tokens of all runs.
static STOP: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);
/// The tasks of all runs.
static RUNS: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// Refuses to work in a child that was forked off: the runtime's threads exist in the parent only, so that every
/// await would hang for ever.
///
/// # Errors
/// `RuntimeError`: this process is not the one that opened the first `Recovery`.
pub(crate) fn check() -> PyResult<()> {
    let (owner, this) = (*OWNER.get_or_init(std::process::id), std::process::id());
    if owner == this {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!(
        "chom_recovery was used in process {owner} before it forked this one ({this}), and cannot be used here; start \
         children with the `spawn` or `forkserver` method"
    )))
}

/// Makes the token of a new run.
pub(crate) fn token() -> CancellationToken {
    STOP.child_token()
}

/// Returns the tracker that tasks of runs are spawned on.
pub(crate) fn runs() -> &'static TaskTracker {
    &RUNS
}

/// Asks every run of this process to stop, and waits until they reached a safe point, at most `seconds`.
///
/// Returns whether all did. What did not is found by `resume`, as after a crash.
#[pyfunction]
#[pyo3(signature = (seconds))]
pub(crate) fn shut_down(py: Python<'_>, seconds: f64) -> bool {
    // In a forked child there is nothing to stop, and no runtime to wait with.
    if OWNER.get() != Some(&std::process::id()) || RUNS.is_empty() {
        return true;
    }
    STOP.cancel();
    RUNS.close();
    let limit = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let runtime = pyo3_async_runtimes::tokio::get_runtime();
    let (ended, all) = mpsc::channel();
    runtime.spawn(async move {
        RUNS.wait().await;
        let _ = ended.send(());
    });
    // Not the runtime's own timer: where there is no memory left its threads are gone, and a host must come to its end.
    py.detach(move || all.recv_timeout(limit).is_ok())
}
