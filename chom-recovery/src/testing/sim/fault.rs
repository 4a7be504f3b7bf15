//! Faults that a test puts into the simulated backend, and the record of what was asked of it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// The operations of [`Backend`](crate::backend::Backend).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Op {
    Engine,
    Model,
    Containers,
    Container,
    Environment,
    Start,
    Stop,
    SetRestartPolicy,
    Signal,
    Scale,
    Image,
    Recreate,
    Exec,
    Logs,
    Usage,
    ReadArchive,
    WriteArchive,
    Volumes,
    Volume,
    CreateVolume,
    RemoveVolume,
    MeasureVolume,
    ExchangeVolumes,
    VolumeIdentity,
    OneOff,
    StartContainer,
    StopContainer,
    WaitContainer,
    RemoveContainer,
    OwnContainers,
    Endpoint,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and an error of this kind comes back.
    Fail(ErrorKind),
    /// It is done, and an error of this kind comes back all the same.
    DoneThenFail(ErrorKind),
    /// No answer ever comes; nothing is done.
    Hang,
    /// A stream ([`Op::Exec`], [`Op::ReadArchive`]) is cut after so many bytes.
    Cut(usize),
}

/// One call, as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Operation.
    pub op: Op,
    /// Container, service or volume; empty where there is none.
    pub subject: String,
    /// Whether it changed the world.
    pub applied: bool,
}

/// An instant at which a test may kill the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Asked for, nothing done.
    Before(Op),
    /// Done, the caller does not know yet.
    After(Op),
}

type Hook = Arc<dyn Fn(Moment) + Send + Sync>;

/// Faults to come, and who watches.
#[derive(Default)]
pub(super) struct Faults {
    planned: Mutex<VecDeque<(Op, Fault)>>,
    /// Calls that still go well, and what becomes of the one after them, whichever it is.
    counted: Mutex<Option<(u32, Fault)>>,
    hook: Mutex<Option<Hook>>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("planned", &self.planned).finish_non_exhaustive()
    }
}

impl Faults {
    pub(super) fn plan(&self, op: Op, times: usize, fault: Fault) {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        planned.extend(std::iter::repeat_n((op, fault), times));
    }

    pub(super) fn count_down(&self, calls: u32, fault: Fault) {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = Some((calls, fault));
    }

    pub(super) fn is_counting(&self) -> bool {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn take_counted(&self) -> Option<Fault> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        match counted.as_mut()? {
            (0, fault) => {
                let fault = *fault;
                *counted = None;
                Some(fault)
            }
            (left, _) => {
                *left -= 1;
                None
            }
        }
    }

    pub(super) fn take(&self, op: Op) -> Option<Fault> {
        if let Some(fault) = self.take_counted() {
            return Some(fault);
        }
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let at = planned.iter().position(|(other, _)| *other == op)?;
        planned.remove(at).map(|(_, fault)| fault)
    }

    /// Takes the next fault of an operation when it is a cut.
    pub(super) fn take_cut(&self, op: Op) -> Option<usize> {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let at = planned.iter().position(|(other, _)| *other == op)?;
        let Fault::Cut(after) = planned[at].1 else { return None };
        planned.remove(at);
        Some(after)
    }

    pub(super) fn watch(&self, hook: Hook) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    pub(super) fn reach(&self, moment: Moment) {
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(moment);
        }
    }
}

pub(super) fn injected(kind: ErrorKind, op: Op, subject: &str) -> Error {
    Error::new(kind, format!("injected fault in {op:?} of `{subject}`"))
}
