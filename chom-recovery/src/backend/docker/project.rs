//! What only `docker compose` can do right: the resolved model, and the number of containers.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::process::Command;

use super::{address::Address, client::Connection};
use crate::{
    backend::{
        Container, Pins, Project,
        compose::{self, ENV_FILES_LABEL, FILES_LABEL, FOLDER_LABEL},
    },
    error::{Error, ErrorKind, Result},
    system::Compose,
};

/// Deadline of `docker compose config`, which only reads files.
const CONFIG_DEADLINE: Duration = Duration::from_secs(30);
/// Deadline of `docker compose up`.
const UP_DEADLINE: Duration = Duration::from_mins(5);

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
        match files(config, &containers, &[]) {
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
        let mut arguments = arguments(config, &containers, &[service])?;
        arguments.extend(
            ["--ansi", "never", "up", "-d", "--no-deps", "--no-recreate", "--no-build", "--scale"].map(String::from),
        );
        arguments.push(format!("{service}={replicas}"));
        arguments.push(service.to_owned());
        self.compose(&arguments, UP_DEADLINE).await?;
        let count = self.project_containers(&config.project).await?.iter().filter(|c| c.service == service).count();
        if u32::try_from(count) == Ok(replicas) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Failed, format!("service `{service}` has {count} containers instead of {replicas}")))
    }

    /// Makes containers of services anew where they are not as the files say, and holds them to images.
    pub(super) async fn recreate(&self, config: &Compose, services: &[String], pins: Option<&Pins>) -> Result<()> {
        let before = self.project_containers(&config.project).await?;
        let names: Vec<&str> = services.iter().map(String::as_str).collect();
        let mut arguments = arguments(config, &before, &names)?;
        if let Some(pins) = pins {
            tokio::fs::write(&pins.file, pins.text()).await.map_err(|e| {
                Error::from(e).during(format!("cannot write the Compose file `{}`", pins.file.display()))
            })?;
            let file = pins.file.display().to_string();
            // Where an earlier attempt came this far, the labels name it already.
            if !arguments.contains(&file) {
                let at = arguments.iter().rposition(|a| a == "-f").map_or(arguments.len(), |at| at + 2);
                arguments.splice(at..at, ["-f".to_owned(), file]);
            }
        }
        let up = "--ansi never up --no-start --no-deps --no-build --pull never";
        arguments.extend(up.split(' ').map(str::to_owned));
        for service in &names {
            let count = before.iter().filter(|c| c.service == *service).count().max(1);
            arguments.extend(["--scale".to_owned(), format!("{service}={count}")]);
        }
        arguments.extend(services.iter().cloned());
        self.compose(&arguments, UP_DEADLINE).await?;
        let now = self.project_containers(&config.project).await?;
        let wanted = |c: &Container| pins.and_then(|pins| pins.images.get(&c.service));
        match now.iter().find(|c| wanted(c).is_some_and(|image| *image != c.image_id)) {
            None => Ok(()),
            Some(c) => Err(Error::new(ErrorKind::Failed, format!("`{}` still has image {}", c.name, c.image_id))),
        }
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

/// Returns the arguments by which Compose finds the project's files, for changes of services.
fn arguments(config: &Compose, containers: &[Container], services: &[&str]) -> Result<Vec<String>> {
    let files = files(config, containers, services).ok_or_else(|| {
        Error::new(ErrorKind::Precondition, format!("the files of project `{}` are not known", config.project))
            .hint("set `compose.files`")
    })?;
    match files.missing {
        Some(path) => Err(missing_file(&path)),
        None => Ok(files.arguments),
    }
}

/// Finds the project's files; of the containers' labels, those of `services` come first.
fn files(config: &Compose, containers: &[Container], services: &[&str]) -> Option<Files> {
    let (ours, others): (Vec<_>, Vec<_>) = containers.iter().partition(|c| services.contains(&c.service.as_str()));
    let label = |key: &str| ours.iter().chain(&others).find_map(|c| c.labels.get(key)).filter(|text| !text.is_empty());
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
        let mut files = label(FILES_LABEL).map(split)?;
        // Runs are tidied up, with what they held services to.
        files.retain(|path| path.is_file() || !path.ends_with(Pins::FILE));
        (files, env_files)
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
    fn files_that_held_a_service_to_an_image_are_not_missed_once_they_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (base, pins) = (folder.path().join("compose.yaml"), folder.path().join(Pins::FILE));
        std::fs::write(&base, "").unwrap();
        let of = |service: &str, files: &[&PathBuf]| {
            let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            let mut container = crate::probe::testing::backend::container(service);
            container.labels.insert(FILES_LABEL.into(), files.join(","));
            container
        };
        let containers = [of("nginx", &[&base]), of("app", &[&base, &pins])];
        let config = Compose { project: "p".into(), files: vec![], env_files: vec![], host: None, context: None };
        let named = |services: &[&str]| {
            let files = files(&config, &containers, services).unwrap();
            assert_eq!(files.missing, None);
            files.arguments.iter().filter(|argument| *argument == "-f").count()
        };
        assert_eq!((named(&["app"]), named(&[])), (1, 1));
        std::fs::write(&pins, "").unwrap();
        assert_eq!((named(&["app"]), named(&[])), (2, 1), "those of the service that is meant");
    }

    #[test]
    fn quoted_values_do_not_reach_a_message() {
        let text = r#"invalid value "hunter2" for service "app""#;
        assert_eq!(without_values(text), "invalid value \"…\" for service \"…\"");
    }
}
