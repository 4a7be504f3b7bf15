//! The time in a file's name.

use chrono::{DateTime, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// Forms of a time in a name, longest first; the length counts bytes.
const FORMS: [(&str, usize); 13] = [
    ("%Y-%m-%dT%H:%M:%S", 19),
    ("%Y-%m-%d_%H:%M:%S", 19),
    ("%Y-%m-%d_%H-%M-%S", 19),
    ("%Y-%m-%d-%H-%M-%S", 19),
    ("%Y-%m-%dT%H-%M-%S", 19),
    ("%Y-%m-%d_%H%M%S", 17),
    ("%Y-%m-%d-%H%M%S", 17),
    ("%Y%m%d-%H%M%S", 15),
    ("%Y%m%d_%H%M%S", 15),
    ("%Y%m%dT%H%M%S", 15),
    ("%Y%m%d%H%M%S", 14),
    ("%Y%m%d-%H%M", 13),
    ("%Y%m%d_%H%M", 13),
];
const DATES: [(&str, usize); 2] = [("%Y-%m-%d", 10), ("%Y%m%d", 8)];

/// A time as a name tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) local: NaiveDateTime,
    /// The name says that it is in UTC.
    pub(super) is_utc: bool,
    /// The name tells only the day; its begin is taken.
    pub(super) is_day: bool,
}

/// Finds the time in a name.
pub(super) fn find(name: &str) -> Option<Named> {
    let is_digit = |at: usize| name.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let candidates = |length: usize| {
        (0..(name.len() + 1).saturating_sub(length)).filter(move |at| {
            // A longer number is something else.
            (*at == 0 || !is_digit(at - 1)) && is_digit(*at) && !is_digit(at + length)
        })
    };
    let is_sane = |date: NaiveDate| (2000..2200).contains(&chrono::Datelike::year(&date));
    for (form, length) in FORMS {
        for at in candidates(length) {
            let Some(text) = name.get(at..at + length) else { continue };
            if let Ok(local) = NaiveDateTime::parse_from_str(&completed(text, form), &completed_form(form))
                && is_sane(local.date())
            {
                return Some(Named { local, is_utc: name[at + length..].starts_with('Z'), is_day: false });
            }
        }
    }
    for (form, length) in DATES {
        for at in candidates(length) {
            let Some(text) = name.get(at..at + length) else { continue };
            if let Ok(date) = NaiveDate::parse_from_str(text, form)
                && is_sane(date)
            {
                return Some(Named { local: date.and_time(NaiveTime::MIN), is_utc: false, is_day: true });
            }
        }
    }
    None
}

/// Seconds are needed to make a time.
fn completed(text: &str, form: &str) -> String {
    if form.ends_with("%S") { text.to_owned() } else { format!("{text}00") }
}

fn completed_form(form: &str) -> String {
    if form.ends_with("%S") { form.to_owned() } else { format!("{form}%S") }
}

/// Turns a wall clock's time into a moment. Where the clock showed it twice, the earlier one: data is never called
/// newer than it may be.
pub(super) fn moment(local: NaiveDateTime, zone: Tz) -> (DateTime<Utc>, Option<String>) {
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(time) => (time.to_utc(), None),
        MappedLocalTime::Ambiguous(a, b) => {
            let note = format!("the clocks of {zone} showed {local} twice: the earlier is taken");
            (a.min(b).to_utc(), Some(note))
        }
        MappedLocalTime::None => {
            let note = format!("the clocks of {zone} never showed {local}: is it in another zone?");
            // As if they had not been put forward yet.
            let before = zone.from_local_datetime(&(local - TimeDelta::hours(3))).earliest();
            let moment = before.map_or_else(|| local.and_utc(), |b| b.to_utc() + TimeDelta::hours(3));
            (moment, Some(note))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%F %T").unwrap()
    }

    #[test]
    fn times_of_every_usual_form_are_found() {
        for name in [
            "backup-20260102-141500.sql.gz",
            "chom_20260102_141500.sql.gz",
            "2026-01-02_14-15-00-full.tar.gz",
            "db-2026-01-02T14:15:00Z.sql",
            "x20260102T141500.sql",
            "dump-20260102141500.sql.gz",
            "dump-20260102-1415.sql.gz",
        ] {
            assert_eq!(find(name).map(|n| (n.local, n.is_day)), Some((local("2026-01-02 14:15:00"), false)), "{name}");
        }
        assert!(find("db-2026-01-02T14:15:00Z.sql").unwrap().is_utc);
        let day = find("chom-2026-01-02.sql.gz").unwrap();
        assert_eq!((day.local, day.is_day), (local("2026-01-02 00:00:00"), true));
        for name in ["latest.sql.gz", "backup-99999999-999999.sql", "v1234567890123456789.sql", "ü20261302.sql"] {
            assert_eq!(find(name), None, "{name}");
        }
    }

    #[test]
    fn clocks_that_go_back_or_forward_are_told() {
        let paris = chrono_tz::Europe::Paris;
        let at = |text: &str| moment(local(text), paris);
        assert_eq!(at("2026-01-02 02:00:00"), (local("2026-01-02 01:00:00").and_utc(), None));
        let (twice, note) = at("2026-10-25 02:30:00");
        assert_eq!(twice, local("2026-10-25 00:30:00").and_utc());
        assert!(note.unwrap().contains("twice"));
        let (never, note) = at("2026-03-29 02:30:00");
        assert_eq!(never, local("2026-03-29 01:30:00").and_utc());
        assert!(note.unwrap().contains("never"));
    }
}
