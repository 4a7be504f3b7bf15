//! Copies of its data files that production's server makes of itself, in its own container, where it may write: found again
//! by their names, ended and removed whoever began them.
//!
//! MySQL writes the copy itself. MariaDB has a program beside the server for it, which then also recovers the copy, so that a
//! server starts on it as after a clean end. It gets the password in a file that its own user alone can read.

use std::{path::Path, time::Duration};

use chrono::{DateTime, Utc};

use super::{super::ops::Production, MySqlOps};
use crate::{
    backend::{BackendExt, ContainerState, ExecRequest, ExecResult},
    error::{Error, ErrorKind, Result},
    files::Root,
    mysql::{
        Flavour, Position, Server,
        physical::{clone_to, end_clones, server_time},
    },
    probe::disk::statvfs,
    store::pipe,
    stream,
};

/// Where copies lie: on the filesystem of the container, and kept when it is started again.
const FOLDER: &str = "var/tmp";
/// How the names of their folders begin; an id of 26 letters and digits follows.
const NAME: &str = "chom-recovery-copy-";
/// Longest time for a small command in a container.
const SHORT: Duration = Duration::from_mins(2);
/// Longest time for a copy.
const LONG: Duration = Duration::from_hours(6);
/// Filesystems in memory: a copy there would take the server's.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Makes the folder `$1` for the owner of `$2`.
const MAKE: &str = r#"umask 077 && mkdir "$1" && chown "$(stat -c %u:%g "$2")" "$1""#;
/// Gives the data files in `$1` the owner, and their folder the mode, that `$2` has.
const OWN: &str = r#"chown -R "$(stat -c %u:%g "$2")" "$1/data" && chmod "$(stat -c %a "$2")" "$1/data""#;
/// Ends what works on folders `$1...`, and removes them: no link, and nothing whose name is other than ours.
const DISCARD: &str = r#"
for folder in "$1"??????????????????????????; do
  [ -d "$folder" ] && [ ! -L "$folder" ] || continue
  pid=$(cat "$folder/pid" 2>/dev/null) || pid=
  case "$pid" in *[!0-9]*) pid=;; esac
  if [ -n "$pid" ]; then
    turns=0
    while case "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)" in *"$folder"*) :;; *) false;; esac; do
      if [ "$turns" -lt 100 ]; then kill "$pid"; else kill -9 "$pid"; fi
      turns=$((turns + 1)); [ "$turns" -lt 200 ] || exit 1
      sleep 0.1
    done
  fi
  rm -rf -- "$folder" || exit 1
done"#;
/// Runs mariadb-backup on the folder `$1` with the options that follow, and says its last errors where it fails: only lines of
/// its own, since it also prints damaged pages, with the rows in them. The login comes on standard input.
const BACK_UP: &str = r#"
folder=$1; shift
program=$(command -v mariadb-backup || command -v mariabackup) || { echo "there is no mariadb-backup in the image" >&2; exit 127; }
umask 077
cat >"$folder/login.cnf"
"$program" --defaults-extra-file="$folder/login.cnf" --target-dir="$folder/data" "$@" >"$folder/log" 2>&1 &
echo $! >"$folder/pid"
wait $!; code=$?
rm -f "$folder/login.cnf" "$folder/pid"
[ "$code" = 0 ] || grep -a -E '^\[[0-9]+\] .*(rror|corrupt|fail)|^[0-9-]+ .*\[ERROR\]' "$folder/log" | cut -c1-200 | tail -n 4 >&2
exit "$code""#;
/// Prints where the binary log was, as mariadb-backup of different versions keeps it.
const POSITION: &str =
    r#"cat "$1/data/mariadb_backup_binlog_info" 2>/dev/null || cat "$1/data/xtrabackup_binlog_info" 2>/dev/null || :"#;

/// A copy of production's data files.
pub(super) struct Copy {
    /// Its folder.
    pub(super) root: Root,
    pub(super) position: Option<Position>,
    /// How exact that is.
    pub(super) position_is: &'static str,
    /// By the server's clock.
    pub(super) begun: DateTime<Utc>,
    pub(super) ended: DateTime<Utc>,
    pub(super) warnings: Vec<String>,
}

