//! What a second place sees: a host that is down is down from everywhere, a network between is not.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use async_trait::async_trait;
use reqwest::Url;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
};

use super::{Class, Health, HealthProbe, Status, http, net};
use crate::{
    ssh,
    system::{HttpCheck, Vantage},
};

/// How long ssh may take to say why it ended.
const COMPLAINT: Duration = Duration::from_secs(3);

/// Asks a second place whether the service is seen from there.
#[derive(Debug)]
pub struct VantageProbe {
    name: String,
    vantage: Vantage,
    check: Option<HttpCheck>,
}

impl VantageProbe {
    /// Makes the probe `vantage-<name>`; `check` is what is asked from a place that is reached by ssh.
    pub fn new(vantage: Vantage, check: Option<HttpCheck>) -> Self {
        Self { name: format!("vantage-{}", vantage.name), vantage, check }
    }

    async fn ask(&self) -> Health {
        match (&self.vantage.url, &self.vantage.ssh, &self.check) {
            (Some(url), ..) => self.ask_monitor(url).await,
            (None, Some(host), Some(check)) => from(host, check).await,
            _ => Health::inconclusive("there is no `[[http]]` check that could be made from there"),
        }
    }

    async fn ask_monitor(&self, url: &str) -> Health {
        let check = HttpCheck {
            name: self.vantage.name.clone(),
            url: url.to_owned(),
            status: 200,
            contains: self.vantage.contains.clone(),
            ca_file: self.vantage.ca_file.clone(),
            connect_to: None,
            slow_after: Duration::from_secs(20),
        };
        let health = http::HttpProbe::new(check).check().await;
        if health.status <= Status::Degraded {
            return Health::healthy("it sees the service").class(Class::Ok);
        }
        // Only an answer tells anything of the service.
        if health.facts.contains_key("status") {
            Health::down(format!("it does not see the service: {}", health.summary)).class(Class::Vantage)
        } else {
            Health::inconclusive(format!("it could not be asked: {}", health.summary))
        }
    }
}

#[async_trait]
impl HealthProbe for VantageProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, self.ask()).await
    }
}

/// Makes an HTTP check through a host elsewhere, which does nothing but forward the connection.
async fn from(host: &str, check: &HttpCheck) -> Health {
    let target = match target(check) {
        Ok(target) => target,
        Err(why) => return why,
    };
    let (tell, mut told) = mpsc::unbounded_channel();
    let (address, carrier) = match listen(host.to_owned(), target.clone(), tell).await {
        Ok(open) => open,
        Err(error) => return Health::inconclusive(format!("no port for the way there: {error}")),
    };
    let health = http::HttpProbe::new(HttpCheck { connect_to: Some(address), ..check.clone() }).check().await;
    // What ssh complains of comes with the end of the connection, or just after it.
    let said = match health.status {
        Status::Down => tokio::time::timeout(COMPLAINT, told.recv()).await.ok().flatten().unwrap_or_default(),
        _ => String::new(),
    };
    carrier.abort();
    judge(host, &target, &health, &said)
}

/// What the check dials: its `connect_to`, else host and port of its URL.
fn target(check: &HttpCheck) -> Result<String, Health> {
    if let Some(to) = check.connect_to {
        // What is this host's own loopback is another one there.
        return if to.ip().is_loopback() {
            Err(Health::inconclusive(format!("check `{}` connects to this host alone ({to})", check.name)))
        } else {
            Ok(to.to_string())
        };
    }
    let url: Option<Url> = check.url.parse().ok();
    url.and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)))
        .ok_or_else(|| Health::inconclusive(format!("check `{}` has no host to connect to", check.name)))
}

