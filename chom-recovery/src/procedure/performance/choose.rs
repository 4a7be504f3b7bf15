//! Which mitigations the evidence asks for, those of least risk first.

use serde::{Deserialize, Serialize};

use super::measure::Use;
use crate::{
    backend::Project,
    mysql::{Activity, Busy, Lock},
    system::System,
};

/// Something that may help, with what it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Mitigation {
    /// End a statement that only reads, or that others wait for.
    EndStatement {
        /// What was seen.
        seen: Box<Busy>,
        /// How many connections wait for it.
        blocks: usize,
    },
    /// End the connection of an idle transaction that others wait for.
    EndIdle {
        /// What was seen.
        seen: Box<Busy>,
        /// How many connections wait for it.
        blocks: usize,
    },
    /// Let the workers of a service end their jobs, and start them anew.
    Drain {
        /// Service.
        service: String,
        /// What it uses up.
        why: String,
    },
    /// Give a service that takes jobs more containers.
    Scale {
        /// Service.
        service: String,
        /// Containers that it has.
        from: u32,
        /// Containers that it gets.
        to: u32,
    },
}

/// What is done, and what is not, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choice {
    /// What is wrong.
    pub(super) found: Vec<String>,
    /// What is done about it, those of least risk first.
    pub(super) mitigations: Vec<Mitigation>,
    /// What would help, and is left alone.
    pub(super) left: Vec<String>,
}

impl Mitigation {
    /// Says what it does and what it costs.
    pub(super) fn text(&self) -> String {
        match self {
            Self::EndStatement { seen, blocks } => {
                format!("end {}{}; its client gets an error", statement(seen), waiters(*blocks))
            }
            Self::EndIdle { seen, blocks } => {
                let changed = seen.transaction.as_ref().map_or(0, |t| t.rows_changed);
                format!("end {}{}; {changed} rows that it changed are changed back", idle(seen), waiters(*blocks))
            }
            Self::Drain { service, why } => {
                format!("let `{service}` end its jobs and start it again, since {why}; jobs wait meanwhile")
            }
            Self::Scale { service, from, to } => {
                format!("give `{service}` {to} containers instead of {from}; they use memory and connections")
            }
        }
    }
}

fn waiters(blocks: usize) -> String {
    if blocks == 0 { String::new() } else { format!(", for which {blocks} connections wait") }
}

fn statement(one: &Busy) -> String {
    format!(
        "a statement of `{}` from {} on connection {}, which has run for {} s and looked at {} rows: {}",
        one.user, one.host, one.connection, one.seconds, one.rows_examined, one.text
    )
}

fn idle(one: &Busy) -> String {
    let (open, locked) = one.transaction.as_ref().map_or((0, 0), |t| (t.seconds, t.rows_locked));
    format!(
        "connection {} of `{}` from {}, whose transaction has been open for {open} s, holds about {locked} rows locked and \
         has done nothing for {} s",
        one.connection, one.user, one.host, one.seconds
    )
}

/// Chooses what the evidence asks for.
pub(super) fn choose(system: &System, model: Option<&Project>, seen: &Use) -> Choice {
    let mut choice = Choice::default();
    choice.found.extend(seen.latency.iter().filter_map(|one| one.fault(&system.performance)));
    if let Some(activity) = &seen.database {
        of_database(system, activity, &mut choice);
    }
    of_workers(system, seen, &mut choice);
    of_queues(system, model, seen, &mut choice);
    choice
}

