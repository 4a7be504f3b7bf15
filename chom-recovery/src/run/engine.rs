//! The engine: starts, plans, resumes and unwinds runs, and settles what they wait for.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Approver, AskLater, Book, Clock, Inner, Mode, Plan, Planned, Run, RunId, SystemClock, SystemLock, Waiver,
    estimate::History,
    events::Events,
    journal::{self, Journal},
    ledger::{ApprovalEntry, Ledger},
    lock,
    lock::LocalLock,
    record::{Entry, FORMAT, Outcome, Record},
    summary,
};
use crate::{
    error::{Error, ErrorKind, Result},
    objective::Objective,
};

/// Makes runs. Cheap to clone; holds nothing open.
#[derive(Debug, Clone)]
pub struct Engine {
    state_dir: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    approver: Arc<dyn Approver>,
    system_lock: Option<Arc<dyn SystemLock>>,
    pub(super) operator: String,
    host: String,
    waivers: Vec<Waiver>,
    cancel: CancellationToken,
}

/// A run that is to begin.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub(super) system: String,
    pub(super) procedure: String,
    pub(super) request: Value,
    pub(super) objective: Option<Objective>,
    pub(super) plan: Option<String>,
    pub(super) supersede: Vec<String>,
}

/// What a run is about, as its first record says.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Run.
    pub run: RunId,
    /// System.
    pub system: String,
    /// Procedure.
    pub procedure: String,
    /// Request.
    pub request: Value,
    /// Hash of the plan that approvals are bound to.
    pub plan: String,
}

impl NewRun {
    /// Describes a run of `procedure` on `system`.
    ///
    /// # Errors
    /// `InvalidInput`: the request cannot be written as JSON.
    pub fn new(system: impl Into<String>, procedure: impl Into<String>, request: &impl Serialize) -> Result<Self> {
        let mut request = serde_json::to_value(request)
            .map_err(|e| Error::new(ErrorKind::InvalidInput, "a request cannot be written as JSON").caused_by(e))?;
        journal::scrub(&mut request);
        Ok(Self {
            system: system.into(),
            procedure: procedure.into(),
            request,
            objective: None,
            plan: None,
            supersede: Vec::new(),
        })
    }

    /// Sets the objectives in force.
    #[must_use]
    pub fn objective(mut self, objective: Objective) -> Self {
        self.objective = Some(objective);
        self
    }

    /// Binds approvals to a plan. Without one they are bound to the request.
    #[must_use]
    pub fn planned(mut self, plan: &Plan) -> Self {
        self.plan = Some(plan.hash.clone());
        self
    }

    /// Names procedures whose unfinished runs are abandoned when this one begins: those that leave nothing behind that
    /// matters, such as taking a backup. Without it, and for runs of all others, the new run is refused until they are
    /// resumed, rolled back or abandoned.
    #[must_use]
    pub fn supersede<P: Into<String>>(mut self, procedures: impl IntoIterator<Item = P>) -> Self {
        self.supersede = procedures.into_iter().map(Into::into).collect();
        self
    }

    fn plan_hash(&self) -> String {
        self.plan.clone().unwrap_or_else(|| {
            let request = serde_json::json!([self.system, self.procedure, self.request]);
            hex::encode(Sha256::digest(request.to_string()))
        })
    }
}

