//! Starting, stopping and waiting.

use std::time::{Duration, Instant};

use bollard::{
    models::ContainerUpdateBody,
    query_parameters::{
        KillContainerOptionsBuilder, StartContainerOptions, StatsOptionsBuilder, StopContainerOptionsBuilder,
    },
};
use futures::{StreamExt, TryStreamExt};

use super::{
    client::{Connection, checked_name},
    error::Effect,
    inspect::engine_policy,
};
use crate::{
    backend::{Container, ContainerState, HealthCheck, LogRequest, RestartPolicy, Signal, StopOutcome, Usage},
    error::{Error, ErrorKind, Result},
};

/// Between two looks at a container.
const POLL: Duration = Duration::from_millis(200);
/// How long a container without a health check has to run before it counts as started: time to fail at once.
const SETTLE: Duration = Duration::from_secs(1);
/// How many restarts by the Engine while waiting mean that it will not come up.
const RESTARTS_ALLOWED: u64 = 3;
/// How often the settings of a container are changed that ends in the middle of it.
const UPDATES: u32 = 10;
/// What the Engine says then.
///
/// # Source
/// containerd, `Task.Update` of the shim: `cannot update a stopped container`.
const ENDED_MEANWHILE: &str = "cannot update a stopped container";
/// Lines of the log that an error about a container shows.
const LINES_SHOWN: usize = 12;

impl Connection {
    /// Starts one container unless it runs, and waits until it is ready.
    pub(super) async fn start_and_wait(&self, container: &Container, wait: Duration) -> Result<()> {
        if container.is_ready() {
            return Ok(());
        }
        let name = &container.name;
        let begun = Instant::now();
        match container.state {
            ContainerState::Running | ContainerState::Restarting => {}
            ContainerState::Paused => {
                self.change(format!("unpause container `{name}`"), self.control.unpause_container(&container.id))
                    .await?;
            }
            _ => self.start(&container.id, name).await?,
        }
        let restarts_before = self.container(&container.id).await?.restart_count;
        let mut running_since: Option<(Option<_>, Instant)> = None;
        loop {
            let now = self.container(&container.id).await?;
            if now.restart_count >= restarts_before + RESTARTS_ALLOWED {
                return Err(self.failed_start(&now, "the Engine had to restart it again and again").await);
            }
            match (now.state, now.health) {
                (ContainerState::Running, HealthCheck::Healthy) => return Ok(()),
                (ContainerState::Running, HealthCheck::Absent) => match running_since {
                    Some((started, since)) if started == now.started_at => {
                        if since.elapsed() >= SETTLE {
                            return Ok(());
                        }
                    }
                    _ => running_since = Some((now.started_at, Instant::now())),
                },
                (ContainerState::Exited | ContainerState::Dead, _) => {
                    return Err(self.failed_start(&now, "it ended").await);
                }
                _ => {}
            }
            if begun.elapsed() >= wait {
                let state = if now.state == ContainerState::Running {
                    format!("its health check says {:?}", now.health).to_lowercase()
                } else {
                    format!("it is {:?}", now.state).to_lowercase()
                };
                return Err(self
                    .failed_start(&now, &format!("not ready after {} s: {state}", wait.as_secs()))
                    .await
                    .of_kind(ErrorKind::Timeout));
            }
            tokio::time::sleep(POLL.min(wait.saturating_sub(begun.elapsed()))).await;
        }
    }

    /// Asks the Engine to start a container; one that runs already is success.
    pub(super) async fn start(&self, id: &str, name: &str) -> Result<()> {
        let request = self.control.start_container(checked_name(id)?, None::<StartContainerOptions>);
        // Starting twice is harmless, and whoever waits looks at the container anyway.
        self.within(self.options.control_timeout, Effect::Read, format!("start container `{name}`"), request).await
    }

    async fn failed_start(&self, container: &Container, why: &str) -> Error {
        let mut error =
            Error::new(ErrorKind::Unhealthy, format!("container `{}` did not start: {why}", container.name));
        if let Some(code) = container.exit_code {
            error = error.with("exit code", code);
        }
        if container.oom_killed {
            error = error.with("killed", "out of memory");
        }
        match self.last_lines(&container.id).await {
            Ok(lines) if !lines.is_empty() => error.with("log", lines.join("\n")),
            Ok(_) => error,
            Err(log) => error.with("log", format!("cannot be read: {log}")),
        }
    }

    async fn last_lines(&self, id: &str) -> Result<Vec<String>> {
        let read = async {
            let request = LogRequest { since: None, tail: Some(LINES_SHOWN) };
            self.logs(id, request).await?.map_ok(|line| line.text).try_collect().await
        };
        tokio::time::timeout(self.options.control_timeout, read).await.unwrap_or_else(|_| Ok(Vec::new()))
    }

