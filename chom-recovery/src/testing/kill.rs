//! The kill matrix: a procedure is killed with SIGKILL at every place, taken up again, and its promises are checked.
//!
//! A place is every record of the journal (before it, between write and sync, after it), the gap between the end of a
//! step's body and its record, and whatever else calls [`failpoint::hit`], as
//! [`World`](super::world::World) does around every effect. The process that is killed is the test's own program,
//! begun again for just this test.

use std::{
    env, fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use crate::{
    error::{ErrorKind, Result},
    procedure::{Parts, Procedure, Recovered},
    run::{
        AlwaysYes, Approver, Engine, NewRun, Run, RunId, Verdict, Word, failpoint,
        summary::{self, RunStatus, RunSummary},
    },
};

const TEST: &str = "CHOM_KILL_TEST";
const DIRECTORY: &str = "CHOM_KILL_DIRECTORY";
const AT: &str = "CHOM_KILL_AT";
/// Variable that says how many rows are tried: `all` (default), or `third`, for a run that is to end sooner.
const ROWS: &str = "CHOM_TEST_KILLS";
/// Where a child writes the place of its death.
const PLACE: &str = ".killed-at";
/// Where a child that is not killed writes the places that it passes.
const PASSED: &str = ".passed";
/// More places than any procedure has; a matrix that gets there does not end.
const MOST_PLACES: u32 = 5_000;
/// A file system in memory: what a killed process wrote stays, and nobody waits for a disk.
const IN_MEMORY: &str = "/dev/shm";
/// Rows that are tried at the same time.
const AT_ONCE: usize = 2;

/// One row of the matrix: where the process was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// Number of the place, from 0.
    pub at: u32,
    /// Its name.
    pub place: String,
}

/// How often each row is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kills {
    /// Once, at every place; what takes it up again lives.
    Once,
    /// At every place, and then at every place of what takes it up again.
    Twice,
}

/// What a test checks.
pub struct Promises<'a> {
    /// Makes the world in an empty directory; nothing is killed here.
    pub begin: &'a (dyn Fn(&Path) + Sync),
    /// Runs the procedure in a directory, or takes it up where an earlier process left it; returns when it is done.
    pub work: &'a (dyn Fn(&Path) + Sync),
    /// Checks what has to hold at every moment.
    pub always: &'a (dyn Fn(&Path, &Crash) + Sync),
    /// Checks what has to hold when it is done.
    pub at_end: &'a (dyn Fn(&Path) + Sync),
}

impl std::fmt::Debug for Promises<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Promises")
    }
}

/// Runs the matrix and returns the places at which the process was killed; where only a third of the rows is tried, the places
/// of all rows.
///
/// `test` is the full name of the calling test, which does nothing before this call.
///
/// # Panics
/// When a promise is broken; the message names the place.
pub fn kill_matrix(test: &str, kills: Kills, promises: &Promises<'_>) -> Vec<String> {
    if env::var(TEST).as_deref() == Ok(test) {
        let directory = env::var(DIRECTORY).expect("the directory of a killed child");
        die_at(env::var(AT).ok().map(|at| at.parse().expect("a number")), Path::new(&directory));
        (promises.work)(Path::new(&directory));
        std::process::exit(0);
    }
    let step = stride();
    let is_thinned = step > 1;
    // Not the same third in all tests.
    let first = test.bytes().map(u32::from).sum::<u32>() % step;
    let rows = Rows { next: AtomicU32::new(first), step, is_over: AtomicBool::new(false), places: Mutex::default() };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| rows.try_all(test, kills, promises));
        }
    });
    let mut crashes = rows.places.into_inner().unwrap_or_else(PoisonError::into_inner);
    crashes.sort_by_key(|crash| crash.at);
    println!("{test}: killed at {} places", crashes.len());
    if is_thinned {
        let passed = places(test, promises);
        for crash in &crashes {
            assert_eq!(passed.get(crash.at as usize), Some(&crash.place), "{test}: {crash:?}");
        }
        return passed;
    }
    crashes.into_iter().map(|crash| crash.place).collect()
}

