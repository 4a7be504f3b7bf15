//! Looking for causes, through the facade.

use super::Recovery;
use crate::{
    error::Result,
    troubleshoot::{Findings, Issue, application, hang, newest_failed, permissions, restore, start},
};

impl Recovery {
    /// Looks for the causes of an issue. Changes nothing.
    ///
    /// # Errors
    /// The state directory cannot be read. Anything else that fails is part of the answer.
    pub async fn troubleshoot(&self, issue: Issue) -> Result<Findings> {
        let (runs, unreadable) = self.runs()?;
        let opened = self.repository().await;
        let parts = self.parts_to_resume().await;
        let mut findings = match issue {
            Issue::Restore => restore(&parts, opened.map(drop), newest_failed(&runs)).await,
            Issue::Hang => {
                let open: Vec<_> = runs.into_iter().filter(|run| !run.is_over).collect();
                hang(&parts, &open).await
            }
            Issue::Start => start(&parts).await,
            Issue::Permissions => permissions(&parts).await,
            Issue::Application => application(&parts).await,
        };
        findings.unclear.extend(unreadable.iter().map(|(run, error)| format!("run {run} cannot be read: {error}")));
        Ok(findings)
    }
}
