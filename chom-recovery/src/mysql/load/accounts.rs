//! Puts the accounts of a dump in the place of the candidate's, and with that ends the one-time login.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        dump,
        info::Flavour,
        login::Login,
        objects::{Account, Objects, Text},
        quote,
        server::Server,
        session::{Role, Session, server_code},
    },
    secret::Secret,
};

/// What became of the accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountsReport {
    /// Accounts and roles that are now as they were dumped.
    pub accounts: usize,
    /// What could not be made again, by account. Empty in a whole restore.
    pub warnings: Vec<String>,
}

/// Replaces all accounts of a candidate by those of a dump. Load rows and objects first: grants name them.
///
/// Afterwards the login of `server` no longer works; this is tried before the function returns. On failure the
/// candidate may be left without a usable account: discard it.
///
/// # Errors
/// `Failed`: an account is not as it was dumped, or the one-time login still works.
pub async fn replace_accounts(server: &Server, objects: &Objects) -> Result<AccountsReport> {
    replace_accounts_by(server, &objects.accounts).await
}

/// Does the same with accounts that are not part of a dump.
///
/// # Errors
/// Those of [`replace_accounts`].
pub async fn replace_accounts_by(server: &Server, accounts: &[Account]) -> Result<AccountsReport> {
    // Accounts are dropped and made by one that is neither: the one-time account may bear the name of a dumped one.
    let name = format!("chom_{}", hex::encode(rand::random::<[u8; 8]>()));
    let password = Secret::new(format!("Aa1-{}", Secret::random().expose()));
    let mut session = server.session(Role::Load).await?;
    let me = quote::account(&name, "%");
    session.run(format!("CREATE USER {me} IDENTIFIED BY {}", quote::text(password.expose()))).await?;
    session.run(format!("GRANT ALL PRIVILEGES ON *.* TO {me} WITH GRANT OPTION")).await?;
    session.close().await;

    let login = Login { user: name.clone(), password, ..server.login().clone() };
    let steward = Server::connect(login, std::time::Duration::ZERO).await?;
    let mut work = Work {
        session: steward.session(Role::Load).await?,
        flavour: server.info().flavour,
        warnings: Vec::new(),
        incomplete: BTreeSet::new(),
    };
    let present = dump::objects::collect_accounts(&steward).await?;
    work.drop_all(present.iter().filter(|a| a.user != name)).await?;
    work.make_all(accounts).await?;
    work.session.run("FLUSH PRIVILEGES").await?;

    let present = dump::objects::collect_accounts(&steward).await?;
    work.compare(accounts, present.into_iter().filter(|a| a.user != name))?;
    work.session.run(format!("DROP USER {me}")).await?;
    work.session.close().await;
    refuse_old_login(server).await?;
    let accounts = accounts.len() - work.incomplete.len();
    Ok(AccountsReport { accounts, warnings: work.warnings })
}

/// An account to be made from nothing but its password.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// User name.
    pub user: String,
    /// Host that it may come from.
    pub host: String,
    /// Password.
    pub password: Secret,
    /// Schemas on which it gets all privileges.
    pub schemas: Vec<String>,
}

