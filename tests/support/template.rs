//! Data directories of servers that were started once: a copy of one starts in a second, where a first start takes ten.

use std::{
    fs::{self, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    time::Duration,
};

use chom_recovery::{
    mysql::{Login, Server},
    secret::Secret,
};

use crate::mysql::{Image, START, address_of, docker};

/// How the names of templates' volumes begin; `run.sh` removes them at its end.
const PREFIX: &str = "chomt-template-";
/// Where a template is mounted.
const MOUNT: &str = "/chomt-template";
/// Takes a copy before the image's own entrypoint begins. Two servers with one id would not speak to each other.
const COPY: &str =
    "cp -a /chomt-template/. /var/lib/mysql/ && rm -f /var/lib/mysql/auto.cnf && exec docker-entrypoint.sh \"$@\"";

/// A volume with the data directory of a server that was shut down cleanly.
pub(crate) struct Template {
    volume: String,
    /// Password of its root.
    pub(crate) password: Secret,
}

impl Template {
    /// Finds the template of an image, or makes it while others wait.
    pub(crate) async fn of(image: Image) -> Self {
        let id = docker(&["image", "inspect", "--format", "{{.Id}}", image.name()]);
        let volume = format!("{PREFIX}{}", &id.trim().trim_start_matches("sha256:")[..12]);
        let note = std::env::temp_dir().join(&volume);
        // Who holds the lock may make the volume; the password is there when it is made.
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&note)
            .expect("a note");
        let end = tokio::time::Instant::now() + 2 * START;
        // Who makes it may be another future of this very thread.
        while let Err(error) = file.try_lock() {
            assert!(matches!(error, TryLockError::WouldBlock), "{error}");
            assert!(tokio::time::Instant::now() < end, "nobody makes {volume}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let known = fs::read_to_string(&note).expect("a note");
        let volumes = docker(&["volume", "ls", "--quiet", "--filter", &format!("name={volume}")]);
        if !known.is_empty() && volumes.contains(&volume) {
            return Self { volume, password: Secret::new(known) };
        }
        let password = Secret::random();
        make(image, &volume, &password).await;
        fs::write(&note, password.expose()).expect("a note");
        Self { volume, password }
    }

    /// Arguments of `docker run` that take a copy.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mount = format!("{}:{MOUNT}:ro", self.volume);
        ["-v", &mount, "--entrypoint", "/bin/sh"].map(str::to_owned).into()
    }

    /// Command that takes a copy and starts the server on it; flags follow.
    pub(crate) fn command(image: Image) -> [String; 4] {
        ["-c".into(), COPY.into(), "start".into(), image.server().into()]
    }
}

async fn make(image: Image, volume: &str, password: &Secret) {
    // What a test left that was killed while it made one.
    let name = format!("{volume}-maker");
    let _ = std::process::Command::new("docker").args(["rm", "-f", "-v", &name]).output();
    let _ = std::process::Command::new("docker").args(["volume", "rm", volume]).output();
    let secrets = tempfile::tempdir().expect("a temporary folder");
    let file = secrets.path().join("password");
    fs::write(&file, password.expose()).expect("a password file");
    let (secret, data) = (format!("{}:/run/chomt-password:ro", file.display()), format!("{volume}:/var/lib/mysql"));
    docker(&[
        "run",
        "-d",
        "--name",
        &name,
        "-v",
        &secret,
        "-v",
        &data,
        "-e",
        "MYSQL_ROOT_PASSWORD_FILE=/run/chomt-password",
        "-e",
        "MYSQL_INITDB_SKIP_TZINFO=1",
        image.name(),
    ]);
    Server::connect(Login::new(address_of(&name), 3306, "root", password.clone()), START)
        .await
        .expect("the first start");
    docker(&["stop", "-t", "60", &name]);
    docker(&["rm", &name]);
}
