//! `schedule`: units that do things on time.

use chom_recovery::{
    Error, Result,
    configuration::{ScheduleRequest, schedule},
};

use crate::{args::Schedule, exit::Exit, session::Session};

pub(crate) fn run(session: &Session, command: Schedule) -> Result<Exit> {
    let Schedule::Install { print, directory, program, textfile } = command;
    let absolute = |path: std::path::PathBuf| std::path::absolute(path).map_err(Error::from);
    let program = match program {
        Some(program) => program,
        None => std::env::current_exe().map_err(|e| Error::from(e).during("cannot tell where this program is"))?,
    };
    let request = ScheduleRequest {
        program: absolute(program)?,
        config: absolute(session.config_path()?)?,
        textfile: textfile.map(absolute).transpose()?,
    };
    let units = schedule(&session.system()?, &request)?;
    let output = &session.output;
    if !print {
        units.write(&directory)?;
    }
    output.show("units", &units, |output| {
        for unit in &units.units {
            if print {
                output.line(format!("# {}/{}", directory.display(), unit.name));
                output.line(&unit.text);
            } else {
                output.line(directory.join(&unit.name).display());
            }
        }
    });
    for note in &units.notes {
        output.say(format!("note: {note}"));
    }
    output.say(format!("then: systemctl daemon-reload && systemctl enable --now {}", units.timers().join(" ")));
    Ok(Exit::Ok)
}
