//! What only `docker compose` can do right: the resolved model, and the number of containers.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::process::Command;

use super::{address::Address, client::Connection};
use crate::{
    backend::{
        Container, Project,
        compose::{self, ENV_FILES_LABEL, FILES_LABEL, FOLDER_LABEL},
    },
    error::{Error, ErrorKind, Result},
    system::Compose,
};

/// Deadline of `docker compose config`, which only reads files.
const CONFIG_DEADLINE: Duration = Duration::from_secs(30);
/// Deadline of `docker compose up --scale`.
const SCALE_DEADLINE: Duration = Duration::from_mins(5);

/// Files of a project, as configured or as the labels of its containers name them.
struct Files {
    arguments: Vec<String>,
    /// Whether the configuration names them: then they have to be readable.
    configured: bool,
    /// The first that is missing on this machine.
    missing: Option<PathBuf>,
}

impl Connection {
    /// Describes the project.
    pub(super) async fn model(&self, config: &Compose) -> Result<Project> {
        let containers = self.project_containers(&config.project).await?;
        match files(config, &containers) {
            Some(Files { configured: true, missing: Some(path), .. }) => Err(missing_file(&path)),
            Some(files) if files.missing.is_none() => {
                let mut arguments = files.arguments;
                arguments.extend(["config", "--format", "json"].map(String::from));
                match self.compose(&arguments, CONFIG_DEADLINE).await {
                    Ok(json) => compose::complete(compose::from_config(&config.project, &json)?, &containers),
                    Err(error) if files.configured => Err(error),
                    Err(error) => {
                        tracing::warn!(%error, "the project's files cannot be read; its containers' labels are used");
                        compose::from_labels(&config.project, &containers)
                    }
                }
            }
            _ => compose::from_labels(&config.project, &containers),
        }
    }

    /// Sets how many containers a service has.
    pub(super) async fn scale(&self, config: &Compose, service: &str, replicas: u32) -> Result<()> {
        let project = self.model(config).await?;
        let described = project.service(service)?;
        if described.has_fixed_name && replicas > 1 {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("service `{service}` has a fixed `container_name` and cannot have {replicas} containers"),
            )
            .hint("take `container_name` out of the Compose file"));
        }
        let containers = self.project_containers(&config.project).await?;
        let files = files(config, &containers).ok_or_else(|| {
            Error::new(ErrorKind::Precondition, format!("the files of project `{}` are not known", config.project))
                .hint("set `compose.files`")
        })?;
        if let Some(path) = files.missing {
            return Err(missing_file(&path));
        }
        let mut arguments = files.arguments;
        arguments.extend(
            ["--ansi", "never", "up", "-d", "--no-deps", "--no-recreate", "--no-build", "--scale"].map(String::from),
        );
        arguments.push(format!("{service}={replicas}"));
        arguments.push(service.to_owned());
        self.compose(&arguments, SCALE_DEADLINE).await?;
        let count = self.project_containers(&config.project).await?.iter().filter(|c| c.service == service).count();
        if u32::try_from(count) == Ok(replicas) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Failed, format!("service `{service}` has {count} containers instead of {replicas}")))
    }

    /// Runs `docker compose` against the same Engine and returns what it printed.
    async fn compose(&self, arguments: &[String], deadline: Duration) -> Result<Vec<u8>> {
        let verb = arguments.iter().find(|a| ["config", "up"].contains(&a.as_str())).map_or("", String::as_str);
        let what = format!("docker compose {verb}");
        let program = &self.options.docker_program;
        let mut command = Command::new(program);
        command.arg("compose").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        for variable in ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
            command.env_remove(variable);
        }
        command.env("DOCKER_HOST", self.address.to_string());
        if let Address::Tcp { tls: Some(folder), .. } = &self.address {
            command.env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", folder);
        }
        if let Some(ssh) = &self.ssh {
            // The same, already open and checked, connection.
            command.env("DOCKER_HOST", format!("unix://{}", ssh.socket().display()));
        }
        let output = tokio::time::timeout(deadline, command.output())
            .await
            .map_err(|_| Error::new(ErrorKind::Timeout, format!("`{what}` took over {} s", deadline.as_secs())))?
            .map_err(|e| {
                Error::new(ErrorKind::Precondition, format!("cannot run `{}`: {e}", program.display()))
                    .hint("install the Docker CLI with its Compose plugin")
            })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        Err(Error::new(ErrorKind::Failed, format!("`{what}` failed: {}", without_values(last)))
            .with("exit code", output.status.code().map_or_else(|| "signal".into(), |code| code.to_string())))
    }
}

fn missing_file(path: &std::path::Path) -> Error {
    Error::new(ErrorKind::Precondition, format!("the Compose file `{}` is not on this machine", path.display()))
        .hint("set `compose.files` to the project's files on this machine")
}

/// Messages of Compose may quote values of the file in double quotes; those can be secrets.
fn without_values(text: &str) -> String {
    text.split('"').enumerate().map(|(i, part)| if i % 2 == 0 { part } else { "\"…\"" }).collect()
}

fn files(config: &Compose, containers: &[Container]) -> Option<Files> {
    let label = |key: &str| containers.iter().find_map(|c| c.labels.get(key)).filter(|text| !text.is_empty());
    let folder = label(FOLDER_LABEL).map(PathBuf::from);
    let configured = !config.files.is_empty();
    let split = |text: &String| -> Vec<PathBuf> {
        let folder = folder.clone().unwrap_or_default();
        // Joining keeps absolute paths as they are.
        text.split(',').map(|path| folder.join(path.trim())).collect()
    };
    let (files, env_files) = if configured {
        (config.files.clone(), config.env_files.clone())
    } else {
        let env_files = if config.env_files.is_empty() {
            label(ENV_FILES_LABEL).map(split).unwrap_or_default()
        } else {
            config.env_files.clone()
        };
        (label(FILES_LABEL).map(split)?, env_files)
    };
    let missing = files.iter().chain(&env_files).find(|path| !path.is_file()).cloned();
    let mut arguments = vec!["-p".to_owned(), config.project.clone()];
    for (flag, paths) in [("-f", &files), ("--env-file", &env_files)] {
        for path in paths {
            arguments.extend([flag.to_owned(), path.display().to_string()]);
        }
    }
    if !configured && let Some(folder) = folder.filter(|folder| folder.is_dir()) {
        arguments.extend(["--project-directory".to_owned(), folder.display().to_string()]);
    }
    Some(Files { arguments, configured, missing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_values_do_not_reach_a_message() {
        let text = r#"invalid value "hunter2" for service "app""#;
        assert_eq!(without_values(text), "invalid value \"…\" for service \"…\"");
    }
}
