//! Waiting for health, with an end.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Kind, PlanItem, Run, clock::millis, lock};
use crate::{
    error::{Error, ErrorKind, Result},
    probe::{Answer, Health, HealthProbe, Status, ask},
    run::{
        estimate::{Basis, Estimate},
        events::Event,
        record::Effect,
    },
};

/// How to wait for a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Pause between two questions.
    pub every: Duration,
    /// Healthy answers in a row that are needed; any other answer begins anew.
    pub consecutive: u32,
    /// How long the row has to last from its first answer to its last; zero needs no time, more makes it a soak.
    pub hold: Duration,
    /// Deadline of a single question.
    pub ask: Duration,
    /// Deadline of the whole wait.
    pub timeout: Duration,
}

impl Wait {
    /// Waits for `consecutive` healthy answers, asked `every` so often, for at most `timeout`.
    pub const fn new(every: Duration, consecutive: u32, timeout: Duration) -> Self {
        Self { every, consecutive, hold: Duration::ZERO, ask: Duration::from_secs(10), timeout }
    }

    /// Waits until the probe has been healthy for a whole `window`, for at most `timeout`.
    pub const fn soak(window: Duration, every: Duration, timeout: Duration) -> Self {
        Self { every, consecutive: 2, hold: window, ask: Duration::from_secs(10), timeout }
    }
}

impl Wait {
    /// How long it takes when every answer is healthy and comes at once.
    fn shortest(&self) -> Duration {
        self.hold.max(self.every * self.consecutive.saturating_sub(1))
    }
}

impl Default for Wait {
    /// Three healthy answers in a row, two seconds apart, within two minutes.
    fn default() -> Self {
        Self::new(Duration::from_secs(2), 3, Duration::from_mins(2))
    }
}

impl Run {
    /// Waits until a probe is healthy, and returns its last answer as evidence. Only [`Status::Healthy`] counts.
    ///
    /// When planning it is listed and not waited for, and the answer is inconclusive.
    ///
    /// # Errors
    /// `Unhealthy`: not healthy within the time; the last answer is in the error. `Cancelled`.
    pub async fn until_healthy(&self, probe: Arc<dyn HealthProbe>, wait: Wait) -> Result<Answer> {
        let name = format!("until-{}", probe.name());
        let mut turn = 1;
        // The same probe may be waited for several times; a wait changes nothing, so its number needs no meaning.
        while lock(&self.inner.paths).contains(&(Kind::Step, numbered(&self.path(&name), turn))) {
            turn += 1;
        }
        let key = (turn > 1).then(|| turn.to_string());
        if self.is_planning() {
            let path = self.enter(Kind::Step, &name, key.as_deref())?;
            let probe = probe.name().to_owned();
            let measured = lock(&self.inner.planned).history.estimate(&path, None);
            let shortest = Estimate { ms: millis(wait.shortest()), basis: Basis::Expected };
            self.inner.plan(PlanItem::Wait {
                name: path,
                probe: probe.clone(),
                timeout_ms: millis(wait.timeout),
                estimate: Some(measured.unwrap_or(shortest)),
            });
            return Ok(Answer { probe, health: Health::inconclusive("not asked: this is a plan"), latency_ms: 0 });
        }
        let mut step = self.step::<Answer>(name).effect(Effect::Observe).budget(wait.timeout);
        if let Some(key) = key {
            step = step.key(key);
        }
        let events = self.inner.events.clone();
        step.run(async move |cx| {
            let begun = Instant::now();
            let deadline = begun + wait.timeout;
            let (mut streak, mut streak_begun) = (0, begun);
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let asked = Instant::now();
                let answer = ask(&probe, wait.ask.min(left)).await;
                if answer.health.status == Status::Healthy {
                    if streak == 0 {
                        streak_begun = asked;
                    }
                    streak += 1;
                } else {
                    streak = 0;
                }
                events.send(Event::Waiting {
                    step: cx.key().step.clone(),
                    probe: answer.probe.clone(),
                    summary: answer.health.summary.clone(),
                    streak,
                    needed: wait.consecutive,
                });
                if streak >= wait.consecutive.max(1) && asked - streak_begun >= wait.hold {
                    return Ok(answer);
                }
                if Instant::now() + wait.every >= deadline {
                    return Err(unhealthy(&answer, &wait, streak));
                }
                tokio::select! {
                    () = tokio::time::sleep(wait.every) => {}
                    () = cx.cancelled() => {
                        return Err(Error::new(ErrorKind::Cancelled, "stopped waiting, as asked"));
                    }
                }
            }
        })
        .await
    }
}

fn numbered(path: &str, turn: u32) -> String {
    if turn == 1 { path.to_owned() } else { format!("{path}[{turn}]") }
}

fn unhealthy(last: &Answer, wait: &Wait, streak: u32) -> Error {
    let mut error = Error::new(
        ErrorKind::Unhealthy,
        format!("`{}` did not become healthy within {:.1} s", last.probe, wait.timeout.as_secs_f64()),
    )
    .with("last answer", &last.health.summary)
    .with("healthy in a row", format!("{streak} of {}", wait.consecutive));
    if !wait.hold.is_zero() {
        error = error.with("needed for", format!("{:.1} s", wait.hold.as_secs_f64()));
    }
    error
}
