//! Times in the spellings that people use, read against a given now and time zone.
//!
//! A spelling names a span of time, first and last nanosecond included: a date is a whole local day, a time to the
//! minute or the second is that one second, `2 hours ago` is an instant. "At or before" takes the end of the span, so
//! `@2026-11-20` reaches to the last moment of that day, and a time copied from a list finds the snapshot it stands
//! for although the list shows no fractions. Times without a zone are local. A local time that a clock change skips is
//! moved forward by the size of the gap; of two equal local times the first is meant (jiff's "compatible").

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// What relative and local times are relative to.
#[derive(Debug, Clone)]
pub struct Context {
    /// The current time.
    pub now: Timestamp,
    /// The user's time zone.
    pub tz: TimeZone,
}

/// The span of time that a spelling names; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// First nanosecond.
    pub start: Timestamp,
    /// Last nanosecond; equal to `start` for an instant.
    pub end: Timestamp,
}

/// The forms that every message about times lists.
pub const ACCEPTED_FORMS: &str = "2026-11-20, 2026-11-20 14:00, 2026-11-20T14:00:30+01:00, 20261120_140030, 14:00, now, today, yesterday, \
     yesterday 14:00, monday, last monday, 3h ago, 2 hours ago, unix:1700000000";

/// A text that names no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimeError {
    /// No accepted spelling.
    #[error("'{0}' is not a time; accepted are: {ACCEPTED_FORMS}")]
    Unknown(String),
    /// A right spelling of a time that does not exist or is out of range.
    #[error("'{0}' is outside the range of times")]
    OutOfRange(String),
}

impl Moment {
    fn instant(at: Timestamp) -> Self {
        Self { start: at, end: at }
    }

    fn whole_second(at: Timestamp) -> Self {
        Self { start: at, end: at.checked_add(jiff::SignedDuration::from_nanos(999_999_999)).unwrap_or(Timestamp::MAX) }
    }

    /// The last nanosecond as the number that snapshots carry.
    pub fn end_ns(&self) -> i64 {
        timestamp_ns(self.end)
    }
}

/// Nanoseconds since 1970 UTC, held at the ends of the 64-bit range (years 1677 to 2262).
pub fn timestamp_ns(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(if at < Timestamp::UNIX_EPOCH { i64::MIN } else { i64::MAX })
}

