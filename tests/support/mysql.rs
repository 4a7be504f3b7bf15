//! Throw-away database servers, from the images of the reference stack.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use chom_recovery::{
    Result,
    mysql::{
        self, Login, Objects, Server,
        dump::{self, Chunk, DumpSink},
        load,
    },
    secret::Secret,
};

use crate::{SWITCH, skip, template::Template};

/// Variable that chooses the flavour: `mysql` (default), `mariadb-11.8` or `mariadb-10.11`.
pub const FLAVOUR: &str = "CHOM_TEST_DB";
/// Variable that chooses how much is tested: `core` (default), `all`, or `slow`, which adds the cases that take longer
/// than the others together.
pub const CASES: &str = "CHOM_TEST_DB_CASES";

/// Longest time for a first start on a busy machine.
pub(crate) const START: Duration = Duration::from_mins(3);

/// A server image under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// MySQL 9.7.
    Mysql,
    /// MariaDB 11.8.
    Mariadb118,
    /// MariaDB 10.11.
    Mariadb1011,
}

impl Image {
    /// Reads the flavour from [`FLAVOUR`]; prints that `test` is skipped when real-stack tests are off.
    ///
    /// # Panics
    /// The variable holds another word.
    pub fn chosen(test: &str) -> Option<Self> {
        if std::env::var_os(SWITCH).is_none_or(|v| v.is_empty()) {
            skip(test, &format!("{SWITCH} is not set"));
            return None;
        }
        Some(match std::env::var(FLAVOUR).as_deref() {
            Err(_) | Ok("" | "mysql") => Self::Mysql,
            Ok("mariadb-11.8") => Self::Mariadb118,
            Ok("mariadb-10.11") => Self::Mariadb1011,
            Ok(other) => panic!("{FLAVOUR}={other} is none of mysql, mariadb-11.8, mariadb-10.11"),
        })
    }

    /// Tells whether all cases are wanted, and prints that `test` is skipped when they are not.
    pub fn all_cases(test: &str) -> bool {
        let all = std::env::var(CASES).is_ok_and(|v| v == "all" || v == "slow");
        if !all {
            skip(test, &format!("{CASES} is not `all`"));
        }
        all
    }

    /// Tells whether slow cases are wanted too, and prints that `test` is skipped when they are not.
    pub fn slow_cases(test: &str) -> bool {
        let slow = std::env::var(CASES).is_ok_and(|v| v == "slow");
        if !slow {
            skip(test, &format!("{CASES} is not `slow`"));
        }
        slow
    }

    /// An image of the other family.
    #[must_use]
    pub fn other_family(self) -> Self {
        if self == Self::Mysql { Self::Mariadb118 } else { Self::Mysql }
    }

    /// Name of the image.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mysql => "chom/mysql:9.7",
            Self::Mariadb118 => "chom/mariadb:11.8",
            Self::Mariadb1011 => "chom/mariadb:10.11",
        }
    }

    /// Family of the server.
    pub fn flavour(self) -> mysql::Flavour {
        if self == Self::Mysql { mysql::Flavour::Mysql } else { mysql::Flavour::Mariadb }
    }

    pub(crate) fn server(self) -> &'static str {
        if self == Self::Mysql { "mysqld" } else { "mariadbd" }
    }

    fn client(self) -> &'static str {
        if self == Self::Mysql { "mysql" } else { "mariadb" }
    }

    fn dumper(self) -> &'static str {
        if self == Self::Mysql { "mysqldump" } else { "mariadb-dump" }
    }
}

/// Flags that a data directory is made with.
const LASTING: [&str; 4] = ["lower-case-table-names", "innodb-page-size", "innodb-data-file-path", "innodb-undo"];

/// A running server with a new data directory in memory; removed when dropped.
#[derive(Debug)]
pub struct TestServer {
    /// Image that it runs.
    pub image: Image,
    container: String,
    address: std::sync::Mutex<String>,
    password: Secret,
    _secrets: tempfile::TempDir,
}

