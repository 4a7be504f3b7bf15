//! Recoveries that a diagnosis selects, and the record of why.

use serde_json::Value;

use super::{Going, Recovery, RunOptions};
use crate::{
    catalog::Selector,
    error::{Error, ErrorKind, Result},
    procedure::{
        application::{self, RecoverApplication},
        database::{Extent, Request, WantedKind},
        nginx::{self, RecoverNginx},
        partial, performance,
    },
    run::{Run, summary::RunSummary},
    triage::{Choice, Selected},
};

/// Name of the decision under which a run keeps why its procedure was chosen.
const CHOICE: &str = "choose-procedure";

impl Recovery {
    /// Diagnoses, and begins the recovery that the most probable cause selects. Where causes that are about as likely select
    /// different ones, somebody chooses: `chosen`. The choice, whose it was, and the ranked causes are kept in the run's
    /// journal.
    ///
    /// # Errors
    /// Nothing was begun in these cases: as [`Choice::of`] and [`Choice::made`]. Else as [`Recovery::recover_chosen`].
    pub async fn recover_diagnosed(&self, chosen: Option<Selected>, options: RunOptions) -> Result<Going> {
        let (_, causes) = self.diagnose().await;
        let choice = match chosen {
            Some(procedure) => {
                let nameless = || format!("uid {}", rustix::process::getuid().as_raw());
                let by = options.operator.clone().unwrap_or_else(nameless);
                Choice::made(causes, procedure, &by)?
            }
            None => Choice::of(causes)?,
        };
        self.recover_chosen(choice, options).await
    }

    /// Begins the recovery that was chosen for a diagnosis, with the newest backup where it needs one, and keeps the choice in
    /// its journal.
    ///
    /// # Errors
    /// `Precondition`: it is none that can be run. Else as [`Recovery::recover_database`] and [`Recovery::recover`].
    pub async fn recover_chosen(&self, choice: Choice, options: RunOptions) -> Result<Going> {
        let procedure = choice.procedure;
        let options = RunOptions { choice: Some(choice), ..options };
        let backup = Selector::Latest;
        match procedure {
            Selected::Database => {
                let kind = WantedKind::Auto;
                let request = Request { backup, kind, extent: Extent::Recover, incident_began: None };
                self.recover_database(request, options).await
            }
            Selected::Application => {
                self.recover(RecoverApplication, application::Request { backup, method: None }, options).await
            }
            Selected::Nginx => self.recover(RecoverNginx, nginx::Request { backup }, options).await,
            Selected::Performance => {
                self.recover(performance::RecoverPerformance, performance::Request {}, options).await
            }
            Selected::Queue => self.recover(partial::RecoverQueue, partial::Request {}, options).await,
            Selected::Redis => {
                let request = partial::redis::Request { restart: false };
                self.recover(partial::RecoverRedis, request, options).await
            }
            Selected::Scheduler => self.recover(partial::RecoverScheduler, partial::Request {}, options).await,
            Selected::FullSystem | Selected::None => {
                Err(Error::new(ErrorKind::Precondition, format!("`{procedure}` is no procedure that can be run")))
            }
        }
    }
}

/// Keeps a choice in a run's journal.
pub(super) async fn record(run: &Run, choice: Option<Choice>) -> Result<()> {
    match choice {
        Some(choice) => run.decide(CHOICE, async { Ok(choice) }).await.map(drop),
        None => Ok(()),
    }
}

/// Reads the choice that a run keeps; `None`: its procedure was named from the beginning, or the record is of another version.
pub(crate) fn recorded(run: &RunSummary) -> Option<Choice> {
    let value: &Value = run.decisions.get(CHOICE)?;
    serde_json::from_value(value.clone()).ok()
}
