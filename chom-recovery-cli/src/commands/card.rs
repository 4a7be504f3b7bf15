//! `card`: what to print and keep where it can be read when nothing works.

use chom_recovery::{
    Result,
    report::{self, CardLine},
};

use crate::{exit::Exit, output::Output, session::Session};

pub(crate) fn card(session: &Session) -> Result<Exit> {
    let (path, recovery) = (session.config_path()?, session.open_without_engine()?);
    let path = std::path::absolute(&path).unwrap_or(path);
    let card = report::card(recovery.system(), &path, &recovery.backend().engine_address());
    session.output.show("card", &card, |output| {
        output
            .line(format!("RECOVERY OF {}, database within {}, losing at most {}\n", card.system, card.rto, card.rpo));
        section(output, "TYPE", &card.commands);
        section(output, "WHERE", &card.places);
        if card.contacts.is_empty() {
            output.line("CALL\n  nobody: add [[contacts]] to the configuration");
        } else {
            section(output, "CALL", &card.contacts);
        }
    });
    Ok(Exit::Ok)
}

fn section(output: &Output, title: &str, lines: &[CardLine]) {
    let width = lines.iter().map(|line| line.what.chars().count()).max().unwrap_or(0);
    output.line(output.palette().bold(title));
    for line in lines {
        output.line(format!("  {:<width$}  {}", line.what, line.text));
    }
    output.line("");
}
