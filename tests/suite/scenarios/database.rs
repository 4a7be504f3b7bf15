//! Faults of the database.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use chom_recovery_tests::chaos;

use crate::site::{Fault, Seen, Site, until};

const DATA: &str = "mysql_data";
/// Size of the small disk: more than the limit that is kept free, so that it is the filling that shows.
const DISK: u64 = 2 << 30;
const SLOW: &str = "SELECT SUM(SLEEP(0.3)) FROM chom.orders";
const LOCK: &str = "SELECT id FROM chom.users WHERE id = 1 FOR UPDATE";

pub(crate) const STOPPED: Fault = Fault {
    name: "stopped-database",
    needs_root: false,
    make: |site| site.compose(&["stop", "mysql"]),
    is_effective: |site| site.http() == Seen::Status(503),
    mend: |site| site.compose(&["start", "mysql"]),
};

pub(crate) const OUR_PASSWORD: Fault = Fault {
    name: "wrong-password-of-ours",
    needs_root: false,
    make: |site| {
        let wrong = site.path("wrong-password");
        std::fs::write(&wrong, "not-the-password").unwrap();
        std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(0o600)).unwrap();
        let right = site.stack().db_root_password_file.display().to_string();
        site.edit(&site.path("chom-recovery.toml"), &right, wrong.to_str().unwrap());
    },
    is_effective: |_| true,
    mend: |site| site.unedit(&site.path("chom-recovery.toml")),
};

pub(crate) const APPLICATION_PASSWORD: Fault = Fault {
    name: "wrong-password-of-the-application",
    needs_root: false,
    make: |site| {
        site.sql("ALTER USER 'chom'@'%' IDENTIFIED BY 'not-the-password'");
    },
    is_effective: |site| site.http() == Seen::Status(503),
    mend: |site| {
        let password = std::fs::read_to_string(&site.stack().db_app_password_file).unwrap();
        site.sql(&format!("ALTER USER 'chom'@'%' IDENTIFIED BY '{}'", password.trim()));
    },
};

pub(crate) const SLOW_STATEMENTS: Fault = Fault {
    name: "slow-query-storm",
    needs_root: false,
    make: |site| (0..8).for_each(|_| site.begin_sql(SLOW)),
    is_effective: |site| count(site, "COMMAND = 'Query' AND INFO LIKE '%SLEEP%' AND TIME >= 6") >= 8,
    mend: |site| site.end_sql("SLEEP"),
};

/// One session holds a row, and others want it.
pub(crate) const LOCK_WAITS: Fault = Fault {
    name: "lock-wait-pile-up",
    needs_root: false,
    make: |site| {
        site.begin_sql(&format!("BEGIN; {LOCK}; SELECT SLEEP(100)"));
        until("a lock that is held", || count(site, "INFO LIKE '%SLEEP(100)%'") == 1);
        (0..5).for_each(|_| site.begin_sql(LOCK));
    },
    is_effective: |site| count(site, "INFO LIKE '%FOR UPDATE%' AND TIME >= 4") >= 5,
    mend: |site| {
        // Those that wait end first, so that none of them gets the lock.
        site.kill_sql("FOR UPDATE");
        site.end_sql("SLEEP(100)");
    },
};

pub(crate) const DELETED_ROWS: Fault = Fault {
    name: "deleted-rows",
    needs_root: false,
    make: |site| {
        keep_data(site);
        site.compose(&["start", "mysql"]);
        until("the database", || site.http() == Seen::Status(200));
        site.sql("DELETE FROM chom.orders WHERE id % 2 = 0");
    },
    is_effective: |site| site.sql("SELECT COUNT(*) FROM chom.orders WHERE id % 2 = 0") == "0",
    mend: put_data_back,
};

pub(crate) const CORRUPT_TABLE: Fault = Fault {
    name: "corrupt-table",
    needs_root: false,
    make: |site| {
        keep_data(site);
        chaos::overwrite_pages(site.stack(), &site.volume(DATA), "chom/orders.ibd");
        site.compose(&["start", "mysql"]);
    },
    is_effective: |site| {
        let check = ["exec", "-T", "mysql", "db-health"];
        chaos::try_compose(site.stack(), &check).status.success()
    },
    mend: put_data_back,
};

/// The data lies on a small disk of its own, and something else fills it.
pub(crate) const FULL_DISK: Fault = Fault {
    name: "full-disk",
    needs_root: true,
    make: |site| {
        let (disk, image, over) = (site.path("small"), site.path("small.img"), site.path("small.yaml"));
        std::fs::create_dir(&disk).unwrap();
        std::fs::File::create(&image).unwrap().set_len(DISK).unwrap();
        must("mkfs.ext4", &["-q", "-m", "0", path(&image)]);
        must("mount", &["-o", "loop", path(&image), path(&disk)]);
        site.compose(&["stop", "mysql"]);
        let mounts = [format!("{}:/from:ro", site.volume(DATA)), format!("{}:/to", disk.display())];
        let copy = "mkdir /to/data && cp -a /from/. /to/data/ && chown --reference=/from /to/data";
        chaos::with_mounts(site.stack(), &[&mounts[0], &mounts[1]], copy);
        let text = format!("services:\n  mysql:\n    volumes: [\"{}/data:/var/lib/mysql\"]\n", disk.display());
        std::fs::write(&over, text).unwrap();
        site.compose(&["-f", path(&over), "up", "-d", "--no-deps", "--wait", "mysql"]);
        let free = free(&disk);
        must("fallocate", &["-l", &(free - (1 << 20)).to_string(), path(&disk.join("hog"))]);
    },
    is_effective: |site| {
        // A row that has no room: the server says so, or waits for room.
        let sql = "CREATE TABLE IF NOT EXISTS chom.of_a_test (data LONGBLOB); \
                   INSERT INTO chom.of_a_test VALUES (REPEAT('x', 8000000))";
        !site.sql_succeeds_within(5, sql)
    },
    mend: |site| {
        // It may wait for room for as long as it is asked to end.
        chaos::docker(&["rm", "-f", &site.container("mysql")]);
        site.compose(&["up", "-d", "--no-deps", "mysql"]);
        let disk = site.path("small");
        must("umount", &[path(&disk)]);
        std::fs::remove_dir(&disk).unwrap();
        for file in ["small.img", "small.yaml"] {
            std::fs::remove_file(site.path(file)).unwrap();
        }
    },
};

fn keep_data(site: &Site) {
    site.compose(&["stop", "mysql"]);
    site.keep(DATA);
}

fn put_data_back(site: &Site) {
    chaos::kill(site.stack(), "mysql");
    site.put_back(DATA);
    site.compose(&["start", "mysql"]);
}

/// Counts sessions.
fn count(site: &Site, wanted: &str) -> usize {
    let sql = format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND {wanted}");
    site.sql(&sql).parse().unwrap_or(0)
}

/// Bytes that are free in a folder.
fn free(folder: &Path) -> u64 {
    let output = Command::new("df").args(["--output=avail", "-B1", path(folder)]).output().expect("df runs");
    String::from_utf8_lossy(&output.stdout).lines().nth(1).and_then(|n| n.trim().parse().ok()).expect("a number")
}

fn must(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the program is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}