fn of_database(system: &System, activity: &Activity, choice: &mut Choice) {
    let limits = &system.performance;
    let (used, most) = (activity.connections, activity.max_connections);
    if used * 10 >= most * 9 {
        choice.found.push(format!("{used} of {most} connections of the database are in use"));
    }
    let mut statements = Vec::new();
    let mut idles = Vec::new();
    for one in &activity.sessions {
        let blocks = blocked_by(activity, one.connection);
        let is_old = one.seconds >= limits.long_statement.as_secs();
        if one.is_idle() {
            if blocks > 0 && one.seconds >= limits.idle_transaction.as_secs() && one.transaction.is_some() {
                choice.found.push(format!("{}{}", idle(one), waiters(blocks)));
                match untouchable(system, one) {
                    None => idles.push(Mitigation::EndIdle { seen: Box::new(one.clone()), blocks }),
                    Some(why) => choice.left.push(format!("{why}: {}", idle(one))),
                }
            }
        } else if is_old && !one.text.is_empty() && (reads(one) || blocks > 0) && !waits(activity, one.connection) {
            choice.found.push(format!("{}{}", statement(one), waiters(blocks)));
            match untouchable(system, one).or_else(|| not_to_end(one)) {
                None => statements.push(Mitigation::EndStatement { seen: Box::new(one.clone()), blocks }),
                Some(why) => choice.left.push(format!("{why}: {}", statement(one))),
            }
        }
    }
    let untold = activity.waits.iter().filter(|w| w.blocking.is_none()).count();
    if untold > 0 {
        choice.left.push(format!(
            "{untold} connections wait for the definition of a table, and the server does not tell for whom: look at \
             transactions that have been open for long"
        ));
    }
    // Those that others wait for come first: they may be all that is wrong.
    statements
        .sort_by_key(|m| std::cmp::Reverse(if let Mitigation::EndStatement { blocks, .. } = m { *blocks } else { 0 }));
    choice.mitigations.extend(statements);
    choice.mitigations.extend(idles);
    choice.left.extend(activity.fragmented.iter().map(|table| {
        format!(
            "later, and not during an incident: `OPTIMIZE TABLE {}` would free about {} MiB; it builds the table anew, which \
             needs {} MiB of disk and locks it at its begin and end",
            table.table,
            table.free >> 20,
            table.bytes >> 20
        )
    }));
}

/// Counts the connections that wait for one, also through others.
fn blocked_by(activity: &Activity, connection: u64) -> usize {
    let mut found = std::collections::BTreeSet::new();
    let mut next = vec![connection];
    while let Some(holder) = next.pop() {
        for wait in activity.waits.iter().filter(|w| w.blocking == Some(holder)) {
            if wait.waiting != connection && found.insert(wait.waiting) {
                next.push(wait.waiting);
            }
        }
    }
    found.len()
}

/// A victim: who holds what it waits for is at fault, and not it.
fn waits(activity: &Activity, connection: u64) -> bool {
    activity.waits.iter().any(|w| w.waiting == connection && (w.blocking.is_some() || w.lock == Lock::Metadata))
}

fn reads(one: &Busy) -> bool {
    matches!(one.verb().as_str(), "SELECT" | "WITH" | "TABLE" | "VALUES")
}

/// Whose statements are never ended, and why.
fn untouchable(system: &System, one: &Busy) -> Option<String> {
    if one.is_of_server() {
        return Some("it belongs to the server or to replication, and is left alone".into());
    }
    if one.is_ours || one.user == system.database.user {
        return Some("it is of the account of backups and recoveries, and is left alone".into());
    }
    if system.performance.never_end.contains(&one.user) {
        return Some("`performance.never_end` names its account".into());
    }
    None
}

/// What must come to its end by itself.
fn not_to_end(one: &Busy) -> Option<String> {
    let (state, text) = (one.state.to_ascii_lowercase(), one.text.to_ascii_uppercase());
    if state.contains("roll") {
        return Some("it is being rolled back, which nothing speeds up".into());
    }
    if text.contains("SQL_NO_CACHE") || text.starts_with("FLUSH") || text.starts_with("BACKUP") {
        return Some("it reads like a backup, and is left alone".into());
    }
    let changes = ["SELECT", "WITH", "TABLE", "VALUES", "UPDATE", "DELETE", "INSERT", "REPLACE"];
    (!changes.contains(&one.verb().as_str())).then(|| "it changes definitions or more, and is left alone".into())
}

/// Workers that have used up their memory: they are about to be killed in the middle of a job.
fn of_workers(system: &System, seen: &Use, choice: &mut Choice) {
    for service in system.queue_services() {
        let full = seen.containers.iter().filter(|one| one.service == service).find_map(|one| {
            let usage = one.usage.filter(|u| u.memory_limit > 0 && u.memory / 9 >= u.memory_limit / 10)?;
            Some(format!("`{}` uses {} of {} MiB", one.container, usage.memory >> 20, usage.memory_limit >> 20))
        });
        if let Some(why) = full {
            choice.found.push(why.clone());
            choice.mitigations.push(Mitigation::Drain { service: service.to_owned(), why });
        }
    }
}

