//! Mends a small sealed file in which one bit has flipped, the most common damage by far: each bit is flipped back in turn until the
//! seal fits. What the seal says is then certain, since nobody finds another text with the same hash by flipping bits.

use crate::store::sealed::unseal;

/// Larger files are not tried: each bit costs a hash of the whole. This takes a second or two; a record has a few KiB.
const MAX_MENDED_BYTES: usize = 32 << 10;

/// The file as it was, when flipping one bit makes the seal fit.
pub(crate) fn mend(damaged: &[u8]) -> Option<Vec<u8>> {
    if damaged.len() > MAX_MENDED_BYTES {
        return None;
    }
    let mut bytes = damaged.to_vec();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if unseal(&bytes).is_ok() {
            return Some(bytes);
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sealed::seal;

    #[test]
    fn any_one_flipped_bit_is_mended_and_nothing_is_made_up() {
        let whole = seal("{\"format\":1}\nsecond line").into_bytes();
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(mend(&bad), Some(whole.clone()), "bit {bit}");
            // Two of them in one byte are one too many.
            bad[bit / 8] ^= 1 << ((bit + 1) % 8);
            assert_eq!(mend(&bad), None, "bit {bit}");
        }
        assert_eq!(mend(&whole[..whole.len() - 1]), None);
    }
}
