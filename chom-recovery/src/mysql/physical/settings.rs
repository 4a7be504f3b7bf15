//! Settings that data files depend on.

use std::collections::BTreeMap;

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{Flavour, Server, physical::pages::Dialect},
};

/// Settings without which a server reads data files wrongly, or not at all: a restore has to have them as they were.
///
/// # Source
/// MySQL manual, "InnoDB Startup Options and System Variables" and `lower_case_table_names`; MariaDB server documentation,
/// "InnoDB System Variables".
const MUST_MATCH: [&str; 4] =
    ["lower_case_table_names", "innodb_page_size", "innodb_data_file_path", "innodb_checksum_algorithm"];
/// Of these, what differs is no obstacle: pages say themselves how they are summed up.
const MAY_DIFFER: [&str; 1] = ["innodb_checksum_algorithm"];
/// Folders of InnoDB. A copy has one folder for everything.
const FOLDERS: [&str; 3] = ["innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory"];

/// Settings that data files depend on, by name.
pub type Settings = BTreeMap<String, String>;

/// Reads the settings of a server that its data files depend on.
///
/// # Errors
/// Those of a query.
pub async fn settings(server: &Server) -> Result<Settings> {
    let variables = server.variables().await?;
    Ok(MUST_MATCH
        .iter()
        .filter_map(|name| variables.get(*name).map(|value| ((*name).to_owned(), value.clone())))
        .collect())
}

/// Makes sure that a server reads data files as the one did that wrote them.
///
/// # Errors
/// `Precondition`: a setting differs; all that do are named.
pub fn require_same(copied: &Settings, now: &Settings) -> Result<()> {
    let differs = |(name, value): (&String, &String)| {
        let now = now.get(name).filter(|now| *now != value && !MAY_DIFFER.contains(&name.as_str()))?;
        Some(format!("{name} was {value} and is {now}"))
    };
    let differences: Vec<_> = copied.iter().filter_map(differs).collect();
    if differences.is_empty() {
        return Ok(());
    }
    let what = format!("the server reads data files in another way than they were written: {}", differences.join("; "));
    Err(Error::new(ErrorKind::Precondition, what).hint("set them as they were, or restore a logical backup"))
}

/// Tells how the pages of a server are written.
pub fn dialect(flavour: Flavour, settings: &Settings) -> Dialect {
    let size = settings.get("innodb_page_size").and_then(|size| size.parse().ok());
    Dialect {
        is_mariadb: flavour == Flavour::Mariadb,
        // The default of both, should a server not say.
        page_size: size.filter(|size: &usize| size.is_power_of_two() && (4096..=65536).contains(size)).unwrap_or(16384),
    }
}

/// Refuses a server of which a copy of its data directory would be only a part: nothing was copied then.
///
/// # Errors
/// `Unsupported`: InnoDB keeps files outside of the data directory; a table has an engine that MySQL's CLONE leaves empty.
/// Everything that stands in the way is named.
pub async fn require_copyable(server: &Server) -> Result<Vec<String>> {
    let info = server.info();
    let variables = server.variables().await?;
    let is_elsewhere = |value: &str| {
        let value = value.trim_end_matches('/');
        !matches!(value, "" | "." | "./") && value != info.data_dir.trim_end_matches('/')
    };
    let mut outside: Vec<String> = FOLDERS
        .iter()
        .filter_map(|name| variables.get(*name).filter(|value| is_elsewhere(value)).map(|v| format!("{name} = {v}")))
        .collect();
    outside.extend(server.files_outside().await?);
    if !outside.is_empty() {
        let what = "InnoDB keeps files outside of the data directory, and a physical backup holds that alone";
        return Err(Error::new(ErrorKind::Unsupported, what).with("outside", named(&outside)).hint(LOGICAL));
    }
    let (mut lost, mut emptied) = (Vec::new(), Vec::new());
    for table in server.sizes().await? {
        let name = format!("{}.{} ({})", table.schema, table.table, table.engine);
        match (table.engine.as_str(), info.flavour) {
            ("InnoDB", _) => {}
            // Their rows are gone after any start of the server.
            ("MEMORY", _) => emptied.push(name),
            // Nothing of theirs is in files, but for the definition.
            ("BLACKHOLE" | "MRG_MYISAM" | "FEDERATED", Flavour::Mysql) | (_, Flavour::Mariadb) => {}
            (_, Flavour::Mysql) => lost.push(name),
        }
    }
    if !lost.is_empty() {
        let what = "MySQL copies tables of InnoDB alone, and the backup would lack the rows of others";
        return Err(Error::new(ErrorKind::Unsupported, what)
            .with("tables", named(&lost))
            .hint(format!("`ALTER TABLE ... ENGINE = InnoDB`; or {LOGICAL}")));
    }
    Ok(if emptied.is_empty() {
        Vec::new()
    } else {
        vec![format!("tables in memory come back empty, as after any start of the server: {}", named(&emptied))]
    })
}

const LOGICAL: &str = "take a logical backup: `chom-recovery backup create --kind logical`";

fn named(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn files_written_in_another_way_are_refused_by_name() {
        let copied = settings(&[
            ("lower_case_table_names", "0"),
            ("innodb_page_size", "16384"),
            ("innodb_checksum_algorithm", "crc32"),
        ]);
        let mut now = copied.clone();
        now.insert("innodb_checksum_algorithm".into(), "full_crc32".into());
        require_same(&copied, &now).unwrap();
        now.insert("lower_case_table_names".into(), "1".into());
        now.insert("innodb_page_size".into(), "8192".into());
        let error = require_same(&copied, &now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        for part in ["lower_case_table_names was 0 and is 1", "innodb_page_size was 16384 and is 8192"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_page_size_that_cannot_be_is_not_believed() {
        for (said, size) in [("4096", 4096), ("0", 16384), ("12345", 16384), ("many", 16384)] {
            assert_eq!(dialect(Flavour::Mysql, &settings(&[("innodb_page_size", said)])).page_size, size, "{said}");
        }
    }
}
