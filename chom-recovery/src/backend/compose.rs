//! Reads the model of a Compose project: from `docker compose config --format json`, or from container labels.
//!
//! Only the fields that recovery needs are taken: the rest of the resolved file holds passwords and is dropped
//! unread. Unknown fields are ignored, since Compose adds some with every release.
//!
//! # Source
//! Compose specification; labels: `pkg/api/labels.go` of docker/compose.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Condition, Container, Dependency, ModelSource, Mount, MountSource, Project, Service};
use crate::error::{Error, ErrorKind, Result};

/// Label that names the project of a container, volume or network.
pub const PROJECT_LABEL: &str = "com.docker.compose.project";
/// Label that names the service of a container.
pub const SERVICE_LABEL: &str = "com.docker.compose.service";
/// Label that is `True` on containers of `docker compose run`.
pub const ONE_OFF_LABEL: &str = "com.docker.compose.oneoff";
/// Label with a service's dependencies, `name:condition:restart` joined by commas.
pub const DEPENDS_ON_LABEL: &str = "com.docker.compose.depends_on";
/// Label with the project's files, joined by commas.
pub const FILES_LABEL: &str = "com.docker.compose.project.config_files";
/// Label with the environment files that were given, joined by commas.
pub const ENV_FILES_LABEL: &str = "com.docker.compose.project.environment_file";
/// Label with the project's folder.
pub const FOLDER_LABEL: &str = "com.docker.compose.project.working_dir";
/// Label with the key of a volume in the file.
pub const VOLUME_LABEL: &str = "com.docker.compose.volume";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    services: BTreeMap<String, FileService>,
    #[serde(default)]
    volumes: BTreeMap<String, Option<FileVolume>>,
}