impl TestServer {
    /// Starts a server with its image's own configuration and these flags, on a copy of a data directory that has nothing
    /// but root.
    pub async fn start(image: Image, flags: &[&str]) -> Self {
        // What a data directory is made with, it keeps.
        if flags.iter().any(|flag| LASTING.iter().any(|lasting| flag.trim_start_matches('-').starts_with(lasting))) {
            return Self::start_with(image, flags, &[]).await;
        }
        let template = Template::of(image).await;
        let mut server = Self::begin(image, flags, &[], Some(&template)).await;
        let password = Secret::random();
        // Whatever mode the flags set.
        let all =
            "SET sql_mode = ''; SELECT GROUP_CONCAT(QUOTE(user), '@', QUOTE(host)) FROM mysql.user WHERE user = 'root'";
        let roots = server.script(all);
        let change = |root: &str| format!("ALTER USER {root} IDENTIFIED BY '{}';", password.expose());
        let changes: String = roots.trim().split(',').map(change).collect();
        server.script(format!("SET sql_mode = '', sql_log_bin = 0; {changes}"));
        server.password = password;
        server
    }

    /// Starts a candidate, as a recovery would.
    pub async fn candidate(image: Image) -> Self {
        let args = mysql::candidate_args(image.flavour());
        Self::start(image, &args.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Starts a server with more arguments for `docker run`.
    ///
    /// # Panics
    /// It does not answer in time; its log is printed.
    pub async fn start_with(image: Image, flags: &[&str], docker_args: &[&str]) -> Self {
        Self::begin(image, flags, docker_args, None).await
    }

    async fn begin(image: Image, flags: &[&str], docker_args: &[&str], template: Option<&Template>) -> Self {
        let password = template.map_or_else(Secret::random, |template| template.password.clone());
        let secrets = tempfile::tempdir().expect("a temporary folder");
        let file = secrets.path().join("password");
        std::fs::write(&file, password.expose()).expect("a password file");
        let container = format!("chomt-mysql-{}", &Secret::random().expose()[..12]);
        let mount = format!("{}:/run/chomt-password:ro", file.display());
        let mut args = vec!["run", "-d", "--name", &container, "-v", &mount];
        if !docker_args.contains(&"--volume") {
            args.extend(["--tmpfs", "/var/lib/mysql"]);
        }
        args.extend(["-e", "MYSQL_ROOT_PASSWORD_FILE=/run/chomt-password"]);
        if !docker_args.contains(&"TZINFO=1") {
            args.extend(["-e", "MYSQL_INITDB_SKIP_TZINFO=1"]);
        }
        args.extend(docker_args.iter().filter(|a| **a != "--volume" && **a != "TZINFO=1"));
        let (copying, command) = (template.map(Template::arguments), template.map(|_| Template::command(image)));
        args.extend(copying.iter().flatten().map(String::as_str));
        args.push(image.name());
        args.extend(command.iter().flatten().map(String::as_str));
        args.extend(flags);
        docker(&args);
        let address = std::sync::Mutex::new(address_of(&container));
        let server = Self { image, container, address, password, _secrets: secrets };
        if let Err(error) = Server::connect(server.login(), START).await {
            panic!("{} did not start: {error:?}\n{}", image.name(), server.logs());
        }
        server
    }

    /// Login of its first root.
    pub fn login(&self) -> Login {
        let address = self.address.lock().unwrap().clone();
        Login::new(address, 3306, "root", self.password.clone())
    }

    /// Connects.
    pub async fn connect(&self) -> Server {
        // It may just have been restarted, on a machine that has other things to do.
        Server::connect(self.login(), START).await.expect("the server answers")
    }

    /// Connects with the password of another server, whose accounts were put here.
    pub async fn connect_as(&self, other: &Self) -> Server {
        let login = Login { password: other.password.clone(), ..self.login() };
        Server::connect(login, Duration::from_secs(10)).await.expect("the server answers")
    }

    /// Name of the container.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// Runs a script with the server's own client, which knows `DELIMITER`.
    ///
    /// # Panics
    /// A statement fails.
    pub fn script(&self, sql: impl AsRef<[u8]>) -> String {
        let args = ["--default-character-set=utf8mb4", "--binary-mode", "--batch", "--skip-column-names", "--raw"];
        let output = self.tool(self.image.client(), &args, sql.as_ref());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a script as [`TestServer::script`] does, and passes over statements that fail.
    ///
    /// # Panics
    /// The client does not run.
    pub fn forced(&self, sql: impl AsRef<[u8]>) {
        let args = ["--default-character-set=utf8mb4", "--force", "--batch"];
        let output = self.tool(self.image.client(), &args, sql.as_ref());
        // Without a server it ends at once; with failed statements at the end.
        assert!(
            !String::from_utf8_lossy(&output.stderr).contains("ERROR 2"),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Dumps with the server's own tool and returns its lines in order, for a comparison that owes nothing to ours.
    ///
    /// # Panics
    /// The tool fails.
    pub fn foreign_dump(&self, schemas: &[String]) -> Vec<String> {
        if schemas.is_empty() {
            return Vec::new();
        }
        let mut args = vec![
            "--single-transaction",
            "--routines",
            "--triggers",
            "--events",
            "--hex-blob",
            "--skip-extended-insert",
            "--complete-insert",
            "--skip-comments",
            "--skip-dump-date",
            "--force",
            "--databases",
        ];
        if self.image == Image::Mysql {
            args.insert(0, "--set-gtid-purged=OFF");
        }
        args.extend(schemas.iter().map(String::as_str));
        let output = self.tool(self.image.dumper(), &args, b"");
        assert!(!output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        // MySQL writes the character set again once a collation was given in the statement; the collation implies it.
        let mut lines: Vec<_> = text
            .lines()
            .map(|l| match l.split_once(" CHARACTER SET ") {
                Some((head, tail)) if l.starts_with("  `") => match tail.split_once(" COLLATE ") {
                    Some((set, tail)) if !set.contains(' ') => format!("{head} COLLATE {tail}"),
                    _ => l.to_owned(),
                },
                _ => l.to_owned(),
            })
            .collect();
        lines.sort();
        lines
    }

    /// Dumps with the server's own tool, as a script would.
    ///
    /// # Panics
    /// The tool fails.
    pub fn dump(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.tool(self.image.dumper(), arguments, b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// What the server's own tool makes of its binary logs: statements that do again what was done up to a position.
    ///
    /// # Panics
    /// The tool fails.
    pub fn binary_log_up_to(&self, file: &str, offset: u64) -> Vec<u8> {
        let (tool, ids) = match self.image {
            Image::Mysql => ("mysqlbinlog", "--skip-gtids"),
            _ => ("mariadb-binlog", "--skip-annotate-row-events"),
        };
        let logs = self.script("SHOW BINARY LOGS");
        let names = logs.lines().filter_map(|line| line.split('\t').next()).take_while(|name| *name <= file);
        let files: Vec<_> = names.map(|name| format!("/var/lib/mysql/{name}")).collect();
        let stop = format!("--stop-position={offset}");
        let mut args = vec!["exec", &self.container, tool, ids, &stop];
        args.extend(files.iter().map(String::as_str));
        let output = Command::new("docker").args(args).output().expect("docker runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn tool(&self, tool: &str, args: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new("docker")
            .env("MYSQL_PWD", self.password.expose())
            .args(["exec", "-i", "-e", "MYSQL_PWD", &self.container, tool, "-uroot"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("docker ends");
        feeder.join().expect("the feeder ends");
        output
    }

    /// Returns the container's log.
    pub fn logs(&self) -> String {
        let output =
            Command::new("docker").args(["logs", "--tail", "40", &self.container]).output().expect("docker runs");
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    }

    /// Cuts a file below the data directory to half its length, after the server let go of all tables.
    pub fn damage(&self, file: &str) {
        self.script("FLUSH TABLES");
        let path = format!("/var/lib/mysql/{file}");
        let size = docker(&["exec", &self.container, "stat", "-c", "%s", &path]);
        let half = size.trim().parse::<u64>().expect("a size") / 2;
        docker(&["exec", &self.container, "truncate", "-s", &half.to_string(), &path]);
    }

    /// Runs a command in the container as root; returns what it prints.
    pub fn exec(&self, command: &[&str]) -> String {
        docker(&[&["exec", &self.container], command].concat())
    }

    /// Restarts the server; its data directory must be a volume.
    pub fn restart(&self) {
        docker(&["restart", "-t", "20", &self.container]);
        *self.address.lock().unwrap() = address_of(&self.container);
    }

    /// Freezes the server: it keeps its address, which another container may get from one that is killed, and answers nobody.
    pub fn freeze(&self) {
        docker(&["pause", &self.container]);
    }

    /// Kills the server like a power cut.
    pub fn kill(&self) {
        docker(&["kill", "-s", "KILL", &self.container]);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.container]).output();
    }
}

/// Reads a fixture from `tests/fixtures/mysql`.
///
/// # Panics
/// There is none.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mysql").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn address_of(container: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    docker(&["inspect", "-f", format, container]).trim().to_owned()
}

pub(crate) fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("docker runs");
    assert!(output.status.success(), "docker {}: {}", args[0], String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A dump kept in memory.
#[derive(Debug, Default)]
pub struct MemoryDump {
    /// Definitions.
    pub objects: Option<Objects>,
    /// Chunks, in order.
    pub chunks: Vec<Chunk>,
}

#[async_trait::async_trait]
impl DumpSink for MemoryDump {
    async fn objects(&mut self, objects: &Objects) -> Result<()> {
        // Through its JSON, as a backup keeps it.
        let json = serde_json::to_vec(objects).expect("definitions have a JSON form");
        self.objects = Some(serde_json::from_slice(&json).expect("and are read from it"));
        Ok(())
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<()> {
        self.chunks.push(chunk);
        Ok(())
    }
}

impl MemoryDump {
    /// Dumps a server.
    pub async fn of(server: &Server, options: &dump::Options) -> Result<(Self, dump::Summary)> {
        let mut sink = Self::default();
        let summary = dump::dump(server, options, &mut sink).await?;
        Ok((sink, summary))
    }

    /// Definitions.
    ///
    /// # Panics
    /// Nothing was dumped.
    pub fn definitions(&self) -> &Objects {
        self.objects.as_ref().expect("a dump begins with its definitions")
    }

    /// Loads into a server, accounts excepted.
    pub async fn load(&self, server: &Server) -> Result<load::Report> {
        let mut sizes = std::collections::BTreeMap::<_, u64>::new();
        for chunk in &self.chunks {
            *sizes.entry((chunk.schema.clone(), chunk.table.clone())).or_default() += chunk.bytes.len() as u64;
        }
        let options = load::Options { keys_after: 64, ..load::Options::default() };
        let mut loader = load::Loader::begin_with(server, self.definitions().clone(), options, &sizes).await?;
        loader.chunks(self.chunks.iter().map(incoming).collect(), &sizes, &mut |_| {}).await?;
        loader.finish().await
    }
}

/// Makes a dumped chunk one to be loaded.
pub fn incoming(chunk: &Chunk) -> load::Incoming {
    // Pieces that end in the middle of rows, as those of a decoder do.
    let pieces: Vec<_> = chunk.bytes.chunks(64 << 10).map(|p| Ok(bytes::Bytes::copy_from_slice(p))).collect();
    load::Incoming {
        schema: chunk.schema.clone(),
        table: chunk.table.clone(),
        number: chunk.number,
        rows: chunk.rows,
        row_hash: Some(chunk.row_hash),
        bytes: Box::pin(futures::stream::iter(pieces)),
    }
}
