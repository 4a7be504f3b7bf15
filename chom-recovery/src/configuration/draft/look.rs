//! What a running project tells about itself.

use std::{collections::BTreeMap, io::Read, path::PathBuf, sync::Arc};

use super::{
    DraftRequest, monitoring,
    trees::{self, FoundTree},
};
use crate::{
    backend::{Backend, Container, ContainerEnvironment, MountSource, Place},
    error::{Error, ErrorKind, Result},
    probe::{HealthProbe, Status, fpm::FpmProbe, redis::Session},
    secret::SecretSource,
    stream,
    system::{Monitoring, PhpFpm, Redis},
};

/// Variables that name a file with root's password, in the order in which the official images look at them.
const PASSWORD_FILES: [&str; 2] = ["MYSQL_ROOT_PASSWORD_FILE", "MARIADB_ROOT_PASSWORD_FILE"];
/// Variables that hold it.
const PASSWORDS: [&str; 2] = ["MYSQL_ROOT_PASSWORD", "MARIADB_ROOT_PASSWORD"];
/// Where images keep data by default.
const DATA_DIR: &str = "/var/lib/mysql";
/// Where applications usually lie in their images.
const APPLICATION_DIRS: [&str; 6] = ["/var/www/html", "/srv/app", "/app", "/var/www", "/opt/app", "/usr/src/app"];
/// Longest file that is read from a container.
const FILE_LIMIT: usize = 1 << 20;
/// Most keys of redis that are looked at.
const KEYS_LIMIT: usize = 2_000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) database: FoundDatabase,
    pub(super) application: FoundApplication,
    pub(super) redis: Option<FoundRedis>,
    pub(super) http: Option<FoundHttp>,
    pub(super) monitoring: Monitoring,
    pub(super) trees: Vec<FoundTree>,
    pub(super) repository: String,
    pub(super) guessed: Vec<String>,
    pub(super) missing: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct FoundDatabase {
    pub(super) service: String,
    pub(super) data_dir: String,
    pub(super) password_file: PathBuf,
}

#[derive(Debug, Default)]
pub(super) struct FoundApplication {
    pub(super) service: String,
    pub(super) web_service: String,
    pub(super) workers: Vec<String>,
    /// Folder of `artisan`.
    pub(super) directory: Option<String>,
    /// Whether php-fpm answers at its usual port.
    pub(super) has_php_fpm: bool,
    /// Component and path of its environment file.
    pub(super) environment: Option<(String, PathBuf)>,
}

#[derive(Debug, Default)]
pub(super) struct FoundRedis {
    pub(super) service: String,
    pub(super) database: u32,
    pub(super) prefix: String,
    pub(super) queue: String,
    pub(super) heartbeat_key: Option<String>,
    pub(super) queue_heartbeat_key: Option<String>,
}

#[derive(Debug)]
pub(super) struct FoundHttp {
    pub(super) url: String,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) connect_to: Option<std::net::SocketAddr>,
}

