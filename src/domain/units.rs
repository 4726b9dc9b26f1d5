//! Sizes and durations as people write and read them.
//!
//! Decimal units are powers of 1000 (`KB`, `MB`, `GB`, `TB`, also `K`, `M`, `G`, `T`), binary units are powers of 1024
//! (`KiB`, `MiB`, `GiB`, `TiB`); a number alone is bytes. Case does not matter. A day has 24 hours and a week seven
//! days: calendar arithmetic is the business of [`super::time_spec`].

use std::time::Duration;

/// A text that is not a size or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseUnitError {
    /// Not a size.
    #[error("'{0}' is not a size; write for example '10 KB', '2 GB', '512 MiB' or a number of bytes")]
    Size(String),
    /// Not a duration.
    #[error("'{0}' is not a duration; write for example '90s', '5m', '26h', '30d', '2w' or '1h30m'")]
    Duration(String),
    /// A value beyond 64 bits.
    #[error("'{0}' is too large")]
    TooLarge(String),
}

const KB: u64 = 1000;
const KIB: u64 = 1024;
const UNITS: [(&str, u64); 15] = [
    ("", 1),
    ("b", 1),
    ("bytes", 1),
    ("k", KB),
    ("kb", KB),
    ("m", KB.pow(2)),
    ("mb", KB.pow(2)),
    ("g", KB.pow(3)),
    ("gb", KB.pow(3)),
    ("t", KB.pow(4)),
    ("tb", KB.pow(4)),
    ("kib", KIB),
    ("mib", KIB.pow(2)),
    ("gib", KIB.pow(3)),
    ("tib", KIB.pow(4)),
];

/// Reads a size: `10 KB` is 10,000 bytes, `10 KiB` is 10,240. Fractions are cut off after the multiplication.
///
/// # Errors
/// [`ParseUnitError`] when it is no size or does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, ParseUnitError> {
    let wrong = || ParseUnitError::Size(text.to_owned());
    let trimmed = text.trim();
    let digits_end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits_end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') || (number.contains('.') && fraction.is_empty())
    {
        return Err(wrong());
    }
    let too_large = || ParseUnitError::TooLarge(text.to_owned());
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = whole.checked_mul(factor).ok_or_else(too_large)?;
    if !fraction.is_empty() {
        let numerator: u128 = fraction.parse().map_err(|_| wrong())?;
        let scale = u32::try_from(fraction.len()).map_err(|_| wrong())?;
        let part = numerator * u128::from(factor) / 10u128.pow(scale);
        bytes = bytes.checked_add(u64::try_from(part).map_err(|_| too_large())?).ok_or_else(too_large)?;
    }
    Ok(bytes)
}

