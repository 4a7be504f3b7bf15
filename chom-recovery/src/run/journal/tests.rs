use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::*;
use crate::{
    run::{SystemClock, record::Outcome},
    secret::Secret,
};

fn note(text: &str) -> Entry {
    Entry::Note { step: "a-step".into(), text: text.into() }
}

/// A journal of three records; returns its bytes.
fn written(directory: &Path) -> Vec<u8> {
    let mut journal = Journal::create(directory, &SystemClock).unwrap();
    for text in ["one", "two\nlines", "three"] {
        journal.append(note(text), &SystemClock).unwrap();
    }
    drop(journal);
    std::fs::read(directory.join(FILE)).unwrap()
}

fn texts(records: &[Record]) -> Vec<&str> {
    records
        .iter()
        .filter_map(|r| match &r.entry {
            Entry::Note { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_write_torn_at_any_byte_of_the_last_record_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = written(dir.path());
    let last = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let path = dir.path().join(FILE);
    for cut in last..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let is_whole = cut + 1 >= bytes.len();
        let expected: &[&str] = if is_whole { &["one", "two\nlines", "three"] } else { &["one", "two\nlines"] };
        assert_eq!(texts(&read(&path).unwrap()), expected, "read, cut at {cut}");
        let (mut journal, records) = Journal::open(dir.path(), &SystemClock).unwrap();
        assert_eq!(texts(&records), expected, "opened, cut at {cut}");
        let is_repaired =
            matches!(records.last().unwrap().entry, Entry::TailRepaired { dropped } if dropped == (cut - last) as u64);
        assert_eq!(is_repaired, cut > last && !is_whole, "cut at {cut}");
        journal.append(note("four"), &SystemClock).unwrap();
        drop(journal);
        assert_eq!(texts(&read(&path).unwrap()), [expected, &["four"]].concat(), "after, cut at {cut}");
    }
}

#[test]
fn a_page_that_never_reached_the_disk_is_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = written(dir.path());
    let end = bytes.len() - 1;
    bytes[end - 40..end].fill(0);
    std::fs::write(dir.path().join(FILE), &bytes).unwrap();
    let (_, records) = Journal::open(dir.path(), &SystemClock).unwrap();
    assert_eq!(texts(&records), ["one", "two\nlines"]);
}

#[test]
fn a_byte_flipped_anywhere_is_refused_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = written(dir.path());
    let path = dir.path().join(FILE);
    // The very last line end is the one byte whose loss is a torn write.
    for at in 0..bytes.len() - 1 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x01;
        std::fs::write(&path, &damaged).unwrap();
        let error = Journal::open(dir.path(), &SystemClock).expect_err(&format!("byte {at}"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "byte {at}");
    }
}

#[test]
fn a_record_removed_or_moved_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = written(dir.path());
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    for wrong in [vec![lines[1], lines[2]], vec![lines[0], lines[2]], vec![lines[1], lines[0], lines[2]]] {
        std::fs::write(dir.path().join(FILE), wrong.concat()).unwrap();
        assert_eq!(read(&dir.path().join(FILE)).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn only_one_process_has_a_journal_open() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::create(dir.path(), &SystemClock).unwrap();
    assert_eq!(Journal::open(dir.path(), &SystemClock).unwrap_err().kind(), ErrorKind::Locked);
    drop(journal);
    Journal::open(dir.path(), &SystemClock).unwrap();
}

#[test]
fn files_and_directories_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("state/runs/x");
    make_directory(&deep).unwrap();
    written(&deep);
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir.path().join("state")), mode(&deep)), (0o700, 0o700));
    assert_eq!((mode(&deep.join(FILE)), mode(&deep.join(RESERVE))), (0o600, 0o600));
}