fn of_queues(system: &System, model: Option<&Project>, seen: &Use, choice: &mut Choice) {
    let pending: u64 = seen.queues.values().map(|(pending, _)| pending).sum();
    if pending <= system.performance.backlog {
        return;
    }
    choice.found.push(format!("{pending} jobs wait, over {}", system.performance.backlog));
    for service in system.queue_services() {
        match more_workers(system, model, seen, service) {
            Ok(scale) => choice.mitigations.push(scale),
            Err(why) => choice.left.push(format!("`{service}` gets no more containers: {why}")),
        }
    }
}

/// Says how many containers a service may have, or what is in the way.
fn more_workers(system: &System, model: Option<&Project>, seen: &Use, service: &str) -> Result<Mitigation, String> {
    let limits = &system.performance;
    let ours: Vec<_> = seen.containers.iter().filter(|one| one.service == service).collect();
    let from = u32::try_from(ours.len()).unwrap_or(u32::MAX);
    let to = from.saturating_mul(2).min(limits.most_workers);
    if ours.is_empty() || ours.iter().any(|one| one.usage.is_none()) {
        return Err("it does not run as it should: `chom-recovery recover queue` first".into());
    }
    if to <= from {
        return Err(format!("it has {from}, and `performance.most_workers` is {}", limits.most_workers));
    }
    if model.and_then(|m| m.service(service).ok()).is_none_or(|s| s.has_fixed_name) {
        return Err("a fixed `container_name` forbids it, or the Compose file cannot be read".into());
    }
    let more = u64::from(to - from);
    let activity = seen.database.as_ref().ok_or("the database's connections are not known")?;
    if (activity.connections + more) * 100 > activity.max_connections * u64::from(limits.connections_percent) {
        return Err("the database has too few connections left".into());
    }
    let host = seen.host.as_ref().ok_or("processors and memory of the host are not known")?;
    let busy: f64 = seen.containers.iter().filter_map(|one| one.usage.map(|u| u.cpu)).sum();
    let per_worker = ours.iter().filter_map(|one| one.usage.map(|u| u.cpu)).fold(0.0, f64::max);
    #[expect(clippy::cast_precision_loss, reason = "few cores and workers")]
    let (cores, more_cpu) = (host.cores as f64, per_worker * more as f64);
    if busy + more_cpu > cores * f64::from(limits.cpu_percent) / 100.0 {
        return Err(format!("the processors are busy: {busy:.1} of {cores} in use"));
    }
    let (total, free) = host.memory.ok_or("the host's memory is not known")?;
    let per_worker = ours.iter().filter_map(|one| one.usage.map(|u| u.memory)).max().unwrap_or(0);
    if (total - free.min(total)) + per_worker * more > total / 100 * u64::from(limits.memory_percent) {
        return Err("the host has too little memory left".into());
    }
    Ok(Mitigation::Scale { service: service.to_owned(), from, to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{ModelSource, Service, Usage},
        mysql::{LockWait, Transaction},
        procedure::performance::measure::{Host, Loaded},
    };

    fn system(more: &str) -> System {
        System::parse(&format!(
            "id = \"shop\"\n[compose]\nproject = \"shop\"\n[database]\nservice = \"mysql\"\npassword = {{ file = \"/x\" }}\n\
             [repository]\nurl = \"file:/x\"\n{more}"
        ))
        .unwrap()
    }

    fn busy(connection: u64, user: &str, seconds: u64, text: &str) -> Busy {
        let command = if text.is_empty() { "Sleep" } else { "Query" };
        let transaction = Some(Transaction { id: connection.to_string(), rows_changed: 3, ..Transaction::default() });
        Busy {
            connection,
            user: user.into(),
            command: command.into(),
            seconds,
            text: text.into(),
            transaction,
            ..Busy::default()
        }
    }

    fn wait(waiting: u64, blocking: u64) -> LockWait {
        LockWait { waiting, blocking: Some(blocking), seconds: 20, lock: Lock::Rows, object: "chom.orders".into() }
    }

    fn chosen(sessions: Vec<Busy>, waits: Vec<LockWait>) -> Choice {
        let activity = Activity { connections: 5, max_connections: 100, sessions, waits, ..Activity::default() };
        choose(&system(""), None, &Use { database: Some(activity), ..Use::default() })
    }

    fn ended(choice: &Choice) -> Vec<u64> {
        let of = |m: &Mitigation| match m {
            Mitigation::EndStatement { seen, .. } | Mitigation::EndIdle { seen, .. } => seen.connection,
            Mitigation::Drain { .. } | Mitigation::Scale { .. } => 0,
        };
        choice.mitigations.iter().map(of).collect()
    }

    #[test]
    fn only_long_reads_and_what_blocks_others_are_ended() {
        let sessions = vec![
            busy(1, "chom", 60, "SELECT SLEEP(99)"),
            busy(2, "chom", 5, "SELECT 1"),
            busy(3, "chom", 60, "UPDATE orders SET x = 1"),
            busy(4, "chom", 60, "ALTER TABLE orders ADD x INT"),
            busy(5, "system user", 9_999, "SELECT 1"),
            busy(6, "root", 60, "SELECT * FROM orders"),
            busy(7, "dumper", 60, "SELECT /*!40001 SQL_NO_CACHE */ * FROM orders"),
            busy(8, "chom", 60, "SELECT * FROM orders FOR UPDATE"),
        ];
        let choice = chosen(sessions, vec![wait(8, 3)]);
        assert_eq!(ended(&choice), [3, 1], "the blocker first; a victim never");
        assert_eq!(choice.left.len(), 3, "server, backups: {:?}", choice.left);
    }

    #[test]
    fn an_idle_transaction_is_ended_only_when_others_wait_for_it_even_through_others() {
        let sessions = || {
            vec![
                busy(1, "chom", 60, ""),
                busy(2, "chom", 30, "UPDATE a"),
                busy(3, "chom", 20, "UPDATE b"),
                busy(9, "chom", 60, ""),
            ]
        };
        let choice = chosen(sessions(), vec![wait(2, 1), wait(3, 2)]);
        assert_eq!(ended(&choice), [1]);
        let text = choice.mitigations[0].text();
        assert!(text.contains("2 connections wait") && text.contains("3 rows that it changed"), "{text}");
        assert_eq!(chosen(sessions(), Vec::new()).mitigations, []);
        let ours = chosen(vec![busy(1, "root", 60, "")], vec![wait(2, 1)]);
        assert_eq!((ours.mitigations.len(), ours.left.len()), (0, 1));
    }

    fn backlog(cpu: f64, memory: u64, connections: u64) -> Use {
        let usage = Some(Usage { cpu, memory, ..Usage::default() });
        let queue = Loaded { service: "queue".into(), container: "q".into(), restarts: 0, usage };
        let host = Host { cores: 4, memory: Some((1_000_000, 900_000)), ..Host::default() };
        Use {
            containers: vec![queue],
            host: Some(host),
            queues: [("default".to_owned(), (5_000, None))].into(),
            database: Some(Activity { connections, max_connections: 100, ..Activity::default() }),
            ..Use::default()
        }
    }

    fn model(has_fixed_name: bool) -> Project {
        let service = Service {
            name: "queue".into(),
            image: None,
            depends_on: Vec::new(),
            mounts: Vec::new(),
            replicas: 1,
            has_health_check: true,
            has_fixed_name,
        };
        Project { name: "p".into(), services: vec![service], volumes: [].into(), source: ModelSource::Files }
    }

    #[test]
    fn a_worker_that_has_used_up_its_memory_is_drained() {
        let full = |memory| {
            let mut seen = backlog(0.1, memory, 10);
            seen.queues.clear();
            seen.containers[0].usage = Some(Usage { memory, memory_limit: 100 << 20, ..Usage::default() });
            choose(&system(""), None, &seen).mitigations
        };
        assert!(matches!(&full(95 << 20)[..], [Mitigation::Drain { service, .. }] if service == "queue"));
        assert_eq!(full(80 << 20), []);
    }

    #[test]
    fn workers_are_added_within_every_limit_and_otherwise_the_limit_is_named() {
        let system = system("");
        let of = |seen: &Use, fixed| choose(&system, Some(&model(fixed)), seen);
        let scaled = of(&backlog(0.1, 1_000, 10), false);
        assert_eq!(scaled.mitigations, [Mitigation::Scale { service: "queue".into(), from: 1, to: 2 }]);
        for (seen, fixed, why) in [
            (backlog(0.1, 1_000, 10), true, "container_name"),
            (backlog(2.0, 1_000, 10), false, "processors"),
            (backlog(0.1, 900_000, 10), false, "memory"),
            (backlog(0.1, 1_000, 80), false, "connections"),
            (Use { host: None, ..backlog(0.1, 1_000, 10) }, false, "not known"),
        ] {
            let choice = of(&seen, fixed);
            assert_eq!(choice.mitigations, [], "{why}");
            assert!(choice.left[0].contains(why), "{:?}", choice.left);
        }
    }
}