pub(super) async fn look(backend: &Arc<dyn Backend>, request: &DraftRequest) -> Result<Found> {
    let project = backend.project().to_owned();
    let containers = backend.containers().await?;
    if containers.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("project `{project}` has no containers"))
            .with("engine", backend.engine_address())
            .hint("start it, or give the name that `docker compose ls` shows"));
    }
    let mut found = Found { id: id_of(&project), state_dir: request.state_dir.clone(), ..Found::default() };
    let database = look_at_database(backend, request, &containers, &mut found).await?;
    let redis = containers.iter().find(|c| is_redis(c));
    let rest: Vec<&Container> = containers
        .iter()
        .filter(|c| c.service != database.service && redis.is_none_or(|r| r.service != c.service))
        .collect();
    let variables = look_at_application(backend, &rest, &mut found).await;
    if let Some(redis) = redis {
        found.redis = Some(look_at_redis(backend, redis, &variables, &mut found.guessed, &mut found.missing).await);
    }
    look_at_http(request, &variables, &mut found);
    let watched = monitoring::look(backend, &containers).await;
    found.monitoring = watched.settings;
    found.guessed.extend(watched.guessed);
    found.missing.extend(watched.missing);
    found.trees = trees::look(backend, &containers, &database.service, redis).await?;
    for tree in &found.trees {
        match tree.obstacle {
            Some(why) => found.missing.push(format!("component {}: {why}; it is only proposed", tree.name)),
            None => found.guessed.push(format!("component {}: backed up with the database", tree.name)),
        }
    }
    let application = containers.iter().find(|c| c.service == found.application.service);
    if let (Some(application), Some(directory)) = (application, &found.application.directory) {
        found.application.environment = trees::environment(&found.trees, application, directory);
    }
    if let Some((component, path)) = &found.application.environment {
        found.guessed.push(format!("application.environment = `{}` of component {component}", path.display()));
    }
    found.repository = request.repository.clone().unwrap_or_else(|| {
        found
            .missing
            .push("repository.url: where backups lie; another disk than the database's, better another host".into());
        format!("file:/var/backups/{}", found.id)
    });
    Ok(found)
}

/// Makes a system's id of a project's name, which may hold `_`.
fn id_of(project: &str) -> String {
    let id: String = project
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(32)
        .collect();
    let id = id.trim_matches('-');
    if id.is_empty() { "system".into() } else { id.to_owned() }
}

fn words(container: &Container) -> String {
    format!("{} {} {}", container.service, container.image, container.command.join(" ")).to_ascii_lowercase()
}

fn has_any(text: &str, wanted: &[&str]) -> bool {
    wanted.iter().any(|word| text.contains(word))
}

fn is_redis(container: &Container) -> bool {
    has_any(&words(container), &["redis", "valkey", "keydb"])
}

async fn look_at_database<'a>(
    backend: &Arc<dyn Backend>,
    request: &DraftRequest,
    containers: &'a [Container],
    found: &mut Found,
) -> Result<&'a Container> {
    let mut best: Option<(u32, &Container, ContainerEnvironment)> = None;
    for container in containers {
        let environment = backend.environment(&container.name).await?;
        let mut score = 0;
        score += 4 * u32::from(container.data_at(DATA_DIR).is_some());
        score += 2 * u32::from(has_any(&container.image.to_ascii_lowercase(), &["mysql", "mariadb", "percona"]));
        score += 2 * u32::from(PASSWORD_FILES.iter().chain(&PASSWORDS).any(|v| environment.get(v).is_some()));
        if score >= 2 && best.as_ref().is_none_or(|(most, ..)| score > *most) {
            best = Some((score, container, environment));
        }
    }
    let Some((_, container, environment)) = best else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("no service of project `{}` looks like MySQL or MariaDB", backend.project()),
        )
        .with("services", containers.iter().map(|c| c.service.as_str()).collect::<Vec<_>>().join(", "))
        .hint("write the configuration by hand: README, section \"Configuration\""));
    };
    found.guessed.push(format!("database.service = {}: image `{}`", container.service, container.image));
    let mounted = container.data_at(DATA_DIR).map(|_| DATA_DIR.to_owned());
    let data_dir = mounted.unwrap_or_else(|| {
        let volumes = container.mounts.iter().filter(|m| matches!(m.source, MountSource::Volume(_)));
        volumes.map(|m| m.target.clone()).next().unwrap_or_else(|| {
            found.missing.push("database.data_dir: the database has no volume; only a volume can be swapped".into());
            DATA_DIR.into()
        })
    });
    found.database = FoundDatabase {
        service: container.service.clone(),
        data_dir,
        password_file: password_file(backend, request, container, &environment, found).await,
    };
    Ok(container)
}

