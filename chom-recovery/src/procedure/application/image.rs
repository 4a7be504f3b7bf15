//! The images that the application's services run on, and putting services back on those that a backup recorded.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::mins;
use crate::{
    backend::{Backend, BackendExt, Container, ContainerState, ModelSource, Pins},
    catalog::{BackupId, Catalog, Selector, image_note},
    error::{Error, ErrorKind, Result},
    procedure::{
        Parts,
        quiesce::{self, Remembered},
    },
    run::{Approvable, Approval, Effect, Run},
    store::pipe,
};

/// Approves that services are put back on other images; the question shows both of each.
#[derive(Debug)]
pub struct ReplaceImages;

impl Approvable for ReplaceImages {
    const NAME: &'static str = "replace-images";
}

/// A service that runs on another image than a backup recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) service: String,
    /// What its containers were made from: a name, or the id itself.
    reference: String,
    /// Ids.
    now: String,
    then: String,
    backup: BackupId,
    /// Name by which a registry gives out the recorded one.
    digest: Option<String>,
    /// Exit code of a container that ends by itself on it.
    ends: Option<i64>,
}

impl Change {
    /// Says it to whoever reads a report.
    pub(super) fn remark(&self) -> String {
        format!(
            "`{}` runs image {}, and ran {} when backup {} was taken: if that release is at fault, deploy the one before it, \
             or `chom-recovery recover application --method image`",
            self.service, self.now, self.then, self.backup
        )
    }

    /// Says it where nothing but the image explains that the service ends.
    pub(super) fn suspicion(&self) -> Option<String> {
        let code = self.ends?;
        Some(format!(
            "`{}` ends with exit code {code} on image {}, and ran on {} when backup {} was taken; code and settings are \
             good: chom-recovery recover application --method image",
            self.service, self.now, self.then, self.backup
        ))
    }
}

/// Compares images with those that a backup recorded; each service once.
pub(super) async fn changes(
    parts: &Parts,
    which: &Selector,
    containers: &[Container],
    services: &[String],
) -> Result<(BackupId, Vec<Change>)> {
    let catalog = Catalog::clone(&parts.catalog).holding_anything();
    let backup = catalog.select(which).await?;
    let reader = catalog.open(&backup.place).await?;
    let facts = &reader.manifest().facts;
    let compose = facts.compose.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, format!("backup {} recorded no images", backup.id()))
            .hint("name another one: `--backup ID`")
    })?;
    let mut found: Vec<Change> = Vec::new();
    for container in containers.iter().filter(|c| services.contains(&c.service)) {
        let Some(then) = compose.images.get(&container.service).filter(|id| **id != container.image_id) else {
            continue;
        };
        if found.iter().any(|change| change.service == container.service) {
            continue;
        }
        let has_ended = matches!(container.state, ContainerState::Exited | ContainerState::Restarting);
        found.push(Change {
            service: container.service.clone(),
            reference: container.image.clone(),
            now: container.image_id.clone(),
            then: then.clone(),
            backup: backup.id(),
            digest: facts.notes.get(&image_note(&container.service)).cloned(),
            ends: container.exit_code.filter(|code| has_ended && *code != 0),
        });
    }
    Ok((backup.id(), found))
}

/// Services that may be put back.
pub(super) struct Ready {
    changes: Vec<Change>,
    approval: Approval<ReplaceImages>,
}

/// Finds the recorded images on the Engine's host, and asks whether services may be put back on them. Nobody is stopped.
pub(super) async fn make_ready(run: &Run, parts: &Parts, which: &Selector) -> Result<Ready> {
    let changes: Vec<Change> = run.decide("images", find(parts, which)).await?;
    let each = changes.iter().map(|c| format!("`{}` from {} ({}) to {}", c.service, c.now, c.reference, c.then));
    let approval = run
        .approve::<ReplaceImages>(&format!(
            "put services of project `{}` on {} back on the images that backup {} recorded: {}; their containers are made \
             anew, and what those hold outside of volumes is lost",
            parts.backend.project(),
            parts.backend.engine_address(),
            changes.first().map(|c| c.backup.to_string()).unwrap_or_default(),
            each.collect::<Vec<_>>().join(", "),
        ))
        .await?;
    Ok(Ready { changes, approval })
}

async fn find(parts: &Parts, which: &Selector) -> Result<Vec<Change>> {
    let backend = &parts.backend;
    let services: Vec<String> = parts.system.writers().into_iter().map(str::to_owned).collect();
    let (backup, changes) = changes(parts, which, &backend.containers().await?, &services).await?;
    if changes.is_empty() {
        let what = format!("every service of the application runs on the image that backup {backup} recorded");
        return Err(Error::new(ErrorKind::Precondition, what)
            .hint("name a backup from before the release: `--backup ID`; `chom-recovery backup list`"));
    }
    if backend.model().await?.source != ModelSource::Files {
        return Err(Error::new(ErrorKind::Precondition, "the project's Compose files cannot be read from here")
            .hint("set `compose.files` to the project's files on this machine"));
    }
    for change in &changes {
        if backend.image(&change.then).await?.is_none() {
            return Err(missing(change));
        }
    }
    Ok(changes)
}

