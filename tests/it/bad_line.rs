//! A line with 100 ms round trips on which 5 % of the MiB stall or break: backups and restores come to their end, and little is sent
//! twice.

use crate::remote_engine::{Source, yes};
use crate::support::bad_line::BadLine;
use crate::support::bench::{head, restore};
use crate::support::figures::figure;
use crate::support::nodes::Nodes;
use crate::support::scratch::long;
use crate::support::tree::{assert_same, noise};
use lan_backup::client::RemoteVault;
use lan_backup::monitor::recording::RecordingMonitor;
use lan_backup::protocol::session::PrepareDownload;
use lan_backup::restore::Conflict;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Ends what hangs; measures nothing.
const PATIENCE: Duration = Duration::from_mins(15);
const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_stalls_and_breaks_costs_a_tenth_more_at_most() {
    let total = if long() { 256 * MIB } else { 24 * MIB };
    let nodes = Nodes::new();
    let running = nodes.start(yes()).await;
    // A seed whose first troubles, in the short form, are of more than one kind.
    let line = BadLine::to(running.address(), 4).await;
    let client = nodes.client_at(line.address);
    let mut source = Source::new(&nodes);
    for number in 0..total / (4 * MIB) {
        fs::write(source.bench.tree().join(format!("f{number}")), noise(4 << 20, number)).unwrap();
    }

    let begun = Instant::now();
    let plan = source.scan();
    let answer = source.ask(&client, &plan).await.unwrap();
    let vault = Arc::new(RemoteVault::new(client.clone(), &answer).unwrap());
    let monitor = Arc::new(RecordingMonitor::default());
    let backup = source.bench.carry_out(&vault, plan, answer.head, monitor);
    timeout(PATIENCE, backup).await.expect("the backup hangs").unwrap();
    let (sent, took) = (line.up(), begun.elapsed());
    let troubles = line.troubles();

    let begun = Instant::now();
    let answer = client.prepare_download(&PrepareDownload::default()).await.unwrap();
    let vault = Arc::new(RemoteVault::new(client.clone(), &answer).unwrap());
    let (snapshot, before) = (head(&vault).await.unwrap(), line.down());
    let out = source.bench.path("out");
    let restoring = restore(&vault, &snapshot, &out, Conflict::KeepBoth);
    let restored = timeout(PATIENCE, restoring).await.expect("the restore hangs").unwrap();
    let received = line.down() - before;
    figure(&format!(
        "bad line, {} MiB: {sent} bytes sent in {took:?} with {troubles} troubles, {received} fetched in {:?} with {}",
        total / MIB,
        begun.elapsed(),
        line.troubles() - troubles
    ));
    assert_eq!(restored.faults, []);
    assert_same(&source.bench.tree(), &out.join("tree"));
    assert!(line.troubles() >= 2, "nothing happened on this line");
    assert!(sent < total + total / 10, "{sent} bytes sent for {total}");
    assert!(received < total + total / 10, "{received} bytes received for {total}");
}