#[derive(Deserialize)]
struct FileService {
    image: Option<String>,
    #[serde(default)]
    depends_on: FileDependencies,
    #[serde(default)]
    volumes: Vec<FileMount>,
    #[serde(default)]
    volumes_from: Vec<String>,
    #[serde(default)]
    links: Vec<String>,
    network_mode: Option<String>,
    scale: Option<u32>,
    deploy: Option<FileDeploy>,
    healthcheck: Option<FileHealthCheck>,
    container_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum FileDependencies {
    Long(BTreeMap<String, FileDependency>),
    Short(Vec<String>),
    #[default]
    Absent,
}

#[derive(Deserialize)]
struct FileDependency {
    condition: Option<String>,
}

#[derive(Deserialize)]
struct FileMount {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    target: String,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
struct FileDeploy {
    replicas: Option<u32>,
}

#[derive(Deserialize)]
struct FileHealthCheck {
    #[serde(default)]
    disable: bool,
    #[serde(default)]
    test: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct FileVolume {
    name: Option<String>,
}

/// Reads the output of `docker compose config --format json`.
///
/// # Errors
/// `InvalidInput`: not such a document, a dependency on a service that does not exist, or a cycle. The text itself
/// is never quoted: it holds the project's secrets.
pub fn from_config(project: &str, json: &[u8]) -> Result<Project> {
    let file: File = serde_json::from_slice(json).map_err(|e| {
        // The message of a data error quotes the value; its place does not.
        Error::new(ErrorKind::InvalidInput, "the output of `docker compose config` is not as expected")
            .with("line", e.line())
            .with("column", e.column())
    })?;
    let volumes: BTreeMap<String, String> = file
        .volumes
        .into_iter()
        .map(|(key, volume)| {
            let name = volume.and_then(|v| v.name).unwrap_or_else(|| format!("{project}_{key}"));
            (key, name)
        })
        .collect();
    let services = file.services.into_iter().map(|(name, service)| service_of(name, service, &volumes)).collect();
    Ok(Project { name: project.into(), services: sorted(services)?, volumes, source: ModelSource::Files })
}

fn service_of(name: String, file: FileService, volumes: &BTreeMap<String, String>) -> Service {
    let mut edges = Edges::default();
    match file.depends_on {
        FileDependencies::Long(map) => {
            for (service, dependency) in map {
                edges.add(&service, condition(dependency.condition.as_deref()));
            }
        }
        FileDependencies::Short(names) => names.iter().for_each(|service| edges.add(service, Condition::Started)),
        FileDependencies::Absent => {}
    }
    if let Some(service) = file.network_mode.as_deref().and_then(|mode| mode.strip_prefix("service:")) {
        edges.add(service, Condition::Started);
    }
    for from in &file.volumes_from {
        // `service[:ro]`, or `container:name`, which is no service of the project.
        if !from.starts_with("container:") {
            edges.add(from.split(':').next().unwrap_or(from), Condition::Started);
        }
    }
    for link in &file.links {
        edges.add(link.split(':').next().unwrap_or(link), Condition::Started);
    }
    let mounts = file
        .volumes
        .into_iter()
        .filter_map(|mount| {
            let source = match (mount.kind.as_str(), mount.source) {
                ("volume", Some(key)) => MountSource::Volume(volumes.get(&key).cloned().unwrap_or(key)),
                ("bind", Some(path)) => MountSource::HostPath(path),
                ("tmpfs", _) => MountSource::Tmpfs,
                // An anonymous volume gets its name from the Engine.
                _ => return None,
            };
            Some(Mount { source, target: mount.target, read_only: mount.read_only })
        })
        .collect();
    let has_health_check = file.healthcheck.is_some_and(|check| !check.disable && !is_none_test(check.test.as_ref()));
    Service {
        name,
        image: file.image,
        depends_on: edges.into_list(),
        mounts,
        replicas: file.deploy.and_then(|d| d.replicas).or(file.scale).unwrap_or(1),
        has_health_check,
        has_fixed_name: file.container_name.is_some(),
    }
}

fn is_none_test(test: Option<&serde_json::Value>) -> bool {
    test.and_then(|t| t.as_array()).and_then(|t| t.first()).and_then(|t| t.as_str()) == Some("NONE")
}

fn condition(text: Option<&str>) -> Condition {
    match text {
        Some("service_healthy") => Condition::Healthy,
        Some("service_completed_successfully") => Condition::Completed,
        _ => Condition::Started,
    }
}

/// Dependencies of one service; of two edges to the same service the stricter condition counts.
#[derive(Default)]
struct Edges(BTreeMap<String, Condition>);

impl Edges {
    fn add(&mut self, service: &str, condition: Condition) {
        let entry = self.0.entry(service.to_owned()).or_insert(condition);
        if *entry == Condition::Started {
            *entry = condition;
        }
    }

    fn into_list(self) -> Vec<Dependency> {
        self.0.into_iter().map(|(service, condition)| Dependency { service, condition }).collect()
    }
}

/// Describes a project by the labels of its containers.
///
/// # Errors
/// `NotFound`: there are none. `InvalidInput`: the dependencies form a cycle.
pub fn from_labels(project: &str, containers: &[Container]) -> Result<Project> {
    if containers.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("project `{project}` has no containers and no files"))
            .hint("check `compose.project` and `compose.files`, and that this is the right Engine"));
    }
    let services = labelled_services(containers);
    let volumes = generated_volumes(project, &services);
    Ok(Project { name: project.into(), services: sorted(services)?, volumes, source: ModelSource::Labels })
}

/// Describes a project by its services, for backends that keep them themselves.
///
/// # Errors
/// `InvalidInput`: the dependencies form a cycle.
pub fn project(name: &str, services: Vec<Service>) -> Result<Project> {
    let volumes = generated_volumes(name, &services);
    Ok(Project { name: name.into(), services: sorted(services)?, volumes, source: ModelSource::Files })
}

/// The key of a volume is not in a container's labels; Compose's own naming gives it.
fn generated_volumes(project: &str, services: &[Service]) -> BTreeMap<String, String> {
    let prefix = format!("{project}_");
    services
        .iter()
        .flat_map(|service| &service.mounts)
        .filter_map(|mount| match &mount.source {
            MountSource::Volume(name) => name.strip_prefix(&prefix).map(|key| (key.to_owned(), name.clone())),
            _ => None,
        })
        .collect()
}

