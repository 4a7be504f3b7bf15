//! Who says yes.

use std::{os::unix::fs::MetadataExt, sync::Arc};

use chom_recovery::{
    Error, ErrorKind, Result,
    run::{AlwaysYes, Approver, AskLater, AskWith, Question, Reply, Waiver},
};

use crate::{args, terminal::Terminal};

/// Whose yes counts in this call.
#[derive(Debug, Clone)]
pub(crate) struct Consent {
    project: String,
    /// Whose name goes into journals.
    pub(crate) operator: String,
    answer: Answer,
    terminal: Terminal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Given on the command line.
    Yes,
    /// There is somebody to ask.
    Ask,
    /// There is nobody.
    Nobody,
}

impl Consent {
    /// Reads the options.
    ///
    /// # Errors
    /// `NeedsConfirmation`: `--confirm` names another project.
    pub(crate) fn of(options: &args::Consent, project: &str, terminal: &Terminal) -> Result<Self> {
        let operator = options.operator.clone().unwrap_or_else(login_name);
        let answer = match &options.confirm {
            Some(name) if name == project => Answer::Yes,
            Some(name) => {
                return Err(Error::new(
                    ErrorKind::NeedsConfirmation,
                    format!("`--confirm {name}` does not name this project, which is `{project}`"),
                )
                .hint("check that this is the configuration you mean"));
            }
            None if options.yes => Answer::Yes,
            None if terminal.can_ask() => Answer::Ask,
            None => Answer::Nobody,
        };
        Ok(Self { project: project.to_owned(), operator, answer, terminal: terminal.clone() })
    }

    /// Makes who answers a run's questions.
    pub(crate) fn approver(&self) -> Arc<dyn Approver> {
        match self.answer {
            Answer::Yes => Arc::new(AlwaysYes { by: self.operator.clone() }),
            Answer::Ask => {
                let this = self.clone();
                Arc::new(AskWith::new(move |question| this.put(question)))
            }
            Answer::Nobody => Arc::new(AskLater),
        }
    }

    /// Takes the responsibility that the options name, as the operator.
    pub(crate) fn waivers(&self, options: &args::Waivers) -> Vec<Waiver> {
        let waiver = |(item, because): &(String, String)| Waiver {
            item: item.clone(),
            because: because.clone(),
            by: self.operator.clone(),
        };
        options.waivers.iter().map(waiver).collect()
    }

    /// Makes sure that somebody can say yes when the run asks.
    ///
    /// # Errors
    /// `NeedsConfirmation`: nobody can.
    pub(crate) fn can_be_given(&self, what: &str) -> Result<()> {
        if self.answer == Answer::Nobody { Err(self.nobody(what)) } else { Ok(()) }
    }

    /// Gets a yes now.
    ///
    /// # Errors
    /// `NeedsConfirmation`: nobody is there. `Denied`: the answer is no.
    pub(crate) fn get(&self, what: &str) -> Result<()> {
        match self.answer {
            Answer::Yes => Ok(()),
            Answer::Nobody => Err(self.nobody(what)),
            Answer::Ask if self.names_project(what) == Some(true) => Ok(()),
            Answer::Ask => Err(Error::new(ErrorKind::Denied, format!("not confirmed: {what}"))
                .hint(format!("type the project's name, `{}`, to go on; nothing was done", self.project))),
        }
    }

    fn nobody(&self, what: &str) -> Error {
        Error::new(ErrorKind::NeedsConfirmation, format!("nobody is there to confirm: {what}"))
            .hint(format!("run it in a terminal, or add `--confirm {}` (or `--yes`)", self.project))
    }

    /// Asks for the project's name; `None`: there is no answer.
    fn names_project(&self, what: &str) -> Option<bool> {
        let question = format!("{what}\nType the project's name ({}) to go on: ", self.project);
        self.terminal.ask(&question).map(|answer| answer == self.project)
    }

    fn put(&self, question: &Question) -> Reply {
        let is_yes = match &question.role {
            None => self.names_project(&question.ask),
            Some(role) => {
                let text = format!("{} ({role})\nIs that so? [y/N] ", question.ask);
                self.terminal.ask(&text).map(|a| matches!(a.to_ascii_lowercase().as_str(), "y" | "yes"))
            }
        };
        match is_yes {
            Some(true) => Reply::Yes { by: self.operator.clone() },
            Some(false) => Reply::No { by: self.operator.clone(), because: "not confirmed at the terminal".into() },
            None => Reply::Later,
        }
    }
}

/// Who called, also through `sudo`.
pub(crate) fn login_name() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .or_else(account_name)
        .unwrap_or_else(|| "unknown".into())
}

/// Name of the account that this process runs as: services and containers have no login.
fn account_name() -> Option<String> {
    let uid = std::fs::metadata("/proc/self").ok()?.uid();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    Some(name.unwrap_or_else(|| format!("uid {uid}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(yes: bool, confirm: Option<&str>) -> args::Consent {
        args::Consent { yes, confirm: confirm.map(str::to_owned), operator: Some("ada".into()) }
    }

    #[test]
    fn the_name_of_another_project_is_no_consent_even_with_yes() {
        let error = Consent::of(&options(true, Some("shop")), "chom", &Terminal::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NeedsConfirmation);
        assert!(Consent::of(&options(false, Some("chom")), "chom", &Terminal::new()).unwrap().get("x").is_ok());
    }

    #[tokio::test]
    async fn yes_answers_in_the_operators_name() {
        let consent = Consent::of(&options(true, None), "chom", &Terminal::new()).unwrap();
        let question =
            Question { run: "r".into(), name: "n".into(), ask: "?".into(), role: Some("DBA".into()), plan: None };
        assert_eq!(consent.approver().ask(&question).await, Reply::Yes { by: "ada".into() });
        let options = args::Waivers { waivers: vec![("disk".into(), "known".into())] };
        let waiver = Waiver { item: "disk".into(), because: "known".into(), by: "ada".into() };
        assert_eq!(consent.waivers(&options), [waiver]);
    }
}
