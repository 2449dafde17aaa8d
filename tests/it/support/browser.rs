//! A browser, as far as a share needs one: HTTP without TLS, one request to a connection, a form that is sent back.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Somebody who looks at a share.
#[derive(Debug)]
pub(crate) struct Browser {
    port: u16,
    mark: String,
    /// What the right PIN gave.
    pub(crate) token: Option<String>,
}

/// A page or a download.
#[derive(Debug)]
pub(crate) struct Page {
    /// 200 and so on.
    pub(crate) status: u16,
    /// In lower case.
    head: String,
    /// Without its transfer encoding.
    pub(crate) body: Vec<u8>,
    /// All of it came.
    pub(crate) is_whole: bool,
}

impl Page {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Browser {
    /// Before anything was looked at.
    pub(crate) fn new(port: u16) -> Self {
        Self { port, mark: String::new(), token: None }
    }

    fn ask(&self, request: &str) -> Page {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        // A connection that is reset is an answer that broke off.
        let _ = stream.read_to_end(&mut bytes);
        parsed(&bytes)
    }

    fn head(&self, method: &str, path: &str) -> String {
        format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n", self.port)
    }

    /// Whether nothing listens there.
    pub(crate) fn is_turned_away(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err()
    }

    /// Looks at a page.
    pub(crate) fn get(&mut self, path: &str) -> Page {
        let page = self.ask(&format!("{}\r\n", self.head("GET", path)));
        if let Some((_, rest)) = page.text().split_once("name=\"mark\" value=\"") {
            rest.split('"').next().unwrap_or_default().clone_into(&mut self.mark);
        }
        page
    }

    /// Sends the form back.
    pub(crate) fn type_pin(&mut self, pin: &str) {
        let body = format!("mark={}&pin={pin}", self.mark);
        let head = self.head("POST", "/");
        let answer = self.ask(&format!("{head}content-length: {}\r\n\r\n{body}", body.len()));
        let there = answer.head.lines().find_map(|line| line.strip_prefix("location: /s/"));
        self.token = there.and_then(|there| there.split('/').next()).map(str::to_owned);
    }

    /// What is shared, below the token.
    pub(crate) fn on_shelf(&self, what: &str, path: &str) -> Page {
        let path = format!("/s/{}/{what}/{path}", self.token.as_deref().unwrap_or_default());
        self.ask(&format!("{}\r\n", self.head("GET", &path)))
    }

    /// A part of it.
    pub(crate) fn ranged(&self, what: &str, path: &str, range: &str) -> Page {
        let path = format!("/s/{}/{what}/{path}", self.token.as_deref().unwrap_or_default());
        self.ask(&format!("{}range: {range}\r\n\r\n", self.head("GET", &path)))
    }
}

fn parsed(bytes: &[u8]) -> Page {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let mut rest = &bytes[end + 4..];
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let (mut body, mut is_whole) = (Vec::new(), false);
    if head.contains("transfer-encoding: chunked") {
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            if size == 0 {
                is_whole = true;
                break;
            }
            let Some(piece) = rest.get(end + 2..end + 2 + size) else { break };
            body.extend_from_slice(piece);
            rest = rest.get(end + 4 + size..).unwrap_or_default();
        }
    } else {
        body = rest.to_vec();
        is_whole = length == Some(body.len());
    }
    Page { status, head, body, is_whole }
}
