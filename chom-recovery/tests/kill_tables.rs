//! Single tables restored in the simulated world: killed at every place, taken up again, undone. All of them are exchanged or
//! none, a trigger is never lost, and the server takes rows from clients no longer than they are loaded.

use std::path::Path;

use chom_recovery::{
    Result,
    catalog::Selector,
    mysql::tables::TableName,
    procedure::{
        Recovered, backup, drill,
        tables::{PROCEDURE, Request, RestoreTables},
    },
    run::{NewRun, Run, summary::RunStatus},
    testing::{
        kill::{
            self, Crash, Kills, Promises, assert_killed_at, block_on, done_in_the_end, kill_matrix, newest,
            undone_in_the_end, yes,
        },
        stack::{SimStack, VOLUME},
        tables::{add_trigger, finish_renames, local_infile, own_schemas, triggers},
    },
};

const TRIGGER: &str = "note who comes";

/// One table that is there, with a trigger, and one that is gone.
fn new_run() -> NewRun {
    let request = Request {
        backup: Selector::Latest,
        tables: ["users", "orders"].map(|name| TableName::new("shop", name)).into(),
        schemas: Vec::new(),
        rename: None,
        allow_local_infile: true,
    };
    NewRun::new("shop", PROCEDURE, &request).unwrap().supersede([backup::PROCEDURE, drill::PROCEDURE])
}

async fn recover(run: Run, stack: &SimStack) -> Result<Recovered> {
    kill::recover(RestoreTables, run, stack.parts.clone()).await
}

fn begin(directory: &Path) {
    block_on(async {
        let stack = SimStack::create(directory).await.unwrap();
        add_trigger(&stack.backend.volume_folder(VOLUME), "users", TRIGGER).unwrap();
    });
}

/// What production serves: tables that are asked for, then all others. As a server that starts would have it.
fn served(stack: &SimStack) -> [Option<String>; 3] {
    let folder = stack.backend.volume_folder(VOLUME);
    finish_renames(&folder).unwrap();
    let mut tables = stack.data(VOLUME).unwrap().tables;
    ["users", "orders", "audit_log"].map(|name| tables.remove(name))
}

fn before() -> [Option<String>; 3] {
    let mut tables = SimStack::before().tables;
    [tables.remove("users"), None, tables.remove("audit_log")]
}

fn restored() -> [Option<String>; 3] {
    let mut tables = SimStack::backed_up().tables;
    [tables.remove("users"), tables.remove("orders"), before()[2].clone()]
}

/// Production has all of the old tables or all of the restored ones, and what it had is somewhere.
fn always(directory: &Path, crash: &Crash) {
    block_on(async {
        let stack = SimStack::open(directory, "state").await.unwrap();
        let now = served(&stack);
        assert!(now == before() || now == restored(), "{crash:?}: {now:?}");
        let own = own_schemas(&stack.backend.volume_folder(VOLUME)).unwrap();
        let is_kept = own
            .iter()
            .any(|(schema, tables)| schema.starts_with("chom_kept_") && tables.get("users") == before()[0].as_ref());
        assert!(now == before() || is_kept, "{crash:?}: {own:?}");
    });
}

fn at_end(directory: &Path, status: RunStatus, tables: [Option<String>; 3], set_aside: &str) {
    assert_eq!(newest(&directory.join("state")).unwrap().1.status, status);
    block_on(async {
        let stack = SimStack::open(directory, "state").await.unwrap();
        assert_eq!(served(&stack), tables);
        let folder = stack.backend.volume_folder(VOLUME);
        assert!(!local_infile(&folder).unwrap(), "the server takes rows no more");
        assert_eq!(triggers(&folder).unwrap(), [("users".to_owned(), TRIGGER.to_owned())].into());
        let own = own_schemas(&folder).unwrap();
        assert!(own.len() == 1 && own.keys().all(|schema| schema.starts_with(set_aside)), "{own:?}");
    });
}

#[test]
fn tables_whose_restore_is_killed_anywhere_are_restored_in_the_end() {
    let work = |directory: &Path| {
        block_on(async {
            let stack = SimStack::open(directory, "state").await.unwrap();
            done_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
        });
    };
    let at_end = |directory: &Path| at_end(directory, RunStatus::Succeeded, restored(), "chom_kept_");
    let places = kill_matrix(
        "tables_whose_restore_is_killed_anywhere_are_restored_in_the_end",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &at_end },
    );
    let wanted = [
        "body ended",
        "after put first rows",
        "after put local_infile",
        "after drop of a trigger",
        "after put renames",
    ];
    assert_killed_at(&places, &wanted);
    assert_killed_at(
        &places,
        &["after rename to chom_kept", "after rename to production", "before put triggers/users"],
    );
}

#[test]
fn tables_whose_restore_and_undo_are_killed_anywhere_are_as_before_in_the_end() {
    let work = |directory: &Path| {
        block_on(async {
            let stack = SimStack::open(directory, "state").await.unwrap();
            undone_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
        });
    };
    let as_before = |directory: &Path| {
        let is_exchanged = block_on(async {
            let stack = SimStack::open(directory, "state").await.unwrap();
            !own_schemas(&stack.backend.volume_folder(VOLUME)).unwrap().is_empty()
        });
        // Killed before the exchange, there is nothing to set aside.
        if is_exchanged {
            at_end(directory, RunStatus::RolledBack, before(), "chom_undone_");
        } else {
            block_on(async {
                let stack = SimStack::open(directory, "state").await.unwrap();
                assert_eq!(served(&stack), before());
                let folder = stack.backend.volume_folder(VOLUME);
                assert!(!local_infile(&folder).unwrap());
                assert_eq!(triggers(&folder).unwrap().len(), 1);
            });
        }
    };
    let places = kill_matrix(
        "tables_whose_restore_and_undo_are_killed_anywhere_are_as_before_in_the_end",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before },
    );
    assert_killed_at(&places, &["after undo_intent", "undo ended", "after rename to chom_undone"]);
}
