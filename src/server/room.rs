//! Whether there is room: the device's quota, and what must stay free on the disk. Full means that the new is refused; nothing
//! old is ever touched.

use crate::server::api_error::ApiError;
use crate::server::state::Shared;
use crate::store::Repository;

/// Refuses when `more` bytes for this repository would not fit. Blocking.
pub(crate) fn check(shared: &Shared, repository: Option<&Repository>, more: u64) -> Result<(), ApiError> {
    let free = shared.store()?.free_bytes()?;
    if free < shared.reserve_bytes.saturating_add(more) {
        let message =
            format!("the receiving device has {} free and keeps {} in reserve", size(free), size(shared.reserve_bytes));
        return Err(ApiError::full(message));
    }
    if let Some(quota) = shared.quota {
        let stored = match repository {
            None => 0,
            // Whoever brings copies has one quota for all of them.
            Some(repository) if repository.copied_from().is_some() => {
                let mut copies = shared.store()?.repositories();
                copies.retain(|copy| copy.copied_from() == repository.copied_from());
                copies.iter().map(|copy| copy.stored_bytes()).sum::<Result<u64, _>>()?
            }
            Some(repository) => repository.stored_bytes()?,
        };
        if stored.saturating_add(more) > quota {
            let message = format!("this device's quota of {} is used up: {} are stored", size(quota), size(stored));
            return Err(ApiError::full(message));
        }
    }
    Ok(())
}

/// A number of bytes as people read it.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
