//! Stores that say yes and mean half: F15 and F16 below a repository.

use std::time::Duration;

use super::*;
use crate::layer::fault::{Fault, FaultyStore, StoreOp};

const BODIES: [&str; 2] = ["1\tann\n2\tbob\n", "3\tcarol\n"];

async fn over(world: &World) -> (FaultyStore, Repository) {
    let faulty = FaultyStore::new(world.store.clone());
    let repository = Repository::open(Arc::new(faulty.clone()), world.signer.id().into()).await.unwrap();
    (faulty, repository)
}

#[tokio::test]
async fn f15_a_body_that_ends_early_never_becomes_data() {
    let world = World::new().await;
    let info = world.backup(&BODIES).await;
    let (faulty, repository) = over(&world).await;
    let before = faulty.calls(StoreOp::Get);
    assert_eq!(content(&repository, &info.place).await.unwrap(), BODIES);
    let reads = faulty.calls(StoreOp::Get) - before;
    for cut_one in 0..reads {
        for bytes in 0..20 {
            for _ in 0..cut_one {
                faulty.fail(StoreOp::Get, Fault::Latency(Duration::ZERO));
            }
            faulty.fail(StoreOp::Get, Fault::EndsAfter(bytes));
            // A manifest that is cut has a copy; anything else that is cut is told.
            match content(&repository, &info.place).await {
                Ok(read) => assert_eq!((read, cut_one), (BODIES.map(Bytes::from).to_vec(), 0)),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "read {cut_one} cut after {bytes}: {e}"),
            }
        }
    }
}

#[tokio::test]
async fn f16_a_part_of_which_only_a_half_was_kept_is_noticed() {
    for kept in [0, 1, 10] {
        let world = World::new().await;
        let (faulty, repository) = over(&world).await;
        let mut writer = BackupWriter::begin(&repository, &world.signer, &world.host, &world.system).await.unwrap();
        let component = writer.component(database()).unwrap();
        faulty.fail(StoreOp::Put, Fault::KeepsOnly(kept));
        let mut noticed = false;
        for (index, part) in (0..).zip(BODIES) {
            noticed |= component.put(index, rows(1), stream::once(part)).await.is_err();
        }
        if noticed {
            continue;
        }
        let Ok(info) = writer.finish(world.facts()).await else { continue };
        assert_eq!(content(&repository, &info.place).await.unwrap_err().kind(), ErrorKind::Corrupt, "{kept} bytes");
        let reader = BackupReader::open(&repository, info.place.clone()).await.unwrap();
        assert!(!verify(&reader, Level::L1, &silent()).await.unwrap().passed(), "{kept} bytes kept");
    }
}