/// The timestamp of a snapshot's nanoseconds.
pub fn ns_timestamp(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Shows a time in the given zone as it can be typed again: `2026-11-20 14:00 (+01:00)`, with seconds unless they are zero.
pub fn format_local(time_ns: i64, tz: &TimeZone) -> String {
    let zoned = ns_timestamp(time_ns).to_zoned(tz.clone());
    let pattern = if zoned.second() == 0 { "%Y-%m-%d %H:%M (%:z)" } else { "%Y-%m-%d %H:%M:%S (%:z)" };
    zoned.strftime(pattern).to_string()
}

/// Reads one time in any accepted spelling.
///
/// # Errors
/// [`ParseTimeError`] when it is none.
pub fn parse_time(text: &str, context: &Context) -> Result<Moment, ParseTimeError> {
    let unknown = || ParseTimeError::Unknown(text.to_owned());
    let trimmed = text.trim();
    let lower = trimmed.to_ascii_lowercase();
    if let Some(seconds) = lower.strip_prefix("unix:") {
        let seconds: i64 = seconds.parse().map_err(|_| unknown())?;
        let at = Timestamp::from_second(seconds).map_err(|_| ParseTimeError::OutOfRange(text.to_owned()))?;
        return Ok(Moment::whole_second(at));
    }
    if let Some(civil) = parse_compact(trimmed) {
        return local_second(civil, context, text);
    }
    if lower == "now" {
        return Ok(Moment::instant(context.now));
    }
    if let Some(ago) = lower.strip_suffix("ago") {
        return parse_ago(ago.trim_end(), context).ok_or_else(unknown);
    }
    if let Some(moment) = parse_day_words(&lower, context, text) {
        return moment;
    }
    parse_calendar(trimmed, context, text)
}

/// Reads the old systems' form `20240708_143022`.
pub fn parse_compact(text: &str) -> Option<DateTime> {
    let (date, time) = text.split_once('_')?;
    if date.len() != 8 || time.len() != 6 || !date.bytes().chain(time.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |text: &str, from: usize, to: usize| text.get(from..to)?.parse::<i8>().ok();
    let date = Date::new(date.get(..4)?.parse().ok()?, number(date, 4, 6)?, number(date, 6, 8)?).ok()?;
    let time = Time::new(number(time, 0, 2)?, number(time, 2, 4)?, number(time, 4, 6)?, 0).ok()?;
    Some(DateTime::from_parts(date, time))
}

fn out_of_range<E>(text: &str) -> impl FnOnce(E) -> ParseTimeError + '_ {
    move |_| ParseTimeError::OutOfRange(text.to_owned())
}

fn local_second(civil: DateTime, context: &Context, text: &str) -> Result<Moment, ParseTimeError> {
    let zoned = civil.to_zoned(context.tz.clone()).map_err(out_of_range(text))?;
    Ok(Moment::whole_second(zoned.timestamp()))
}

fn whole_day(date: Date, context: &Context, text: &str) -> Result<Moment, ParseTimeError> {
    // The end is taken from the next midnight, so that days of 23 and 25 hours are right.
    let start = date.to_zoned(context.tz.clone()).map_err(out_of_range(text))?.timestamp();
    let next = date.tomorrow().and_then(|d| d.to_zoned(context.tz.clone())).map_err(out_of_range(text))?.timestamp();
    let end = next.checked_sub(jiff::SignedDuration::from_nanos(1)).map_err(out_of_range(text))?;
    Ok(Moment { start, end })
}

/// `2 hours`, `3h`, `1h30m`, `an hour`, `a week`: minutes and hours are exact, days and longer follow the calendar.
fn parse_ago(text: &str, context: &Context) -> Option<Moment> {
    let text = text
        .strip_prefix("an ")
        .or_else(|| text.strip_prefix("a "))
        .map_or_else(|| text.to_owned(), |r| format!("1 {r}"));
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut span = Span::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let number: i64 = number.parse().ok()?;
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        span = match unit {
            "s" | "sec" | "secs" | "second" | "seconds" => span.try_seconds(span.get_seconds().checked_add(number)?),
            "m" | "min" | "mins" | "minute" | "minutes" => span.try_minutes(span.get_minutes().checked_add(number)?),
            "h" | "hr" | "hrs" | "hour" | "hours" => span.try_hours(i64::from(span.get_hours()).checked_add(number)?),
            "d" | "day" | "days" => span.try_days(i64::from(span.get_days()).checked_add(number)?),
            "w" | "week" | "weeks" => span.try_weeks(i64::from(span.get_weeks()).checked_add(number)?),
            "mo" | "month" | "months" => span.try_months(i64::from(span.get_months()).checked_add(number)?),
            "y" | "year" | "years" => span.try_years(i64::from(span.get_years()).checked_add(number)?),
            _ => return None,
        }
        .ok()?;
        rest = tail.trim_start();
    }
    let at = context.now.to_zoned(context.tz.clone()).checked_sub(span).ok()?;
    Some(Moment::instant(at.timestamp()))
}

fn parse_weekday(word: &str) -> Option<Weekday> {
    Some(match word {
        "monday" | "mon" => Weekday::Monday,
        "tuesday" | "tue" => Weekday::Tuesday,
        "wednesday" | "wed" => Weekday::Wednesday,
        "thursday" | "thu" => Weekday::Thursday,
        "friday" | "fri" => Weekday::Friday,
        "saturday" | "sat" => Weekday::Saturday,
        "sunday" | "sun" => Weekday::Sunday,
        _ => return None,
    })
}

