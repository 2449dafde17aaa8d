//! A body that is made while it is sent, and never taken for whole when it was not.
//!
//! Whoever makes it says in the end that this was all (`Piece::End`, or the range that was asked for was given); a body whose
//! maker ended otherwise breaks off, so that no browser keeps half a file.

use bytes::{Bytes, BytesMut};
use std::io::{self, Write};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Pieces of this size go out; zip writers write a few bytes at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces between who makes them and the connection.
pub(crate) const PIECES: usize = 4;

/// What a body is made of.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes.
    Bytes(Bytes),
    /// That was all.
    End,
}

/// The blocking end of a body.
#[derive(Debug)]
pub struct Pipe {
    pieces: mpsc::Sender<Piece>,
    waiting: BytesMut,
    // Free again when whoever makes the body is done, whoever takes it.
    _place: OwnedSemaphorePermit,
}

impl Pipe {
    /// A pipe with a place among the few that are made at once, and the end that the connection takes from.
    pub(crate) fn with(place: OwnedSemaphorePermit) -> (Self, mpsc::Receiver<Piece>) {
        let (pieces, taken) = mpsc::channel(PIECES);
        (Self { pieces, waiting: BytesMut::new(), _place: place }, taken)
    }

    /// A second hand on it, that can only say that this was all.
    pub(crate) fn end(&self) -> mpsc::Sender<Piece> {
        self.pieces.clone()
    }

    fn send_waiting(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let piece = Piece::Bytes(self.waiting.split().freeze());
        self.pieces.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE_BYTES {
            self.send_waiting()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_waiting()
    }
}
