//! Whether the application's code can be read by PHP at all: `php -l` in a container of ours.

use std::{path::Path, time::Duration};

use crate::{
    backend::{Backend, Container, Mount, MountSource, Network, OneOff, ROLE_LABEL, RUN_LABEL},
    error::Result,
    procedure::one_off::run_to_end,
    run::RunId,
    secret::scrub,
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
