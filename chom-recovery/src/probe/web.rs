//! Whether the web server would start with the configuration that it has now.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Class, Health, HealthProbe, net};
use crate::backend::{Backend, BackendExt, Container, ExecRequest, ExecResult};

/// How long the test may take.
const COMMAND: Duration = Duration::from_secs(10);

/// Lets nginx test its configuration, in its own container; nothing is reloaded.
#[derive(Debug)]
pub struct WebConfigurationProbe {
    backend: Arc<dyn Backend>,
    service: String,
}

impl WebConfigurationProbe {
    /// Makes the probe `web-configuration`.
    pub fn new(backend: Arc<dyn Backend>, service: &str) -> Self {
        Self { backend, service: service.to_owned() }
    }

    async fn ask(&self) -> Health {
        let container = match net::running(&self.backend, &self.service).await {
            Ok(container) => container,
            // That it does not run is told by the probe of its container, and why by its log.
            Err(why) => return Health::inconclusive(why.summary).class(Class::NotRunning),
        };
        if !is_nginx(&container) {
            return Health::healthy("not nginx: it has no configuration that could be tested").class(Class::Ok);
        }
        match self.backend.run(&container.name, ExecRequest::new(["nginx", "-t"]), COMMAND).await {
            Ok(result) => judge(&result),
            Err(error) => Health::inconclusive(format!("`nginx -t` could not be run: {error}")),
        }
    }
}

#[async_trait]
impl HealthProbe for WebConfigurationProbe {
    fn name(&self) -> &'static str {
        "web-configuration"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, self.ask()).await.fact("service", &self.service)
    }
}

fn is_nginx(container: &Container) -> bool {
    let words = format!("{} {} {}", container.service, container.image, container.command.join(" "));
    words.to_ascii_lowercase().contains("nginx")
}

fn judge(result: &ExecResult) -> Health {
    let said = String::from_utf8_lossy(&result.stderr);
    let complaint = said.lines().find_map(|line| line.split_once("[emerg] ").map(|(_, what)| what));
    match (result.exit_code, complaint) {
        (0, _) => Health::healthy("nginx accepts its configuration").class(Class::Ok),
        (_, Some(what)) => {
            // It still serves with what it read before.
            Health::degraded(format!("nginx refuses its configuration: {}", net::short(what, 200)))
                .class(Class::Configuration)
        }
        (code, None) => Health::inconclusive(format!("`nginx -t` ended with {code} and did not say why")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    #[test]
    fn a_refusal_needs_a_reason() {
        let ended = |exit_code, stderr: &'static str| {
            judge(&ExecResult { exit_code, stdout: bytes::Bytes::new(), stderr: stderr.into() })
        };
        assert_eq!(
            ended(0, "nginx: the configuration file /etc/nginx/nginx.conf syntax is ok").status,
            Status::Healthy
        );
        let bad = ended(
            1,
            "nginx: [emerg] unexpected \"}\" in /etc/nginx/conf.d/site.conf:9\nnginx: configuration test failed",
        );
        assert_eq!((bad.status, bad.class_of()), (Status::Degraded, Some(Class::Configuration)));
        assert!(bad.summary.ends_with("site.conf:9"), "{bad:?}");
        assert_eq!(ended(137, "").status, Status::Inconclusive);
    }
}
