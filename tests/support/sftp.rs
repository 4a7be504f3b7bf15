//! OpenSSH's server on a free port of this host, set up in the ways that hosts of backups are.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use chom_recovery::{
    store::sftp::{Place, SftpStore},
    system::SftpSettings,
};

use crate::skip;

/// Name of the host in its ssh configuration.
pub const ALIAS: &str = "chomt-nas";

/// Deadline of everything that is waited for here.
const WAIT: Duration = Duration::from_secs(30);

/// A server; gone with its processes, files and mounts when dropped.
#[derive(Debug)]
pub struct SftpServer {
    /// Below `/run`, whose folders are root's alone: a chroot insists on that.
    folder: tempfile::TempDir,
    port: u16,
    sshd: Child,
    is_mounted: bool,
}

/// How the server is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// `Subsystem sftp internal-sftp`.
    Plain,
    /// The program `sftp-server`, as Debian's default has it.
    External,
    /// Everything below a folder, which looks like `/` from inside.
    Chroot,
    /// `internal-sftp -R`.
    ReadOnly,
    /// Plain, for keys of the list; the second may not delete or replace.
    TwoKeys,
    /// Plain, on a filesystem of this many MiB.
    Small(u32),
    /// An ssh server without sftp.
    None,
}

impl SftpServer {
    /// Starts a server. Where that is impossible, prints that `test` is skipped and returns `None`.
    ///
    /// # Panics
    /// It does not start although it should.
    pub fn start(test: &str, setup: Setup) -> Option<Self> {
        if !run("id", &["-u"]).starts_with('0') {
            skip(test, "an ssh server with a chroot needs root");
            return None;
        }
        if !Path::new("/usr/sbin/sshd").exists() {
            skip(test, "/usr/sbin/sshd is not installed (openssh-server)");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("chomt-").tempdir_in("/run").expect("a folder");
        let path = folder.path();
        for name in ["host_key", "other_host_key", "key", "second_key"] {
            run(
                "ssh-keygen",
                &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &path.join(name).display().to_string()],
            );
        }
        for name in ["root", "root/store"] {
            fs::create_dir(path.join(name)).expect("a folder");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the mode of the folder");
        let mut is_mounted = false;
        if let Setup::Small(megabytes) = setup {
            let store = path.join("root/store").display().to_string();
            run("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "chom-test", &store]);
            is_mounted = true;
        }
        let port = free_port();
        write_configuration(path, port, setup);
        // The folder for its unprivileged half is compiled in. It stays: others may have begun to use it.
        fs::create_dir_all("/run/sshd").expect("the ssh server's folder");
        let log = fs::File::create(path.join("sshd.log")).expect("a log");
        let sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(path.join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("sshd runs");
        let server = Self { folder, port, sshd, is_mounted };
        let deadline = Instant::now() + WAIT;
        while std::net::TcpStream::connect(server.address()).is_err() {
            assert!(Instant::now() < deadline, "sshd does not answer: {}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server.configure(port, "key");
        server.know_host("host_key");
        Some(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A file of the server's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The store's folder, as this host sees it.
    pub fn root(&self) -> PathBuf {
        self.path("root/store")
    }

    /// What the server said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("sshd.log")).unwrap_or_default()
    }

    /// Writes the client's configuration: which port leads to the host, and with which key.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn configure(&self, port: u16, key: &str) {
        let folder = self.folder.path().display();
        let text = format!(
            "Host {ALIAS}\nHostName 127.0.0.1\nPort {port}\nUser root\nHostKeyAlias {ALIAS}\nIdentityFile {folder}/{key}\n\
             IdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {folder}/known_hosts\n\
             GlobalKnownHostsFile /dev/null\n"
        );
        fs::write(self.path("ssh_config"), text).expect("the ssh configuration");
    }

    /// Makes the client know a key as the host's; the empty name makes it forget.
    ///
    /// # Panics
    /// There is no such key.
    pub fn know_host(&self, key: &str) {
        let line = match key {
            "" => String::new(),
            _ => format!("{ALIAS} {}", fs::read_to_string(self.path(&format!("{key}.pub"))).expect("a key")),
        };
        fs::write(self.path("known_hosts"), line).expect("known_hosts");
    }

    /// Settings for the server.
    pub fn settings(&self) -> SftpSettings {
        SftpSettings { ssh_config: Some(self.path("ssh_config")), timeout: Duration::from_secs(20) }
    }

    /// A store in a folder, as the client sees its path.
    pub fn store_at(&self, path: &str) -> SftpStore {
        let place = Place { user: None, host: ALIAS.into(), port: None, path: path.into() };
        SftpStore::new(place, &self.settings())
    }

    /// The store of the server.
    pub fn store(&self) -> SftpStore {
        self.store_at(&self.root().display().to_string())
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("sftp://{ALIAS}{}", self.root().display())
    }

    /// Names of the files below the store's folder, without folders.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.root(), &mut found);
        found.sort();
        found
    }
}

impl Drop for SftpServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("sshd: {}", self.log());
        }
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
        if self.is_mounted {
            let _ = Command::new("umount").arg("-l").arg(self.root()).status();
        }
    }
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        } else {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
}

fn write_configuration(path: &Path, port: u16, setup: Setup) {
    let folder = path.display();
    let subsystem = match setup {
        Setup::External => "Subsystem sftp /usr/lib/openssh/sftp-server",
        Setup::ReadOnly => "Subsystem sftp internal-sftp -R",
        Setup::None => "",
        _ => "Subsystem sftp internal-sftp",
    };
    let more = if setup == Setup::Chroot { format!("ChrootDirectory {folder}/root") } else { String::new() };
    let text = format!(
        "ListenAddress 127.0.0.1:{port}\nPidFile none\nHostKey {folder}/host_key\n\
         AuthorizedKeysFile {folder}/authorized_keys\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\n{subsystem}\n{more}\n"
    );
    fs::write(path.join("sshd_config"), text).expect("the ssh server's configuration");
    let key = |name: &str| fs::read_to_string(path.join(format!("{name}.pub"))).expect("a key");
    let second = match setup {
        // What may not delete may not replace or empty either.
        Setup::TwoKeys => {
            format!("command=\"internal-sftp -P remove,rmdir,posix-rename,setstat,fsetstat\" {}", key("second_key"))
        }
        _ => String::new(),
    };
    fs::write(path.join("authorized_keys"), format!("{}{second}", key("key"))).expect("the authorized keys");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program} cannot be run: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
