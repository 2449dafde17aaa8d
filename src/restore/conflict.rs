//! What happens to what is there already. Pure.

use crate::model::limits::MAX_NAME_BYTES;
use crate::model::{Name, SnapshotId};

/// What a person wants done with a file in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// The file stays; the restored one gets a name of its own that says where it comes from.
    #[default]
    KeepBoth,
    /// The restored file takes its place.
    Overwrite,
    /// The file stays, and nothing is restored there.
    Skip,
}

/// The name of the restored one when both are kept: `report (restored 1a2b3c4d).txt`, with ` 2`, ` 3` when that is taken, too. Cut to
/// the length that file systems hold, keeping the extension.
pub fn second_name(name: &Name, snapshot: &SnapshotId, attempt: u32) -> Name {
    let bytes = name.as_bytes();
    // A leading dot is no extension, nor is anything longer than people use.
    let dot = bytes.iter().rposition(|b| *b == b'.').filter(|dot| *dot > 0 && bytes.len() - dot <= 16);
    let (stem, extension) = bytes.split_at(dot.unwrap_or(bytes.len()));
    let mark = match attempt {
        0 | 1 => format!(" (restored {})", snapshot.short()),
        number => format!(" (restored {} {number})", snapshot.short()),
    };
    let mut room = (MAX_NAME_BYTES - mark.len() - extension.len()).min(stem.len());
    // Not in the middle of a UTF-8 character.
    while room > 0 && room < stem.len() && stem[room] & 0xc0 == 0x80 {
        room -= 1;
    }
    Name::new([&stem[..room], mark.as_bytes(), extension].concat()).unwrap_or_else(|_| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(name: &[u8], attempt: u32) -> Vec<u8> {
        second_name(&Name::new(name).unwrap(), &SnapshotId::from_bytes([0xab; 32]), attempt).as_bytes().to_vec()
    }

    #[test]
    fn the_second_name_says_where_it_comes_from_and_keeps_the_extension() {
        assert_eq!(second(b"report.txt", 1), b"report (restored abababab).txt");
        assert_eq!(second(b"report.txt", 2), b"report (restored abababab 2).txt");
        assert_eq!(second(b"Makefile", 1), b"Makefile (restored abababab)");
        assert_eq!(second(b".bashrc", 1), b".bashrc (restored abababab)");
        assert_eq!(second(b"\xff.x", 1), b"\xff (restored abababab).x");
    }

    #[test]
    fn long_names_are_cut_between_characters_and_never_too_long() {
        let long = ["ü".repeat(125).as_bytes(), b".jpg"].concat();
        let name = second(&long, 12);
        assert!(name.len() <= MAX_NAME_BYTES && name.ends_with(b".jpg"));
        assert!(String::from_utf8(name).is_ok());
    }
}