/// Finds the file on this host that the server's image read root's password from.
async fn password_file(
    backend: &Arc<dyn Backend>,
    request: &DraftRequest,
    container: &Container,
    environment: &ContainerEnvironment,
    found: &mut Found,
) -> PathBuf {
    if let Some(file) = &request.database_password_file {
        return file.clone();
    }
    let fallback = PathBuf::from("/etc/chom-recovery/database-password");
    let named = PASSWORD_FILES.iter().find_map(|name| Some((*name, environment.get(name)?)));
    let Some((variable, target)) = named else {
        found.missing.push(format!(
            "database.password: put root's password into `{}`, mode 0600{}",
            fallback.display(),
            if PASSWORDS.iter().any(|v| environment.get(v).is_some()) {
                "; the container has it in its environment, where everybody who reaches the Engine can read it"
            } else {
                ""
            }
        ));
        return fallback;
    };
    let source = container.mounts.iter().find_map(|mount| match &mount.source {
        MountSource::HostPath(host) if mount.target == target => Some(PathBuf::from(host)),
        MountSource::HostPath(host) => {
            let rest = target.strip_prefix(&mount.target)?.strip_prefix('/')?;
            Some(PathBuf::from(host).join(rest))
        }
        _ => None,
    });
    let is_local = backend.engine().await.is_ok_and(|engine| engine.is_local);
    match source {
        Some(file) if is_local => {
            found.guessed.push(format!("database.password = {}: mounted where {variable} points", file.display()));
            file
        }
        _ => {
            found.missing.push(format!(
                "database.password: put root's password (the container has it at `{target}`) into `{}`, mode 0600",
                fallback.display()
            ));
            fallback
        }
    }
}

/// Finds the services of the application; returns its variables.
async fn look_at_application(
    backend: &Arc<dyn Backend>,
    rest: &[&Container],
    found: &mut Found,
) -> BTreeMap<String, String> {
    const WORKER: [&str; 7] = ["queue", "worker", "horizon", "schedule", "cron", "supervisor", "reverb"];
    const WEB: [&str; 6] = ["nginx", "apache", "httpd", "caddy", "traefik", "haproxy"];
    // The image's name says what a web server is; every container of the application has the application's image.
    let is_web = |c: &Container| has_any(&format!("{} {}", c.service, c.image).to_ascii_lowercase(), &WEB);
    let is_worker = |c: &Container| {
        has_any(&format!("{} {}", c.service, c.command.join(" ")).to_ascii_lowercase(), &WORKER) && !is_web(c)
    };
    let application = rest
        .iter()
        .filter(|c| !is_worker(c) && !is_web(c))
        .max_by_key(|c| {
            u32::from(has_any(&words(c), &["fpm", "php", "laravel"])) * 2 + u32::from(has_any(&words(c), &["app"]))
        })
        .or_else(|| rest.iter().find(|c| is_web(c)));
    let Some(application) = application else {
        found.missing.push("application.service: no service looks like the application".into());
        found.application =
            FoundApplication { service: "app".into(), web_service: "web".into(), ..FoundApplication::default() };
        return BTreeMap::new();
    };
    found.guessed.push(format!("application.service = {}: image `{}`", application.service, application.image));
    let web = rest.iter().find(|c| is_web(c)).map_or_else(|| application.service.clone(), |c| c.service.clone());
    found.guessed.push(format!("application.web_service = {web}"));
    let mut workers: Vec<String> = rest
        .iter()
        .filter(|c| c.service != application.service && c.service != web)
        .filter(|c| is_worker(c) || c.image_id == application.image_id)
        .map(|c| c.service.clone())
        .collect();
    workers.sort();
    workers.dedup();
    if !workers.is_empty() {
        found.guessed.push(format!("application.workers = {}: by commands and image", workers.join(", ")));
    }
    let others: Vec<&str> = rest
        .iter()
        .map(|c| c.service.as_str())
        .filter(|s| *s != application.service && *s != web && !workers.iter().any(|w| w == s))
        .collect();
    if !others.is_empty() {
        found
            .missing
            .push(format!("application.workers: add those of {} that write to the database", others.join(", ")));
    }
    let directory = application_directory(backend, application).await;
    match &directory {
        Some(directory) => {
            found.guessed.push(format!("application.maintenance.directory = {directory}: holds artisan"));
        }
        None => found
            .missing
            .push("application.maintenance: no `artisan` was found; users are kept out by stopping it".into()),
    }
    let variables = variables(backend, application, directory.as_deref()).await;
    let fpm = FpmProbe::new(backend.clone(), &application.service, PhpFpm::default());
    let has_php_fpm = fpm.check().await.status <= Status::Degraded;
    if has_php_fpm {
        found.guessed.push("application.php_fpm: it answers at port 9000".into());
    }
    found.application = FoundApplication {
        service: application.service.clone(),
        web_service: web,
        workers,
        directory,
        has_php_fpm,
        environment: None,
    };
    variables
}

