//! Two hundred and fifty callers that take their time with everything, each from an address of its own, and one honest device.

use crate::codec::chunk_id;
use crate::model::Rights;
use crate::protocol::paths;
use crate::protocol::session::SessionAnswer;
use crate::server::limits::Pace;
use crate::server::live::{Caller, Device, Live, Setup, block, encode, header, long};
use bytes::Bytes;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const DRIBBLERS: usize = 250;
/// Between two bytes.
const PAUSE: Duration = Duration::from_millis(250);
/// All of them are gone by then, says the bar.
const CUT_WITHIN: Duration = Duration::from_secs(45);

/// The standard limits, or a quarter of them: what is tested is that each of them ends what it is for.
fn pace() -> Pace {
    let seconds = Duration::from_secs;
    let quarter = Pace { grace: seconds(5), grace_of_answers: seconds(10), head: seconds(4), ..Pace::STANDARD };
    if long() { Pace::STANDARD } else { quarter }
}

async fn tcp(address: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // A small window is soon full; with a usual one the kernel takes megabytes of answers for a peer that takes none.
    socket.set_recv_buffer_size(4096)?;
    socket.bind((Ipv4Addr::new(127, 4, 0, number as u8 + 1), 0).into())?;
    socket.connect(address).await
}

/// Says `text` byte by byte, then nothing more, until the other side hangs up.
async fn dribble(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &[u8]) {
    let mut bytes = text.iter();
    let mut buffer = [0; 1024];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => {
                if !matches!(read, Ok(length) if length > 0) {
                    return;
                }
            }
            () = tokio::time::sleep(PAUSE) => {
                if let Some(byte) = bytes.next()
                    && (stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err())
                {
                    return;
                }
            }
        }
    }
}

/// Asks again and again and takes no answer.
async fn ask_and_never_listen(mut stream: impl AsyncWrite + Unpin) {
    let question = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", paths::INFO).repeat(100);
    while stream.write_all(question.as_bytes()).await.is_ok() && stream.flush().await.is_ok() {}
}

async fn dribbler(live: &Live, number: usize, paired: &Device) {
    let body = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 8000\r\n\r\n{}", " ".repeat(8000)).into_bytes()
    };
    let Ok(socket) = tcp(live.address(), number).await else { return };
    match number % 6 {
        // Says nothing at all, or the beginning of a handshake.
        0 => return dribble(socket, b"").await,
        1 => return dribble(socket, &[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]).await,
        _ => {}
    }
    let device = (number % 6 == 5).then_some(paired);
    let Ok(mut tls) = live.tls_over(device, socket).await else { return };
    match number % 6 {
        2 => {
            dribble(
                tls,
                b"GET /api/localsend/v2/info HTTP/1.1\r\nhost: somewhere\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
            )
            .await;
        }
        3 => {
            // The head at once, the body never.
            let whole = body(paths::REGISTER);
            let end = whole.len() - 8000;
            if tls.write_all(&whole[..end]).await.is_ok() {
                dribble(tls, &whole[end..]).await;
            }
        }
        4 => ask_and_never_listen(tls).await,
        _ => dribble(tls, &body(paths::PREPARE_UPLOAD)).await,
    }
}

/// Bytes that do not compress and that nobody has seen.
fn noise(seed: u64) -> Bytes {
    let mut bytes = vec![0; 2 << 20];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Uploads that are tried before the honest device counts as held up: something else may run on the machine.
const MOST_UPLOADS: usize = 12;

/// Uploads 8 MiB; how long that took.
async fn upload(caller: &mut Caller, seed: &mut u64) -> Duration {
    let bodies: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            *seed += 2;
            let chunks = [noise(*seed), noise(*seed + 1)];
            encode(&chunks.map(|chunk| block(&[(chunk_id(&chunk), chunk)])))
        })
        .collect();
    let began = Instant::now();
    let open: SessionAnswer = caller.prepare(&header("Documents")).await.ok().json();
    for body in bodies {
        caller.in_session(paths::UPLOAD, open.session, body).await.ok();
    }
    let took = began.elapsed();
    caller.in_session(paths::CANCEL, open.session, "{}").await.ok();
    took
}

/// The quickest of three uploads, or of some more when none of these was quick enough.
async fn quickest(caller: &mut Caller, seed: &mut u64, enough: Duration) -> Duration {
    let mut best = Duration::MAX;
    for number in 0..MOST_UPLOADS {
        if number >= 3 && best <= enough {
            break;
        }
        best = best.min(upload(caller, seed).await);
    }
    best
}

#[tokio::test(flavor = "multi_thread")]
async fn dribblers_are_cut_off_and_an_honest_device_hardly_notices_them() {
    let live = Arc::new(Live::start_with(Setup { pace: pace(), ..Setup::default() }));
    let device = live.paired("laptop", Rights::of_a_paired_device());
    let idle_one = Arc::new(live.paired("slow", Rights::of_a_paired_device()));
    let mut caller = live.caller(&device).await;
    let mut seed = 0;
    let alone = quickest(&mut caller, &mut seed, Duration::MAX).await;
    // Twice as long at most; what a busy machine adds to so short a time is not theirs.
    let enough = alone * 2 + Duration::from_millis(250);

    let over = Arc::new(AtomicBool::new(false));
    let dribblers: Vec<_> = (0..DRIBBLERS)
        .map(|number| {
            let (live, over, paired) = (live.clone(), over.clone(), idle_one.clone());
            tokio::spawn(async move {
                // Who is cut off comes back, until the honest one is done.
                while !over.load(Ordering::Relaxed) {
                    let cut = tokio::time::timeout(CUT_WITHIN, dribbler(&live, number, &paired)).await;
                    assert!(cut.is_ok(), "dribbler {number} is not cut off within {CUT_WITHIN:?}");
                }
            })
        })
        .collect();
    let there = || live.handle.shared.connections.count();
    live.until(|| there() > DRIBBLERS / 2).await;
    let beside = quickest(&mut caller, &mut seed, enough).await;
    assert!(there() > DRIBBLERS / 2, "only {} of them were there meanwhile", there());
    over.store(true, Ordering::Relaxed);
    for dribbler in dribblers {
        dribbler.await.unwrap();
    }
    // The honest one is still connected, and alone again.
    upload(&mut caller, &mut seed).await;
    assert_eq!(live.handle.shared.connections.count(), 1);
    assert!(beside <= enough, "{beside:?} instead of {alone:?}");
}
