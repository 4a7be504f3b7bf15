//! What every command starts from: configuration, output, the opened system.

use std::path::PathBuf;

use chom_recovery::{
    Recovery, Result, System,
    configuration::{Places, find},
    recovery::RunOptions,
    secret::SecretSource,
};

use crate::{args, consent::Consent, output::Output};

/// One call of the program.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) output: Output,
    global: args::Global,
}

impl Session {
    pub(crate) fn new(global: args::Global) -> Self {
        Self { output: Output::new(global.json, global.color), global }
    }

    /// Finds the configuration file.
    pub(crate) fn config_path(&self) -> Result<PathBuf> {
        find(self.global.config.as_deref(), &Places::of_this_process())
    }

    /// Reads the configuration, with the Engine that the command line names.
    pub(crate) fn system(&self) -> Result<System> {
        let mut system = System::load(&self.config_path()?)?;
        if !self.global.identity.is_empty() {
            system.repository.identity = self.identity();
        }
        if self.global.use_copy {
            system.repository = system.repository.on_copy()?;
        }
        self.choose_engine(&mut system.compose);
        Ok(system)
    }

    /// Names the identity files of the command line.
    pub(crate) fn identity(&self) -> Vec<SecretSource> {
        self.global.identity.iter().cloned().map(SecretSource::File).collect()
    }

    pub(crate) fn choose_engine(&self, compose: &mut chom_recovery::system::Compose) {
        if let Some(host) = &self.global.host {
            (compose.host, compose.context) = (Some(host.clone()), None);
        }
        if let Some(context) = &self.global.context {
            (compose.host, compose.context) = (None, Some(context.clone()));
        }
    }

    /// Opens the system with everything it needs.
    pub(crate) async fn open(&self) -> Result<Recovery> {
        Recovery::open(self.system()?).await
    }

    /// Opens as much of the system as answers.
    pub(crate) async fn open_what_answers(&self) -> Result<Recovery> {
        Ok(Recovery::open_what_answers(self.system()?).await)
    }

    /// Opens what needs no Engine.
    pub(crate) fn open_without_engine(&self) -> Result<Recovery> {
        Ok(Recovery::without_engine(self.system()?))
    }

    pub(crate) fn consent(&self, options: &args::Consent, recovery: &Recovery) -> Result<Consent> {
        Consent::of(options, &recovery.system().compose.project, &self.output.terminal)
    }
}

/// Who runs something, and who is asked.
pub(crate) fn run_options(consent: &Consent) -> RunOptions {
    RunOptions { operator: Some(consent.operator.clone()), approver: consent.approver(), ..RunOptions::default() }
}