async fn application_directory(backend: &Arc<dyn Backend>, container: &Container) -> Option<String> {
    let mounted = container.mounts.iter().filter_map(|m| m.target.strip_suffix("/storage")).map(str::to_owned);
    let candidates = mounted.chain(APPLICATION_DIRS.map(str::to_owned));
    for directory in candidates {
        if read_file(backend, container, &format!("{directory}/artisan")).await.is_some() {
            return Some(directory);
        }
    }
    None
}

/// Reads a regular file out of a container; `None`: there is none.
async fn read_file(backend: &Arc<dyn Backend>, container: &Container, path: &str) -> Option<String> {
    let tar = backend.read_archive(&Place::Container(container.name.clone()), path).await.ok()?;
    let bytes = stream::collect(tar, FILE_LIMIT).await.ok()?;
    let mut archive = tar::Archive::new(bytes.as_ref());
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    if !entry.header().entry_type().is_file() {
        return None;
    }
    let mut text = String::new();
    entry.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Names that matter to a draft. Nothing else is taken, so that no secret is.
const VARIABLES: [&str; 6] = ["APP_NAME", "APP_URL", "REDIS_PREFIX", "REDIS_DB", "REDIS_QUEUE", "REDIS_PASSWORD"];

/// Collects the variables that the application sees: its environment wins over its files, as in Laravel.
async fn variables(
    backend: &Arc<dyn Backend>,
    container: &Container,
    directory: Option<&str>,
) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut take = |name: &str, value: &str| {
        if VARIABLES.contains(&name) && !value.is_empty() {
            // Whether there is a password matters, not which.
            let value = if name == "REDIS_PASSWORD" { "set" } else { value };
            found.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    };
    if let Ok(environment) = backend.environment(&container.name).await {
        for name in VARIABLES {
            environment.get(name).into_iter().for_each(|value| take(name, value));
        }
    }
    let mounted = container
        .mounts
        .iter()
        .map(|m| m.target.clone())
        .filter(|t| t.rsplit('/').next().is_some_and(|n| n.contains("env")));
    let files: Vec<String> = directory.map(|d| format!("{d}/.env")).into_iter().chain(mounted).collect();
    for file in files {
        for line in read_file(backend, container, &file).await.unwrap_or_default().lines() {
            if let Some((name, value)) = line.trim().split_once('=') {
                take(name.trim(), value.trim().trim_matches(['"', '\'']));
            }
        }
    }
    found
}

async fn look_at_redis(
    backend: &Arc<dyn Backend>,
    container: &Container,
    variables: &BTreeMap<String, String>,
    guessed: &mut Vec<String>,
    missing: &mut Vec<String>,
) -> FoundRedis {
    let prefix = match (variables.get("REDIS_PREFIX"), variables.get("APP_NAME")) {
        (Some(prefix), _) => prefix.clone(),
        // Laravel's default, `Str::slug(APP_NAME, '_').'_database_'` (config/database.php).
        (None, Some(name)) => format!("{}_database_", slug(name)),
        (None, None) => {
            missing.push("redis.prefix: Laravel's prefix of keys; queues are not seen without it".into());
            String::new()
        }
    };
    guessed.push(format!("redis.service = {}, prefix `{prefix}`", container.service));
    let mut found = FoundRedis {
        service: container.service.clone(),
        database: variables.get("REDIS_DB").and_then(|n| n.parse().ok()).unwrap_or(0),
        queue: variables.get("REDIS_QUEUE").cloned().unwrap_or_else(|| "default".into()),
        prefix,
        heartbeat_key: None,
        queue_heartbeat_key: None,
    };
    let wants_password =
        variables.contains_key("REDIS_PASSWORD") || container.command.iter().any(|c| c == "--requirepass");
    if wants_password {
        missing.push("redis.password: redis wants one; name a file with it".into());
        return found;
    }
    let beats = heartbeats(backend, &found).await.unwrap_or_default();
    let named = |name: &str| beats.iter().find(|key| key.contains(name)).cloned();
    (found.heartbeat_key, found.queue_heartbeat_key) = (named("schedul"), named("queue"));
    match &found.queue_heartbeat_key {
        Some(key) => guessed.push(format!("partial.queue_heartbeat_key = {key}: the key exists")),
        None => missing
            .push("partial.queue_heartbeat_key: a key that a queue worker refreshes, to see that it works".into()),
    }
    match &found.heartbeat_key {
        Some(key) => guessed.push(format!("redis.heartbeat_key = {key}: the key exists")),
        None => missing.push("redis.heartbeat_key: a key that the scheduler refreshes, to see that it works".into()),
    }
    found
}

/// Looks for keys that read like a heartbeat, without their prefix.
async fn heartbeats(backend: &Arc<dyn Backend>, found: &FoundRedis) -> Option<Vec<String>> {
    let redis = Redis {
        service: found.service.clone(),
        port: 6379,
        password: None::<SecretSource>,
        address: None,
        database: found.database,
        prefix: found.prefix.clone(),
        queues: Vec::new(),
        heartbeat_key: None,
        heartbeat_age: std::time::Duration::ZERO,
    };
    let mut session = Session::open(&redis, backend).await.ok()?;
    let (mut cursor, mut seen, mut keys) = (0_u64, 0, Vec::new());
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{}*heartbeat*", found.prefix)).arg("COUNT").arg(500);
        let (next, some): (u64, Vec<String>) = session.query(&scan).await.ok()?;
        seen += 500;
        keys.extend(some);
        cursor = next;
        if cursor == 0 || seen >= KEYS_LIMIT {
            break;
        }
    }
    keys.sort();
    Some(keys.iter().filter_map(|key| key.strip_prefix(&found.prefix)).map(str::to_owned).collect())
}

