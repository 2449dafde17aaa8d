//! The options that say what is to be kept, and of what; `retention` and `prune` share them.

use crate::config::retention::TrashDays;
use crate::daemon::Context;
use crate::daemon::pruning::Policy;
use crate::model::{Keep, SetName, Within};
use std::path::PathBuf;

/// What is to be kept, and of what.
#[derive(Clone, Debug, clap::Args)]
pub struct KeepArgs {
    /// Keep the newest N snapshots of each set
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_last: u32,
    /// Keep the newest of each of the last N hours that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_hourly: u32,
    /// Keep the newest of each of the last N days that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_daily: u32,
    /// Keep the newest of each of the last N weeks (from Monday) that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_weekly: u32,
    /// Keep the newest of each of the last N months that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_monthly: u32,
    /// Keep the newest of each of the last N years that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_yearly: u32,
    /// Keep all that came within this time: 14d, 8w, 1y6m
    #[arg(long, value_name = "TIME")]
    keep_within: Option<Within>,
    /// Keep all that carry this tag; may be given several times
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
    /// Only the backups of this device: its alias, or the beginning of its fingerprint
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Only this set
    #[arg(long, value_name = "NAME")]
    set: Option<SetName>,
    /// Where this device keeps what it receives
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

impl KeepArgs {
    /// Which rules hold: those that were typed, else those of the settings.
    pub fn policy(&self, context: &Context, trash_days: Option<TrashDays>) -> Policy {
        let keep = Keep {
            all: false,
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
            tag: self.keep_tag.clone(),
        };
        Policy {
            settings: context.settings.retention.clone(),
            keep: Some(keep).filter(|keep| !keep.is_empty()),
            device: self.device.clone(),
            set: self.set.clone(),
            trash_days,
        }
    }
}

/// What is said when there are no rules.
pub const NO_RULES: &str = "there are no keep rules: everything is kept for ever. Rules go into `[retention]` of settings.toml, or behind --keep-…";
