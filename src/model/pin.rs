//! The six digits that a person types.

use crate::model::ParseError;
use std::fmt;
use std::str::FromStr;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Six decimal digits. Shown only where a person must read them, through [`Pin::digits`]; `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Pin([u8; 6]);

impl Pin {
    /// A PIN from uniform random numbers: `next` is asked until it gives a number below the largest multiple of 10^6 that
    /// 32 bits hold, so no PIN is likelier than another.
    pub fn from_uniform(mut next: impl FnMut() -> u32) -> Self {
        const BOUND: u32 = u32::MAX - u32::MAX % 1_000_000;
        let mut number = loop {
            let candidate = next();
            if candidate < BOUND {
                break candidate % 1_000_000;
            }
        };
        let mut digits = [b'0'; 6];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        Self(digits)
    }

    /// The digits, as ASCII text.
    pub fn digits(&self) -> String {
        self.0.iter().map(|d| char::from(*d)).collect()
    }

    /// The digits as bytes, for the key exchange.
    pub fn as_bytes(&self) -> &[u8; 6] {
        &self.0
    }

    /// The digits in two groups of three, as people read them aloud.
    pub fn grouped(&self) -> String {
        let digits = self.digits();
        format!("{} {}", &digits[..3], &digits[3..])
    }
}

impl FromStr for Pin {
    type Err = ParseError;

    /// Six digits; blanks and dashes that people put between groups are ignored. What was typed is never echoed.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits: Vec<u8> = text.trim().bytes().filter(|b| !matches!(b, b' ' | b'-')).collect();
        match <[u8; 6]>::try_from(digits) {
            Ok(digits) if digits.iter().all(u8::is_ascii_digit) => Ok(Self(digits)),
            _ => Err(ParseError::new("PIN", "…", "is not six digits")),
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_groups_are_read_and_nothing_is_echoed() {
        assert_eq!(" 123 456\n".parse::<Pin>().unwrap().digits(), "123456");
        assert_eq!("123-456".parse::<Pin>().unwrap().grouped(), "123 456");
        for bad in ["", "12345", "1234567", "12345a", "１２３４５６"] {
            let error = bad.parse::<Pin>().unwrap_err();
            assert!(!error.to_string().contains("12345"), "{error}");
        }
        assert_eq!(format!("{:?}", "123456".parse::<Pin>().unwrap()), "Pin(…)");
    }

    #[test]
    fn numbers_above_the_last_full_million_are_drawn_again() {
        let mut numbers = [u32::MAX, 4_294_000_000, 42].into_iter();
        assert_eq!(Pin::from_uniform(|| numbers.next().unwrap()).digits(), "000042");
    }
}
