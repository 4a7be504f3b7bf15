//! One recovery at a time on an Engine, whichever host it is run from.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    backend::{Backend, BackendExt, Labels, Network, OneOff, ROLE_LABEL, RUN_LABEL},
    error::{Error, ErrorKind, Result},
    run::{RunId, SystemLock},
};

/// A lock in the form of a container that is never started: creating one under a fixed name is atomic on the Engine,
/// and its label names the run.
#[derive(Debug, Clone)]
pub struct EngineLock {
    backend: Arc<dyn Backend>,
    service: String,
}

impl EngineLock {
    /// Makes the lock; the container is made from the image of `service`, which is on the host.
    pub fn new(backend: Arc<dyn Backend>, service: impl Into<String>) -> Self {
        Self { backend, service: service.into() }
    }

    fn name(&self) -> String {
        format!("{}-recovery-lock", self.backend.project())
    }
}

#[async_trait]
impl SystemLock for EngineLock {
    async fn acquire(&self, run: &RunId) -> Result<()> {
        let image = self.backend.service_containers(&self.service).await?.swap_remove(0).image_id;
        let labels: Labels =
            [(RUN_LABEL.to_owned(), run.to_string()), (ROLE_LABEL.to_owned(), "lock".to_owned())].into();
        let spec = OneOff {
            name: self.name(),
            image,
            entrypoint: None,
            command: Vec::new(),
            env: Vec::new(),
            user: None,
            mounts: Vec::new(),
            files: Vec::new(),
            network: Network::None,
            own_names: Vec::new(),
            labels,
            memory: None,
            start: false,
        };
        match self.backend.one_off(&spec).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => match self.holder().await? {
                Some(holder) if holder == *run => Ok(()),
                holder => {
                    let holder = holder.map_or_else(|| "an unknown run".into(), |r| r.to_string());
                    Err(Error::new(ErrorKind::Locked, format!("run {holder} holds the lock of this Engine"))
                        .with("container", self.name())
                        .hint("it may run on another host: resume or roll it back there"))
                }
            },
            Err(e) => Err(e.during("cannot take the Engine's lock")),
        }
    }

    async fn release(&self, run: &RunId) -> Result<()> {
        match self.holder().await? {
            Some(holder) if holder == *run => self.backend.remove_container(&self.name()).await,
            _ => Ok(()),
        }
    }

    async fn holder(&self) -> Result<Option<RunId>> {
        let Some(container) = self.backend.container(&self.name()).await? else { return Ok(None) };
        container.labels.get(RUN_LABEL).map(|id| id.parse()).transpose()
    }
}