impl MySqlOps {
    /// Lets production's server copy its data files, while it serves. `id` is that of the run, 26 letters and digits.
    pub(super) async fn make_copy(&self, server: &Server, production: &Production, id: &str) -> Result<Copy> {
        let name = format!("{NAME}{id}");
        let folder = format!("/{FOLDER}/{name}");
        let container = &production.container;
        self.script(container, MAKE, &[&folder, &production.data_dir], SHORT).await?.success("making a folder")?;
        let (position, position_is, begun, ended, warnings) = match server.info().flavour {
            Flavour::Mysql => {
                let cloned = clone_to(server, &format!("{folder}/data")).await?;
                let installed = "MySQL's plugin `clone` was installed for it, and stays";
                let warnings = cloned.installed_plugin.then(|| installed.to_owned()).into_iter().collect();
                (cloned.position, "before the copy", cloned.begun, cloned.ended, warnings)
            }
            Flavour::Mariadb => {
                let begun = server_time(server).await?;
                self.mariadb_backup(container, &folder, &["--backup"], self.option_file(server).await?).await?;
                let ended = server_time(server).await?;
                self.mariadb_backup(container, &folder, &["--prepare"], String::new()).await?;
                let told =
                    self.script(container, POSITION, &[&folder], SHORT).await?.success("reading the position")?;
                (read_position(&String::from_utf8_lossy(&told.stdout)), "exact", begun, ended, Vec::new())
            }
        };
        self.script(container, OWN, &[&folder, &production.data_dir], SHORT)
            .await?
            .success("giving files their owner")?;
        let root = self.folder_in(container, &format!("{FOLDER}/{name}/data")).await?;
        Ok(Copy { root, position, position_is, begun, ended, warnings })
    }

    /// Ends and removes every copy that is there. A container that does not run keeps them.
    pub(super) async fn discard(&self, production: &Production) -> Result<()> {
        let container = &production.container;
        if self.backend.container(container).await?.is_none_or(|c| c.state != ContainerState::Running) {
            return Ok(());
        }
        let prefix = format!("/{FOLDER}/{NAME}");
        // A server that does not answer makes no copy.
        if let Ok(reached) = self.production(container).await {
            end_clones(&reached.server, &prefix).await?;
        }
        let done = self.script(container, DISCARD, &[&prefix], LONG).await?;
        done.success("removing a copy of the data files").map(drop)
    }

    /// Refuses what would fill a disk, or memory.
    pub(super) async fn require_room(&self, production: &Production) -> Result<()> {
        let container = &production.container;
        let folder = self.folder_in(container, FOLDER).await?;
        let path = folder.path_by_descriptor();
        let kind = pipe::blocking({
            let path = path.clone();
            move || Ok(rustix::fs::statfs(&path).map_err(std::io::Error::from)?.f_type)
        })
        .await?;
        #[allow(clippy::useless_conversion, reason = "the field is narrower on other processors")]
        if IN_MEMORY.contains(&i64::from(kind)) {
            let what = format!(
                "`/{FOLDER}` of container `{container}` lies in memory, and a copy of the data has no place there"
            );
            return Err(Error::new(ErrorKind::Unsupported, what).hint("take a logical backup"));
        }
        let data = production.data().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("container `{container}` has no volume at its data directory"))
        })?;
        let needed = self.backend.measure_volume(data).await?.bytes;
        let free = statvfs(path).await.map_err(|e| Error::from(e).during("cannot ask how much is free"))?.free_bytes;
        let keep = self.system.limits.keep_free_bytes;
        if free >= needed.saturating_add(keep) {
            return Ok(());
        }
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        Err(Error::new(
            ErrorKind::NoSpace,
            format!("there is no room for a copy of the data files in container `{container}`"),
        )
        .with("free", mib(free))
        .with("needed", mib(needed))
        .with("to be kept free", mib(keep))
        .hint("free space on the Engine's disk, or take a logical backup, which needs none"))
    }

    /// Opens a folder of a container from here. No link is followed on the way.
    async fn folder_in(&self, container: &str, below: &str) -> Result<Root> {
        let root = self.backend.container_root(container).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("the files of container `{container}` are not reached from here"),
            )
            .hint("take physical backups on the Engine's own host, as root; logical ones need neither")
        })?;
        let below = Path::new(below).to_owned();
        pipe::blocking(move || Root::open(&root)?.below(&below)).await
    }

    async fn mariadb_backup(&self, container: &str, folder: &str, options: &[&str], login: String) -> Result<()> {
        let arguments = std::iter::once(folder).chain(options.iter().copied());
        let request = shell(BACK_UP, arguments).stdin(stream::once(login));
        let done = self.backend.run(container, request, LONG).await?;
        if done.exit_code == 127 {
            let what = format!("container `{container}` has no mariadb-backup, which copies data files");
            return Err(
                Error::new(ErrorKind::Precondition, what).hint("take a logical backup, or use an image that has it")
            );
        }
        // Its only word for a page whose checksum is wrong.
        let is_damaged = String::from_utf8_lossy(&done.stderr).to_lowercase().contains("corrupt");
        let done = done.success(&format!("`mariadb-backup {}`", options.join(" "))).map(drop);
        done.map_err(|e| if is_damaged { e.of_kind(ErrorKind::Corrupt) } else { e })
    }

    /// How mariadb-backup logs in, as a file of options.
    async fn option_file(&self, server: &Server) -> Result<String> {
        let database = &self.system.database;
        let password = database.password.resolve().await?;
        let port = server.variables().await?.get("port").cloned().unwrap_or_else(|| "3306".into());
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        Ok(format!(
            "[mariabackup]\nuser=\"{}\"\npassword=\"{}\"\nhost=127.0.0.1\nport={port}\n",
            quoted(&database.user),
            quoted(password.expose())
        ))
    }

    async fn script(&self, container: &str, script: &str, arguments: &[&str], limit: Duration) -> Result<ExecResult> {
        self.backend.run(container, shell(script, arguments.iter().copied()), limit).await
    }
}

