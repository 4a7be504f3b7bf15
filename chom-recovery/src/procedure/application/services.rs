//! Stopping and starting the application's services.

use super::mins;
use crate::{
    error::Result,
    procedure::{
        Parts,
        quiesce::{self, Remembered},
    },
    run::{Effect, Run},
};

/// Stops services. Where they were not `usable`, nothing need serve once that is undone.
pub(super) async fn stop(run: &Run, parts: &Parts, those: &[Remembered], usable: bool) -> Result<()> {
    let grace = parts.system.application.stop_grace;
    let (stopping, starting, proving) = (parts.backend.clone(), parts.backend.clone(), parts.backend.clone());
    let (to_stop, mut to_start, to_prove) = (those.to_vec(), those.to_vec(), those.to_vec());
    to_start.iter_mut().for_each(|one| one.was_ready &= usable);
    run.step("stop")
        .effect(Effect::Idempotent)
        .input(&those)
        .predict(|| 0)
        .budget(mins(1))
        .timeout(grace * 4 + mins(2))
        .undo_text("start the services that ran, with their restart policies")
        .undo_with(async move |_, _: Option<u32>| quiesce::start_again(&starting, &to_start, mins(5)).await)
        .run(async move |_| quiesce::stop(&*stopping, &to_stop, grace).await)
        .verify(async move |_, _| quiesce::prove_stopped(&*proving, &to_prove).await)
        .await
        .map(drop)
}

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
