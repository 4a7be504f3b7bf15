//! A backup that was lost to everybody but a person with an identity, a shell and standard tools: the commands of the
//! format's documentation, as they stand there, decrypt an encrypted backup and load it into an empty server.

use std::{path::Path, process::Command, sync::Arc};

use chom_recovery::{
    catalog::{
        BackupWriter, ComponentKind, ComponentSpec, Encryption, HostId, Identities, Recipients, Repository, Signer,
        logical,
    },
    mysql::{Scope, compare, dump},
    secret::SecretSource,
    store::{BackupStore, local::LocalStore},
    system::SystemId,
};
use chom_recovery_tests::{
    mysql::{Image, TestServer},
    skip,
};

const TOOLS: [&str; 9] = ["age", "age-keygen", "zstd", "jq", "xxd", "openssl", "sha256sum", "sed", "mariadb"];

/// Values, names and bodies that a careless shell would spoil.
const FIXTURE: &str = r#"
CREATE DATABASE by_hand CHARACTER SET utf8mb4;
CREATE DATABASE `odd name`;
USE by_hand;
CREATE TABLE parent (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(80) NOT NULL, kind ENUM('a','b','2') NOT NULL,
    flags SET('x','y','z'), doc JSON, raw BLOB, price DECIMAL(12,4), at TIMESTAMP(6) NULL);
CREATE TABLE child (id INT PRIMARY KEY, parent INT NOT NULL, FOREIGN KEY (parent) REFERENCES parent (id));
INSERT INTO parent VALUES (1, 'ann', 'a', 'x,z', '{"k": "v \\" \\\\ \\n", "n": [1, null]}', x'00090A0D5C27FF', 12.5, NULL),
    (2, 'tab\tline\nquote\'"back\\slash`$HOME %s', '2', '', NULL, '', -0.0001, '2026-03-01 03:00:00.123456'),
    (3, 'süß 漢字 🎉', 'b', NULL, '[]', REPEAT(x'5C4E0A', 5000), 0, NULL);
INSERT INTO child VALUES (10, 3), (11, 1);
USE `odd name`;
CREATE TABLE `a table` (`a column` INT, `b``c` TEXT);
INSERT INTO `a table` VALUES (1, NULL), (2, '\\N');
USE by_hand;
CREATE VIEW names AS SELECT name FROM parent;
DELIMITER //
CREATE FUNCTION twice(n INT) RETURNS INT DETERMINISTIC BEGIN DECLARE x INT; SET x = n * 2; RETURN x; END//
CREATE TRIGGER parent_price BEFORE INSERT ON parent FOR EACH ROW BEGIN SET NEW.price = twice(NEW.price); END//
DELIMITER ;
"#;

fn lacks_a_tool(test: &str) -> bool {
    let is_there = |tool: &&&str| {
        let looked = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        looked.is_ok_and(|o| o.status.success())
    };
    let Some(missing) = TOOLS.iter().find(|tool| !is_there(tool)) else { return false };
    skip(test, &format!("`{missing}` is not installed"));
    true
}

/// Makes an identity as a person does, and returns its recipient.
fn keygen(file: &Path) -> String {
    let made = Command::new("age-keygen").arg("-o").arg(file).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let shown = Command::new("age-keygen").arg("-y").arg(file).output().unwrap();
    String::from_utf8(shown.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn an_encrypted_backup_is_loaded_with_standard_tools_alone() {
    let test = "an_encrypted_backup_is_loaded_with_standard_tools_alone";
    let Some(image) = Image::chosen(test) else { return };
    if lacks_a_tool(test) {
        return;
    }
    let (source, target) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    source.script(FIXTURE);
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name: &str| folder.path().join(name);
    let recipients = ["operator", "escrow"].map(|name| keygen(&in_folder(name)));
    let recipients = Recipients::parse(&recipients).unwrap();
    let escrow = Identities::read(&SecretSource::File(in_folder("escrow"))).await.unwrap();

    let system: SystemId = "chom".to_owned().try_into().unwrap();
    let store: Arc<dyn BackupStore> = Arc::new(LocalStore::create(&in_folder("repository")).unwrap());
    let encryption = Encryption::Age { recipients: recipients.clone(), escrow };
    let made = Repository::init(&store, &system, folder.path(), encryption).await.unwrap();
    let repository = Repository::open(store, made.signer.into()).await.unwrap().with_recipients(recipients);
    let signer = Signer::load(folder.path(), &system).unwrap();
    let mut backup = BackupWriter::begin(&repository, &signer, &HostId::derive("a test"), &system).await.unwrap();
    let component = backup.component(ComponentSpec::new("database", ComponentKind::Logical).unwrap()).unwrap();
    let options = dump::Options { chunk_bytes: 512, ..dump::Options::default() };
    let from = source.connect().await;
    let summary = logical::dump_to(&from, &component, &options, &mut |_| {}).await.unwrap();
    let info = backup.finish(logical::facts(from.info(), &summary)).await.unwrap();
    assert!(summary.rows > 6, "{summary:?}");

    std::fs::create_dir(in_folder("scratch")).unwrap();
    let login = target.login();
    let option_file = format!(
        "[client]\nhost={}\nport={}\nuser={}\npassword={}\nprotocol=tcp\n",
        login.host,
        login.port,
        login.user,
        login.password.expose()
    );
    std::fs::write(in_folder("login"), option_file).unwrap();
    let text = include_str!("../../chom-recovery/src/docs/format.md");
    let scripts: Vec<_> = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let script = scripts.join("\n").replace("/tmp/", &format!("{}/", in_folder("scratch").display()));
    let output = Command::new("sh")
        .args(["-euc", &script])
        .env("REPOSITORY", in_folder("repository"))
        .env("HOST_ID", info.host().as_str())
        .env("SYSTEM", info.system().as_str())
        .env("ULID", info.id().to_string())
        .env("SIGNER", signer.id().to_string())
        .env("IDENTITY", in_folder("escrow"))
        .env("LOGIN", in_folder("login"))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");

    let to = target.connect().await;
    let comparison = compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    assert_eq!(comparison.differences, [], "{shown}");
    assert_eq!(comparison.rows, summary.rows);
    assert!(comparison.definitions >= 7, "{comparison:?}");
}
