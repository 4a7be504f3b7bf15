//! The facade, method by method.

use std::{future::Future, path::PathBuf, time::Duration};

use chom_recovery::{
    Error, ErrorKind, Recovery, Result, System,
    catalog::{Cipher, Encryption, Identities, Recipients, Selector},
    probe::HealthMode,
    procedure::{
        database::{Request, ops::BackUp},
        files, salvage,
    },
    recovery::{Going, RunOptions},
    run::{AlwaysYes, AskWith, Question, Reply, RunId, Waiver},
    secret::SecretSource,
    triage::Selected,
};
use pyo3::prelude::*;
use pyo3_async_runtimes::tokio::future_into_py;
use serde::{Deserialize, Serialize};

use crate::{
    convert::{answer, from_json, raise, to_json},
    ongoing::Ongoing,
    process,
};

/// One protected system.
#[pyclass(frozen, module = "chom_recovery._native", name = "NativeRecovery")]
#[derive(Debug)]
pub(crate) struct NativeRecovery(Recovery);

/// How a run is run, apart from who is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    operator: String,
    waivers: Vec<Waiver>,
    /// Whether somebody confirmed everything beforehand.
    confirmed: bool,
}

/// Who is asked: whoever confirmed beforehand, a Python callable, or nobody.
fn options(text: &str, ask: Option<Py<PyAny>>) -> Result<RunOptions> {
    let Options { operator, waivers, confirmed } = from_json("options", text)?;
    let mut options = RunOptions { waivers, cancellation: process::token(), ..RunOptions::default() };
    if confirmed {
        options.approver = std::sync::Arc::new(AlwaysYes { by: operator.clone() });
    } else if let Some(ask) = ask {
        options.approver = std::sync::Arc::new(AskWith::new(move |question| call(&ask, question)));
    }
    options.operator = Some(operator);
    Ok(options)
}

/// Asks a Python callable for a [`Reply`] in JSON. The package's callables do not raise; one that does has not said
/// yes, nor has one that is called while the interpreter goes down.
fn call(ask: &Py<PyAny>, question: &Question) -> Reply {
    let reply = Python::try_attach(|py| -> Option<Reply> {
        let text: String = ask.call1(py, (to_json(question).ok()?,)).ok()?.extract(py).ok()?;
        from_json("a reply", &text).ok()
    });
    reply.flatten().unwrap_or(Reply::Later)
}

impl NativeRecovery {
    /// Awaits work that reads, or that is harmless when it is dropped half-way.
    fn read<'py, T, F>(&self, py: Python<'py>, work: impl FnOnce(Recovery) -> F) -> PyResult<Bound<'py, PyAny>>
    where
        T: Serialize,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        process::check()?;
        let work = work(self.0.clone());
        future_into_py(py, async move { answer(work.await) })
    }

    /// Begins work that must not be dropped.
    fn run<F>(
        &self,
        how: &str,
        ask: Option<Py<PyAny>>,
        start: impl FnOnce(Recovery, RunOptions) -> F,
    ) -> PyResult<Ongoing>
    where
        F: Future<Output = Result<Going>> + Send + 'static,
    {
        process::check()?;
        let options = options(how, ask).map_err(|e| raise(&e.to_record()))?;
        Ok(Ongoing::start(options.cancellation.clone(), start(self.0.clone(), options)))
    }
}

/// Reads a file below the state directory without holding up the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(chom_recovery::Error::new(chom_recovery::ErrorKind::Failed, "a task ended early").caused_by(e))
    })
}

