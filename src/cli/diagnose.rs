//! `devices --diagnose`: why a device is not seen. What was observed first, then what follows from it and what to do.

use crate::cli::ExitStatus;
use crate::cli::output::Output;
use crate::daemon::control::{self, Answer, Request};
use crate::daemon::service::{Neighbourhood, NeighbourhoodOptions};
use crate::daemon::{Context, Error};
use crate::discovery::diagnosis::{DeviceLook, Finding, InterfaceLook, Level, PlaceLook, TargetLook};
use crate::discovery::report::InterfaceReport;
use crate::discovery::{Diagnosis, Selector};
use crate::platform::interfaces::{self, Interface, in_words};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Looks, and says what is in the way. Fails when a device was named and is not reached.
pub async fn run(context: &Context, name: Option<&str>, wait: Duration, output: &Output) -> Result<ExitStatus, Error> {
    let selector: Option<Selector> = name.map(str::parse).transpose().map_err(|error: crate::model::ParseError| {
        Error::usage(
            error.to_string(),
            "a device is an alias, its code, the beginning of its fingerprint, or an address",
        )
    })?;
    let serving = match control::ask(&context.home, &Request::Status).await {
        Ok(Answer::Status { port, .. }) => Some(port),
        _ => None,
    };
    output.say("looking around, for about six seconds");
    // Sockets of its own: what a running `serve` heard long ago says nothing about now.
    let neighbourhood = Neighbourhood::open(context, NeighbourhoodOptions::transient()).await?;
    let diagnosis = neighbourhood.discovery().diagnose(selector.as_ref(), wait).await;
    neighbourhood.close().await;
    let own = interfaces::list().unwrap_or_default();
    let mut findings = diagnosis.findings();
    findings.push(about_serving(serving));
    if output.is_json() {
        rows(&diagnosis, &findings, output);
    } else {
        show(&diagnosis, &findings, &own, output);
    }
    let reached = diagnosis.target.as_ref().is_none_or(TargetLook::is_reached);
    Ok(if reached { ExitStatus::Done } else { ExitStatus::Failed })
}

fn about_serving(serving: Option<u16>) -> Finding {
    let (code, message, hint) = match serving {
        Some(port) => ("serving", format!("`serve` runs on this machine, on port {port}"), None),
        None => (
            "not-serving",
            "`serve` does not run on this machine: others find it only while a command runs here".to_owned(),
            Some("start `lan-backup serve` here if this is the machine that others do not find".to_owned()),
        ),
    };
    Finding { code, level: Level::Note, message, hint }
}

/// One object a line, each with the kind of its `row`.
fn rows(diagnosis: &Diagnosis, findings: &[Finding], output: &Output) {
    for interface in &diagnosis.interfaces {
        row("interface", interface, output);
    }
    for subnet in &diagnosis.scan.subnets {
        row("subnet", subnet, output);
    }
    for device in &diagnosis.devices {
        row("device", device, output);
    }
    for place in diagnosis.target.iter().flat_map(|target| &target.places) {
        row("place", place, output);
    }
    for finding in findings {
        row("finding", finding, output);
    }
}

fn row(kind: &str, fields: &impl Serialize, output: &Output) {
    let mut object = json!({ "row": kind });
    if let (Value::Object(object), Ok(Value::Object(fields))) = (&mut object, serde_json::to_value(fields)) {
        object.extend(fields);
    }
    output.row(&object);
}

fn show(diagnosis: &Diagnosis, findings: &[Finding], own: &[Interface], output: &Output) {
    output.line("interfaces of this machine");
    for InterfaceLook { name, addresses, skipped, groups, .. } in &diagnosis.interfaces {
        let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
        output.line(&format!("  {name}: {addresses}"));
        if let Some(reason) = skipped {
            output.line(&format!("    not used: {reason}"));
        }
        for InterfaceReport { address, sent, heard, echoed, error, .. } in groups {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let error = error.as_ref().map(|error| format!("; {error}")).unwrap_or_default();
            output.line(&format!(
                "    {family} multicast: {sent} sent, {echoed} of them came back, {heard} of others heard{error}"
            ));
        }
    }
    output.line("addresses asked");
    for line in diagnosis.scan.to_string().lines() {
        output.line(&format!("  {line}"));
    }
    output.line("devices");
    if diagnosis.devices.is_empty() {
        output.line("  none");
    }
    let mut lines = Vec::new();
    for DeviceLook { alias, kind, code, address, heard, called, reached, after, .. } in &diagnosis.devices {
        let how = [(*heard, "heard"), (*called, "has heard us"), (*reached, "reached")];
        let how: Vec<&str> = how.into_iter().filter_map(|(holds, word)| holds.then_some(word)).collect();
        let seconds = Duration::from_millis(*after).as_secs_f64();
        lines.push(vec![
            format!("  {alias}"),
            kind.to_string(),
            in_words(*address, own),
            code.clone(),
            format!("after {seconds:.1} s: {}", how.join(", ")),
        ]);
    }
    output.table(&lines);
    if let Some(TargetLook { name, places, .. }) = &diagnosis.target {
        let places: Vec<String> = places.iter().map(|PlaceLook { address, .. }| in_words(*address, own)).collect();
        let places = if places.is_empty() { "no address is known".to_owned() } else { places.join(", ") };
        output.line(&format!("`{}` was looked for at: {places}", crate::model::text::clean(name)));
    }
    output.line("conclusions");
    for Finding { level, message, hint, .. } in findings {
        let word = match level {
            Level::Fine => "good",
            Level::Note => "note",
            Level::Trouble => "trouble",
        };
        output.line(&format!("  {word}: {message}"));
        if let Some(hint) = hint {
            output.line(&format!("    what to do: {hint}"));
        }
    }
}
