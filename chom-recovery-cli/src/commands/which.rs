//! The options that choose a backup.

use chom_recovery::{
    Result,
    catalog::{Selector, legacy::PREFIX},
};

use crate::args::Which;

impl Which {
    /// Translates the options; without any it is the newest.
    pub(crate) fn selector(&self) -> Result<Selector> {
        Ok(match (&self.timestamp, &self.backup, &self.with_tag) {
            (Some(time), ..) => Selector::Timestamp(*time),
            (_, Some(id), _) => match id.strip_prefix(PREFIX) {
                Some(name) => Selector::Legacy(name.to_owned()),
                None => Selector::Id(id.clone()),
            },
            (_, _, Some(tag)) => Selector::Tag(tag.parse()?),
            _ if self.previous => Selector::Previous(1),
            _ => Selector::Latest,
        })
    }
}