/// Of how many rows of a matrix one is tried.
///
/// # Panics
/// `CHOM_TEST_KILLS` is neither `all` nor `third`.
pub fn stride() -> u32 {
    match env::var(ROWS).as_deref() {
        Err(_) | Ok("" | "all") => 1,
        Ok("third") => 3,
        Ok(other) => panic!("{ROWS}={other} is neither all nor third"),
    }
}

/// Names of all places that the work passes.
fn places(test: &str, promises: &Promises<'_>) -> Vec<String> {
    let directory = directory();
    (promises.begin)(directory.path());
    assert_eq!(child(test, directory.path(), Some(u32::MAX)), None, "nothing is killed");
    let list = fs::read_to_string(directory.path().join(PASSED)).expect("a list of places");
    list.lines().map(str::to_owned).collect()
}

/// The rows of a matrix, while several threads try them.
struct Rows {
    next: AtomicU32,
    step: u32,
    is_over: AtomicBool,
    places: Mutex<Vec<Crash>>,
}

impl Rows {
    /// Takes one row after the other until a process lives to its end.
    fn try_all(&self, test: &str, kills: Kills, promises: &Promises<'_>) {
        // Also when a promise is broken here: the other threads need not go on.
        let _over = Over(&self.is_over);
        while !self.is_over.load(Ordering::SeqCst) {
            let at = self.next.fetch_add(self.step, Ordering::SeqCst);
            assert!(at < MOST_PLACES, "{test}: more than {MOST_PLACES} places");
            let directory = directory();
            (promises.begin)(directory.path());
            let Some(crash) = child(test, directory.path(), Some(at)) else {
                (promises.at_end)(directory.path());
                return;
            };
            (promises.always)(directory.path(), &crash);
            if kills == Kills::Twice {
                second_kills(test, directory.path(), promises, &crash);
            }
            assert_eq!(child(test, directory.path(), None), None, "after {crash:?}");
            (promises.at_end)(directory.path());
            self.places.lock().unwrap_or_else(PoisonError::into_inner).push(crash);
        }
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir()).expect("a directory")
}

fn second_kills(test: &str, after_first: &Path, promises: &Promises<'_>, first: &Crash) {
    for at in 0..MOST_PLACES {
        let directory = directory();
        copy(after_first, directory.path());
        let Some(second) = child(test, directory.path(), Some(at)) else { return };
        (promises.always)(directory.path(), &second);
        assert_eq!(child(test, directory.path(), None), None, "after {first:?} and {second:?}");
        (promises.at_end)(directory.path());
    }
    panic!("{test}: more than {MOST_PLACES} places after {first:?}");
}