/// Laravel's `Str::slug` with `_`, for names in ASCII.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        if c.is_alphanumeric() {
            slug.push(c);
        } else if !slug.ends_with('_') && !slug.is_empty() && matches!(c, ' ' | '-' | '_') {
            slug.push('_');
        }
    }
    slug.trim_end_matches('_').to_owned()
}

fn look_at_http(request: &DraftRequest, variables: &BTreeMap<String, String>, found: &mut Found) {
    let url = match (&request.url, variables.get("APP_URL")) {
        (Some(url), _) => url.clone(),
        (None, Some(url)) if url.starts_with("http") => {
            found.guessed.push(format!("http url = {url}: APP_URL of the application"));
            url.clone()
        }
        _ => {
            found.missing.push("http: a URL that answers 200 when the application works".into());
            return;
        }
    };
    found.http = Some(FoundHttp { url, ca_file: request.ca_file.clone(), connect_to: request.connect_to });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_valid_whatever_the_project_is_called() {
        for (project, id) in [("chom", "chom"), ("My_Shop.2", "my-shop-2"), ("_x_", "x"), ("___", "system")] {
            assert_eq!(id_of(project), id);
            crate::system::SystemId::try_from(id_of(project)).unwrap();
        }
    }

    #[test]
    fn slugs_are_those_of_the_framework() {
        for (name, wanted) in [("chom", "chom"), ("My Shop", "my_shop"), ("A  b-c", "a_b_c"), ("Dr. Who", "dr_who")] {
            assert_eq!(slug(name), wanted);
        }
    }
}