/// Makes accounts on a candidate where nothing tells how they were: `admin` gets every privilege and takes the place of
/// the one-time login, whose end is tried.
///
/// # Errors
/// `Failed`: an account cannot be made, or the one-time login still works. Discard the candidate then.
pub async fn make_accounts(server: &Server, admin: &NewAccount, others: &[NewAccount]) -> Result<()> {
    let mut session = server.session(Role::Load).await?;
    let by = |account: &NewAccount| format!("IDENTIFIED BY {}", quote::text(account.password.expose()));
    for account in others.iter().filter(|a| a.user != admin.user) {
        let name = quote::account(&account.user, &account.host);
        session.run(format!("CREATE USER {name} {}", by(account))).await?;
        for schema in &account.schemas {
            // `_` and `%` in a grant stand for other characters.
            let schema = quote::ident(&schema.replace('_', "\\_").replace('%', "\\%"));
            session.run(format!("GRANT ALL PRIVILEGES ON {schema}.* TO {name}")).await?;
        }
    }
    let present = dump::objects::collect_accounts(server).await?;
    let (own, mut left): (Vec<_>, Vec<_>) = present.iter().partition(|a| a.user == admin.user);
    if own.is_empty() {
        let name = quote::account(&admin.user, &admin.host);
        session.run(format!("CREATE USER {name} {}", by(admin))).await?;
        session.run(format!("GRANT ALL PRIVILEGES ON *.* TO {name} WITH GRANT OPTION")).await?;
        left.retain(|a| a.user == server.login().user);
        for account in left {
            session.run(format!("DROP USER {}", quote::account(&account.user, &account.host))).await?;
        }
    }
    for account in own {
        session.run(format!("ALTER USER {} {}", quote::account(&account.user, &account.host), by(admin))).await?;
    }
    session.close().await;
    refuse_old_login(server).await
}

/// Proves that the login that loaded is over.
async fn refuse_old_login(server: &Server) -> Result<()> {
    match server.session(Role::Read).await {
        Err(e) if e.kind() == ErrorKind::Authentication => Ok(()),
        Err(e) => Err(e.during("trial that the one-time login is over")),
        Ok(session) => {
            session.close().await;
            Err(Error::new(ErrorKind::Failed, "the one-time login of the candidate still works")
                .hint("discard the candidate"))
        }
    }
}

struct Work {
    session: Session,
    flavour: Flavour,
    warnings: Vec<String>,
    /// Accounts that a warning is about.
    incomplete: BTreeSet<String>,
}

impl Work {
    async fn drop_all(&mut self, accounts: impl Iterator<Item = &Account>) -> Result<()> {
        for a in accounts.filter(|a| a.user != "PUBLIC" || !a.role) {
            let sql = if a.role {
                format!("DROP ROLE {}", quote::ident(&a.user))
            } else {
                format!("DROP USER {}", quote::account(&a.user, &a.host))
            };
            self.session.run(sql).await.map_err(|e| e.during(format!("account `{}`", a.name())))?;
        }
        Ok(())
    }

    async fn make_all(&mut self, accounts: &[Account]) -> Result<()> {
        for a in accounts {
            let made = match &a.create {
                Some(create) => self.session.run(create.bytes().to_vec()).await,
                None if a.user == "PUBLIC" => continue,
                None => self.session.run(format!("CREATE ROLE {}", quote::ident(&a.user))).await,
            };
            if let Err(e) = made {
                // The old method is gone since MySQL 9.0; its hash is of no use to another one.
                let old = a.create.as_ref().is_some_and(|c| c.lossy().contains("'mysql_native_password'"));
                let hint = match server_code(&e) {
                    Some(1524) if old && self.flavour == Flavour::Mysql => {
                        "; make it with caching_sha2_password and its password"
                    }
                    Some(1524) => "; its authentication plugin is not in this server",
                    _ => "",
                };
                self.warn(a, &format!("cannot be made: {}{hint}", e.message()));
            }
        }
        // Every role is there before it is granted, and granted before it is a default.
        let usable = accounts.iter().filter(|a| !self.incomplete.contains(&a.name())).cloned().collect::<Vec<_>>();
        for default_roles in [false, true] {
            for a in &usable {
                for grant in a.grants.iter().filter(|g| g.bytes().starts_with(b"SET DEFAULT ROLE") == default_roles) {
                    if let Err(e) = self.grant(grant).await {
                        self.warn(a, &format!("grant not made ({}): {}", e.message(), without_hash(grant)));
                    }
                }
            }
        }
        for a in usable.iter().filter(|a| !a.default_roles.is_empty()) {
            let roles = a.default_roles.iter().map(|(u, h)| quote::account(u, h)).collect::<Vec<_>>().join(", ");
            let sql = format!("ALTER USER {} DEFAULT ROLE {roles}", quote::account(&a.user, &a.host));
            if let Err(e) = self.session.run(sql).await {
                self.warn(a, &format!("default roles not set: {}", e.message()));
            }
        }
        Ok(())
    }

