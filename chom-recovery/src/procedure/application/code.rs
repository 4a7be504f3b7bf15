//! The application's code: whether PHP can read it at all, by `php -l` in a container of ours, and replacing it.

use std::{path::Path, sync::Arc, time::Duration};

use super::settings;
use crate::{
    backend::{Backend, BackendExt, Container, Mount, MountSource, Network, OneOff, ROLE_LABEL, RUN_LABEL},
    catalog::Selector,
    error::{Error, ErrorKind, Result},
    files::Change,
    procedure::{
        Parts,
        candidate::{self, Candidate},
        files, locate,
        one_off::run_to_end,
    },
    run::{Run, RunId},
    secret::scrub,
    system::{Component, Maintenance, System},
};

/// Role of the container in which code is read.
const ROLE: &str = "code-test";
/// How long that may take.
const LIMIT: Duration = Duration::from_mins(4);
/// Most faults that are kept.
const KEPT: usize = 20;

/// Lets PHP read the code; without any that is known, nothing is said.
pub(super) async fn judge(parts: &Parts, run: RunId) -> Result<Vec<String>> {
    let Some(component) = component(&parts.system) else { return Ok(Vec::new()) };
    let located = locate::find(&parts.system, &parts.backend, component).await?;
    let app = parts.backend.service_containers(&parts.system.application.service).await?.swap_remove(0);
    faults(&*parts.backend, run, &app, &located.folder()).await
}

/// Lets PHP read every file of the code that is not a dependency's, in a container with the application's image, without a
/// network, which cannot write. Runs nothing of the code. Returns what cannot be read, a line each.
async fn faults(backend: &dyn Backend, run: RunId, app: &Container, folder: &Path) -> Result<Vec<String>> {
    const AT: &str = "/code";
    // Of others, or no PHP that is run.
    let pruned = ["*/vendor", "*/node_modules", "*/storage", "/code/tests"];
    let find = ["find", AT].into_iter().chain(pruned.into_iter().flat_map(|path| ["-path", path, "-prune", "-o"]));
    let read = "-type f -name *.php -exec php -d display_errors=0 -d log_errors=0 -l {} ;".split(' ');
    let spec = OneOff {
        name: format!("{}-{ROLE}-{run}", backend.project()),
        image: app.image_id.clone(),
        entrypoint: Some(find.chain(read).map(str::to_owned).collect()),
        command: Vec::new(),
        env: Vec::new(),
        user: None,
        mounts: vec![Mount {
            source: MountSource::HostPath(folder.to_string_lossy().into_owned()),
            target: AT.to_owned(),
            read_only: true,
        }],
        files: Vec::new(),
        network: Network::None,
        own_names: Vec::new(),
        labels: [(RUN_LABEL.to_owned(), run.to_string()), (ROLE_LABEL.to_owned(), ROLE.to_owned())].into(),
        memory: Some(512 << 20),
        start: true,
    };
    let ended = run_to_end(backend, &spec, LIMIT).await.map_err(|e| e.during("cannot test the application's code"))?;
    Ok(read_faults(&ended.stdout, AT))
}

fn read_faults(printed: &[String], at: &str) -> Vec<String> {
    let faults = printed.iter().filter(|line| line.contains("Errors parsing"));
    let shown = faults.map(|line| scrub(&line.replace(&format!("{at}/"), "")).chars().take(300).collect());
    shown.take(KEPT).collect()
}

/// Returns the component that holds the code: the folder of `artisan`, as the application's service sees it.
pub(super) fn component(system: &System) -> Option<&Component> {
    let Maintenance::Laravel { directory, .. } = &system.application.maintenance else { return None };
    system.components.iter().find(|component| {
        component.service.as_ref() == Some(&system.application.service)
            && component.path.as_deref() == Some(Path::new(directory))
    })
}

/// Code that may take production's place.
pub(super) struct Ready<'a> {
    beside: files::Beside<'a>,
    component: &'a Component,
    chosen: Candidate,
}

/// Restores the newest code that PHP can read beside production, and asks whether it may take its place. Nobody is stopped.
pub(super) async fn make_ready<'a>(run: &Run, parts: &'a Parts, which: &Selector) -> Result<Ready<'a>> {
    let component = component(&parts.system).ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "no component of the configuration holds the application's code")
    })?;
    let (testing, id) = (parts.clone(), run.id());
    let test: candidate::Test = Arc::new(move |folder| {
        let parts = testing.clone();
        Box::pin(async move {
            let app = parts.backend.service_containers(&parts.system.application.service).await?.swap_remove(0);
            faults(&*parts.backend, id, &app, &folder).await
        })
    });
    let chosen = candidate::choose(run, parts, component, which, test, None).await.map_err(|e| match e.kind() {
        ErrorKind::Precondition => e.hint("deploy a release that works, or look at older backups: `--backup ID`"),
        _ => e,
    })?;
    let differing: Vec<String> = chosen.differences.iter().map(ToString::to_string).collect();
    let put = files::Request {
        backup: Selector::Id(chosen.backup.to_string()),
        component: component.name.clone(),
        keep_setid: false,
    };
    let beside = files::make_beside(run, parts, &put, Some(&differing)).await?;
    Ok(Ready { beside, component, chosen })
}

/// Puts the code in place. The services are stopped, and go on being so.
pub(super) async fn put_in_place(
    run: &Run,
    parts: &Parts,
    ready: Ready<'_>,
    done: &mut Vec<String>,
    to_review: &mut Vec<String>,
) -> Result<()> {
    let Ready { beside, component, chosen } = ready;
    let (mut report, site) = (files::FilesReport::of(&beside), beside.site.clone());
    report.carried = files::exchange(run, parts, beside).await?;
    settings::carry_into(run, parts, component, &site).await?;
    files::start_users(run, parts, &site).await?;
    done.push(told(component, &chosen));
    to_review.extend(chosen.refused.iter().map(|why| format!("a newer backup would not do: {why}")));
    to_review.extend(report.to_review());
    Ok(())
}

fn told(component: &Component, chosen: &Candidate) -> String {
    let content = chosen.differences.iter().filter(|d| d.change != Change::Permissions).count();
    let permissions = chosen.differences.len() - content;
    format!(
        "`{}` is that of backup {}: {content} paths had another content, {permissions} other permissions",
        component.name, chosen.backup
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_php_cannot_read_are_named() {
        let printed = ["No syntax errors detected in /code/artisan.php", "", "Errors parsing /code/routes/api.php"];
        let printed: Vec<_> = printed.map(str::to_owned).into();
        assert_eq!(read_faults(&printed, "/code"), ["Errors parsing routes/api.php"]);
    }
}