fn judge(host: &str, target: &str, health: &Health, said: &str) -> Health {
    let answered = health.facts.contains_key("status") || health.facts.get("class").is_some_and(|c| is_of_tls(c));
    if answered {
        let health = match health.status {
            Status::Healthy | Status::Degraded => Health::healthy(format!("{target} answers: {}", health.summary)),
            _ => Health::degraded(format!("{target} answers, and not well: {}", health.summary)),
        };
        return health.class(Class::Vantage).fact("by", host);
    }
    // `channel 0: open failed: connect failed: No route to host`: said by the other side about the target.
    let is_of_target = said.contains("open failed") && said.contains("connect failed");
    if is_of_target || (said.is_empty() && health.class_of() == Some(Class::Stalled)) {
        return Health::down(format!("{target} does not answer there either")).class(Class::Vantage).fact("by", host);
    }
    let why = if said.is_empty() { health.summary.clone() } else { ssh::refusal(host, said).to_string() };
    Health::inconclusive(format!("it could not be asked: {why}"))
}

/// A refused certificate was presented by somebody: the host is there.
fn is_of_tls(class: &str) -> bool {
    [Class::Expired, Class::NotYetValid, Class::WrongName, Class::Untrusted].iter().any(|c| c.code() == class)
}

/// Listens on a port of this host and carries each connection to the target through the other host.
async fn listen(
    host: String,
    target: String,
    tell: mpsc::UnboundedSender<String>,
) -> std::io::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let said = carry(&host, &target, stream).await.unwrap_or_else(|error| error.to_string());
            // Nobody listens any more once the check has its answer.
            let _ = tell.send(said);
        }
    });
    Ok((address, task))
}

/// Carries one connection to its end; returns what ssh said.
async fn carry(host: &str, target: &str, mut stream: TcpStream) -> std::io::Result<String> {
    let mut command = Command::new("ssh");
    for option in ssh::STRICT.iter().copied().chain(["ConnectTimeout=5"]) {
        command.args(["-o", option]);
    }
    command.args(["-W", target, "--", host]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Ok(String::new());
    };
    let mut line = tokio::io::join(stdout, stdin);
    // An end of either side is the end of the connection.
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut line).await;
    drop((stream, line));
    let mut said = Vec::new();
    let mut stderr = stderr.take(4096);
    let _ = tokio::time::timeout(Duration::from_secs(2), stderr.read_to_end(&mut said)).await;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::testing;

    fn place(url: String, contains: Option<&str>) -> VantageProbe {
        let contains = contains.map(str::to_owned);
        VantageProbe::new(Vantage { name: "office".into(), ssh: None, url: Some(url), contains, ca_file: None }, None)
    }

    #[tokio::test]
    async fn only_an_answer_of_the_other_place_tells_anything() {
        let body = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\nprobe_success 1";
        let seen = testing::http(body, Duration::ZERO).await;
        let ask = async |port: u16, text| place(format!("http://127.0.0.1:{port}/"), Some(text)).check().await.status;
        assert_eq!(ask(seen, "probe_success 1").await, Status::Healthy);
        assert_eq!(ask(seen, "probe_success 2").await, Status::Down);
        let failing = testing::http("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n", Duration::ZERO).await;
        assert_eq!(ask(failing, "probe_success 1").await, Status::Down);
        assert_eq!(ask(testing::closed_port().await, "x").await, Status::Inconclusive);
    }

    #[test]
    fn what_ssh_says_of_itself_is_not_said_of_the_service() {
        let unreachable = Health::down("closed").class(Class::Unreachable);
        let status = |health: &Health, said: &str| judge("h", "t:443", health, said).status;
        let target = "channel 0: open failed: connect failed: No route to host\nstdio forwarding failed";
        assert_eq!(status(&unreachable, target), Status::Down);
        assert_eq!(status(&unreachable, "ssh: connect to host h port 22: Connection refused"), Status::Inconclusive);
        assert_eq!(status(&unreachable, ""), Status::Inconclusive);
        let stalled = Health::down("late").class(Class::Stalled);
        assert_eq!(status(&stalled, ""), Status::Down);
        let bad = Health::down("status 502").class(Class::Upstream).fact("status", 502);
        assert_eq!(status(&bad, ""), Status::Degraded, "the host is there");
        assert_eq!(status(&Health::down("TLS").class(Class::Expired), ""), Status::Degraded);
    }
}
