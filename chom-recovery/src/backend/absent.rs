//! The Engine that does not answer: every question and effect fails in the way in which connecting failed.
//!
//! What needs no Engine (runs, backups, the card) works with it, and what does need one says why it cannot.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Backend, Container, ContainerEnvironment, Endpoint, Engine, Exec, ExecRequest, Image, Labels, LogRequest,
    LogStream, OneOff, Pins, Place, Project, RestartPolicy, Signal, StopOutcome, Usage, Volume, VolumeContent,
    VolumeIdentity,
};
use crate::{
    error::{Error, ErrorRecord, Result},
    stream::ByteStream,
};

/// Stands in for an Engine that could not be reached, or was not asked.
#[derive(Debug, Clone)]
pub(crate) struct AbsentBackend {
    project: String,
    address: String,
    why: ErrorRecord,
}

impl AbsentBackend {
    /// Makes it; `why` is what every call answers.
    pub(crate) fn new(project: &str, address: String, why: &Error) -> Self {
        Self { project: project.to_owned(), address, why: why.to_record() }
    }

    fn refuse<T>(&self) -> Result<T> {
        Err(self.why.clone().into())
    }
}

#[async_trait]
impl Backend for AbsentBackend {
    fn project(&self) -> &str {
        &self.project
    }

    fn engine_address(&self) -> String {
        self.address.clone()
    }

    async fn engine(&self) -> Result<Engine> {
        self.refuse()
    }

    async fn model(&self) -> Result<Project> {
        self.refuse()
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        self.refuse()
    }

    async fn container(&self, _name: &str) -> Result<Option<Container>> {
        self.refuse()
    }

    async fn environment(&self, _container: &str) -> Result<ContainerEnvironment> {
        self.refuse()
    }

    async fn start(&self, _service: &str, _wait: Duration) -> Result<()> {
        self.refuse()
    }

    async fn stop(&self, _service: &str, _grace: Duration) -> Result<Vec<StopOutcome>> {
        self.refuse()
    }

    async fn set_restart_policy(&self, _container: &str, _policy: &RestartPolicy) -> Result<()> {
        self.refuse()
    }

    async fn signal(&self, _container: &str, _signal: Signal) -> Result<()> {
        self.refuse()
    }

    async fn image(&self, _name: &str) -> Result<Option<Image>> {
        self.refuse()
    }

    async fn recreate(&self, _services: &[String], _pins: Option<&Pins>) -> Result<()> {
        self.refuse()
    }

    async fn scale(&self, _service: &str, _replicas: u32) -> Result<()> {
        self.refuse()
    }

    async fn exec(&self, _container: &str, _request: ExecRequest) -> Result<Exec> {
        self.refuse()
    }

    async fn logs(&self, _container: &str, _request: LogRequest) -> Result<LogStream> {
        self.refuse()
    }

    async fn usage(&self, _container: &str) -> Result<Usage> {
        self.refuse()
    }

    async fn read_archive(&self, _place: &Place, _path: &str) -> Result<ByteStream> {
        self.refuse()
    }

    async fn write_archive(&self, _place: &Place, _path: &str, _tar: ByteStream) -> Result<()> {
        self.refuse()
    }

    async fn volumes(&self) -> Result<Vec<Volume>> {
        self.refuse()
    }

    async fn volume(&self, _name: &str) -> Result<Option<Volume>> {
        self.refuse()
    }

    async fn create_volume(&self, _name: &str, _labels: &Labels) -> Result<()> {
        self.refuse()
    }

    async fn create_volume_beside(&self, _name: &str, _labels: &Labels, _beside: &str) -> Result<()> {
        self.refuse()
    }

    async fn check_exchangeable(&self, _name: &str) -> Result<()> {
        self.refuse()
    }

    async fn remove_volume(&self, _name: &str) -> Result<()> {
        self.refuse()
    }

    async fn measure_volume(&self, _name: &str) -> Result<VolumeContent> {
        self.refuse()
    }

    async fn exchange_volumes(&self, _first: &VolumeIdentity, _second: &VolumeIdentity) -> Result<()> {
        self.refuse()
    }

    async fn volume_identity(&self, _name: &str) -> Result<VolumeIdentity> {
        self.refuse()
    }

    async fn one_off(&self, _spec: &OneOff) -> Result<Container> {
        self.refuse()
    }

    async fn start_container(&self, _name: &str) -> Result<()> {
        self.refuse()
    }

    async fn stop_container(&self, _name: &str, _grace: Duration) -> Result<()> {
        self.refuse()
    }

    async fn wait_container(&self, _name: &str, _timeout: Duration) -> Result<i64> {
        self.refuse()
    }

    async fn remove_container(&self, _name: &str) -> Result<()> {
        self.refuse()
    }

    async fn own_containers(&self) -> Result<Vec<Container>> {
        self.refuse()
    }

    async fn endpoint(&self, _container: &str, _port: u16) -> Result<Endpoint> {
        self.refuse()
    }
}