/// `today`, `yesterday`, `monday` (the newest Monday that is not in the future), `last monday` (the newest one before
/// today), each alone or with a time of day. None when the text is something else.
fn parse_day_words(lower: &str, context: &Context, text: &str) -> Option<Result<Moment, ParseTimeError>> {
    let today = context.now.to_zoned(context.tz.clone()).date();
    let (last, rest) = match lower.strip_prefix("last ") {
        Some(rest) => (true, rest.trim_start()),
        None => (false, lower),
    };
    let (word, time) = rest.split_once(' ').filter(|(word, _)| is_day_word(word)).unwrap_or((rest, ""));
    let date = match word {
        "today" if !last => Ok(today),
        "yesterday" if !last => today.yesterday(),
        _ => {
            let weekday = parse_weekday(word)?;
            let since = i64::from(today.weekday().since(weekday));
            let days_back = if last && since == 0 { 7 } else { since };
            Span::new().try_days(days_back).and_then(|span| today.checked_sub(span))
        }
    };
    let date = match date {
        Ok(date) => date,
        Err(_) => return Some(Err(ParseTimeError::OutOfRange(text.to_owned()))),
    };
    let time = time.trim();
    if time.is_empty() {
        return Some(whole_day(date, context, text));
    }
    Some(match parse_clock(time) {
        Some(time) => local_second(DateTime::from_parts(date, time), context, text),
        None => Err(ParseTimeError::Unknown(text.to_owned())),
    })
}

fn is_day_word(word: &str) -> bool {
    matches!(word, "today" | "yesterday") || parse_weekday(word).is_some()
}

/// `14:00` and `14:00:30`; one digit is enough for the hour.
fn parse_clock(text: &str) -> Option<Time> {
    let mut parts = text.split(':');
    let mut number = |required: bool| match parts.next() {
        Some(part) if (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()) => {
            part.parse::<i8>().ok()
        }
        None if !required => Some(0),
        _ => None,
    };
    let (hour, minute, second) = (number(true)?, number(true)?, number(false)?);
    if parts.next().is_some() { None } else { Time::new(hour, minute, second, 0).ok() }
}

