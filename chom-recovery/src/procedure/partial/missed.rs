//! What a scheduler missed, by the list of tasks that `artisan schedule:list` prints.

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};

/// So far back minutes are counted; whoever missed more looks at all tasks.
const LONGEST: TimeDelta = TimeDelta::days(8);

/// A task of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    expression: [String; 5],
    command: String,
}

/// Says which tasks were due after `from`, and how often. Times of day count as UTC.
pub(super) fn lines(list: &str, from: Option<u64>, now: DateTime<Utc>) -> Vec<String> {
    let tasks: Vec<Task> = list.lines().filter_map(task).collect();
    if tasks.is_empty() {
        return vec!["what the scheduler missed is not known: `artisan schedule:list` named no task".into()];
    }
    let from = from.and_then(|at| DateTime::from_timestamp(i64::try_from(at).ok()?, 0));
    let Some(from) = from.filter(|from| now - *from <= LONGEST) else {
        return tasks.iter().map(|t| format!("may have been missed, and was not run: {}", t.command)).collect();
    };
    tasks
        .iter()
        .filter_map(|task| match task.due(from, now) {
            Some(0) => None,
            Some(times) => Some(format!("missed {times} times (by UTC), and was not run: {}", task.command)),
            None => Some(format!("may have been missed, and was not run: {}", task.command)),
        })
        .collect()
}

/// Reads a line: five fields of cron, in newer versions a repetition in seconds, the command, and when it is due.
fn task(line: &str) -> Option<Task> {
    let mut rest = line.trim();
    // Minutes: a sentence begins otherwise.
    rest.chars().next().filter(|c| c.is_ascii_digit() || *c == '*')?;
    let mut expression = Vec::new();
    for _ in 0..5 {
        let (field, more) = rest.split_once(char::is_whitespace)?;
        if !field.bytes().all(|b| b.is_ascii_alphanumeric() || b"*/,-#".contains(&b)) {
            return None;
        }
        expression.push(field.to_owned());
        rest = more.trim_start();
    }
    let command = rest.split("Next Due:").next().unwrap_or(rest).trim_end_matches([' ', '.']);
    let command: String = command.chars().filter(|c| !c.is_control()).take(200).collect();
    (!command.is_empty()).then(|| Task { expression: expression.try_into().unwrap_or_default(), command })
}

impl Task {
    /// Counts the minutes in which it was due; `None`: the expression is not understood.
    fn due(&self, from: DateTime<Utc>, now: DateTime<Utc>) -> Option<u32> {
        let mut times = 0;
        let mut minute = from + TimeDelta::seconds(60 - i64::from(from.second()));
        while minute <= now {
            times += u32::from(self.matches(minute)?);
            minute += TimeDelta::minutes(1);
        }
        Some(times)
    }

    fn matches(&self, at: DateTime<Utc>) -> Option<bool> {
        let [minute, hour, day, month, weekday] = &self.expression;
        let is_time = field(minute, at.minute(), 0, 59)? && field(hour, at.hour(), 0, 23)?;
        let is_month = field(month, at.month(), 1, 12)?;
        let of_week = at.weekday().num_days_from_sunday();
        let by_day = field(day, at.day(), 1, 31)?;
        let by_weekday = field(weekday, of_week, 0, 7)? || (of_week == 0 && field(weekday, 7, 0, 7)?);
        // cron: where both are given, either is enough.
        let is_day = if day != "*" && weekday != "*" { by_day || by_weekday } else { by_day && by_weekday };
        Some(is_time && is_month && is_day)
    }
}

/// Whether a value is in a field: `*`, numbers, ranges, steps and lists of them.
fn field(text: &str, value: u32, least: u32, most: u32) -> Option<bool> {
    let mut is_in = false;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse().ok().filter(|s| *s > 0)?),
            None => (part, 1),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((low, high)) => (low.parse().ok()?, high.parse().ok()?),
            None => {
                let low: u32 = range.parse().ok()?;
                (low, if part.contains('/') { most } else { low })
            }
        };
        is_in |= (low..=high).contains(&value) && (value - low).is_multiple_of(step);
    }
    Some(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Laravel 10 and 8 print it.
    const LIST: &str = "\n  * * * * *  '/usr/bin/php8.4' 'artisan' chom:heartbeat scheduler  Next Due: 2026-11-27 07:12:00 +00:00\n\
        \x20 0 3 * * *  php artisan backup:clean .......... Next Due: 20 hours from now\n\
        \x20 */15 9-17 * * 1-5  php artisan report:send .... Next Due: 3 minutes from now\n\
        \x20 0 0 L * *  php artisan month:end .... Next Due: 3 days from now\n\n";

    #[test]
    fn what_was_due_since_the_last_sign_of_life_is_counted() {
        let from = u64::try_from("2026-11-27T09:58:30Z".parse::<DateTime<Utc>>().unwrap().timestamp()).unwrap();
        let now = "2026-11-27T10:31:10Z".parse().unwrap();
        let said = lines(LIST, Some(from), now);
        assert_eq!(
            said,
            [
                "missed 33 times (by UTC), and was not run: '/usr/bin/php8.4' 'artisan' chom:heartbeat scheduler",
                "missed 3 times (by UTC), and was not run: php artisan report:send",
                "may have been missed, and was not run: php artisan month:end",
            ]
        );
        assert_eq!(lines(LIST, None, now).len(), 4, "how long it was away is not known");
        assert!(lines("No scheduled tasks have been defined.", Some(from), now)[0].contains("not known"));
    }

    #[test]
    fn fields_of_cron_are_understood() {
        for (text, value, is_in) in [
            ("*", 7, Some(true)),
            ("*/15", 45, Some(true)),
            ("*/15", 44, Some(false)),
            ("5-10/5,20", 10, Some(true)),
            ("5-10/5,20", 9, Some(false)),
            ("5-10/5,20", 20, Some(true)),
            ("10/20", 50, Some(true)),
            ("L", 1, None),
            ("*/0", 1, None),
        ] {
            assert_eq!(field(text, value, 0, 59), is_in, "{text} {value}");
        }
        let sunday: DateTime<Utc> = "2026-11-29T00:00:00Z".parse().unwrap();
        let weekly = |day: &str| task(&format!("0 0 * * {day} php artisan x")).unwrap();
        assert_eq!((weekly("0").matches(sunday), weekly("7").matches(sunday)), (Some(true), Some(true)));
        assert_eq!(weekly("1").matches(sunday), Some(false));
    }
}
