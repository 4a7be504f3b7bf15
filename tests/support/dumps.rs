//! A directory of old dumps, filled by the server's own program as the runbook's script does it.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
};

use chom_recovery::system::Legacy;
use chrono::Utc;

use crate::{Stack, chaos};

/// The directory.
#[derive(Debug)]
pub struct Dumps {
    /// Its path.
    pub directory: PathBuf,
}

impl Dumps {
    /// Makes it in a folder.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn new(folder: &Path) -> Self {
        let directory = folder.join("legacy");
        std::fs::create_dir_all(directory.join("mysql/incremental")).unwrap();
        Self { directory }
    }

    /// What a configuration says of it.
    pub fn settings(&self) -> Legacy {
        Legacy {
            directory: self.directory.clone(),
            timezone: "UTC".into(),
            schema: None,
            longest_statement: 64 << 20,
            accounts: Vec::new(),
        }
    }

    /// Dumps with these arguments. Returns the file's path below the directory.
    ///
    /// # Panics
    /// The program fails.
    pub fn dump(&self, stack: &Stack, arguments: &str) -> String {
        let tool = if stack.db == "mysql" { "mysqldump" } else { "mariadb-dump" };
        let password = std::fs::read_to_string(&stack.db_root_password_file).unwrap();
        let script = format!("MYSQL_PWD='{}' {tool} -uroot {arguments}", password.trim_end());
        let output = chaos::shell(stack, "mysql", &script);
        let name = format!("mysql/backup-{}.sql.gz", Utc::now().format("%Y%m%d-%H%M%S"));
        self.write(&name, &output.stdout);
        name
    }

    /// Writes a text as a compressed file.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &[u8]) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        std::fs::write(self.directory.join(name), encoder.finish().unwrap()).unwrap();
    }

    /// Reads the text of a file.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn text(&self, name: &str) -> Vec<u8> {
        let mut text = Vec::new();
        let file = std::fs::File::open(self.directory.join(name)).unwrap();
        flate2::read::GzDecoder::new(file).read_to_end(&mut text).unwrap();
        text
    }
}