/// Full dates, with or without time and zone, and a time of day alone (today).
fn parse_calendar(trimmed: &str, context: &Context, text: &str) -> Result<Moment, ParseTimeError> {
    if let Some(time) = parse_clock(trimmed) {
        let today = context.now.to_zoned(context.tz.clone()).date();
        return local_second(DateTime::from_parts(today, time), context, text);
    }
    let bytes = trimmed.as_bytes();
    let dated = bytes.len() >= 10 && bytes.get(4) == Some(&b'-') && bytes.get(7) == Some(&b'-');
    if !dated {
        return Err(ParseTimeError::Unknown(text.to_owned()));
    }
    if bytes.len() == 10 {
        let date: Date = trimmed.parse().map_err(|_| ParseTimeError::Unknown(text.to_owned()))?;
        return whole_day(date, context, text);
    }
    // Lists show `2026-11-20 14:00 (+01:00)`; both that and a space before the zone are read back.
    let joined = trimmed.replace(" (", "").replace(')', "").replace(" +", "+").replace(" Z", "Z").replace(" UTC", "Z");
    let exact = joined.contains(['.', ',']);
    let span = |at: Timestamp| if exact { Moment::instant(at) } else { Moment::whole_second(at) };
    if let Ok(zoned) = joined.parse::<Zoned>() {
        return Ok(span(zoned.timestamp()));
    }
    if let Ok(at) = joined.parse::<Timestamp>() {
        return Ok(span(at));
    }
    let has_zone = joined.get(10..).is_some_and(|tail| tail.contains(['Z', 'z', '+', '-', '[']));
    match joined.parse::<DateTime>() {
        Ok(civil) if !has_zone => {
            let zoned = civil.to_zoned(context.tz.clone()).map_err(out_of_range(text))?;
            Ok(span(zoned.timestamp()))
        }
        _ => Err(ParseTimeError::Unknown(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Friday 2026-11-20 15:30:45.5 in Berlin (UTC+1).
    fn context() -> Context {
        Context { now: "2026-11-20T14:30:45.5Z".parse().unwrap(), tz: TimeZone::get("Europe/Berlin").unwrap() }
    }

    fn end(text: &str) -> String {
        parse_time(text, &context()).unwrap_or_else(|e| panic!("{text}: {e}")).end.to_string()
    }

    fn start(text: &str) -> String {
        parse_time(text, &context()).unwrap_or_else(|e| panic!("{text}: {e}")).start.to_string()
    }

    #[test]
    fn spellings_of_one_second() {
        for text in [
            "2026-11-20T14:00:00+01:00",
            "2026-11-20T13:00:00Z",
            "2026-11-20T13:00Z",
            "2026-11-20T14:00+01:00",
            "2026-11-20 14:00:00+01:00",
            "2026-11-20 14:00 +01:00",
            "2026-11-20 14:00 (+01:00)",
            "2026-11-20 13:00 UTC",
            "2026-11-20T14:00[Europe/Berlin]",
            "2026-11-20 14:00",
            "2026-11-20T14:00",
            "2026-11-20t14:00:00",
            "20261120_140000",
            "today 14:00",
            "friday 14:00",
            "14:00",
            "unix:1795179600",
            "  2026-11-20 14:00 ",
        ] {
            assert_eq!(start(text), "2026-11-20T13:00:00Z", "{text}");
            assert_eq!(end(text), "2026-11-20T13:00:00.999999999Z", "{text}");
        }
        assert_eq!(end("2026-11-20T14:00:00.25"), "2026-11-20T13:00:00.25Z");
    }

    #[test]
    fn days_reach_to_their_end() {
        for (text, first, last) in [
            ("2026-11-20", "2026-11-19T23:00:00Z", "2026-11-20T22:59:59.999999999Z"),
            ("today", "2026-11-19T23:00:00Z", "2026-11-20T22:59:59.999999999Z"),
            ("friday", "2026-11-19T23:00:00Z", "2026-11-20T22:59:59.999999999Z"),
            ("yesterday", "2026-11-18T23:00:00Z", "2026-11-19T22:59:59.999999999Z"),
            ("Monday", "2026-11-15T23:00:00Z", "2026-11-16T22:59:59.999999999Z"),
            ("last monday", "2026-11-15T23:00:00Z", "2026-11-16T22:59:59.999999999Z"),
            ("last friday", "2026-11-12T23:00:00Z", "2026-11-13T22:59:59.999999999Z"),
            ("sat", "2026-11-13T23:00:00Z", "2026-11-14T22:59:59.999999999Z"),
        ] {
            assert_eq!((start(text), end(text)), (first.to_owned(), last.to_owned()), "{text}");
        }
    }

    #[test]
    fn relative_times_are_instants() {
        for (text, expected) in [
            ("now", "2026-11-20T14:30:45.5Z"),
            ("2 hours ago", "2026-11-20T12:30:45.5Z"),
            ("3h ago", "2026-11-20T11:30:45.5Z"),
            ("90m ago", "2026-11-20T13:00:45.5Z"),
            ("1h30m ago", "2026-11-20T13:00:45.5Z"),
            ("an hour ago", "2026-11-20T13:30:45.5Z"),
            ("a day ago", "2026-11-19T14:30:45.5Z"),
            ("1 week ago", "2026-11-13T14:30:45.5Z"),
            ("2 months ago", "2026-09-20T13:30:45.5Z"),
            ("yesterday 09:15", "2026-11-19T08:15:00.999999999Z"),
            ("monday 9:15:30", "2026-11-16T08:15:30.999999999Z"),
        ] {
            assert_eq!(end(text), expected, "{text}");
        }
    }

    #[test]
    fn hours_are_exact_and_days_follow_the_calendar_across_clock_changes() {
        // Clocks in Berlin went back on 2026-10-25 at 03:00.
        let context = Context { now: "2026-10-26T11:00:00Z".parse().unwrap(), ..context() };
        let at = |text: &str| parse_time(text, &context).unwrap().end.to_string();
        assert_eq!(at("48 hours ago"), "2026-10-24T11:00:00Z");
        assert_eq!(at("2 days ago"), "2026-10-24T10:00:00Z");
        let day = parse_time("yesterday", &context).unwrap();
        let hours = day.end.duration_since(day.start).as_secs_f64() / 3600.0;
        assert!((hours - 25.0).abs() < 0.001, "{hours}");
    }

    #[test]
    fn gaps_move_forward_and_folds_take_the_first() {
        // 2026-03-29 02:30 does not exist in Berlin, 2026-10-25 02:30 exists twice.
        assert_eq!(start("2026-03-29 02:30"), "2026-03-29T01:30:00Z");
        assert_eq!(start("20260329_023000"), "2026-03-29T01:30:00Z");
        assert_eq!(start("2026-10-25 02:30"), "2026-10-25T00:30:00Z");
        assert_eq!(start("2026-10-25 02:30+01:00"), "2026-10-25T01:30:00Z");
        let spring = parse_time("2026-03-29", &context()).unwrap();
        assert_eq!((spring.end.as_second() - spring.start.as_second() + 1) / 3600, 23);
    }

    #[test]
    fn a_day_may_begin_after_midnight() {
        // In Beirut the clocks skip midnight itself.
        let tz = TimeZone::get("Asia/Beirut").unwrap();
        let context = Context { now: "2022-03-28T12:00:00Z".parse().unwrap(), tz };
        let before = parse_time("2022-03-26", &context).unwrap();
        let day = parse_time("2022-03-27", &context).unwrap();
        assert_eq!(day.start.to_string(), "2022-03-26T22:00:00Z");
        assert_eq!(before.end.to_string(), "2022-03-26T21:59:59.999999999Z");
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_forms() {
        for text in [
            "",
            "soon",
            "2026",
            "2026-13-01",
            "2026-02-30",
            "2026-11-20 25:00",
            "20261320_000000",
            "ago",
            "h ago",
            "3 ago",
            "3x ago",
            "last",
            "last today",
            "unix:",
            "unix:1.5",
            "1700000000",
            "2026-11-20:14",
            "-3h ago",
            "mondays",
            "14",
            "14:00:00:00",
            "2026-11-20T14:00:",
        ] {
            let error = parse_time(text, &context()).unwrap_err();
            assert!(matches!(error, ParseTimeError::Unknown(_)), "{text}: {error}");
            assert!(error.to_string().contains("yesterday"), "{error}");
        }
        assert!(matches!(parse_time("unix:99999999999999999", &context()), Err(ParseTimeError::OutOfRange(_))));
    }

    #[test]
    fn shown_times_are_read_back() {
        let context = context();
        for ns in [1_795_179_600_123_456_789, 1_795_179_615_000_000_000] {
            let moment = parse_time(&format_local(ns, &context.tz), &context).unwrap();
            assert!(timestamp_ns(moment.start) <= ns && ns <= moment.end_ns());
        }
        assert_eq!(format_local(1_795_179_600_000_000_000, &context.tz), "2026-11-20 14:00 (+01:00)");
        assert_eq!(format_local(1_795_179_607_000_000_000, &context.tz), "2026-11-20 14:00:07 (+01:00)");
        assert_eq!(
            parse_time("2026-11-20 09:00 (-05:00)", &context).unwrap().start.to_string(),
            "2026-11-20T14:00:00Z"
        );
    }

    proptest! {
        #[test]
        fn any_second_shown_is_found(seconds in 0i64..4_000_000_000, zone in 0usize..4) {
            let name = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"][zone];
            let context = Context { now: context().now, tz: TimeZone::get(name).unwrap() };
            let ns = seconds * 1_000_000_000 + 5;
            let moment = parse_time(&format_local(ns, &context.tz), &context).unwrap();
            prop_assert!(timestamp_ns(moment.start) <= ns && ns <= moment.end_ns());
        }

        #[test]
        fn no_text_panics_and_spans_are_ordered(text in "(\\PC{0,24})|([0-9:TZ +_-]{0,26})|([0-9]{1,20} ?[a-z]{1,7} ago)") {
            if let Ok(moment) = parse_time(&text, &context()) {
                prop_assert!(moment.start <= moment.end);
            }
        }
    }
}
