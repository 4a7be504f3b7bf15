//! From a container's port to an address that this process can dial.

use std::{io, time::Duration};

use bollard::models::ContainerInspectResponse;
use tokio::net::TcpStream;

use super::{address::Address, client::Connection};
use crate::{
    backend::Endpoint,
    error::{Error, ErrorKind, Result},
};

/// How long one address may take to answer; they are tried side by side.
const DIAL: Duration = Duration::from_secs(3);

/// What dialling an address showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dialled {
    /// Somebody listens.
    Open,
    /// The way is open and nobody listens yet.
    Refused,
    /// No way.
    Dead,
}

impl Connection {
    /// Gives an address of a container's port.
    pub(super) async fn endpoint(&self, container: &str, port: u16) -> Result<Endpoint> {
        let inspected = self.inspect(container).await?;
        let running = inspected.state.as_ref().and_then(|state| state.running).unwrap_or(false);
        if !running {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("container `{container}` does not run, so nothing listens on its port {port}"),
            ));
        }
        let mode = inspected.host_config.as_ref().and_then(|host| host.network_mode.clone()).unwrap_or_default();
        // The network is another container's.
        if let Some(other) = mode.strip_prefix("container:") {
            return Box::pin(self.endpoint(other, port)).await;
        }
        let own = if mode == "host" { vec!["127.0.0.1".to_owned()] } else { own_addresses(&inspected) };
        if let Some(ssh) = &self.ssh {
            let Some(target) = own.first() else { return Err(unreachable(container, port, "it has no network")) };
            return ssh.forward(target, port).await;
        }
        let mut candidates: Vec<(String, u16)> = Vec::new();
        match &self.address {
            Address::Unix(_) => {
                candidates.extend(own.into_iter().map(|host| (host, port)));
                // An Engine in a virtual machine publishes on this one.
                candidates.extend(published(&inspected, port, "127.0.0.1"));
            }
            Address::Tcp { host, .. } => {
                if mode == "host" {
                    candidates.push((host.clone(), port));
                }
                candidates.extend(published(&inspected, port, host));
            }
            Address::Ssh { .. } => {}
        }
        let dialled = futures::future::join_all(candidates.iter().map(|(host, port)| dial(host, *port))).await;
        let best = dialled.into_iter().zip(candidates).min_by_key(|(dialled, _)| *dialled);
        match best {
            Some((Dialled::Open | Dialled::Refused, (host, port))) => Ok(Endpoint::new(host, port, None)),
            Some((Dialled::Dead, (host, tried))) => {
                Err(unreachable(container, port, &format!("`{host}:{tried}` does not answer")))
            }
            None => Err(unreachable(container, port, "it is not published")),
        }
    }
}

fn unreachable(container: &str, port: u16, why: &str) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!("port {port} of container `{container}` cannot be reached from here: {why}"),
    )
    .hint("run this program on the Engine's host, use an ssh:// address, or set `address` of the service")
}

fn own_addresses(inspected: &ContainerInspectResponse) -> Vec<String> {
    let networks = inspected.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let mut found: Vec<String> = Vec::new();
    for network in networks.into_iter().flat_map(|networks| networks.values()) {
        for address in [&network.ip_address, &network.global_ipv6_address].into_iter().flatten() {
            if !address.is_empty() {
                found.push(address.clone());
            }
        }
    }
    // Engines list networks in no order.
    found.sort_by_key(|address| (address.contains(':'), address.clone()));
    found
}

fn published(inspected: &ContainerInspectResponse, port: u16, engine: &str) -> Vec<(String, u16)> {
    super::inspect::published(inspected.network_settings.as_ref())
        .into_iter()
        .filter(|published| published.port == port)
        .map(|published| {
            let host = if published.host.is_empty() { engine.to_owned() } else { published.host };
            (host, published.host_port)
        })
        .collect()
}

async fn dial(host: &str, port: u16) -> Dialled {
    match tokio::time::timeout(DIAL, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Dialled::Open,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Dialled::Refused,
        _ => Dialled::Dead,
    }
}