/// What a person has to do where the recorded image is not on the Engine's host.
fn missing(change: &Change) -> Error {
    let Change { service, then, backup, .. } = change;
    let what =
        format!("image {then}, on which `{service}` ran when backup {backup} was taken, is not on the Engine's host");
    let error = Error::new(ErrorKind::Precondition, what);
    match &change.digest {
        Some(digest) => error.hint(format!("docker pull {digest}, and recover again: it brings the same image")),
        None => error.hint(
            "it was in no registry when the backup was taken: build that release again and deploy it, or name a backup whose \
             image is still there: `--backup ID`",
        ),
    }
}

/// Makes the containers anew with the recorded images. The services are stopped, and go on being so.
pub(super) async fn put_in_place(
    run: &Run,
    parts: &Parts,
    ready: Ready,
    before: &[Remembered],
    done: &mut Vec<String>,
    to_review: &mut Vec<String>,
) -> Result<()> {
    let Ready { changes, approval } = ready;
    for change in &changes {
        let Change { service, reference, now, then, backup, .. } = change;
        done.push(format!(
            "`{service}` is on image {then} again, as in backup {backup}, instead of {now} ({reference})"
        ));
    }
    let services: Vec<String> = changes.iter().map(|c| c.service.clone()).collect();
    to_review.push(format!(
        "the Compose files still name another image for {}: say it there, or the next `docker compose up` brings that back",
        services.iter().map(|service| format!("`{service}`")).collect::<Vec<_>>().join(", ")
    ));
    let pins = Pins {
        file: run.directory().join(Pins::FILE),
        images: changes.iter().map(|c| (c.service.clone(), c.then.clone())).collect(),
    };
    let users: Vec<Remembered> = before.iter().filter(|one| services.contains(&one.service)).cloned().collect();
    let (acting, undoing, to_undo, file) = (parts.clone(), parts.clone(), changes.clone(), pins.file.clone());
    let grace = parts.system.application.stop_grace;
    run.step("replace")
        .effect(Effect::Idempotent)
        .approved(approval)
        .input(&changes)
        .predict(|| ())
        .budget(Duration::from_secs(30))
        .timeout(mins(6))
        .undo_text("stop the services and make their containers anew with the images before")
        .undo_with(async move |_, _: Option<()>| {
            quiesce::stop(&*undoing.backend, &users, grace).await?;
            quiesce::prove_stopped(&*undoing.backend, &users).await?;
            put_back(&undoing.backend, &to_undo, file).await
        })
        .run(async move |_| acting.backend.recreate(&services, Some(&pins)).await)
        .await
}

/// Puts services back on the images before: without a pin where the name that they were made from still leads there.
async fn put_back(backend: &Arc<dyn Backend>, changes: &[Change], file: PathBuf) -> Result<()> {
    let services: Vec<String> = changes.iter().map(|c| c.service.clone()).collect();
    let mut is_named = true;
    for change in changes {
        let named = backend.image(&change.reference).await?;
        is_named &= change.reference != change.now && named.is_some_and(|image| image.id == change.now);
    }
    if is_named {
        let file = file.clone();
        pipe::blocking(move || match std::fs::remove_file(file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        })
        .await?;
        backend.recreate(&services, None).await?;
    }
    let images = changes.iter().map(|c| (c.service.clone(), c.now.clone())).collect();
    // A name may lead elsewhere by what the Compose files say now.
    if !is_named || !are_on(backend, changes).await? {
        backend.recreate(&services, Some(&Pins { file, images })).await?;
    }
    Ok(())
}

async fn are_on(backend: &Arc<dyn Backend>, changes: &[Change]) -> Result<bool> {
    for change in changes {
        if backend.service_containers(&change.service).await?.iter().any(|c| c.image_id != change.now) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(digest: Option<&str>, ends: Option<i64>) -> Change {
        Change {
            service: "app".into(),
            reference: "shop/app:2".into(),
            now: "sha256:22".into(),
            then: "sha256:11".into(),
            backup: "01M8EQEK0HJMHW739DR8MCYJM6".parse().unwrap(),
            digest: digest.map(str::to_owned),
            ends,
        }
    }

    #[test]
    fn what_a_person_has_to_do_for_an_image_that_is_gone_is_said() {
        let pulled = missing(&change(Some("shop/app@sha256:33"), None));
        assert_eq!(pulled.kind(), ErrorKind::Precondition);
        assert!(pulled.hint_text().unwrap().starts_with("docker pull shop/app@sha256:33"));
        assert!(missing(&change(None, None)).hint_text().unwrap().contains("build that release"));
    }

    #[test]
    fn only_a_service_that_ends_makes_its_image_suspect() {
        assert_eq!(change(None, None).suspicion(), None);
        let suspicion = change(None, Some(127)).suspicion().unwrap();
        assert!(suspicion.contains("exit code 127") && suspicion.ends_with("--method image"), "{suspicion}");
    }
}