/// Adds the services that have containers but are not in the files as they were read, for example those of a
/// profile.
///
/// # Errors
/// `InvalidInput`: the dependencies form a cycle.
pub fn complete(mut project: Project, containers: &[Container]) -> Result<Project> {
    let known: BTreeSet<String> = project.services.iter().map(|s| s.name.clone()).collect();
    let more: Vec<_> = labelled_services(containers).into_iter().filter(|s| !known.contains(&s.name)).collect();
    if !more.is_empty() {
        project.services.extend(more);
        project.services = sorted(project.services)?;
    }
    Ok(project)
}

fn labelled_services(containers: &[Container]) -> Vec<Service> {
    let mut services: BTreeMap<&str, Service> = BTreeMap::new();
    for container in containers {
        if let Some(service) = services.get_mut(container.service.as_str()) {
            service.replicas += 1;
            continue;
        }
        let mut edges = Edges::default();
        let label = container.labels.get(DEPENDS_ON_LABEL).map_or("", String::as_str);
        for entry in label.split(',').filter(|entry| !entry.trim().is_empty()) {
            // `name:condition:restart`; releases before 2.3 wrote the name alone.
            let mut parts = entry.trim().split(':');
            edges.add(parts.next().unwrap_or_default(), condition(parts.next()));
        }
        let service = Service {
            name: container.service.clone(),
            image: Some(container.image.clone()),
            depends_on: edges.into_list(),
            mounts: container.mounts.clone(),
            replicas: 1,
            has_health_check: container.health != super::HealthCheck::Absent,
            has_fixed_name: !has_generated_name(container),
        };
        services.insert(container.service.as_str(), service);
    }
    services.into_values().collect()
}

/// Compose names containers `project-service-1`; release 1 used underscores.
fn has_generated_name(container: &Container) -> bool {
    let project = container.labels.get(PROJECT_LABEL).map_or("", String::as_str);
    let number = |name: &str| name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty();
    ['-', '_'].iter().any(|sep| {
        container.name.strip_prefix(&format!("{project}{sep}{}{sep}", container.service)).is_some_and(number)
    })
}

