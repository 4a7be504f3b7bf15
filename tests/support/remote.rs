//! Another machine: a second Engine and an ssh server in a network of their own, on this host.
//!
//! A network namespace is what makes it another machine. Its only way in is one link, the addresses of its containers
//! mean something else here, and its firewall rules leave the first Engine's alone.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use chom_recovery::{
    backend::docker::{DockerOptions, address::Environment},
    system::Compose,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::{SWITCH, skip};

/// Name of the machine in its ssh configuration.
pub const ALIAS: &str = "chomt-other";

/// Variable with the Engines of other versions that `tests/stack/engines.sh` unpacked: root folders, as in `PATH`.
pub const ENGINES: &str = "CHOM_TEST_ENGINES";

/// Runs a program in `$1` as its root folder, with the folder `$2` at its own path and the rest of the arguments as
/// the command. The root folder itself stays as it is: what is written lands in memory. A root of its own, not a
/// `chroot`, as containers could not be given theirs inside one.
const ENTER: &str = r#"set -eu
root=$1 folder=$2; shift 2
mkdir -p "$folder/top"; mount -t tmpfs tmpfs "$folder/top"; cd "$folder/top"; mkdir upper work root
mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/top/upper,workdir=$folder/top/work" root
for name in dev proc sys; do mount --rbind "/$name" "root/$name"; done
mount -t tmpfs tmpfs root/run; mkdir -p root/run/old "root/$folder"; mount --bind "$folder" "root/$folder"
cd root; pivot_root . run/old; umount -l /run/old
exec "$@""#;

/// Gives an Engine a configuration folder of its own: up to version 24 its id is that of a key in there, and two Engines
/// with one id are one host.
const KEYLESS: &str = r#"mkdir -p /etc/docker && mount -t tmpfs tmpfs /etc/docker && exec "$@""#;

/// Deadline of everything that is waited for here.
const WAIT: Duration = Duration::from_mins(1);

/// A machine; gone with all its processes, mounts and links when dropped.
#[derive(Debug)]
pub struct Machine {
    /// Namespace, link, control group.
    name: String,
    /// The address of this end of the link ends in `.1`, the other in `.2`.
    octet: u8,
    folder: tempfile::TempDir,
    /// Root folder of the Engine's programs; `None`: those of this host.
    root: Option<PathBuf>,
    engine: Option<Child>,
    sshd: Option<Child>,
    certificates: Authority,
}

