//! One story per file; see `demo.sh` for the whole recovery.
//!
//! [`search_index`] adds a service with a probe and a recovery of its own. They are planned, run, resumed and rolled back as
//! any other:
//!
//! ```no_run
//! use chom_recovery::{Recovery, System, recovery::RunOptions};
//! use chom_recovery_examples::search_index::{Documents, SearchIndex};
//!
//! # async fn example() -> chom_recovery::Result<()> {
//! let system = System::load("chom-recovery.toml".as_ref())?;
//! let recovery = Recovery::open(system).await?.with_procedure(SearchIndex);
//! let request = Documents("documents.txt".into());
//! println!("{:?}", recovery.plan_recovery(&SearchIndex, &request, &RunOptions::default()).await?);
//! let going = recovery.recover(SearchIndex, request, RunOptions::default()).await?;
//! println!("{:?}", going.finish().await?);
//! # Ok(())
//! # }
//! ```

pub mod search_index;