#[test]
fn a_secret_cannot_be_written_wherever_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let secret = Secret::new("canary-7f\"3a\\in json");
    let mut journal = Journal::create(dir.path(), &SystemClock).unwrap();
    let nested = serde_json::json!({ secret.expose(): [{ "deep": format!("mysql://root:{}@db", secret.expose()) }] });
    let step = "a".to_owned();
    journal.append(Entry::StepApplied { step, attempt: 1, output: nested }, &SystemClock).unwrap();
    let error = Error::new(ErrorKind::Failed, "login failed").with("password", secret.expose()).to_record();
    journal.append(Entry::RunEnded { outcome: Outcome::Failed, error: Some(error) }, &SystemClock).unwrap();
    drop(journal);
    let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
    assert!(!text.contains("canary-7f"), "{text}");
    assert_eq!(text.matches("[redacted]").count(), 3);
    read(&dir.path().join(FILE)).unwrap();
}

/// A disk with a number of free bytes, and a reserve.
#[derive(Debug, Clone)]
struct SmallDisk {
    content: Arc<std::sync::Mutex<Vec<u8>>>,
    free: Arc<AtomicU64>,
    reserve: Arc<AtomicU64>,
    sync_fails: Arc<AtomicBool>,
}

impl SmallDisk {
    fn new(free: u64, reserve: u64) -> Self {
        Self {
            content: Arc::default(),
            free: Arc::new(free.into()),
            reserve: Arc::new(reserve.into()),
            sync_fails: Arc::default(),
        }
    }

    fn journal(&self) -> Journal {
        Journal {
            medium: Box::new(self.clone()),
            path: "journal".into(),
            boot: String::new(),
            length: 0,
            seq: 0,
            prev: "0".repeat(64),
            poisoned: None,
            is_spent: false,
        }
    }

    fn parsed(&self) -> Vec<Record> {
        parse(&self.content.lock().unwrap(), Path::new("journal")).unwrap().records
    }
}

impl Medium for SmallDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fits = self.free.load(Ordering::SeqCst).min(bytes.len() as u64);
        self.free.fetch_sub(fits, Ordering::SeqCst);
        // Like a real one it writes what fits before it fails.
        self.content.lock().unwrap().extend_from_slice(&bytes[..usize::try_from(fits).unwrap()]);
        if fits < bytes.len() as u64 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.sync_fails.load(Ordering::SeqCst) { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut content = self.content.lock().unwrap();
        self.free.fetch_add(content.len() as u64 - length, Ordering::SeqCst);
        content.truncate(usize::try_from(length).unwrap());
        Ok(())
    }

    fn release_reserve(&mut self) -> io::Result<bool> {
        let released = self.reserve.swap(0, Ordering::SeqCst);
        self.free.fetch_add(released, Ordering::SeqCst);
        Ok(released > 0)
    }
}

fn intent(step: &str) -> Entry {
    Entry::ApprovalAsked { name: step.into(), ask: "something new".into() }
}

fn outcome(step: &str) -> Entry {
    Entry::UndoDone { step: step.into(), ms: 1 }
}

#[test]
fn a_full_disk_refuses_what_begins_and_takes_what_is_due_from_the_reserve() {
    // Every number of free bytes, so that the disk fills up at every byte of a record.
    for free in 0..700 {
        let disk = SmallDisk::new(free, 4096);
        let mut journal = disk.journal();
        let began = journal.append(intent("a"), &SystemClock);
        if let Err(error) = &began {
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert!(disk.content.lock().unwrap().is_empty(), "nothing is left of it");
        }
        journal.append(outcome("b"), &SystemClock).unwrap();
        let is_spent = disk.reserve.load(Ordering::SeqCst) == 0;
        let more = journal.append(intent("c"), &SystemClock);
        assert!(!is_spent || more.is_err(), "{free} bytes free: something new was begun without a reserve");
        journal.append(outcome("d"), &SystemClock).unwrap();
        let expected = 2 + usize::from(began.is_ok()) + usize::from(more.is_ok());
        assert_eq!(disk.parsed().len(), expected, "{free} bytes free");
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let disk = SmallDisk::new(1 << 20, 0);
    let mut journal = disk.journal();
    journal.append(outcome("a"), &SystemClock).unwrap();
    disk.sync_fails.store(true, Ordering::SeqCst);
    journal.append(outcome("b"), &SystemClock).unwrap_err();
    disk.sync_fails.store(false, Ordering::SeqCst);
    let error = journal.append(outcome("c"), &SystemClock).unwrap_err();
    assert!(error.message().contains("is closed"), "{error}");
}