fn shell<'a>(script: &'a str, arguments: impl Iterator<Item = &'a str>) -> ExecRequest {
    ExecRequest::new(["sh", "-c", script, "sh"].into_iter().chain(arguments))
}

/// Reads `file`, `offset` and, where there are any, GTIDs, divided by tabs.
fn read_position(text: &str) -> Option<Position> {
    let mut words = text.trim_end_matches('\n').split('\t');
    let (file, offset) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    Some(Position { file, offset, gtid: words.next().filter(|gtid| !gtid.is_empty()).map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_with_and_without_gtids() {
        let position =
            |gtid: Option<&str>| Some(Position { file: "b.1".into(), offset: 42, gtid: gtid.map(Into::into) });
        assert_eq!(read_position("b.1\t42\t0-1-7\n"), position(Some("0-1-7")));
        assert_eq!(read_position("b.1\t42\t\n"), position(None));
        assert_eq!(read_position("b.1\t42\n"), position(None));
        assert_eq!(read_position(""), None);
    }

    /// Folders under other names, links and files stay; what works on a copy is ended before it is removed.
    #[test]
    fn only_copies_are_removed_and_their_program_is_ended_first() {
        let place = tempfile::tempdir().unwrap();
        let of = |name: &str| place.path().join(name);
        let id = ulid::Ulid::new().to_string();
        let (copy, other) = (of(&format!("{NAME}{id}")), of(&format!("{NAME}short")));
        for folder in [&copy, &other, &of("else")] {
            std::fs::create_dir(folder).unwrap();
        }
        let link = of(&format!("{NAME}{}", id.replace(|c: char| c.is_ascii_digit(), "Z")));
        std::os::unix::fs::symlink(of("else"), &link).unwrap();
        let mut program = std::process::Command::new("sh")
            .args(["-c", "while :; do sleep 1; done", "sh"])
            .arg(&copy)
            .spawn()
            .unwrap();
        std::fs::write(copy.join("pid"), program.id().to_string()).unwrap();
        let waiting = std::thread::spawn(move || program.wait().unwrap());

        let run = |script: &str| {
            let prefix = format!("{}/{NAME}", place.path().display());
            std::process::Command::new("sh").args(["-c", script, "sh", &prefix]).status().unwrap()
        };
        assert!(run(DISCARD).success());
        assert!(!waiting.join().unwrap().success(), "it was ended");
        assert!(!copy.exists() && other.exists() && of("else").exists() && link.is_symlink());
        assert!(run(DISCARD).success(), "nothing to do is no failure");
    }
}
