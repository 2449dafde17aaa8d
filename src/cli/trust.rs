//! `trust`: which devices are paired, and what they may do here.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::cli::settings::Globals;
use crate::daemon::{Context, Error};
use crate::identity::PhoneBook;
use crate::identity::phones::Phone;
use crate::identity::trust::Trust;
use crate::model::Right;
use serde_json::json;

/// Show paired devices and their rights here, or change the rights of one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Rights: backup, list, restore (its own backups); restore-others, trigger, replicate (only when granted)\n\n\
    Examples:\n  lan-backup trust\n  lan-backup trust laptop --grant restore-others\n  lan-backup trust laptop --revoke backup\n  \
    lan-backup trust laptop --forget-set Documents\n\n\
    LocalSend apps that you said always to are listed, too: they may send files to the inbox and nothing else. \
    `lan-backup unpair PHONE` takes that back."
)]
pub struct Args {
    /// Alias, or beginning of the fingerprint
    device: Option<String>,
    /// Give a right
    #[arg(long, value_name = "RIGHT", requires = "device")]
    grant: Vec<Right>,
    /// Take a right away
    #[arg(long, value_name = "RIGHT", requires = "device")]
    revoke: Vec<Right>,
    /// Ask again before backups of this set are accepted
    #[arg(long, value_name = "SET", requires = "device")]
    forget_set: Vec<String>,
}

/// Lists, after changing what is to be changed.
pub fn run(globals: &Globals, args: &Args, output: &Output) -> Result<ExitStatus, Error> {
    let context = globals.context(None)?;
    let chosen = args.device.as_deref().map(|device| find(&context, device)).transpose()?;
    if let Some(trust) = &chosen {
        context.trust.update(&trust.fingerprint, |trust| {
            args.grant.iter().for_each(|right| trust.rights.grant(*right));
            args.revoke.iter().for_each(|right| trust.rights.revoke(*right));
            trust.sets.retain(|set| !args.forget_set.iter().any(|text| text == set.as_str()));
        })?;
    }
    let mut lines = vec![["ALIAS", "CODE", "RIGHTS HERE", "SETS", "PAIRED"].map(str::to_owned).to_vec()];
    let mut list = context.trust.list();
    list.retain(|trust| chosen.as_ref().is_none_or(|chosen| chosen.fingerprint == trust.fingerprint));
    for trust in &list {
        output.row(&json!({
            "alias": trust.alias, "fingerprint": trust.fingerprint, "code": trust.fingerprint.short_code(),
            "rights": trust.rights, "sets": trust.sets, "restoreFrom": trust.restore_from, "pairedAt": trust.paired_at,
            "address": trust.address,
        }));
        let sets = trust.sets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (code, rights) = (trust.fingerprint.short_code().to_string(), trust.rights.to_string());
        lines.push(vec![trust.alias.to_string(), code, rights, sets, trust.paired_at.strftime("%F").to_string()]);
    }
    let mut phones = PhoneBook::new(context.home.phones()).list();
    phones.retain(|_| chosen.is_none());
    for phone in &phones {
        let code = phone.fingerprint.short_code();
        output.row(&json!({
            "alias": phone.alias, "fingerprint": phone.fingerprint, "code": code, "rights": [], "inbox": phone.keep,
            "since": phone.since,
        }));
        let rights = format!("sends files (LocalSend): {}", phone.keep);
        let since = phone.since.strftime("%F").to_string();
        lines.push(vec![phone.alias.to_string(), code.to_string(), rights, String::new(), since]);
    }
    if list.is_empty() && phones.is_empty() {
        output.talk("no device is paired with this one; `lan-backup pair DEVICE` begins it");
    } else {
        output.table(&lines);
    }
    Ok(ExitStatus::Done)
}

/// The LocalSend app that a person named and has said *always* to; `None` when there is none.
///
/// # Errors
/// Several fit.
pub fn find_phone(context: &Context, text: &str) -> Result<Option<Phone>, Error> {
    let fits = |phone: &Phone| {
        phone.alias.as_str().eq_ignore_ascii_case(text)
            || phone.fingerprint.begins_with(text)
            || phone.fingerprint.short_code().to_string().eq_ignore_ascii_case(text)
    };
    let mut fitting: Vec<Phone> = PhoneBook::new(context.home.phones()).list().into_iter().filter(fits).collect();
    if fitting.len() > 1 {
        let show = |phone: &Phone| format!("{} {}", phone.alias, phone.fingerprint.short_code());
        return Err(Error::Ambiguous { name: text.to_owned(), devices: fitting.iter().map(show).collect() });
    }
    Ok(fitting.pop())
}

/// The paired device that a person named.
pub fn find(context: &Context, text: &str) -> Result<Trust, Error> {
    let fits = |trust: &Trust| {
        trust.alias.as_str().eq_ignore_ascii_case(text)
            || trust.fingerprint.begins_with(text)
            || trust.fingerprint.short_code().to_string().eq_ignore_ascii_case(text)
    };
    let mut fitting: Vec<Trust> = context.trust.list().into_iter().filter(fits).collect();
    match fitting.len() {
        1 => Ok(fitting.remove(0)),
        0 => Err(Error::usage(
            format!("no device `{text}` is paired with this one"),
            "`lan-backup trust` lists those that are",
        )),
        _ => {
            let show = |trust: &Trust| format!("{} {}", trust.alias, trust.fingerprint.short_code());
            Err(Error::Ambiguous { name: text.to_owned(), devices: fitting.iter().map(show).collect() })
        }
    }
}
