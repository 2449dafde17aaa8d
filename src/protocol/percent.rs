//! Bytes in a URL: `%XX` for everything that could mean something there.

use std::fmt::Write;

/// Letters, digits and `-_.~` stay, every other byte is `%XX`; so any name fits into a path, a query or an attribute of HTML.
pub fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The inverse, for a part of a path; `None` when a `%` is not followed by two hex digits.
pub fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = behind;
    }
    Some(bytes)
}

/// The same for a value of a form, where a `+` is a blank.
pub fn decoded_field(text: &str) -> Option<Vec<u8>> {
    decoded(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back_and_nothing_in_them_means_anything() {
        let all: Vec<u8> = (0..=255).collect();
        let text = encoded(&all);
        assert_eq!(decoded(&text).unwrap(), all);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~%".contains(&b)));
        assert_eq!(encoded("a&b=c d/ü".as_bytes()), "a%26b%3Dc%20d%2F%C3%BC");
        assert_eq!(decoded("%2e%2E").unwrap(), b"..");
        assert_eq!(decoded_field("12+34%205").unwrap(), b"12 34 5");
        for bad in ["%", "%2", "%zz", "a%+1"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
