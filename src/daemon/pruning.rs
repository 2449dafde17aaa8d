//! Which rules hold for which repository and set: what was typed, else what the settings say.

use crate::config::Retention;
use crate::config::retention::TrashDays;
use crate::daemon::{Context, Error, Result};
use crate::model::{Keep, SetName};
use crate::store::prune::PruneOptions;
use crate::store::prune::choice::{SetChoice, choose};
use crate::store::prune::freezes::Look;
use crate::store::{Repository, Store};
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// What a person wants to be looked at, and by which rules.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// What the settings file says.
    pub settings: Retention,
    /// Rules that were typed; they hold for everything that is looked at.
    pub keep: Option<Keep>,
    /// Only this device's backups.
    pub device: Option<String>,
    /// Only this set.
    pub set: Option<SetName>,
    /// How long what is forgotten can be brought back, when that was typed.
    pub trash_days: Option<TrashDays>,
}

impl Policy {
    /// The repositories that are looked at.
    ///
    /// # Errors
    /// No repository is the named device's.
    pub fn repositories(&self, store: &Store) -> Result<Vec<Arc<Repository>>> {
        let Some(device) = &self.device else { return Ok(store.repositories()) };
        let fitting = store.matching(device);
        if fitting.is_empty() {
            let hint = "`lan-backup snapshots` lists what is kept here";
            return Err(Error::usage(format!("no device `{device}` has backed up here"), hint));
        }
        Ok(fitting)
    }

    /// The rules of a set; `None` when it is not looked at.
    pub fn keep_for(&self, repository: &Repository, set: &SetName) -> Option<Keep> {
        if self.set.as_ref().is_some_and(|only| only != set) {
            return None;
        }
        let typed = || self.settings.keep_for(set, |text| repository.answers_to(text)).clone();
        Some(self.keep.clone().unwrap_or_else(typed))
    }

    /// Whether anything may be forgotten at all.
    pub fn has_rules(&self) -> bool {
        self.keep.as_ref().map_or_else(|| self.settings.has_rules(), |keep| !keep.is_empty() && !keep.all)
    }

    /// How long what is forgotten can be brought back.
    pub fn trash_days(&self) -> TrashDays {
        self.trash_days.or(self.settings.trash_days).unwrap_or_default()
    }

    /// What a prune by these rules is told.
    pub fn options(&self) -> PruneOptions {
        let trash = SignedDuration::from_hours(24 * i64::from(self.trash_days().get()));
        PruneOptions { zone: TimeZone::system(), trash }
    }

    /// What the rules make of the sets of a repository.
    ///
    /// # Errors
    /// The disk's.
    pub fn choices(&self, context: &Context, repository: &Repository, look: Look) -> Result<Vec<SetChoice>> {
        let rules = |set: &SetName| self.keep_for(repository, set);
        let freezes = repository.freezes(look, &|| false)?;
        Ok(choose(repository, &rules, context.clock.now(), &TimeZone::system(), freezes)?)
    }
}
