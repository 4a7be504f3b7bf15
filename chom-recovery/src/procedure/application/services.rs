//! Starting the application's services.

use super::mins;
use crate::{
    error::Result,
    procedure::{
        Parts,
        quiesce::{self, Remembered},
    },
    run::{Effect, Run},
};

/// Starts everything, those first that others depend on.
pub(super) async fn start(run: &Run, parts: &Parts, before: &[Remembered]) -> Result<()> {
    let (starting, undoing) = (parts.backend.clone(), parts.backend.clone());
    let (to_start, to_undo, grace) = (before.to_vec(), before.to_vec(), parts.system.application.stop_grace);
    run.step("start")
        .effect(Effect::Idempotent)
        .input(&before)
        .predict(|| ())
        .budget(mins(3))
        .timeout(mins(15))
        .undo_text("stop what did not run")
        .undo_with(async move |_, _: Option<()>| quiesce::stop_again(&*undoing, &to_undo, grace).await)
        .run(async move |_| {
            quiesce::put_policies_back(&*starting, &to_start).await?;
            let services: Vec<&str> = to_start.iter().map(|one| one.service.as_str()).collect();
            quiesce::start_all(&*starting, &services, mins(3)).await
        })
        .await
}