#[pymethods]
impl NativeRecovery {
    /// Opens the system that a configuration file describes.
    #[staticmethod]
    fn open_file(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyAny>> {
        open(py, move || System::load(&path))
    }

    /// Opens the system that a configuration in JSON describes.
    #[staticmethod]
    fn open_json(py: Python<'_>, text: String) -> PyResult<Bound<'_, PyAny>> {
        open(py, move || System::from_json(&text))
    }

    /// Id of the system.
    #[getter]
    fn system(&self) -> String {
        self.0.system().id.to_string()
    }

    /// Compose project.
    #[getter]
    fn project(&self) -> String {
        self.0.system().compose.project.clone()
    }

    /// Address of the Engine.
    #[getter]
    fn engine(&self) -> String {
        self.0.backend().engine_address()
    }

    fn init_repository<'py>(
        &self,
        py: Python<'py>,
        encryption: &str,
        recipients: Vec<String>,
        escrow_identity: Option<PathBuf>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let cipher: Cipher = argument("encryption", encryption)?;
        self.read(py, |recovery| async move {
            let encryption = encryption_of(cipher, &recipients, escrow_identity).await?;
            recovery.init_repository(encryption).await
        })
    }

    fn health<'py>(&self, py: Python<'py>, mode: &str) -> PyResult<Bound<'py, PyAny>> {
        let mode: HealthMode = argument("mode", mode)?;
        self.read(py, |recovery| async move { Ok(recovery.health(mode).await) })
    }

    fn diagnose<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, |recovery| async move { Ok(recovery.diagnose().await) })
    }

    fn check_tables<'py>(&self, py: Python<'py>, within_s: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let within = within_s.map(seconds).transpose().map_err(|e| raise(&e.to_record()))?;
        self.read(py, |recovery| async move { recovery.check_tables(within).await })
    }

    fn backups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, |recovery| async move { recovery.backups().await })
    }

    fn runs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, |recovery| async move {
            let (runs, unreadable) = blocking(move || recovery.runs()).await?;
            let unreadable: Vec<_> = unreadable.into_iter().map(|(id, error)| (id, error.to_record())).collect();
            Ok((runs, unreadable))
        })
    }

    fn approve<'py>(
        &self,
        py: Python<'py>,
        run: &str,
        name: Option<String>,
        by: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let id = run_id(run)?;
        self.read(py, |recovery| async move { blocking(move || recovery.approve(id, name.as_deref(), &by)).await })
    }

    fn plan_database<'py>(&self, py: Python<'py>, request: &str) -> PyResult<Bound<'py, PyAny>> {
        let request: Request = argument("request", request)?;
        self.read(py, |recovery| async move {
            let plan = recovery.plan_database(&request).await?;
            let fits_rto = plan.fits_rto();
            Ok((plan, fits_rto))
        })
    }

    fn back_up(&self, request: &str, options: &str) -> PyResult<Ongoing> {
        let request: BackUp = argument("request", request)?;
        self.run(options, None, |recovery, options| async move { recovery.back_up(request, options).await })
    }

    fn salvage_database(&self, request: &str, options: &str) -> PyResult<Ongoing> {
        let request: salvage::Request = argument("request", request)?;
        self.run(options, None, |recovery, options| async move { recovery.salvage_database(request, options).await })
    }

    fn init_copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, |recovery| async move { Recovery::init_copy(recovery.system()).await })
    }

    fn copy_backups<'py>(&self, py: Python<'py>, which: &str) -> PyResult<Bound<'py, PyAny>> {
        let which: Option<Selector> = argument("backup", which)?;
        // Dropped half-way it harms nothing: the next call goes on.
        self.read(py, |recovery| async move { recovery.copy_backups(which.as_ref(), &|_, _| {}).await })
    }

    #[pyo3(signature = (request, options, ask = None))]
    fn restore_files(&self, request: &str, options: &str, ask: Option<Py<PyAny>>) -> PyResult<Ongoing> {
        let request: files::Request = argument("request", request)?;
        self.run(options, ask, |recovery, options| async move { recovery.restore_files(request, options).await })
    }

    #[pyo3(signature = (request, options, ask = None))]
    fn recover_database(&self, request: &str, options: &str, ask: Option<Py<PyAny>>) -> PyResult<Ongoing> {
        let request: Request = argument("request", request)?;
        self.run(options, ask, |recovery, options| async move { recovery.recover_database(request, options).await })
    }

    fn plan_recovery<'py>(&self, py: Python<'py>, name: String, request: &str) -> PyResult<Bound<'py, PyAny>> {
        let request = argument("request", request)?;
        self.read(py, |recovery| async move {
            let plan = recovery.plan_by_name(&name, request, &RunOptions::default()).await?;
            let fits_rto = plan.fits_rto();
            Ok((plan, fits_rto))
        })
    }

    #[pyo3(signature = (name, request, options, ask = None))]
    fn recover(&self, name: String, request: &str, options: &str, ask: Option<Py<PyAny>>) -> PyResult<Ongoing> {
        let request = argument("request", request)?;
        self.run(
            options,
            ask,
            |recovery, options| async move { recovery.recover_by_name(&name, request, options).await },
        )
    }

    #[pyo3(signature = (chosen, options, ask = None))]
    fn recover_diagnosed(&self, chosen: &str, options: &str, ask: Option<Py<PyAny>>) -> PyResult<Ongoing> {
        let chosen: Option<Selected> = argument("choose", chosen)?;
        self.run(options, ask, |recovery, options| async move { recovery.recover_diagnosed(chosen, options).await })
    }

    #[pyo3(signature = (run, options, ask = None))]
    fn resume(&self, run: &str, options: &str, ask: Option<Py<PyAny>>) -> PyResult<Ongoing> {
        let id = run_id(run)?;
        self.run(options, ask, |recovery, options| async move { recovery.resume(id, options).await })
    }

    fn roll_back(&self, run: &str, because: String, how: &str) -> PyResult<Ongoing> {
        process::check()?;
        let id = run_id(run)?;
        let options = options(how, None).map_err(|e| raise(&e.to_record()))?;
        let recovery = self.0.clone();
        Ok(Ongoing::quiet(id, options.cancellation.clone(), async move {
            to_json(&recovery.roll_back(id, &because, options).await?)
        }))
    }
}

fn open(py: Python<'_>, system: impl FnOnce() -> Result<System> + Send + 'static) -> PyResult<Bound<'_, PyAny>> {
    process::check()?;
    future_into_py(py, async move {
        let opened = async { Recovery::open(blocking(system).await?).await };
        opened.await.map(NativeRecovery).map_err(|e| raise(&e.to_record()))
    })
}

async fn encryption_of(cipher: Cipher, recipients: &[String], escrow_identity: Option<PathBuf>) -> Result<Encryption> {
    let refuse = |why: &str| Error::new(ErrorKind::InvalidInput, why.to_owned());
    match (cipher, escrow_identity) {
        (Cipher::Age, Some(file)) => Ok(Encryption::Age {
            recipients: Recipients::parse(recipients)?,
            escrow: Identities::read(&SecretSource::File(file)).await?,
        }),
        (Cipher::Age, None) => Err(refuse("encryption needs the identity file of the escrow recipient, to prove it")),
        (Cipher::None, None) if recipients.is_empty() => Ok(Encryption::None),
        (Cipher::None, _) => Err(refuse("without encryption there are no recipients and no escrow")),
    }
}

fn seconds(number: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(number)
        .map_err(|e| Error::new(ErrorKind::InvalidInput, format!("{number} is no duration")).caused_by(e))
}

fn run_id(text: &str) -> PyResult<RunId> {
    text.parse().map_err(|e: chom_recovery::Error| raise(&e.to_record()))
}

fn argument<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> PyResult<T> {
    from_json(what, text).map_err(|e| raise(&e.to_record()))
}