    async fn grant(&mut self, grant: &Text) -> Result<()> {
        let statement = grant.bytes();
        if statement.starts_with(b"GRANT PROXY ON ") {
            return self.grant_proxy(&grant.lossy()).await;
        }
        if statement.starts_with(b"REVOKE ") {
            // Partial revokes need their switch; it belongs to the configuration of the production server too.
            self.session.run("SET GLOBAL partial_revokes = ON").await?;
        }
        match self.session.run(statement.to_vec()).await {
            // A grant on a table that is not there is taken when it includes CREATE.
            Err(e) if server_code(&e) == Some(1146) => {
                let object = quote::find(statement, b" ON ", 0).zip(quote::find(statement, b" TO ", 0));
                let Some((on, to)) = object.filter(|_| statement.starts_with(b"GRANT ")) else { return Err(e) };
                self.session.run([b"GRANT CREATE, ".as_slice(), &statement[b"GRANT ".len()..]].concat()).await?;
                let end = quote::find(statement, b" WITH ", to).unwrap_or(statement.len());
                let (object, account) = (&statement[on..to], &statement[to + b" TO ".len()..end]);
                self.session.run([b"REVOKE CREATE".as_slice(), object, b" FROM ", account].concat()).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    /// PROXY can be granted only by who has it on that very account, which no account but the first root has. So the
    /// row is written; `FLUSH PRIVILEGES` follows.
    async fn grant_proxy(&mut self, grant: &str) -> Result<()> {
        let names = quote::names(grant);
        let [proxied_user, proxied_host, user, host] = names.as_slice() else {
            return Err(Error::new(ErrorKind::Failed, "the statement does not name two accounts"));
        };
        let with_grant = u8::from(grant.ends_with("WITH GRANT OPTION"));
        let sql = format!(
            "REPLACE INTO mysql.proxies_priv (Host, User, Proxied_host, Proxied_user, With_grant, Grantor) \
             VALUES ({}, {}, {}, {}, {with_grant}, '')",
            quote::text(host),
            quote::text(user),
            quote::text(proxied_host),
            quote::text(proxied_user)
        );
        self.session.run(sql).await.map(drop)
    }

    /// Fails when an account differs and no warning says so.
    fn compare(&mut self, wanted: &[Account], present: impl Iterator<Item = Account>) -> Result<()> {
        let hashes = |accounts: Vec<Account>| Objects::account_census(&accounts);
        let (wanted, present) = (hashes(wanted.to_vec()), hashes(present.collect()));
        for (name, hash) in &wanted {
            if present.get(name) != Some(hash) && !self.incomplete.contains(name) {
                return Err(Error::new(ErrorKind::Failed, format!("account `{name}` is not as it was dumped"))
                    .with("flavour", self.flavour));
            }
        }
        match present.keys().find(|name| !wanted.contains_key(*name)) {
            Some(name) => {
                Err(Error::new(ErrorKind::Failed, format!("account `{name}` was not dumped and could not be removed")))
            }
            None => Ok(()),
        }
    }

    fn warn(&mut self, account: &Account, what: &str) {
        self.incomplete.insert(account.name());
        self.warnings.push(format!("account `{}`: {what}", account.name()));
    }
}

/// Cuts a grant before its password hash.
fn without_hash(grant: &Text) -> String {
    let statement = grant.bytes();
    let end = quote::find(statement, b" IDENTIFIED ", 0).unwrap_or(statement.len());
    String::from_utf8_lossy(&statement[..end]).into_owned()
}