impl Machine {
    /// Starts a machine. Without [`SWITCH`] or root, prints that `test` is skipped and returns `None`.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(test: &str) -> Option<Self> {
        Self::start_with(test, None)
    }

    /// Starts a machine with an Engine of another version, unpacked in a root folder of its own.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start_with(test: &str, root: Option<PathBuf>) -> Option<Self> {
        if std::env::var_os(SWITCH).is_none_or(|value| value.is_empty()) {
            skip(test, &format!("{SWITCH} is not set"));
            return None;
        }
        if output("id", &["-u"]).stdout != b"0\n" {
            skip(test, "a second Engine needs root");
            return None;
        }
        let (name, octet) = link();
        // From here on, dropping it removes what there is.
        let mut machine = Self {
            name,
            octet,
            folder: tempfile::Builder::new().prefix("chomt-").tempdir().expect("a temporary folder"),
            root,
            engine: None,
            sshd: None,
            certificates: Authority::new(),
        };
        machine.join_link();
        machine.start_engine();
        machine.start_sshd("AllowTcpForwarding yes");
        Some(machine)
    }

    /// Address of the machine.
    pub fn address(&self) -> String {
        format!("198.18.{}.2", self.octet)
    }

    /// The Engine's socket, in the form of `DOCKER_HOST`.
    pub fn socket(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// A file of the machine.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same project through ssh.
    pub fn over_ssh(&self, compose: Compose) -> Compose {
        Compose { host: Some(format!("ssh://{ALIAS}")), ..compose }
    }

    /// The same project through TLS.
    pub fn over_tls(&self, compose: Compose) -> Compose {
        Compose { host: Some(format!("tcp://{}", self.address())), ..compose }
    }

    /// Options with the keys and certificates for this machine.
    pub fn options(&self, options: DockerOptions) -> DockerOptions {
        let environment = Environment {
            docker_tls_verify: Some("1".into()),
            docker_cert_path: Some(self.path("client")),
            ..Environment::default()
        };
        DockerOptions { environment, ssh_config: Some(self.path("ssh_config")), ..options }
    }

    /// Starts the Engine and waits until it answers.
    ///
    /// # Panics
    /// It does not.
    pub fn start_engine(&mut self) {
        let server = self.path("server");
        self.certificates.issue(&server, &self.address(), ExtendedKeyUsagePurpose::ServerAuth);
        if !self.path("client").exists() {
            self.certificates.issue(&self.path("client"), "client", ExtendedKeyUsagePurpose::ClientAuth);
        }
        fs::write(self.path("daemon.json"), "{}").expect("the Engine's configuration");
        let mut command = match &self.root {
            None => {
                let mut command = self.inside("unshare");
                command.args(["--mount", "--propagation", "slave", "sh", "-c", KEYLESS, "enter", "dockerd"]);
                command
            }
            Some(root) => {
                let mut command = self.inside("unshare");
                command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "enter"]);
                command.arg(root).arg(self.folder.path()).arg("/usr/sbin/dockerd");
                command
            }
        };
        for (flag, value) in [
            ("--config-file", self.path("daemon.json")),
            ("--data-root", self.path("data")),
            ("--exec-root", self.path("exec")),
            ("--pidfile", self.path("pid")),
            ("--tlscacert", server.join("ca.pem")),
            ("--tlscert", server.join("cert.pem")),
            ("--tlskey", server.join("key.pem")),
        ] {
            command.arg(flag).arg(value);
        }
        command.args(["--tlsverify", "--host", &self.socket(), "--host", &format!("tcp://{}:2376", self.address())]);
        command.args(["--cgroup-parent", &format!("/{}", self.name)]);
        self.engine = Some(self.spawn(command, "engine.log"));
        self.wait_for("the Engine", "engine.log", |machine| {
            output("docker", &["-H", &machine.socket(), "version"]).status.success()
        });
    }

    /// Ends the Engine at once, as a crash would; its containers stay. It can be started again when this returns.
    ///
    /// # Panics
    /// It does not run, or its containerd outlives it.
    pub fn kill_engine(&mut self) {
        let containerd = fs::read_to_string(self.path("exec/containerd/containerd.pid")).unwrap_or_default();
        let mut engine = self.engine.take().expect("the Engine runs");
        engine.kill().expect("the Engine ends");
        engine.wait().expect("the Engine ended");
        // The kernel ends containerd with it. Until init has collected that process, which may take it seconds, a new
        // Engine takes it for a running one, waits for its answer and gives up.
        self.wait_for("the end of containerd", "engine.log", |_| {
            let name = fs::read_to_string(format!("/proc/{}/comm", containerd.trim())).unwrap_or_default();
            name.trim() != "containerd"
        });
    }

    /// Sends a signal to the Engine.
    ///
    /// # Panics
    /// It does not run.
    pub fn signal_engine(&self, signal: &str) {
        let engine = self.engine.as_ref().expect("the Engine runs");
        must("kill", &["-s", signal, &engine.id().to_string()]);
    }

    /// Takes the machine off the network, as a cable that is pulled. It goes on working.
    ///
    /// # Panics
    /// It cannot be.
    pub fn cut_off(&self) {
        // At its own end: without a link here, its address would be looked for elsewhere.
        must("ip", &["-n", &self.name, "link", "set", &format!("{}i", self.name), "down"]);
    }

    /// Ends every ssh connection from the other side, as a lost line would. New ones are accepted.
    ///
    /// # Panics
    /// There is none.
    pub fn cut_ssh(&self) {
        let server = self.sshd.as_ref().map(Child::id);
        let mut cut = 0;
        for id in self.processes() {
            let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            if name.trim().starts_with("sshd") && Some(id) != server {
                output("kill", &["-s", "KILL", &id.to_string()]);
                cut += 1;
            }
        }
        assert!(cut > 0, "no ssh connection was open");
    }

    /// Commands that run on the machine by ssh at this moment.
    pub fn sessions(&self) -> usize {
        let server = self.sshd.as_ref().map(Child::id);
        let named = |id: &u32| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        self.processes().iter().filter(|id| Some(**id) != server && named(id).trim() == "docker").count()
    }

    /// Processes of this side with an ssh connection to the machine.
    ///
    /// # Panics
    /// They cannot be listed.
    pub fn clients(&self) -> Vec<u32> {
        let listed = output("ss", &["-Htnp", "dst", &self.address(), "dport", "=", ":22"]);
        assert!(listed.status.success(), "ss: {}", String::from_utf8_lossy(&listed.stderr));
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let ids = text.split("pid=").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
        ids.collect::<std::collections::BTreeSet<u32>>().into_iter().collect()
    }

    /// The folder with the control socket of a master connection of this side.
    ///
    /// # Panics
    /// It is none.
    pub fn control_folder(&self, master: u32) -> PathBuf {
        let line = fs::read(format!("/proc/{master}/cmdline")).expect("the process runs");
        let line = String::from_utf8_lossy(&line).into_owned();
        let path = line.split('\0').find_map(|word| word.strip_prefix("ControlPath="));
        Path::new(path.unwrap_or_else(|| panic!("`{line}` is no master"))).parent().expect("a folder").to_owned()
    }

    /// Starts the ssh server anew with further lines of configuration.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start_sshd(&mut self, more: &str) {
        if let Some(mut old) = self.sshd.take() {
            old.kill().expect("the ssh server ends");
            old.wait().expect("the ssh server ended");
        }
        for key in ["host_key", "user_key", "other_key"] {
            if !self.path(key).exists() {
                let path = self.path(key).display().to_string();
                must("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", &path]);
            }
        }
        fs::copy(self.path("user_key.pub"), self.path("authorized_keys")).expect("the authorized key");
        self.know_host("host_key");
        self.use_key("user_key");
        let folder = self.folder.path().display();
        let text = format!(
            "ListenAddress {}:22\nPidFile none\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n\
             UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nSetEnv DOCKER_HOST={}\n{more}\n",
            self.address(),
            self.socket(),
        );
        fs::write(self.path("sshd_config"), text).expect("the ssh server's configuration");
        // The folder for its unprivileged half is compiled in. It stays: others may have begun to use it.
        fs::create_dir_all("/run/sshd").expect("the ssh server's folder");
        let mut command = self.inside("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(self.path("sshd_config"));
        self.sshd = Some(self.spawn(command, "sshd.log"));
        self.wait_for("the ssh server", "sshd.log", |machine| {
            let address = format!("{}:22", machine.address()).parse().expect("an address");
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        });
    }

    /// Makes this side know a key as the machine's.
    ///
    /// # Panics
    /// There is no such key.
    pub fn know_host(&self, key: &str) {
        let key = fs::read_to_string(self.path(&format!("{key}.pub"))).expect("a key");
        fs::write(self.path("known_hosts"), format!("{} {key}", self.address())).expect("known_hosts");
    }

    /// Makes this side forget the machine's key.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn forget_host(&self) {
        fs::write(self.path("known_hosts"), "").expect("known_hosts");
    }

    /// Makes this side log in with a key.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn use_key(&self, key: &str) {
        let folder = self.folder.path().display();
        let text = format!(
            "Host {ALIAS}\nHostName {}\nHost *\nUser root\nIdentityFile {folder}/{key}\nIdentitiesOnly yes\n\
             IdentityAgent none\nUserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile /dev/null\n",
            self.address(),
        );
        fs::write(self.path("ssh_config"), text).expect("the ssh configuration");
    }

    /// A folder with a client's certificate of an authority that the Engine does not know, and the Engine's own
    /// authority; or the other way round.
    pub fn foreign_certificates(&self, foreign_client: bool) -> PathBuf {
        let folder = self.path(if foreign_client { "foreign-client" } else { "foreign-authority" });
        Authority::new().issue(&folder, "client", ExtendedKeyUsagePurpose::ClientAuth);
        let own = self.path("client");
        let files: &[&str] = if foreign_client { &["ca.pem"] } else { &["cert.pem", "key.pem"] };
        for file in files {
            fs::copy(own.join(file), folder.join(file)).expect("the certificates");
        }
        folder
    }

    /// A command that runs on the machine.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    fn spawn(&self, mut command: Command, log: &str) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path(log)).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        command.current_dir("/").spawn().expect("the program is installed")
    }

    fn wait_for(&mut self, what: &str, log: &str, ready: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + WAIT;
        while !ready(self) {
            if Instant::now() >= deadline {
                let log = fs::read_to_string(self.path(log)).unwrap_or_default();
                panic!("{what} did not come: {}", log.lines().rev().take(5).collect::<Vec<_>>().join(" / "));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn join_link(&self) {
        let (name, inside) = (&self.name, format!("{}i", self.name));
        must("ip", &["netns", "add", name]);
        must("ip", &["link", "set", &inside, "netns", name]);
        must("ip", &["addr", "add", &format!("198.18.{}.1/30", self.octet), "dev", name]);
        must("ip", &["link", "set", name, "up"]);
        must("ip", &["-n", name, "addr", "add", &format!("{}/30", self.address()), "dev", &inside]);
        must("ip", &["-n", name, "link", "set", &inside, "up"]);
        must("ip", &["-n", name, "link", "set", "lo", "up"]);
    }

    /// Processes of the machine itself, those of its containers left out.
    fn processes(&self) -> Vec<u32> {
        numbers(&String::from_utf8_lossy(&output("ip", &["netns", "pids", &self.name]).stdout))
    }

    /// Control groups of the containers; the deepest come first.
    fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for root in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
            walk(&root.join(&self.name), &mut found);
        }
        found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["engine.log", "sshd.log"] {
                let text = fs::read_to_string(self.path(log)).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(8).collect();
                eprintln!("{log}, newest line first:\n  {}", tail.join("\n  "));
            }
        }
        if let Some(engine) = &mut self.engine {
            let socket = format!("unix://{}", self.folder.path().join("docker.sock").display());
            output("kill", &["-s", "CONT", &engine.id().to_string()]);
            let bounded = |arguments: &[&str]| {
                let docker = ["20", "docker", "-H", &socket];
                String::from_utf8_lossy(&output("timeout", &[&docker, arguments].concat()).stdout).into_owned()
            };
            let containers = bounded(&["container", "ls", "-aq"]);
            let containers: Vec<&str> = containers.split_whitespace().collect();
            if !containers.is_empty() {
                bounded(&[&["container", "rm", "-f"], &containers[..]].concat());
            }
            output("kill", &["-s", "TERM", &engine.id().to_string()]);
            let deadline = Instant::now() + Duration::from_secs(15);
            while engine.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        // What did not end by itself, or was left behind by a crash that a test made.
        for child in [&mut self.engine, &mut self.sshd].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let of_containers = self
                .groups()
                .iter()
                .flat_map(|g| numbers(&fs::read_to_string(g.join("cgroup.procs")).unwrap_or_default()))
                .collect();
            let left: Vec<u32> = [of_containers, self.processes()].concat();
            if left.is_empty() || Instant::now() >= deadline {
                break;
            }
            for id in left {
                output("kill", &["-s", "KILL", &id.to_string()]);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for group in self.groups() {
            let _ = fs::remove_dir(group);
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = |line: &&str| Path::new(line.split(' ').nth(1).unwrap_or_default()).starts_with(self.folder.path());
        for mount in mounts.lines().rev().filter(below) {
            output("umount", &["-l", mount.split(' ').nth(1).unwrap_or_default()]);
        }
        output("ip", &["link", "del", &self.name]);
        output("ip", &["netns", "del", &self.name]);
    }
}

/// Root folders of other Engines. Without [`ENGINES`], prints that `test` is skipped and returns none.
pub fn other_engines(test: &str) -> Vec<PathBuf> {
    let Some(value) = std::env::var_os(ENGINES).filter(|value| !value.is_empty()) else {
        skip(test, &format!("{ENGINES} is not set"));
        return Vec::new();
    };
    std::env::split_paths(&value).collect()
}

/// Makes a link that nobody else has; its name is what keeps others from the addresses.
fn link() -> (String, u8) {
    for octet in 1..=u8::MAX {
        let name = format!("chomt{octet}");
        let made = output("ip", &["link", "add", &name, "type", "veth", "peer", "name", &format!("{name}i")]);
        if made.status.success() {
            return (name, octet);
        }
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(said.contains("File exists"), "ip link add: {said}");
    }
    panic!("every address of 198.18.0.0/16 is in use");
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    found.push(folder.to_owned());
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        walk(&entry.path(), found);
    }
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn output(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program} cannot be run: {e}"))
}

fn must(program: &str, arguments: &[&str]) {
    let output = output(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
}

/// A certificate authority.
#[derive(Debug)]
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Writes `ca.pem`, `cert.pem` and `key.pem` for `name` into a new folder.
    fn issue(&self, folder: &Path, name: &str, purpose: ExtendedKeyUsagePurpose) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        fs::create_dir_all(folder).expect("a folder");
        for (file, text) in
            [("ca.pem", self.0.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
        {
            let mut file = fs::File::create(folder.join(file)).expect("a file");
            file.set_permissions(fs::Permissions::from_mode(0o600)).expect("its mode");
            file.write_all(text.as_bytes()).expect("its content");
        }
    }
}
