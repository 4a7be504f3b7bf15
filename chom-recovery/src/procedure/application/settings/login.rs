//! Whether the database lets the application in with what the environment file says.
//!
//! The settings are those of Laravel's connections `mysql` and `mariadb` (`config/database.php`). They are tried against the
//! server over TCP; a host is judged by its name, since from here it may lead elsewhere. Values are never shown.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    backend::{BackendExt, ContainerEnvironment, ExecRequest},
    environment::Environment,
    mysql::LoginAnswer,
    probe::net,
    procedure::{Parts, application::mins},
    secret::Secret,
    system::Maintenance,
};

const HOST: &str = "DB_HOST";
const PORT: &str = "DB_PORT";
const SCHEMA: &str = "DB_DATABASE";
const USER: &str = "DB_USERNAME";
const PASSWORD: &str = "DB_PASSWORD";

/// Settings that say by themselves how the database is reached, before those above.
const OTHERS: [&str; 4] = ["DB_URL", "DATABASE_URL", "DB_SOCKET", "DB_PASSWORD_FILE"];

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Login {
    /// The settings do not say all, or are of another kind of database.
    Untried,
    /// Nobody could tell; this is why.
    Unknown(String),
    LetIn,
    /// These settings are refused.
    Refused(Vec<String>),
}

/// Says what is wrong with a setting that is refused.
pub(super) fn fault(setting: &str) -> String {
    match setting {
        HOST => format!("`{HOST}` is no name by which the application finds its database"),
        PORT => format!("`{PORT}` is not the database's port"),
        SCHEMA => format!("`{SCHEMA}` is no database that the application's account may use"),
        _ => format!("`{setting}`: the database refuses the application's account"),
    }
}

/// What the application goes by: its container's own variables, and then the file.
struct Settings<'a> {
    file: &'a Environment,
    elsewhere: &'a ContainerEnvironment,
}

impl Settings<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.elsewhere.get(name).or_else(|| self.file.get(name))?;
        // Words that `env()` takes for nothing.
        let is_nothing = ["null", "(null)", "empty", "(empty)"].iter().any(|word| value.eq_ignore_ascii_case(word));
        (!value.is_empty() && !is_nothing).then_some(value)
    }

    /// Finds why they cannot be tried.
    fn obstacle(&self) -> Option<Login> {
        if self.get("DB_CONNECTION").is_some_and(|kind| !["mysql", "mariadb"].contains(&kind)) {
            return Some(Login::Untried);
        }
        if let Some(other) = OTHERS.into_iter().find(|name| self.get(name).is_some()) {
            return Some(Login::Unknown(format!("`{other}` is set, and counts first")));
        }
        if [HOST, SCHEMA, USER].iter().any(|name| self.get(name).is_none()) {
            return Some(Login::Untried);
        }
        let refers = |name: &&str| self.get(name).is_some_and(|value| value.contains("${"));
        let name = [HOST, PORT, SCHEMA, USER, PASSWORD].into_iter().find(refers)?;
        Some(Login::Unknown(format!("`{name}` refers to another variable")))
    }
}

/// Tries the database settings of a file as the application's container would see them.
pub(super) async fn try_login(parts: &Parts, file: &Environment, elsewhere: &ContainerEnvironment) -> Login {
    let settings = Settings { file, elsewhere };
    if let Some(obstacle) = settings.obstacle() {
        return obstacle;
    }
    let value = |name| settings.get(name).unwrap_or_default();
    let mut refused = match leads_there(parts, value(HOST)).await {
        Some(true) => Vec::new(),
        Some(false) => vec![HOST],
        None => {
            return Login::Unknown(format!("`{HOST}` is not a name of service `{}`", parts.system.database.service));
        }
    };
    if settings.get(PORT).is_some_and(|port| port.parse() != Ok(parts.system.database.port)) {
        refused.push(PORT);
    }
    let password = Secret::unsearched(value(PASSWORD));
    match parts.database.try_login(value(USER), &password, value(SCHEMA)).await {
        Ok(LoginAnswer::LetIn) => {}
        Ok(LoginAnswer::AccountRefused) => refused.extend([USER, PASSWORD]),
        Ok(LoginAnswer::SchemaRefused) => refused.push(SCHEMA),
        Err(error) if refused.is_empty() => return Login::Unknown(error.message().to_owned()),
        Err(_) => {}
    }
    if refused.is_empty() { Login::LetIn } else { Login::Refused(refused.into_iter().map(str::to_owned).collect()) }
}

/// Tells whether the application finds the database under a name; `None`: it finds something, or nobody could tell.
async fn leads_there(parts: &Parts, host: &str) -> Option<bool> {
    let service = &parts.system.database.service;
    let containers = parts.backend.containers().await.ok()?;
    if host == service || containers.iter().any(|c| c.service == *service && c.name == host) {
        return Some(true);
    }
    if host.parse::<IpAddr>().is_ok() || !matches!(parts.system.application.maintenance, Maintenance::Laravel { .. }) {
        return None;
    }
    // Only within its networks can a name be looked up as the application does.
    let app = net::running(&parts.backend, &parts.system.application.service).await.ok()?;
    let look_up = ["php", "-r", "exit(gethostbyname($argv[1]) === $argv[1] ? 2 : 0);", "--", host];
    let asked = parts.backend.run(&app.name, ExecRequest::new(look_up), mins(1) / 4).await.ok()?;
    (asked.exit_code == 2).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "DB_HOST=mysql\nDB_DATABASE=shop\nDB_USERNAME=app\nDB_PASSWORD=x\n";

    fn obstacle(more: &str, elsewhere: &[(&str, &str)]) -> Option<Login> {
        let file = Environment::read(&format!("{WHOLE}{more}"));
        let elsewhere = elsewhere.iter().copied().collect();
        Settings { file: &file, elsewhere: &elsewhere }.obstacle()
    }

    #[test]
    fn settings_that_do_not_say_all_by_themselves_are_not_tried() {
        assert_eq!(obstacle("", &[]), None);
        assert_eq!(obstacle("DB_URL=\nDB_SOCKET=null\nDB_CONNECTION=mariadb\n", &[]), None, "nothing is said");
        assert_eq!(obstacle("DB_CONNECTION=pgsql\n", &[]), Some(Login::Untried));
        assert_eq!(obstacle("DB_HOST=\n", &[]), Some(Login::Untried), "that it is missing is said elsewhere");
        assert_eq!(obstacle("DB_HOST=\n", &[("DB_HOST", "mysql")]), None);
        for more in ["DB_URL=mysql://u@h/d\n", "DB_PASSWORD_FILE=/run/secrets/p\n", "DB_PASSWORD=\"${OTHER}\"\n"] {
            assert!(matches!(obstacle(more, &[]), Some(Login::Unknown(_))), "{more}");
        }
        assert!(matches!(obstacle("", &[("DATABASE_URL", "mysql://u@h/d")]), Some(Login::Unknown(_))));
    }
}
