//! The application's environment file: what is wrong with it, whether its key is the right one, and whether the database
//! lets the application in with it.

use std::{
    fs::{Metadata, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::{
    backend::{BackendExt, ContainerEnvironment},
    environment::{Environment, KEY, LONGEST},
    error::{Error, ErrorKind, Result},
    files::Root,
    probe::{Class, Health, Status, mysql::Session},
    procedure::{
        Parts,
        locate::{self, Located},
    },
    store::pipe,
    system::{Component, EnvironmentFile, System},
};

mod login;
mod mend;

use login::Login;
pub(super) use mend::{carry_into, make_ready, put_in_place};

/// How many encrypted values are tried: after a change of keys, old ones may come first.
const SAMPLES: u32 = 500;

/// What was seen of the environment file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// What is wrong with it, a line each, without values.
    pub(super) faults: Vec<String>,
    /// Keys that are wrong or missing, and have to come from a backup.
    wanted: Vec<String>,
    /// Services that run with a copy that cannot be used, though the file can.
    pub(super) stale: Vec<String>,
    /// The application has its key from elsewhere.
    has_key: bool,
    /// The database refuses what it says: what is put in its place has to be let in.
    #[serde(default)]
    is_refused: bool,
    /// Settings that the database refuses and that the application's container has from elsewhere: no file mends them.
    #[serde(default)]
    pub(super) elsewhere: Vec<String>,
    /// The database lets in whoever goes by it, and refuses the application, which goes by something older.
    #[serde(default)]
    pub(super) is_behind: bool,
    /// What is only told, a line each.
    pub(super) remarks: Vec<String>,
}

impl Seen {
    pub(super) fn is_broken(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Takes what became of a login with the file's settings. That they are refused counts where something does not serve, or
    /// the application complains as well.
    fn take_login(
        &mut self,
        tried: Login,
        elsewhere: &ContainerEnvironment,
        (is_wrong, boots): (bool, Option<&Health>),
    ) {
        let refused = match tried {
            Login::Untried => return,
            Login::LetIn => {
                self.is_behind = boots.and_then(Health::class_of) == Some(Class::Authentication);
                return;
            }
            Login::Unknown(why) => {
                let remark = format!("whether the database takes what the environment file says is not known: {why}");
                self.remarks.extend(is_wrong.then_some(remark));
                return;
            }
            Login::Refused(refused) => refused,
        };
        let complains = match boots.map(|health| health.status) {
            Some(Status::Healthy) => false,
            Some(Status::Degraded | Status::Down) => true,
            Some(Status::Inconclusive) | None => is_wrong,
        };
        if !complains {
            self.remarks.push(format!(
                "the application logs in, and yet the database refuses what the environment file says ({}): it may not come \
                 back from its next start",
                names(&refused)
            ));
            return;
        }
        let (outer, ours): (Vec<_>, Vec<_>) = refused.into_iter().partition(|name| elsewhere.get(name).is_some());
        if !outer.is_empty() && !ours.is_empty() {
            self.remarks.push(format!(
                "the application's container sets {} by itself: the environment file does not count there",
                names(&outer)
            ));
        }
        self.is_refused = !ours.is_empty();
        self.faults.extend(ours.iter().map(|name| login::fault(name)));
        (self.elsewhere, self.wanted) = (outer, [std::mem::take(&mut self.wanted), ours].concat());
    }

    /// Why no file mends it; `None`: one may.
    pub(super) fn dead_end(&self) -> Option<Error> {
        if self.is_refused || self.elsewhere.is_empty() {
            return None;
        }
        let what = format!(
            "the database refuses the application, and its container has {} from its own environment: the environment file \
             does not count",
            names(&self.elsewhere)
        );
        Some(Error::new(ErrorKind::Precondition, what).hint(
            "correct it where the container gets it from (`environment` or `env_file` of the Compose file), then \
             `docker compose up -d`; nothing here changes a password in the server",
        ))
    }
}

/// Looks at the file, at what the services run with, and at the key. A file that cannot be judged is told, and left alone.
/// Where `is_wrong`, something does not serve: then what an application usually needs and is missing counts too. `boots` is
/// what the application said when it was asked whether it boots and logs in.
pub(super) async fn look(parts: &Parts, is_wrong: bool, boots: Option<&Health>) -> Seen {
    let Some((file, component)) = parts.system.environment_file() else { return Seen::default() };
    match judge(parts, file, component, (is_wrong, boots)).await {
        Ok(seen) => seen,
        Err(error) => {
            Seen { remarks: vec![format!("the environment file was not judged: {error}")], ..Seen::default() }
        }
    }
}

/// Reads the file, so that its secrets are known to whatever is written from here on, in each process of a run.
pub(super) async fn learn(parts: &Parts) {
    if let Some((file, component)) = parts.system.environment_file()
        && let Ok(place) = place(parts, file, component).await
    {
        // What cannot be read is told where it is looked at.
        let _ = pipe::blocking(move || read(&place)).await;
    }
}

async fn judge(
    parts: &Parts,
    file: &EnvironmentFile,
    component: &Component,
    (is_wrong, boots): (bool, Option<&Health>),
) -> Result<Seen> {
    let place = place(parts, file, component).await?;
    let elsewhere = elsewhere(parts).await?;
    let has_key = elsewhere.get(KEY).is_some();
    let Some(environment) = pipe::blocking(move || read(&place)).await? else {
        let faults = vec!["the environment file is not there".into()];
        return Ok(Seen { faults, has_key, ..Seen::default() });
    };
    let mut seen = Seen { faults: environment.faults(has_key), has_key, ..Seen::default() };
    if !has_key && (!environment.has(KEY) || environment.key_fault().is_some()) {
        seen.wanted.push(KEY.into());
    }
    if is_wrong {
        let gaps = environment.gaps().into_iter().filter(|name| elsewhere.get(name).is_none());
        seen.wanted.extend(gaps.clone().map(str::to_owned));
        seen.faults.extend(gaps.map(|name| format!("`{name}` is missing or empty")));
    }
    let tried = login::try_login(parts, &environment, &elsewhere).await;
    seen.take_login(tried, &elsewhere, (is_wrong, boots));
    match key_proof(&parts.system, parts, file, &environment, has_key).await {
        Proof::Unasked => {}
        Proof::Unknown(why) => seen.remarks.push(format!("whether APP_KEY is the right one is not known: {why}")),
        Proof::Opens => seen.remarks.push("APP_KEY opens what the database holds".into()),
        Proof::Closed => {
            seen.wanted.push(KEY.into());
            seen.faults.push(CLOSED.into());
        }
    }
    if is_wrong && !seen.is_broken() {
        for service in parts.system.writers() {
            // A service that cannot be asked is looked at by its probe.
            if let Ok(Some(copy)) = crate::troubleshoot::environment_of(parts, service).await
                && !copy.faults(has_key).is_empty()
            {
                seen.stale.push(service.to_owned());
            }
        }
    }
    Ok(seen)
}

fn names(settings: &[String]) -> String {
    settings.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

const CLOSED: &str = "`APP_KEY` opens nothing of what the application encrypted";

/// What the application's container sets by itself: it counts before the file.
async fn elsewhere(parts: &Parts) -> Result<ContainerEnvironment> {
    let app = parts.backend.service_containers(&parts.system.application.service).await?.swap_remove(0);
    parts.backend.environment(&app.name).await
}

/// Tells when the file was changed; `None`: it is not configured, or not there.
pub(super) async fn changed(parts: &Parts) -> Option<SystemTime> {
    let (file, component) = parts.system.environment_file()?;
    let place = place(parts, file, component).await.ok()?;
    std::fs::symlink_metadata(place.folder()).and_then(|meta| meta.modified()).ok()
}

enum Proof {
    /// Nothing is said to be encrypted.
    Unasked,
    Unknown(String),
    Opens,
    Closed,
}

/// Tries the key on what the application has encrypted.
async fn key_proof(
    system: &System,
    parts: &Parts,
    file: &EnvironmentFile,
    environment: &Environment,
    has_key: bool,
) -> Proof {
    let (Some(column), keys) = (file.column(), environment.keys()) else { return Proof::Unasked };
    if keys.is_empty() || has_key {
        return Proof::Unasked;
    }
    let session = match Session::open(&system.database, &parts.backend).await {
        Ok(session) => session,
        Err(health) => return Proof::Unknown(health.summary),
    };
    let values = match session.server.some_values(column, SAMPLES).await {
        Ok(values) => values,
        Err(error) => return Proof::Unknown(error.to_string()),
    };
    let tried = || keys.iter().flat_map(|key| values.iter().filter_map(|value| key.opens(value)));
    match tried().any(|opens| opens) {
        true => Proof::Opens,
        false if tried().next().is_none() => {
            let column = file.encrypted.as_deref().unwrap_or_default();
            Proof::Unknown(format!("`{column}` holds no encrypted value"))
        }
        false => Proof::Closed,
    }
}

async fn place(parts: &Parts, file: &EnvironmentFile, component: &Component) -> Result<Located> {
    let located = locate::find(&parts.system, &parts.backend, component).await?;
    Ok(Located { below: located.below.join(&file.path), ..located })
}

/// Reads the file, without following links that its users may have put in the way; `None`: it is not there.
fn read(place: &Located) -> Result<Option<Environment>> {
    let failed = |e: Error| e.during(format!("cannot read the environment file `{}`", place.folder().display()));
    match Root::open(&place.mount).and_then(|root| read_below(&root, &place.below)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(|(text, _)| Some(Environment::read(&text))).map_err(failed),
    }
}

/// Reads a file below a folder, and follows no link.
fn read_below(root: &Root, path: &Path) -> Result<(String, Metadata)> {
    let folder = root.below(path.parent().unwrap_or(Path::new("")))?;
    read_text(&folder.path_by_descriptor().join(path.file_name().unwrap_or_default()))
}

fn read_text(path: &Path) -> Result<(String, Metadata)> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > LONGEST as u64 {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no file, or a very long one"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST as u64).read_to_end(&mut bytes)?;
    // Written back, other bytes would be lost.
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "it holds bytes that are not UTF-8"))?;
    Ok((text, meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(elsewhere: &[(&str, &str)], is_wrong: bool, boots: Option<&Health>) -> Seen {
        let refused = Login::Refused(vec!["DB_USERNAME".into(), "DB_PASSWORD".into()]);
        let mut seen = Seen::default();
        seen.take_login(refused, &elsewhere.iter().copied().collect(), (is_wrong, boots));
        seen
    }

    #[test]
    fn a_refused_login_counts_where_the_application_complains() {
        let (well, refused) = (Health::healthy("boots"), Health::down("refused").class(Class::Authentication));
        for (is_wrong, boots, counts) in [
            (false, None, false),
            (true, None, true),
            (false, Some(&refused), true),
            (true, Some(&well), false),
            (false, Some(&well), false),
        ] {
            let seen = taken(&[], is_wrong, boots);
            assert_eq!((seen.is_broken(), seen.remarks.is_empty()), (counts, counts), "{is_wrong} {boots:?}");
            assert_eq!(seen.wanted.len(), if counts { 2 } else { 0 });
        }
        let mut seen = Seen::default();
        seen.take_login(Login::LetIn, &ContainerEnvironment::default(), (true, Some(&refused)));
        assert!(seen.is_behind && !seen.is_broken(), "it goes by something else than the file");
    }

    #[test]
    fn what_the_container_has_from_elsewhere_is_not_looked_for_in_a_backup() {
        let seen = taken(&[("DB_USERNAME", "app")], true, None);
        assert_eq!((&seen.wanted[..], seen.remarks.len()), (&["DB_PASSWORD".to_owned()][..], 1));
        assert!(seen.dead_end().is_none(), "another password may do");
        let seen = taken(&[("DB_USERNAME", "app"), ("DB_PASSWORD", "x")], true, None);
        assert!(!seen.is_broken() && seen.dead_end().unwrap().hint_text().is_some());
    }
}