/// Orders services so that each stands after those it depends on; equals stay in alphabetical order.
///
/// A dependency on a service that is not there is kept and ignored for the order: Compose itself writes such labels
/// for optional dependencies.
fn sorted(services: Vec<Service>) -> Result<Vec<Service>> {
    let mut waiting: BTreeMap<String, Service> = services.into_iter().map(|s| (s.name.clone(), s)).collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let next = waiting.values().find(|s| s.depends_on.iter().all(|d| !waiting.contains_key(&d.service)));
        let Some(name) = next.map(|s| s.name.clone()) else {
            let names: Vec<_> = waiting.keys().map(String::as_str).collect();
            return Err(Error::new(ErrorKind::InvalidInput, "services depend on each other in a circle")
                .with("services", names.join(", ")));
        };
        ordered.extend(waiting.remove(&name));
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{
        "name": "shop",
        "services": {
            "app": {
                "image": "shop/app", "environment": {"DB_PASSWORD": "s3cr3t-s3cr3t"},
                "depends_on": {
                    "db": {"condition": "service_healthy", "required": true},
                    "migrate": {"condition": "service_completed_successfully", "required": true}},
                "volumes": [
                    {"type": "volume", "source": "files", "target": "/files", "volume": {}},
                    {"type": "bind", "source": "/etc/x", "target": "/x", "read_only": true, "bind": {}},
                    {"type": "volume", "target": "/anonymous"}],
                "deploy": {"replicas": 2}},
            "db": {"image": "mysql", "healthcheck": {"test": ["CMD", "true"]}, "container_name": "the-db",
                "volumes": [{"type": "volume", "source": "data", "target": "/var/lib/mysql"}]},
            "migrate": {"image": "shop/app", "depends_on": ["db"], "healthcheck": {"disable": true}},
            "aside": {"image": "x", "network_mode": "service:app", "volumes_from": ["container:y"]}},
        "volumes": {"data": {"name": "shop_data"}, "files": {"name": "elsewhere", "external": true}, "bare": null}
    }"#;

    fn names(project: &Project) -> Vec<&str> {
        project.services.iter().map(|s| s.name.as_str()).collect()
    }

    #[test]
    fn every_service_stands_after_what_it_depends_on() {
        let project = from_config("shop", CONFIG.as_bytes()).unwrap();
        assert_eq!(names(&project), ["db", "migrate", "app", "aside"]);
    }

    #[test]
    fn volumes_are_known_by_their_full_names() {
        let project = from_config("shop", CONFIG.as_bytes()).unwrap();
        assert_eq!(project.volumes["data"], "shop_data");
        assert_eq!(project.volumes["files"], "elsewhere");
        assert_eq!(project.volumes["bare"], "shop_bare");
        let app = project.service("app").unwrap();
        assert_eq!(app.mounts.len(), 2);
        assert_eq!(app.mounts[0].source, MountSource::Volume("elsewhere".into()));
        assert!(app.mounts[1].read_only);
    }

    #[test]
    fn conditions_replicas_names_and_health_checks_are_read() {
        let project = from_config("shop", CONFIG.as_bytes()).unwrap();
        let app = project.service("app").unwrap();
        assert_eq!(app.replicas, 2);
        assert_eq!(app.depends_on[0].condition, Condition::Healthy);
        assert_eq!(app.depends_on[1].condition, Condition::Completed);
        let db = project.service("db").unwrap();
        assert!(db.has_fixed_name && db.has_health_check);
        assert!(!project.service("migrate").unwrap().has_health_check);
    }

    #[test]
    fn a_circle_is_refused_by_name() {
        let json = r#"{"services": {"a": {"depends_on": ["b"]}, "b": {"links": ["a:alias"]}, "c": {}}}"#;
        let error = from_config("p", json.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("a, b"), "{error}");
    }

    #[test]
    fn a_broken_document_is_refused_without_quoting_it() {
        let json = r#"{"services": {"a": {"scale": "hunter2-hunter2"}}}"#;
        let error = from_config("p", json.as_bytes()).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn labels_replace_files() {
        let container = |service: &str, number: u32, depends_on: &str| Container {
            id: String::new(),
            name: format!("shop-{service}-{number}"),
            service: service.into(),
            image: "x".into(),
            image_id: String::new(),
            state: super::super::ContainerState::Running,
            health: super::super::HealthCheck::Absent,
            exit_code: None,
            oom_killed: false,
            start_error: None,
            restart_count: 0,
            started_at: None,
            finished_at: None,
            restart_policy: super::super::RestartPolicy::No,
            mounts: Vec::new(),
            command: Vec::new(),
            labels: [(PROJECT_LABEL.into(), "shop".into()), (DEPENDS_ON_LABEL.into(), depends_on.into())].into(),
            published: Vec::new(),
        };
        let containers = [
            container("app", 1, "db:service_healthy:false,gone:service_started:false"),
            container("app", 2, "db:service_healthy:false"),
            container("db", 1, ""),
            container("old", 1, "db"),
        ];
        let project = from_labels("shop", &containers).unwrap();
        assert_eq!(names(&project), ["db", "app", "old"]);
        let app = project.service("app").unwrap();
        assert_eq!((app.replicas, app.has_fixed_name), (2, false));
        assert_eq!(app.depends_on[0].condition, Condition::Healthy);
        assert_eq!(from_labels("shop", &[]).unwrap_err().kind(), ErrorKind::NotFound);
        let files = from_config("shop", br#"{"services": {"db": {}}}"#).unwrap();
        assert_eq!(names(&complete(files, &containers).unwrap()), ["db", "app", "old"]);
    }
}