/// Runs the test's program for this test only. `None`: it ended by itself, well.
fn child(test: &str, directory: &Path, at: Option<u32>) -> Option<Crash> {
    let mut command = Command::new(env::current_exe().expect("the test's own program"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(TEST, test).env(DIRECTORY, directory).env_remove(AT).stdin(Stdio::null());
    if let Some(at) = at {
        command.env(AT, at.to_string());
    }
    let output = command.output().expect("a child");
    if output.status.success() {
        return None;
    }
    let place = fs::read_to_string(directory.join(PLACE)).unwrap_or_default();
    assert_eq!(
        (output.status.signal(), at.is_some()),
        (Some(9), true),
        "{test}, place {at:?} `{place}`: the child failed by itself\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Some(Crash { at: at.unwrap_or(0), place })
}

fn die_at(at: Option<u32>, directory: &Path) {
    let (passed, note) = (AtomicU32::new(0), directory.join(PLACE));
    let list = (at == Some(u32::MAX)).then(|| fs::File::create(directory.join(PASSED)).expect("a list of places"));
    failpoint::install(move |place| {
        if let Some(mut list) = list.as_ref() {
            writeln!(list, "{place}").expect("a list of places");
        }
        if at == Some(passed.fetch_add(1, Ordering::SeqCst)) {
            let _ = fs::write(&note, place);
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // The signal may arrive at another thread first; this one goes no further.
            loop {
                std::thread::park();
            }
        }
    });
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            fs::create_dir_all(&target).expect("a directory");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Fails unless these are among the places where a process was killed.
///
/// # Panics
/// One of them is not.
pub fn assert_killed_at(places: &[String], wanted: &[&str]) {
    for place in wanted {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}

/// Works on one thread whose clock stands still while there is work, and leaps over every wait.
///
/// # Panics
/// No such thread can be made.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(work)
}

/// Answers every question with yes.
pub fn yes() -> Arc<dyn Approver> {
    Arc::new(AlwaysYes { by: "tester".into() })
}

/// Does what a run of a procedure was asked for.
///
/// # Errors
/// Those of the procedure.
pub async fn recover(procedure: impl Procedure, run: Run, parts: Parts) -> Result<Recovered> {
    procedure.recover(&run, &parts, &run.request()?).await
}

/// What [`take_up`] found.
#[derive(Debug)]
pub enum TakenUp {
    /// A run to go on with, new or resumed.
    Run(Run),
    /// An earlier process finished it.
    Finished(RunId),
}

/// Returns the newest run below a state directory.
pub fn newest(state: &Path) -> Option<(RunId, RunSummary)> {
    let runs = summary::list(state).ok()?;
    runs.into_iter().filter_map(|(id, run)| Some((id, run.ok()?))).next_back()
}

/// Runs a procedure to its end, or goes on with the run that was killed. `None`: an earlier process has ended it.
///
/// # Errors
/// Those of the procedure.
pub async fn done_in_the_end<T, F>(engine: &Engine, new: NewRun, procedure: impl FnOnce(Run) -> F) -> Result<Option<T>>
where
    F: Future<Output = Result<T>>,
{
    match take_up(engine, new).await? {
        TakenUp::Finished(_) => Ok(None),
        TakenUp::Run(run) => run.execute(procedure(run.clone())).await.map(Some),
    }
}

/// Runs a procedure and rolls it back, or goes on with the rollback of a run that was killed.
///
/// # Errors
/// Those of the procedure and of the rollback.
pub async fn undone_in_the_end<T, F>(engine: &Engine, new: NewRun, procedure: impl Fn(Run) -> F) -> Result<()>
where
    F: Future<Output = Result<T>>,
{
    let state = engine.state_dir();
    let id = match newest(state) {
        Some((id, _)) => id,
        None => {
            let run = engine.start(new).await?;
            run.execute(procedure(run.clone())).await?;
            run.id()
        }
    };
    if newest(state).is_none_or(|(_, run)| run.status != RunStatus::RolledBack) {
        engine.roll_back(id, "a test", procedure).await?;
    }
    Ok(())
}

/// Resumes the newest run of the engine's directory, or starts one where none has effects yet.
pub async fn take_up(engine: &Engine, new: NewRun) -> Result<TakenUp> {
    match newest(engine.state_dir()) {
        Some((id, run)) if run.status == RunStatus::Succeeded => Ok(TakenUp::Finished(id)),
        Some((id, _)) => engine.resume(id).await.map(TakenUp::Run),
        None => engine.start(new).await.map(TakenUp::Run),
    }
}

/// Settles every unknown outcome of a run as a person would who looks at the world. `look` tells whether the step
/// with that path was applied. Returns how many there were.
#[expect(clippy::future_not_send, reason = "tests give it closures of their own thread")]
pub async fn resolve_all<T, Fut>(
    engine: &Engine,
    id: RunId,
    look: impl Fn(&str) -> bool,
    procedure: impl Fn(Run) -> Fut,
) -> Result<usize>
where
    Fut: Future<Output = Result<T>>,
{
    let run = summary::RunSummary::read(engine.state_dir(), id)?;
    let mut settled = 0;
    for step in run.unknown_steps() {
        let verdict = if look(&step.step) { Verdict::Applied } else { Verdict::NotApplied };
        let word = Word { verdict, output: None, because: "looked at it".into() };
        engine.resolve(id, &step.step, word, &procedure).await?;
        settled += 1;
    }
    Ok(settled)
}

/// Tells whether an error pauses a run until a person has looked.
pub fn is_unknown(error: &crate::Error) -> bool {
    error.kind() == ErrorKind::OutcomeUnknown
}