/// A size for people, to three digits: `999 B`, `1.2 KB`, `12.3 MB`, `123 GB`.
pub fn format_size(bytes: u64) -> String {
    const NAMES: [&str; 6] = ["KB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut divisor: u128 = 1000;
    for name in NAMES {
        // Tenths, rounded half up; 999.95 already belongs to the next unit.
        let tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
        if tenths < 1000 {
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
        let whole = (u128::from(bytes) + divisor / 2) / divisor;
        if whole < 1000 {
            return format!("{whole} {name}");
        }
        divisor *= 1000;
    }
    format!("{bytes} B")
}

/// A size that [`parse_size`] reads back exactly: the largest unit that divides it.
pub fn format_size_exact(bytes: u64) -> String {
    const NAMES: [(u64, &str); 8] = [
        (KB.pow(4), "TB"),
        (KIB.pow(4), "TiB"),
        (KB.pow(3), "GB"),
        (KIB.pow(3), "GiB"),
        (KB.pow(2), "MB"),
        (KIB.pow(2), "MiB"),
        (KB, "KB"),
        (KIB, "KiB"),
    ];
    match NAMES.iter().find(|(factor, _)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((factor, name)) => format!("{} {name}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// Reads a duration: numbers with `ms`, `s`, `m`, `h`, `d`, `w`, one after the other, largest first or not. `0` needs no unit.
///
/// # Errors
/// [`ParseUnitError`] when it is no duration or too long.
pub fn parse_duration(text: &str) -> Result<Duration, ParseUnitError> {
    let too_large = || ParseUnitError::TooLarge(text.to_owned());
    let (days, rest) = parse_days_and_time(text)?;
    let days = days.checked_mul(86_400_000).map(Duration::from_millis).ok_or_else(too_large)?;
    days.checked_add(rest).filter(|sum| u64::try_from(sum.as_millis()).is_ok()).ok_or_else(too_large)
}

/// Reads a duration as [`parse_duration`] does, but keeps days (and weeks, seven each) apart from hours and less, for
/// callers to whom a day is a day of the calendar.
///
/// # Errors
/// [`ParseUnitError`] when it is no duration or too long.
pub fn parse_days_and_time(text: &str) -> Result<(u64, Duration), ParseUnitError> {
    let wrong = || ParseUnitError::Duration(text.to_owned());
    let too_large = || ParseUnitError::TooLarge(text.to_owned());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok((0, Duration::ZERO));
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let (mut days, mut time_ms): (u64, u64) = (0, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() {
            return Err(wrong());
        }
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (sum, factor): (&mut u64, u64) = match unit.to_ascii_lowercase().as_str() {
            "ms" => (&mut time_ms, 1),
            "s" | "sec" | "second" | "seconds" => (&mut time_ms, 1000),
            "m" | "min" | "minute" | "minutes" => (&mut time_ms, 60_000),
            "h" | "hour" | "hours" => (&mut time_ms, 3_600_000),
            "d" | "day" | "days" => (&mut days, 1),
            "w" | "week" | "weeks" => (&mut days, 7),
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| too_large())?;
        *sum = number.checked_mul(factor).and_then(|more| sum.checked_add(more)).ok_or_else(too_large)?;
        rest = tail.trim_start();
    }
    Ok((days, Duration::from_millis(time_ms)))
}

/// A duration for people: `0.4s`, `12s`, `1m 30s`, `2h 5m`, `3d 4h`.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let pair = |big: u64, big_name: &str, small: u64, small_name: &str| {
        if small == 0 { format!("{big}{big_name}") } else { format!("{big}{big_name} {small}{small_name}") }
    };
    match seconds {
        0..10 => format!("{}.{}s", seconds, duration.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A duration in the one unit that [`parse_duration`] reads back exactly: `26h`, `30d`, `90s`.
pub fn format_duration_exact(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (factor, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if ms > 0 && ms.is_multiple_of(factor) {
            return format!("{}{name}", ms / factor);
        }
    }
    if ms == 0 { "0s".to_owned() } else { format!("{ms}ms") }
}

/// A rate for people, `12.3 MB/s`; nothing has a rate before some time has passed.
pub fn format_rate(bytes: u64, elapsed: Duration) -> String {
    let ms = elapsed.as_millis();
    if ms == 0 {
        return "- B/s".to_owned();
    }
    let per_second = u128::from(bytes) * 1000 / ms;
    format!("{}/s", format_size(u64::try_from(per_second).unwrap_or(u64::MAX)))
}

/// An age in words: `just now`, `5 minutes ago`, `1 hour ago`, `3 days ago`.
pub fn format_age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (count, unit) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// A count with its noun: `1 file`, `80,000 files`.
pub fn format_counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", format_count(count), if count == 1 { one } else { many })
}

/// A count with thousands separators: `80,000`.
pub fn format_count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_documented() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17 B", 17),
            ("10 KB", 10_000),
            ("10kb", 10_000),
            ("10K", 10_000),
            ("10 KiB", 10_240),
            ("1.5 GB", 1_500_000_000),
            ("0.5 KiB", 512),
            (" 2 GB ", 2_000_000_000),
            ("1 TiB", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KB", "10 XB", "-1", "1.", ".5", "1.2.3 KB", "10 K B", "1e3", "ten", "1,000"] {
            assert_eq!(parse_size(text), Err(ParseUnitError::Size(text.to_owned())), "{text}");
        }
        for text in ["18446744073709551616", "99999999 TB", "18446744073709551.616 KB"] {
            assert_eq!(parse_size(text), Err(ParseUnitError::TooLarge(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_to_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KB"),
            (1249, "1.2 KB"),
            (99_949, "99.9 KB"),
            (99_950, "100 KB"),
            (999_499, "999 KB"),
            (999_500, "1.0 MB"),
            (123_456_789, "123 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(format_size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations_are_read_as_documented() {
        for (text, seconds) in [
            ("0", 0),
            ("90s", 90),
            ("5m", 300),
            ("26h", 93_600),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("2 hours", 7200),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "5", "m", "5x", "5 m 3", "-5m", "1.5h", "5mm"] {
            assert!(matches!(parse_duration(text), Err(ParseUnitError::Duration(_))), "{text}");
        }
        assert!(matches!(parse_duration("99999999999999999w"), Err(ParseUnitError::TooLarge(_))));
    }

    #[test]
    fn durations_ages_rates_and_counts_for_people() {
        assert_eq!(format_duration(Duration::from_millis(440)), "0.4s");
        assert_eq!(format_duration(Duration::from_secs(12)), "12s");
        assert_eq!(format_duration(Duration::from_secs(90)), "1m 30s");
        assert_eq!(format_duration(Duration::from_secs(7200)), "2h");
        assert_eq!(format_duration(Duration::from_secs(100 * 3600)), "4d 4h");
        assert_eq!(format_age(Duration::from_secs(59)), "just now");
        assert_eq!(format_age(Duration::from_secs(3600)), "1 hour ago");
        assert_eq!(format_age(Duration::from_secs(3 * 86_400)), "3 days ago");
        assert_eq!(format_rate(3_000_000, Duration::from_millis(1500)), "2.0 MB/s");
        assert_eq!(format_rate(3, Duration::ZERO), "- B/s");
        assert_eq!(format_count(0), "0");
        assert_eq!(format_count(1_234_567), "1,234,567");
        assert_eq!(format_count(123), "123");
    }

    proptest! {
        #[test]
        fn exact_forms_read_back(bytes: u64, ms in 0u64..1 << 50) {
            prop_assert_eq!(parse_size(&format_size_exact(bytes)), Ok(bytes));
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration_exact(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }
    }
}
