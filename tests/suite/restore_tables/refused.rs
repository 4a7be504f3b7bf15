//! Restores that must not begin, or must leave everything as it was.

use chom_recovery::{ErrorKind, mysql::tables::TableName};

use crate::bench::{Bench, DAMAGE, LOCAL_INFILE, request};

#[tokio::test]
async fn a_damaged_part_changes_nothing_and_one_of_another_table_does_not_matter() {
    let test = "a_damaged_part_changes_nothing_and_one_of_another_table_does_not_matter";
    let Some(bench) = Bench::open(test).await else { return };
    let sound = bench.state().await;
    let backup = bench.back_up().await;
    bench.run(DAMAGE).await;
    let before = bench.state().await;
    let part = bench.parts_of(&backup, "author").await.remove(0);
    let good = std::fs::read(&part).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::remove_file(&part).unwrap();
    std::fs::write(&part, &bad).unwrap();

    let error = bench.refused(request(&["author", "book"])).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert_eq!(bench.state().await, before);
    bench.restore(request(&["book"])).await;
    std::fs::write(&part, &good).unwrap();
    bench.restore(request(&["author", "yearly"])).await;
    let same = |of: Vec<String>| of.into_iter().filter(|line| !line.starts_with("loan:")).collect::<Vec<_>>();
    assert_eq!(same(bench.state().await), same(sound));
    bench.clear().await;
}

#[tokio::test]
async fn what_cannot_be_restored_is_named_before_anything_is_made() {
    let Some(bench) = Bench::open("what_cannot_be_restored_is_named_before_anything_is_made").await else { return };
    bench.back_up().await;
    let before = bench.state().await;
    for (table, kind, words) in
        [("nothing", ErrorKind::NotFound, "author, book, loan"), ("titles", ErrorKind::NotFound, "that is a view")]
    {
        let error = bench.refused(request(&[table])).await;
        assert_eq!(error.kind(), kind, "{error:?}");
        let said = format!("{error} {}", error.hint_text().unwrap_or_default());
        assert!(said.contains(words), "{said}");
    }
    let mut nowhere = request(&["author"]);
    nowhere.rename = Some(TableName::new("no_such_schema", "author"));
    assert_eq!(bench.refused(nowhere).await.kind(), ErrorKind::Precondition);
    let mut nothing = request(&[]);
    nothing.schemas = vec!["no_such_schema".into()];
    assert_eq!(bench.refused(nothing).await.kind(), ErrorKind::NotFound);
    if bench.text(LOCAL_INFILE).await == "0" {
        let mut unasked = request(&["author"]);
        unasked.allow_local_infile = false;
        let error = bench.refused(unasked).await;
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
        assert!(error.hint_text().unwrap().contains("--allow-local-infile"), "{error:?}");
    }
    assert_eq!(bench.state().await, before);
    bench.clear().await;
}

/// A transaction that stays open holds a table; the exchange gives up in time, nothing is exchanged, and the run goes on
/// once it is over.
#[tokio::test]
async fn a_table_that_others_hold_is_not_waited_for_without_end() {
    let Some(bench) = Bench::open("a_table_that_others_hold_is_not_waited_for_without_end").await else { return };
    let sound = bench.state().await;
    bench.back_up().await;
    bench.run(&["UPDATE shelf.book SET title = 'lost'"]).await;
    let before = bench.state().await;
    let mut holder = bench.sql().await;
    holder.run("START TRANSACTION").await;
    holder.run("UPDATE shelf.book SET loans = loans + 1 WHERE id = 1").await;

    let going = bench.start(request(&["book"])).await.unwrap();
    let run = going.id();
    let error = going.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
    assert_eq!(bench.state().await, before);
    holder.run("ROLLBACK").await;
    let resumed = bench.recovery.resume(run, crate::bench::yes()).await.unwrap();
    crate::bench::recovered(resumed.finish().await);
    assert_eq!(bench.state().await, sound);
    bench.clear().await;
}
