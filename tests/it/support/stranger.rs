//! Somebody on the network who does not use our program: a certificate of its own, raw TLS, and whatever bytes it likes, from any
//! address of this machine. And a device that answers everything with what it likes.

use lan_backup::identity::{Expect, Identity};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Ends what hangs; nothing here takes so long.
const LIMIT: Duration = Duration::from_mins(1);

/// A certificate, and calls with it.
#[derive(Debug)]
pub(crate) struct Stranger {
    pub(crate) identity: Identity,
    _folder: tempfile::TempDir,
}

pub(crate) type Line = StreamOwned<ClientConnection, TcpStream>;

impl Stranger {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { identity: Identity::load_or_generate(folder.path()).unwrap(), _folder: folder }
    }

    /// A connection whose handshake has been made, from this address.
    pub(crate) fn call(&self, from: Ipv4Addr, to: SocketAddr) -> io::Result<Line> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&to.into())?;
        let tcp: TcpStream = socket.into();
        tcp.set_read_timeout(Some(LIMIT))?;
        tcp.set_write_timeout(Some(LIMIT))?;
        let config = self.identity.client_config(Expect::FirstUse);
        let name = ServerName::IpAddress(to.ip().into());
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut line = StreamOwned::new(connection, tcp);
        while line.conn.is_handshaking() {
            line.conn.complete_io(&mut line.sock)?;
        }
        Ok(line)
    }

    /// Posts a body on a new connection; the status, or what went wrong.
    pub(crate) fn post(&self, from: Ipv4Addr, to: SocketAddr, path: &str, body: &[u8]) -> io::Result<u16> {
        let mut line = self.call(from, to)?;
        post_on(&mut line, path, body)?;
        let mut head = [0; 12];
        line.read_exact(&mut head)?;
        let status = std::str::from_utf8(&head[9..]).ok().and_then(|text| text.parse().ok());
        status.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Sends a request and reads nothing.
pub(crate) fn post_on(line: &mut Line, path: &str, body: &[u8]) -> io::Result<()> {
    write!(line, "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len())?;
    line.write_all(body)?;
    line.flush()
}

/// A device that gives to every path what the test wants, until it is dropped.
#[derive(Debug)]
pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Liar {
    /// Answers with a status line's number and a body for each path.
    pub(crate) fn start(answer: impl Fn(&Identity, &str) -> (u16, Vec<u8>) + Send + 'static) -> Self {
        let stranger = Stranger::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = over.clone();
            move || {
                for tcp in listener.incoming() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // One caller at a time; whoever hangs up is no reason to stop.
                    let _ = tcp.and_then(|tcp| serve(tcp, &stranger.identity, &answer));
                }
            }
        });
        Self { address, over, thread: Some(thread) }
    }
}

fn serve(tcp: TcpStream, own: &Identity, answer: &impl Fn(&Identity, &str) -> (u16, Vec<u8>)) -> io::Result<()> {
    tcp.set_read_timeout(Some(LIMIT))?;
    let connection = ServerConnection::new(own.server_config()).map_err(io::Error::other)?;
    let mut line = BufReader::new(StreamOwned::new(connection, tcp));
    let (mut first, mut length) = (String::new(), 0);
    line.read_line(&mut first)?;
    loop {
        let mut header = String::new();
        if line.read_line(&mut header)? == 0 {
            return Ok(());
        }
        if header == "\r\n" {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    io::copy(&mut line.by_ref().take(length), &mut io::sink())?;
    let path = first.split(' ').nth(1).unwrap_or_default();
    let (status, body) = answer(own, path);
    let stream = line.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)?;
    stream.flush()?;
    stream.conn.send_close_notify();
    stream.flush()
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
