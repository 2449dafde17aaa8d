//! Which bytes of a file are asked for: the `Range` header, as far as browsers and download managers use it. Pure.

use http::{HeaderMap, header};
use std::ops::Range;

/// What is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// 200, all of it.
    All,
    /// 206, these.
    Part(Range<u64>),
    /// 416: there are none of these.
    None,
}

/// Reads the header. What is not understood, and more than one range, means all of it, as HTTP allows. A range counts only for the
/// file that the asker has the beginning of (`If-Range`).
pub(crate) fn asked(headers: &HeaderMap, size: u64, tag: &str) -> Asked {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(range) = text(header::RANGE) else { return Asked::All };
    if text(header::IF_RANGE).is_some_and(|same| same != tag) {
        return Asked::All;
    }
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-')) else {
        return Asked::All;
    };
    let part = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(count)) if first.is_empty() => size.saturating_sub(count)..size,
        _ => return Asked::All,
    };
    if part.is_empty() { Asked::None } else { Asked::Part(part) }
}

/// Parts of one file that are remembered apart; of one more nothing is remembered, and the download is not counted.
const MAX_PARTS: usize = 64;

/// The parts of a file that a visitor has: in order, with gaps between them.
#[derive(Debug, Default)]
pub(crate) struct Parts(Vec<Range<u64>>);

impl Parts {
    /// One more, which may lie over others.
    pub(crate) fn add(&mut self, mut part: Range<u64>) {
        self.0.retain(|known| {
            let touches = known.start <= part.end && part.start <= known.end;
            if touches {
                part = known.start.min(part.start)..known.end.max(part.end);
            }
            !touches
        });
        if self.0.len() < MAX_PARTS && !part.is_empty() {
            let at = self.0.partition_point(|known| known.start < part.start);
            self.0.insert(at, part);
        }
    }

    /// Whether nothing of a file of this size is missing.
    pub(crate) fn cover(&self, size: u64) -> bool {
        self.0.first().is_some_and(|part| part.start == 0 && part.end >= size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(range: &str) -> Asked {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        asked(&headers, 100, "\"a\"")
    }

    #[test]
    fn one_range_is_understood_and_anything_else_means_all() {
        assert_eq!(of("bytes=0-9"), Asked::Part(0..10));
        assert_eq!(of("bytes=90-"), Asked::Part(90..100));
        assert_eq!(of("bytes=-10"), Asked::Part(90..100));
        assert_eq!(of("bytes=50-5000"), Asked::Part(50..100));
        assert_eq!(of("bytes=-5000"), Asked::Part(0..100));
        for none in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=18446744073709551615-18446744073709551615"] {
            assert_eq!(of(none), Asked::None, "{none}");
        }
        for all in ["bytes=9-0", "bytes=a-b", "bytes=1-2,4-5", "lines=1-2", "bytes=-", "bytes", ""] {
            assert_eq!(of(all), Asked::All, "{all}");
        }
    }

    #[test]
    fn a_range_of_another_version_is_not_given() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=0-9".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"a\"".parse().unwrap());
        assert_eq!(asked(&headers, 100, "\"a\""), Asked::Part(0..10));
        assert_eq!(asked(&headers, 100, "\"b\""), Asked::All);
    }

    #[test]
    fn parts_are_one_file_when_there_is_nothing_between_them_and_not_when_they_only_sum_up() {
        let mut parts = Parts::default();
        for part in [0..60, 0..60, 20..40] {
            parts.add(part);
            assert!(!parts.cover(100), "the same again is not the rest");
        }
        parts.add(80..100);
        assert!(!parts.cover(100));
        parts.add(60..80);
        assert!(parts.cover(100) && parts.0.len() == 1);
        let mut many = Parts::default();
        (0..1000).for_each(|n| many.add(n * 10..n * 10 + 5));
        assert_eq!(many.0.len(), MAX_PARTS, "crumbs take no memory");
        many.add(0..10_000);
        assert!(many.cover(10_000));
    }
}