impl Engine {
    /// Keeps runs below `state_dir`, which should not lie on a disk that is being recovered.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            state_dir: state_dir.into(),
            clock: Arc::new(SystemClock),
            approver: Arc::new(AskLater),
            system_lock: None,
            operator: format!("uid {}", rustix::process::getuid().as_raw()),
            host,
            waivers: Vec::new(),
            cancel: CancellationToken::new(),
        }
    }

    /// Sets the clock. Default: the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets who is asked for approval. Default: nobody, so that runs pause.
    #[must_use]
    pub fn approver(mut self, approver: Arc<dyn Approver>) -> Self {
        self.approver = approver;
        self
    }

    /// Sets the lock that other hosts see.
    #[must_use]
    pub fn system_lock(mut self, system_lock: Arc<dyn SystemLock>) -> Self {
        self.system_lock = Some(system_lock);
        self
    }

    /// Names who operates, for the journal. Default: the user id.
    #[must_use]
    pub fn operator(mut self, operator: impl Into<String>) -> Self {
        self.operator = operator.into();
        self
    }

    /// Takes responsibility for items of checklists.
    #[must_use]
    pub fn waive(mut self, waivers: impl IntoIterator<Item = Waiver>) -> Self {
        self.waivers.extend(waivers);
        self
    }

    /// Sets the token that stops runs at the next step boundary.
    #[must_use]
    pub fn cancellation(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Returns the directory below which runs are kept.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Returns the directory of a run.
    pub fn run_directory(&self, run: RunId) -> PathBuf {
        summary::directory(&self.state_dir, run)
    }

    /// Finds out what a procedure would do, by running it with every effect refused. How long its steps will take is
    /// estimated from earlier runs.
    ///
    /// # Errors
    /// Those of the procedure, other than reaching the end of what can be planned; `InvalidInput` for an effect that
    /// does not say how it is undone.
    pub async fn plan<T, F, Fut>(&self, new: &NewRun, procedure: F) -> Result<Plan>
    where
        F: FnOnce(Run) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let run = self.run(Mode::Plan, RunId::PLANNED, new.clone(), None, Ledger::default(), None);
        lock(&run.inner.planned).history = History::read(&self.state_dir, &new.system, &new.procedure);
        match procedure(run.clone()).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::PlanBoundary => {}
            Err(error) => return Err(error),
        }
        let planned = std::mem::take(&mut *lock(&run.inner.planned));
        let about = (new.system.clone(), new.procedure.clone(), new.request.clone());
        Ok(Plan::new(about, new.objective, planned.items, planned.boundary))
    }

    /// Begins a run.
    ///
    /// # Errors
    /// `Locked`: another run of the system is going on or unfinished; the message names it.
    pub async fn start(&self, new: NewRun) -> Result<Run> {
        super::id::check_name(&new.system)?;
        let runs = summary::runs_directory(&self.state_dir);
        journal::make_directory(&runs)?;
        let newest = summary::ids(&self.state_dir)?.into_iter().next_back();
        let now = u64::try_from(self.clock.now().timestamp_millis()).unwrap_or(0);
        let id = RunId::after(now, newest)?;
        let local = LocalLock::acquire(&self.state_dir, &new.system, id, self.clock.as_ref())?;
        self.clear_the_way(&new)?;
        let directory = runs.join(id.to_string());
        journal::make_directory(&directory)?;
        let journal = Journal::create(&directory, self.clock.as_ref())?;
        let run = self.run(Mode::Execute, id, new.clone(), Some(journal), Ledger::default(), Some(local));
        run.inner
            .append(Entry::RunStarted {
                format: FORMAT,
                run: id,
                system: new.system.clone(),
                procedure: new.procedure.clone(),
                request: new.request.clone(),
                objective: new.objective,
                plan: run.inner.plan_hash.clone(),
                operator: self.operator.clone(),
                host: self.host.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
            })
            .await?;
        if let Err(error) = self.take_system_lock(id, &new.system).await {
            run.inner.end(Outcome::Failed, Some(error.to_record())).await?;
            return Err(error);
        }
        Ok(run)
    }

    /// Takes up a run that failed, paused or was killed. Running its procedure again then goes on where it stopped.
    ///
    /// # Errors
    /// `NotFound`; `Locked`: it is still running; `Conflict`: it is over, or is being rolled back; `Corrupt`.
    pub async fn resume(&self, id: RunId) -> Result<Run> {
        let (run, _) = self.reopen(id, Mode::Execute).await?;
        run.inner.append(self.resumed()).await?;
        Ok(run)
    }

    /// Undoes a run that succeeded, failed, paused or was killed: runs its procedure without effects to learn how
    /// each step is undone, then does that, latest step first. Returns the paths of the steps undone.
    ///
    /// # Errors
    /// As [`Engine::resume`] and [`Run::roll_back`]. `Conflict` also when a later run of the system is in force.
    pub async fn roll_back<T, F, Fut>(&self, id: RunId, because: &str, procedure: F) -> Result<Vec<String>>
    where
        F: FnOnce(Run) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let (run, _) = self.reopen(id, Mode::Unwind).await?;
        self.check_newest(id, &run.inner.system)?;
        run.register_undos(procedure(run.clone())).await;
        run.unwind(because, Some(self.resumed())).await
    }

    /// Removes the directories of runs that are over since longer than `keep`, and returns their ids.
    ///
    /// Never those that can still be resumed, are running, have a damaged journal, or ended in the future by a clock
    /// that has jumped.
    pub fn prune(&self, keep: Duration) -> Result<Vec<RunId>> {
        summary::prune(&self.state_dir, keep, self.clock.as_ref())
    }

    /// Returns what a run is about, to choose the procedure before it is taken up.
    pub fn header(&self, id: RunId) -> Result<Header> {
        let records = journal::read(&self.run_directory(id).join(journal::FILE)).map_err(|e| not_found(e, id))?;
        let header = Ledger::of(&records).header.ok_or_else(|| never_began(id))?;
        Ok(Header {
            run: header.run,
            system: header.system,
            procedure: header.procedure,
            request: header.request,
            plan: header.plan,
        })
    }

    /// Records somebody's yes to what a paused run waits for; `name` may be left out when it is one thing only.
    /// Returns the path of what was approved.
    ///
    /// # Errors
    /// `NotFound`: it waits for no such thing. `InvalidInput`: it waits for several things. `Locked`: it is running.
    pub fn approve(&self, id: RunId, name: Option<&str>, by: &str) -> Result<String> {
        let (mut journal, ledger) = self.open(id)?;
        let header = ledger.header.as_ref().ok_or_else(|| never_began(id))?;
        let asked: Vec<&String> = ledger
            .approvals
            .iter()
            .filter(|(_, a)| !matches!(a, ApprovalEntry::Approved { .. }))
            .map(|(path, _)| path)
            .collect();
        let listed = || asked.iter().map(|p| p.as_str()).collect::<Vec<_>>().join(", ");
        let path = match (name, asked.as_slice()) {
            (Some(name), _) => asked.iter().find(|p| p.as_str() == name || p.ends_with(&format!("/{name}"))).copied(),
            (None, []) => None,
            (None, [one]) => Some(*one),
            (None, _) => {
                return Err(Error::new(ErrorKind::InvalidInput, format!("run `{id}` waits for several approvals"))
                    .with("names", listed()));
            }
        };
        let path = path.cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("run `{id}` does not wait for that approval"))
                .with("waits for", listed())
        })?;
        let entry = Entry::Approved { name: path.clone(), by: by.to_owned(), plan: header.plan.clone() };
        journal.append(entry, self.clock.as_ref())?;
        Ok(path)
    }

    /// Gives up a run: what it did stays as it is, and other runs may begin.
    ///
    /// # Errors
    /// `Conflict`: it is over already. `Locked`: it is running.
    pub async fn abandon(&self, id: RunId, because: &str) -> Result<()> {
        {
            let (mut journal, ledger) = self.open(id)?;
            if matches!(ledger.ended, Some((Outcome::Succeeded | Outcome::RolledBack | Outcome::Abandoned, _))) {
                return Err(over(id));
            }
            self.abandoned(&mut journal, because)?;
        }
        match &self.system_lock {
            Some(system_lock) => system_lock.release(&id).await,
            None => Ok(()),
        }
    }

    fn abandoned(&self, journal: &mut Journal, because: &str) -> Result<Record> {
        let error = Error::new(ErrorKind::Cancelled, format!("abandoned by {}: {because}", self.operator));
        let entry = Entry::RunEnded { outcome: Outcome::Abandoned, error: Some(error.to_record()) };
        journal.append(entry, self.clock.as_ref())
    }

    pub(super) fn open(&self, id: RunId) -> Result<(Journal, Ledger)> {
        let (journal, records) =
            Journal::open(&self.run_directory(id), self.clock.as_ref()).map_err(|e| not_found(e, id))?;
        Ok((journal, Ledger::of(&records)))
    }

    async fn reopen(&self, id: RunId, mode: Mode) -> Result<(Run, Header)> {
        let header = self.header(id)?;
        let local = LocalLock::acquire(&self.state_dir, &header.system, id, self.clock.as_ref())?;
        let (journal, ledger) = self.open(id)?;
        match &ledger.ended {
            Some((Outcome::RolledBack | Outcome::Abandoned, _)) => return Err(over(id)),
            Some((Outcome::Succeeded, _)) if mode == Mode::Execute => return Err(over(id)),
            _ => {}
        }
        if ledger.rollback && mode == Mode::Execute {
            return Err(Error::new(ErrorKind::Conflict, format!("run `{id}` is being rolled back"))
                .hint(format!("chom-recovery rollback {id}")));
        }
        self.take_system_lock(id, &header.system).await?;
        let new = NewRun {
            system: header.system.clone(),
            procedure: header.procedure.clone(),
            request: header.request.clone(),
            objective: ledger.header.as_ref().and_then(|h| h.objective),
            plan: Some(header.plan.clone()),
            supersede: Vec::new(),
        };
        Ok((self.run(mode, id, new, Some(journal), ledger, Some(local)), header))
    }

    fn resumed(&self) -> Entry {
        Entry::RunResumed {
            operator: self.operator.clone(),
            host: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Deals with unfinished runs of the same system. The caller holds its lock, so none of them is running.
    fn clear_the_way(&self, new: &NewRun) -> Result<()> {
        for id in summary::ids(&self.state_dir)? {
            let Ok(records) = journal::read(&self.run_directory(id).join(journal::FILE)) else { continue };
            let ledger = Ledger::of(&records);
            let Some(header) = ledger.header.as_ref().filter(|h| h.system == new.system) else { continue };
            if ledger.is_closed() {
                continue;
            }
            if new.supersede.contains(&header.procedure) {
                let (mut journal, _) = self.open(id)?;
                self.abandoned(&mut journal, "superseded by a new run")?;
                continue;
            }
            return Err(Error::new(ErrorKind::Locked, format!("system `{}` has an unfinished run", new.system))
                .with("run", id)
                .with("procedure", &header.procedure)
                .hint(format!("chom-recovery resume {id}, or chom-recovery rollback {id}")));
        }
        Ok(())
    }

    /// Refuses to unwind a run underneath a later one.
    fn check_newest(&self, id: RunId, system: &str) -> Result<()> {
        for later in summary::ids(&self.state_dir)?.into_iter().filter(|other| *other > id) {
            let Ok(records) = journal::read(&self.run_directory(later).join(journal::FILE)) else { continue };
            let ledger = Ledger::of(&records);
            let is_same = ledger.header.as_ref().is_some_and(|h| h.system == system);
            if is_same && !ledger.to_undo().is_empty() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("cannot roll back `{id}`: a later run of `{system}` is in force"),
                )
                .with("later run", later)
                .hint(format!("roll `{later}` back first")));
            }
        }
        Ok(())
    }

    /// Takes the lock that other hosts see. The caller holds the local one, so no other run of this host is going on.
    async fn take_system_lock(&self, id: RunId, system: &str) -> Result<()> {
        let Some(system_lock) = &self.system_lock else { return Ok(()) };
        let refused = match system_lock.acquire(&id).await {
            Err(error) if error.kind() == ErrorKind::Locked => error,
            other => return other,
        };
        match system_lock.holder().await? {
            // Superseded, or killed before its first effect: nobody will give the lock back.
            Some(holder) if self.is_closed(holder, system) => {
                system_lock.release(&holder).await?;
                system_lock.acquire(&id).await
            }
            _ => Err(refused),
        }
    }

    /// Tells whether a run is one of this host and system, and over.
    fn is_closed(&self, id: RunId, system: &str) -> bool {
        let Ok(records) = journal::read(&self.run_directory(id).join(journal::FILE)) else { return false };
        let ledger = Ledger::of(&records);
        ledger.is_closed() && ledger.header.is_some_and(|header| header.system == system)
    }

    pub(super) fn run(
        &self,
        mode: Mode,
        id: RunId,
        new: NewRun,
        journal: Option<Journal>,
        ledger: Ledger,
        local: Option<LocalLock>,
    ) -> Run {
        let inner = Inner {
            id,
            mode,
            plan_hash: new.plan_hash(),
            system: new.system,
            procedure: new.procedure,
            request: new.request,
            objective: new.objective,
            operator: self.operator.clone(),
            state_dir: self.state_dir.clone(),
            directory: self.run_directory(id),
            book: Arc::new(Mutex::new(Book { journal, ledger, notes: Vec::new() })),
            clock: self.clock.clone(),
            approver: self.approver.clone(),
            waivers: self.waivers.clone(),
            cancel: self.cancel.child_token(),
            events: Events::new(),
            tasks: TaskTracker::new(),
            paths: Mutex::new(HashSet::new()),
            undos: Mutex::new(HashMap::new()),
            asked: Mutex::default(),
            registered: Notify::new(),
            planned: Mutex::new(Planned::default()),
            local_lock: Mutex::new(local),
            system_lock: self.system_lock.clone(),
        };
        Run { inner: Arc::new(inner), scope: String::new(), scope_budget: None }
    }
}

fn not_found(error: Error, id: RunId) -> Error {
    if error.kind() == ErrorKind::NotFound {
        Error::new(ErrorKind::NotFound, format!("there is no run `{id}`")).hint("`chom-recovery runs list` shows them")
    } else {
        error
    }
}

pub(super) fn never_began(id: RunId) -> Error {
    Error::new(ErrorKind::NotFound, format!("run `{id}` never began")).hint("begin a new one")
}

fn over(id: RunId) -> Error {
    Error::new(ErrorKind::Conflict, format!("run `{id}` is over")).hint("begin a new one")
}