    /// Stops one container and makes sure that it is down.
    pub(super) async fn stop_and_see(&self, container: &Container, grace: Duration) -> Result<StopOutcome> {
        let begun = Instant::now();
        let was_running =
            matches!(container.state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting);
        let name = &container.name;
        if container.state == ContainerState::Paused {
            // A frozen process cannot react to the signal and would be killed.
            self.change(format!("unpause container `{name}`"), self.control.unpause_container(&container.id)).await?;
        }
        if was_running {
            let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
            let options = StopContainerOptionsBuilder::default().t(seconds).build();
            let deadline = grace + self.options.control_timeout;
            let request = self.bulk.stop_container(&container.id, Some(options));
            self.within(deadline, Effect::Read, format!("stop container `{name}`"), request).await?;
        }
        // The Engine answers a little before the exit code is recorded.
        let deadline = Instant::now() + self.options.control_timeout;
        loop {
            let now = self.container(&container.id).await?;
            match now.state {
                ContainerState::Exited | ContainerState::Dead | ContainerState::Created | ContainerState::Removing => {
                    return Ok(StopOutcome {
                        container: now.name,
                        was_running,
                        exit_code: now.exit_code,
                        seconds: begun.elapsed().as_secs_f64(),
                    });
                }
                _ if Instant::now() >= deadline => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("container `{name}` is still {:?} after it was stopped", now.state).to_lowercase(),
                    )
                    .hint("set its restart policy to `no` and look who starts it again"));
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Waits until a container has ended.
    pub(super) async fn wait_for_end(&self, name: &str, timeout: Duration) -> Result<i64> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.container(name).await {
                Ok(now) => match (now.state, now.exit_code) {
                    (ContainerState::Exited | ContainerState::Dead, Some(code)) => return Ok(code),
                    (ContainerState::Created, _) => {
                        return Err(Error::new(
                            ErrorKind::Precondition,
                            format!("container `{name}` was never started, so it cannot end"),
                        ));
                    }
                    _ => {}
                },
                // The daemon may be restarting; the container's end is recorded all the same.
                Err(error) if error.kind().is_transient() && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("container `{name}` has not ended after {} s", timeout.as_secs()),
                ));
            }
            tokio::time::sleep(POLL.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Sets a restart policy and reads it back.
    pub(super) async fn update_restart_policy(&self, name: &str, policy: &RestartPolicy) -> Result<()> {
        let mut attempts = UPDATES;
        loop {
            let body = ContainerUpdateBody { restart_policy: Some(engine_policy(policy)), ..Default::default() };
            let request = self.control.update_container(checked_name(name)?, body);
            attempts -= 1;
            match self.change(format!("set the restart policy of container `{name}`"), request).await {
                Ok(()) => break,
                // It ended while it was updated, as one does that comes and goes; the Engine changed nothing.
                Err(error) if attempts > 0 && error.message().contains(ENDED_MEANWHILE) => {
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => return Err(error),
            }
        }
        let now = self.container(name).await?.restart_policy;
        if now == *policy {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Failed, format!("container `{name}` did not take its restart policy"))
                .with("wanted", format!("{policy:?}"))
                .with("is", format!("{now:?}")))
        }
    }

    /// Sends a signal; doing it twice is harmless.
    pub(super) async fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let Signal::Hangup = signal;
        let options = KillContainerOptionsBuilder::default().signal("SIGHUP").build();
        let request = self.control.kill_container(checked_name(name)?, Some(options));
        self.within(self.options.control_timeout, Effect::Read, format!("signal container `{name}`"), request).await
    }

    /// Samples what a container uses; takes about a second, for the processor's share.
    pub(super) async fn usage(&self, name: &str) -> Result<Usage> {
        let what = format!("sample container `{name}`");
        let options = StatsOptionsBuilder::default().stream(false).one_shot(false).build();
        let mut stream = Box::pin(self.control.stats(checked_name(name)?, Some(options)));
        let sample = self
            .read(&what, async { stream.next().await.transpose() })
            .await?
            .ok_or_else(|| Error::new(ErrorKind::Failed, format!("cannot {what}: the Engine gave no sample")))?;
        let memory = sample.memory_stats.unwrap_or_default();
        let Some(used) = memory.usage else {
            // Engines answer for stopped containers too, with nothing in it.
            return Err(Error::new(ErrorKind::Precondition, format!("cannot {what}: it does not run")));
        };
        let stats = memory.stats.unwrap_or_default();
        // Page cache that can be given back, as `docker stats` leaves it out: cgroup 1 and 2 name it differently.
        let cache = stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")).copied().unwrap_or(0);
        let (mut read, mut written) = (0, 0);
        let blocks = sample.blkio_stats.and_then(|b| b.io_service_bytes_recursive).unwrap_or_default();
        for entry in blocks {
            match entry.op.as_deref().map(str::to_ascii_lowercase).as_deref() {
                Some("read") => read += entry.value.unwrap_or(0),
                Some("write") => written += entry.value.unwrap_or(0),
                _ => {}
            }
        }
        let throttling = sample.cpu_stats.as_ref().and_then(|c| c.throttling_data.as_ref());
        Ok(Usage {
            throttled: throttling.and_then(|t| t.throttled_periods).unwrap_or(0),
            cpu: cpu_share(sample.cpu_stats, sample.precpu_stats).unwrap_or(0.0),
            memory: used.saturating_sub(cache),
            memory_limit: memory.limit.unwrap_or(0),
            read,
            written,
        })
    }
}

/// Cores in use between two samples.
///
/// # Source
/// `calculateCPUPercentUnix` of docker/cli, without the factor 100.
#[allow(clippy::cast_precision_loss)]
fn cpu_share(
    now: Option<bollard::models::ContainerCpuStats>,
    before: Option<bollard::models::ContainerCpuStats>,
) -> Option<f64> {
    let (now, before) = (now?, before?);
    let total = |stats: &bollard::models::ContainerCpuStats| stats.cpu_usage.as_ref().and_then(|u| u.total_usage);
    let used = total(&now)?.checked_sub(total(&before)?)?;
    let passed = now.system_cpu_usage?.checked_sub(before.system_cpu_usage?)?;
    let cores = now
        .online_cpus
        .filter(|n| *n > 0)
        .or_else(|| now.cpu_usage.as_ref()?.percpu_usage.as_ref().and_then(|p| u32::try_from(p.len()).ok()))?;
    (passed > 0).then(|| used as f64 / passed as f64 * f64::from(cores))
}
