//! Putting the candidate's data in production's place, and back.

use serde::{Deserialize, Serialize};

use crate::{
    backend::{Backend, VolumeIdentity},
    error::Result,
    run::Observed,
};

/// Both volumes as they were before the swap. The names stay; what they lead to is exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Production's volume name and the data it led to before.
    pub production: VolumeIdentity,
    /// The candidate's volume name and the restored data.
    pub candidate: VolumeIdentity,
}

/// Which data production's name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    After,
    Elsewhere,
}

impl Exchange {
    /// The same exchange seen from the other side.
    pub(super) fn reversed(&self) -> Self {
        let turn = |name: &VolumeIdentity, content: &VolumeIdentity| VolumeIdentity {
            volume: name.volume.clone(),
            ..content.clone()
        };
        Self { production: turn(&self.production, &self.candidate), candidate: turn(&self.candidate, &self.production) }
    }

    async fn place(&self, backend: &dyn Backend) -> Result<Place> {
        let production = backend.volume_identity(&self.production.volume).await?;
        let candidate = backend.volume_identity(&self.candidate.volume).await?;
        let turned = self.reversed();
        Ok(if production == self.production && candidate == self.candidate {
            Place::Before
        } else if production == turned.production && candidate == turned.candidate {
            Place::After
        } else {
            Place::Elsewhere
        })
    }

    /// Makes the exchange; a second call finds it made.
    pub(super) async fn make(&self, backend: &dyn Backend) -> Result<()> {
        backend.exchange_volumes(&self.production, &self.candidate).await
    }

    /// Takes it back; harmless when it was never made.
    pub(super) async fn take_back(&self, backend: &dyn Backend) -> Result<()> {
        match self.place(backend).await? {
            Place::Before => Ok(()),
            Place::After | Place::Elsewhere => {
                let turned = self.reversed();
                backend.exchange_volumes(&turned.production, &turned.candidate).await
            }
        }
    }

    /// Tells by the inodes whether the exchange was made.
    pub(super) async fn observe(&self, backend: &dyn Backend) -> Result<Observed<Exchange>> {
        Ok(match self.place(backend).await? {
            Place::Before => Observed::NotApplied,
            Place::After => Observed::Applied(self.clone()),
            Place::Elsewhere => {
                Observed::Partial("the volumes lead to data that is neither as before nor as after the swap".into())
            }
        })
    }
}
