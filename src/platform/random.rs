//! The operating system's random source, for ids and keys.

/// `N` random bytes.
///
/// # Panics
/// When the system has no random source: nothing that needs one can go on safely.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has a random source");
    bytes
}

/// A uniform random number.
pub fn number() -> u32 {
    u32::from_le_bytes(bytes())
}
