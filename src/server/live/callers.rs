//! Every row of the table of routes in `protocol.md`, called by every kind of caller: what the document says is what happens.

use crate::model::{Right, Rights};
use crate::protocol::{ErrorCode, paths};
use crate::server::live::{Answer, Caller, Device, Live, request};
use axum::body::Body;
use http::{Method, Request};

const DOCUMENT: &str = include_str!("../../../protocol.md");
const PREFIX: &str = "/api/lan-backup/v1";

/// What the document says of one route.
#[derive(Debug)]
struct Row {
    method: Method,
    path: String,
    needs: String,
}

impl Row {
    fn request(&self) -> Request<Body> {
        request(self.method.clone(), &self.path.replace("{id}", &"ab".repeat(16)), None, Body::empty())
    }

    /// How the caller is refused, as the words of the document have it.
    fn refusal(&self, caller: &Kind) -> Option<ErrorCode> {
        match (self.needs.as_str(), caller) {
            ("nobody", _)
            | ("certificate", Kind::Stranger | Kind::Unpaired | Kind::Paired(_))
            | ("paired", Kind::Paired(_)) => None,
            (_, Kind::Nobody | Kind::Stranger | Kind::Unpaired) => Some(ErrorCode::NotPaired),
            (needs, Kind::Paired(rights)) => {
                let right = needs.strip_prefix("right ").unwrap_or_else(|| panic!("what is `{needs}`?"));
                (!rights.allow(right.parse().unwrap())).then_some(ErrorCode::NotAllowed)
            }
        }
    }
}

#[derive(Debug)]
enum Kind {
    Nobody,
    Stranger,
    Unpaired,
    Paired(Rights),
}

fn table() -> Vec<Row> {
    let section = DOCUMENT.split("## 3. Routes").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|line| {
        let cells: Vec<String> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let path = if cells[2].starts_with("/api") { cells[2].clone() } else { format!("{PREFIX}{}", cells[2]) };
        Row { method: cells[1].parse().unwrap(), path, needs: cells[3].clone() }
    })
    .collect()
}

/// Whether the answer is this refusal, or, where there is none, that of a handler that looked at the empty body.
fn check(row: &Row, kind: &Kind, answer: &Answer) {
    let code = (!answer.status.is_success()).then(|| answer.code());
    match row.refusal(kind) {
        Some(refusal) => assert_eq!(code, Some(refusal), "{row:?} as {kind:?}"),
        None => assert!(
            !matches!(code, Some(ErrorCode::NotPaired | ErrorCode::NotAllowed | ErrorCode::Failed)),
            "{row:?} as {kind:?}: {answer:?}"
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_document_treats_every_kind_of_caller_as_it_says() {
    let live = Live::start();
    let mut kinds =
        vec![(Kind::Nobody, live.try_caller(None).await.unwrap()), (Kind::Stranger, live.caller(&Device::new()).await)];
    let gone = live.paired("gone", Right::ALL.into_iter().collect());
    assert!(live.handle.unpair(&gone.fingerprint()).unwrap());
    kinds.push((Kind::Unpaired, live.caller(&gone).await));
    let sets = Right::ALL.into_iter().map(|right| [right].into_iter().collect());
    let all = Right::ALL.into_iter().collect();
    for rights in sets.chain([Rights::none(), Rights::of_a_paired_device(), all]) {
        let caller: Caller = live.caller(&live.paired("laptop", rights.clone())).await;
        kinds.push((Kind::Paired(rights), caller));
    }
    let table = table();
    assert!(table.len() >= 18);
    for (kind, caller) in &mut kinds {
        for row in &table {
            check(row, kind, &caller.send(row.request()).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_our_own_api_a_stranger_gets_info_register_pairing_and_rotated_and_nothing_else() {
    let ours: Vec<Row> = table().into_iter().filter(|row| row.path.starts_with(PREFIX)).collect();
    let open = |kind: Kind| -> Vec<&str> {
        ours.iter().filter(|row| row.refusal(&kind).is_none()).map(|row| &row.path[PREFIX.len()..]).collect()
    };
    assert_eq!(open(Kind::Nobody), ["/info", "/register"]);
    let with_a_certificate = ["/info", "/register", "/pair/request", "/pair/start", "/pair/confirm", "/rotated"];
    assert_eq!(open(Kind::Stranger), with_a_certificate);
    assert_eq!(open(Kind::Unpaired), with_a_certificate);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_connection_of_a_device_just_unpaired_no_route_answers() {
    let live = Live::start();
    for row in table() {
        let device = live.paired("laptop", Right::ALL.into_iter().collect());
        let mut caller = live.caller(&device).await;
        // Alive until now.
        caller.get(paths::SNAPSHOTS).await.ok();
        assert!(live.handle.unpair(&device.fingerprint()).unwrap());
        let answer = caller.try_send(row.request()).await;
        assert!(answer.is_err(), "{row:?}: {answer:?}");
    }
}
