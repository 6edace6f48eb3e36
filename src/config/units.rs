//! Durations, sizes and rates with their units: parsed from text, and shown in the same notation.

use std::time::Duration;

use bytesize::ByteSize;

/// Milliseconds of each unit, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// One or more numbers with a unit each, largest unit first: `7.5s`, `26h`, `1h 30m`. A day has 24 hours. A value
/// finer than a millisecond is a mistake.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    if text.parse::<f64>().is_ok() {
        return Err("has no unit");
    }
    let mut rest = text.trim();
    let mut finer_than = u64::MAX;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after.trim_start(), |c| c.is_ascii_alphabetic());
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or("is not a duration")?;
        if *scale >= finer_than {
            return Err("is not a duration");
        }
        finer_than = *scale;
        total = millis(number, *scale)?.checked_add(total).ok_or("is too long")?;
        rest = after.trim_start();
    }
    if finer_than == u64::MAX { Err("is empty") } else { Ok(Duration::from_millis(total)) }
}

fn split(text: &str, of_head: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !of_head(c)).unwrap_or(text.len()))
}

fn millis(number: &str, scale: u64) -> Result<u64, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| "is not a duration")?;
    let digits: u64 = fraction.parse().map_err(|_| "is not a duration")?;
    let places = 10_u64.checked_pow(fraction.len() as u32).ok_or("is finer than a millisecond")?;
    let part = digits.checked_mul(scale).ok_or("is finer than a millisecond")?;
    if part % places != 0 {
        return Err("is finer than a millisecond");
    }
    whole.checked_mul(scale).and_then(|whole| whole.checked_add(part / places)).ok_or("is too long")
}

/// In the largest unit that needs no fraction; below a minute in seconds, such as `7.5s`, and hours with minutes as
/// `26h 5m`.
pub(crate) fn show_duration(duration: Duration) -> String {
    const MINUTE: u64 = 60_000;
    let total = duration.as_millis() as u64;
    if total > 2 * 60 * MINUTE && total.is_multiple_of(MINUTE) && !total.is_multiple_of(60 * MINUTE) {
        return format!("{}h {}m", total / (60 * MINUTE), total / MINUTE % 60);
    }
    if (1000..60_000).contains(&total) {
        return format!("{}s", total as f64 / 1000.0);
    }
    let exact = UNITS.iter().find(|(_, scale)| total > 0 && total.is_multiple_of(*scale));
    exact.map_or_else(|| format!("{total}ms"), |(unit, scale)| format!("{}{unit}", total / scale))
}

/// A number with a unit that ends in `B`: `12 MiB`, `10 GB`, `512 B`.
pub(super) fn parse_size(text: &str) -> Result<u64, &'static str> {
    let text = text.trim();
    if text.parse::<f64>().is_ok() {
        return Err("has no unit");
    }
    if !text.ends_with('B') {
        return Err("is not a size");
    }
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| "is not a size")
}

/// In the largest binary unit that needs no fraction.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [("TiB", bytesize::TIB), ("GiB", bytesize::GIB), ("MiB", bytesize::MIB), ("KiB", bytesize::KIB)];
    let exact = units.iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    exact.map_or_else(|| format!("{bytes} B"), |(unit, scale)| format!("{} {unit}", bytes / scale))
}

pub(super) fn show_rate(bytes: u64) -> String {
    format!("{}/s", show_size(bytes))
}

/// A size per second: `16 KiB/s`.
pub(super) fn parse_rate(text: &str) -> Result<u64, &'static str> {
    let size = text.trim().strip_suffix("/s").ok_or("is not a size in each second")?;
    parse_size(size).map_err(|_| "is not a size in each second")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for text in ["250ms", "1s", "7.5s", "75s", "2m", "90s", "26h", "7d", "1001ms"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration), "{text}");
        }
        for text in ["250ms", "7.5s", "26h", "7d", "2h", "5m", "26h 5m", "90m"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration(" 1 h30 m "), Ok(Duration::from_secs(5400)));
        assert_eq!(show_duration(Duration::ZERO), "0ms");
    }

    #[test]
    fn invalid_durations_are_refused() {
        let cases = [
            ("5", "has no unit"),
            ("7.5", "has no unit"),
            ("", "is empty"),
            ("5 parsecs", "is not a duration"),
            ("s", "is not a duration"),
            ("-5s", "is not a duration"),
            ("1.s", "is not a duration"),
            ("1..5s", "is not a duration"),
            ("30m 1h", "is not a duration"),
            ("1s 1s", "is not a duration"),
            ("1h 30", "is not a duration"),
            ("0.5ms", "is finer than a millisecond"),
            ("0.0000000000000000000001d", "is finer than a millisecond"),
            ("99999999999999999d", "is too long"),
        ];
        for (text, wrong) in cases {
            assert_eq!(parse_duration(text), Err(wrong), "{text}");
        }
    }

    #[test]
    fn sizes_round_trip() {
        for text in ["512 B", "16 KiB", "12 MiB", "10 GiB", "2 TiB", "1537 B"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
        assert_eq!(parse_size("1.5MiB"), Ok(1_572_864));
        assert_eq!(parse_size("10 MB"), Ok(10_000_000));
        assert_eq!(parse_rate("16 KiB/s"), Ok(16_384));
        assert_eq!(show_size(0), "0 B");
    }

    #[test]
    fn invalid_sizes_are_refused() {
        for (text, wrong) in [("12", "has no unit"), ("12 M", "is not a size"), ("MiB", "is not a size")] {
            assert_eq!(parse_size(text), Err(wrong), "{text}");
        }
        assert!(parse_rate("16 KiB").is_err());
    }
}
