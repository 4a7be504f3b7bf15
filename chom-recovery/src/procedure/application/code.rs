//! The application's code: whether PHP can read it at all, by `php -l` in a container of ours, and replacing it.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    backend::{Backend, BackendExt, Container, Mount, MountSource, Network, OneOff, ROLE_LABEL, RUN_LABEL},
    catalog::Selector,
    error::{Error, ErrorKind, Result},
    files::Change,
    procedure::{
        Parts,
        candidate::{self, Candidate},
        files,
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

/// Lets PHP read every file of the code that is not a dependency's, in a container with the application's image, without a
/// network, which cannot write. Runs nothing of the code. Returns what cannot be read, a line each.
pub(super) async fn faults(backend: &dyn Backend, run: RunId, app: &Container, folder: &Path) -> Result<Vec<String>> {
    const AT: &str = "/code";
    let find = ["find", AT, "-path", "*/vendor", "-prune", "-o", "-path", "*/storage", "-prune", "-o", "-type", "f"];
    let read = ["-name", "*.php", "-exec", "php", "-d", "display_errors=0", "-d", "log_errors=0", "-l", "{}", ";"];
    let spec = OneOff {
        name: format!("{}-{ROLE}-{run}", backend.project()),
        image: app.image_id.clone(),
        entrypoint: Some(find.iter().chain(&read).map(|word| (*word).to_owned()).collect()),
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

/// Puts the newest code in place that PHP can read.
pub(super) async fn replace(
    run: &Run,
    parts: &Parts,
    which: &Selector,
    done: &mut Vec<String>,
    to_review: &mut Vec<String>,
) -> Result<()> {
    let component = component(&parts.system).ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "no component of the configuration holds the application's code")
    })?;
    let run = run.scope("code");
    let (testing, id) = (parts.clone(), run.id());
    let test: candidate::Test = Arc::new(move |folder| {
        let parts = testing.clone();
        Box::pin(async move {
            let app = parts.backend.service_containers(&parts.system.application.service).await?.swap_remove(0);
            faults(&*parts.backend, id, &app, &folder).await
        })
    });
    let chosen = candidate::choose(&run, parts, component, which, test).await.map_err(|e| match e.kind() {
        ErrorKind::Precondition => e.hint("deploy a release that works, or look at older backups: `--backup ID`"),
        _ => e,
    })?;
    let differing: Vec<String> = chosen.differences.iter().map(ToString::to_string).collect();
    let put = files::Request {
        backup: Selector::Id(chosen.backup.to_string()),
        component: component.name.clone(),
        keep_setid: false,
    };
    let report = files::put_in_place(&run, parts, &put, Some(&differing)).await?;
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
