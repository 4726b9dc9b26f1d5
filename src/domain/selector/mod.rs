//! Selectors: the one grammar by which every command names snapshots.
//!
//! ```text
//! selector = which [ ":" path ]
//! which    = 4 to 32 hex digits        an id or the beginning of exactly one
//!          | "latest" [ "~" number ]   the greatest backup time of a series, or the one so many before it
//!          | "@" time                  the newest at or before (see time_spec for the spellings)
//!          | "tag:" tag | "class:" class | "guard:" name      the newest that carries it (guard:x is the tag guard:x)
//!          | YYYYMMDD_HHMMSS           exactly that local second, as the old systems named backups
//!          | CLASS "-" YYYYMMDD_HHMMSS the same within one class, for example pre-restore-20240708_143022
//! ```
//! After a time, the path begins at the last colon that leaves a readable time before it. After `tag:` and `guard:`
//! it begins at the first `:/`, because tags may hold colons. Otherwise it begins at the first colon.
//!
//! Reading is here, choosing is in [`resolve`].

mod resolve;

pub use resolve::{Choice, Scope, SelectError, SeriesNewest, SnapshotSummary, filter, resolve};

use super::time_spec::{Context, Moment, ParseTimeError, parse_compact, parse_time};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Fewest hex digits of an id that are taken for one.
pub const PREFIX_DIGITS_MIN: usize = 4;
const ID_DIGITS: usize = 32;

/// The forms that every message about selectors lists.
pub const ACCEPTED_FORMS: &str = "an id or at least 4 digits of it, latest, latest~2, @TIME, tag:NAME, class:NAME, 20240708_143022, or one of these with :PATH";

/// A selector as it was read: which snapshot, and optionally a path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The text, for messages.
    pub text: String,
    /// Which snapshot.
    pub which: Which,
    /// The path after the colon, raw bytes; never empty.
    pub path: Option<Vec<u8>>,
    /// The zone in which local times are meant.
    tz: TimeZone,
}

/// The part of a selector that names a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Lower-case hex digits, at least [`PREFIX_DIGITS_MIN`].
    Prefix(String),
    /// So many before the newest; 0 is the newest.
    Latest(u64),
    /// The newest at or before the end of a moment.
    AtOrBefore(Moment),
    /// The newest with a tag.
    Tag(String),
    /// The newest of a class.
    Class(String),
    /// The one of an exact local second, within a class if one is given.
    Second {
        /// The class, if the name began with one.
        class: Option<String>,
        /// The local time.
        civil: DateTime,
    },
}

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSelectorError {
    /// Nothing there.
    #[error("The snapshot selector is empty")]
    Empty,
    /// The part before the path is not text.
    #[error("The snapshot selector '{0}' is not valid UTF-8 before its path")]
    NotText(String),
    /// Nothing is named like that, in any form.
    #[error("No snapshot is called '{0}'")]
    Unknown(String),
    /// A time without the leading `@`.
    #[error("'{0}' is a time, and times are written with a leading @")]
    TimeWithoutAt(String),
    /// Too few digits for an id.
    #[error("'{0}' is too short for a snapshot id, which takes at least 4 digits")]
    ShortPrefix(String),
    /// `latest~` without a number.
    #[error("'{0}' is not latest~ and a number")]
    LatestOffset(String),
    /// `tag:`, `class:` or `guard:` without a name.
    #[error("'{0}' lacks the name after its colon")]
    NoName(String),
    /// A colon with nothing after it.
    #[error("'{0}' lacks the path after its last colon")]
    NoPath(String),
    /// No time after the `@`.
    #[error("The selector '{text}' holds no readable time")]
    Time {
        /// The whole selector.
        text: String,
        /// What is wrong with the time.
        source: ParseTimeError,
    },
}

impl ParseSelectorError {
    /// True when the text may well be meant as the name of a snapshot that does not exist (exit code 20), false when
    /// it is wrongly written (exit code 2).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::ShortPrefix(_))
    }
}

impl Selector {
    /// Reads a selector from text.
    ///
    /// # Errors
    /// [`ParseSelectorError`] when it is none.
    pub fn parse(text: &str, context: &Context) -> Result<Self, ParseSelectorError> {
        Self::parse_bytes(text.as_bytes(), context)
    }

    /// Reads a selector whose path may be any bytes.
    ///
    /// # Errors
    /// [`ParseSelectorError`] when it is none.
    pub fn parse_bytes(raw: &[u8], context: &Context) -> Result<Self, ParseSelectorError> {
        let text = String::from_utf8_lossy(raw).into_owned();
        let (which, path) = parse_parts(raw, &text, context)?;
        if path.is_some_and(<[u8]>::is_empty) {
            return Err(ParseSelectorError::NoPath(text));
        }
        Ok(Self { text, which, path: path.map(<[u8]>::to_vec), tz: context.tz.clone() })
    }

    /// The plain `latest`, for commands that need no selector.
    pub fn latest(context: &Context) -> Self {
        Self { text: "latest".to_owned(), which: Which::Latest(0), path: None, tz: context.tz.clone() }
    }

    /// The zone in which its local times are meant and its choice is described.
    pub fn time_zone(&self) -> &TimeZone {
        &self.tz
    }
}

type Parts<'a> = (Which, Option<&'a [u8]>);

fn parse_parts<'a>(raw: &'a [u8], text: &str, context: &Context) -> Result<Parts<'a>, ParseSelectorError> {
    if raw.is_empty() {
        return Err(ParseSelectorError::Empty);
    }
    if let Some(time) = raw.strip_prefix(b"@") {
        return parse_at(time, text, context);
    }
    if let Some(rest) = raw.strip_prefix(b"tag:") {
        let (name, path) = split_before(rest, b":/");
        return Ok((Which::Tag(name_text(name, text)?), path));
    }
    if let Some(rest) = raw.strip_prefix(b"guard:") {
        let (name, path) = split_before(rest, b":/");
        return Ok((Which::Tag(format!("guard:{}", name_text(name, text)?)), path));
    }
    if let Some(rest) = raw.strip_prefix(b"class:") {
        let (name, path) = split_before(rest, b":");
        return Ok((Which::Class(name_text(name, text)?), path));
    }
    let (head, path) = split_before(raw, b":");
    let head = std::str::from_utf8(head).map_err(|_| ParseSelectorError::NotText(text.to_owned()))?;
    Ok((parse_plain(head, text, context)?, path))
}

/// Splits at the first occurrence of `mark`; the path begins after the colon, the first byte of the mark.
fn split_before<'a>(raw: &'a [u8], mark: &[u8]) -> (&'a [u8], Option<&'a [u8]>) {
    match raw.windows(mark.len()).position(|window| window == mark) {
        Some(at) => (raw.get(..at).unwrap_or_default(), raw.get(at + 1..)),
        None => (raw, None),
    }
}

fn name_text(name: &[u8], text: &str) -> Result<String, ParseSelectorError> {
    let name = std::str::from_utf8(name).map_err(|_| ParseSelectorError::NotText(text.to_owned()))?;
    if name.is_empty() { Err(ParseSelectorError::NoName(text.to_owned())) } else { Ok(name.to_owned()) }
}

/// Tries the whole text as a time, then ever shorter beginnings that end before a colon.
fn parse_at<'a>(raw: &'a [u8], text: &str, context: &Context) -> Result<Parts<'a>, ParseSelectorError> {
    let mut end = raw.len();
    let mut first_error = None;
    loop {
        let time = raw.get(..end).unwrap_or_default();
        if let Ok(time) = std::str::from_utf8(time) {
            match parse_time(time, context) {
                Ok(moment) => return Ok((Which::AtOrBefore(moment), raw.get(end + 1..))),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match time.iter().rposition(|byte| *byte == b':') {
            Some(colon) => end = colon,
            None => break,
        }
    }
    let lossy = || ParseTimeError::Unknown(String::from_utf8_lossy(raw).into_owned());
    Err(ParseSelectorError::Time { text: text.to_owned(), source: first_error.unwrap_or_else(lossy) })
}

fn parse_plain(head: &str, text: &str, context: &Context) -> Result<Which, ParseSelectorError> {
    if head == "latest" {
        return Ok(Which::Latest(0));
    }
    if let Some(offset) = head.strip_prefix("latest~") {
        let digits = !offset.is_empty() && offset.bytes().all(|b| b.is_ascii_digit());
        let offset = offset.parse().ok().filter(|_| digits);
        return offset.map(Which::Latest).ok_or_else(|| ParseSelectorError::LatestOffset(text.to_owned()));
    }
    if let Some(civil) = parse_compact(head) {
        return Ok(Which::Second { class: None, civil });
    }
    if let Some((class, second)) = head.rsplit_once('-')
        && let Some(civil) = parse_compact(second)
        && !class.is_empty()
    {
        return Ok(Which::Second { class: Some(class.to_owned()), civil });
    }
    if !head.is_empty() && head.len() <= ID_DIGITS && head.bytes().all(|b| b.is_ascii_hexdigit()) {
        if head.len() < PREFIX_DIGITS_MIN {
            if parse_time(text, context).is_ok() {
                return Err(ParseSelectorError::TimeWithoutAt(text.to_owned()));
            }
            return Err(ParseSelectorError::ShortPrefix(text.to_owned()));
        }
        return Ok(Which::Prefix(head.to_ascii_lowercase()));
    }
    if parse_time(text, context).is_ok() || parse_time(head, context).is_ok() {
        return Err(ParseSelectorError::TimeWithoutAt(text.to_owned()));
    }
    Err(ParseSelectorError::Unknown(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn context() -> Context {
        Context { now: "2026-11-20T14:30:45.5Z".parse().unwrap(), tz: TimeZone::get("Europe/Berlin").unwrap() }
    }

    fn parse(text: &str) -> (Which, Option<String>) {
        let selector = Selector::parse(text, &context()).unwrap_or_else(|e| panic!("{text}: {e}"));
        (selector.which, selector.path.map(|p| String::from_utf8(p).unwrap()))
    }

    fn at(time: &str) -> Which {
        Which::AtOrBefore(parse_time(time, &context()).unwrap())
    }

    #[test]
    fn the_grammar() {
        let path = |text: &str| Some(text.to_owned());
        let second = |class: Option<&str>| Which::Second {
            class: class.map(str::to_owned),
            civil: jiff::civil::date(2024, 7, 8).at(14, 30, 22, 0),
        };
        for (text, which, wanted_path) in [
            ("4f2a", Which::Prefix("4f2a".into()), None),
            ("4F2A91C0", Which::Prefix("4f2a91c0".into()), None),
            ("20240708", Which::Prefix("20240708".into()), None),
            ("4f2a:/etc/x:y", Which::Prefix("4f2a".into()), path("/etc/x:y")),
            ("4f2a:app-db", Which::Prefix("4f2a".into()), path("app-db")),
            ("latest", Which::Latest(0), None),
            ("latest:/srv", Which::Latest(0), path("/srv")),
            ("latest~12", Which::Latest(12), None),
            ("latest~0:a", Which::Latest(0), path("a")),
            ("@yesterday", at("yesterday"), None),
            ("@2026-11-20T14:00", at("2026-11-20T14:00"), None),
            ("@2026-11-20T14:00:/etc", at("2026-11-20T14:00"), path("/etc")),
            ("@2026-11-20T14:00:30:/etc:x", at("2026-11-20T14:00:30"), path("/etc:x")),
            ("@2026-11-20T14:00:30+01:00:/etc", at("2026-11-20T14:00:30+01:00"), path("/etc")),
            ("@2 hours ago", at("2 hours ago"), None),
            ("@3h ago:/srv/app", at("3h ago"), path("/srv/app")),
            ("@unix:1700000000", at("unix:1700000000"), None),
            ("@unix:1700000000:/etc", at("unix:1700000000"), path("/etc")),
            ("@20240708_143022", at("2024-07-08 14:30:22"), None),
            ("tag:v2.3", Which::Tag("v2.3".into()), None),
            ("tag:env:prod", Which::Tag("env:prod".into()), None),
            ("tag:env:prod:/srv", Which::Tag("env:prod".into()), path("/srv")),
            ("guard:v2.3.1", Which::Tag("guard:v2.3.1".into()), None),
            ("guard:v2.3.1:/srv", Which::Tag("guard:v2.3.1".into()), path("/srv")),
            ("class:weekly", Which::Class("weekly".into()), None),
            ("class:weekly:app-db", Which::Class("weekly".into()), path("app-db")),
            ("20240708_143022", second(None), None),
            ("20240708_143022:/etc", second(None), path("/etc")),
            ("pre-restore-20240708_143022", second(Some("pre-restore")), None),
        ] {
            assert_eq!(parse(text), (which, wanted_path), "{text}");
        }
    }

    #[test]
    fn wrong_selectors_say_why() {
        use ParseSelectorError as E;
        let error = |text: &str| Selector::parse(text, &context()).unwrap_err();
        let text = |s: &str| s.to_owned();
        assert_eq!(error(""), E::Empty);
        for short in ["a", "4f2", "123"] {
            assert_eq!(error(short), E::ShortPrefix(text(short)));
        }
        for unknown in ["foo", "Latest", "latest-2", "4f2g", ":path", "20241308_143022", &"a".repeat(33)] {
            assert_eq!(error(unknown), E::Unknown(text(unknown)));
            assert!(error(unknown).is_not_found());
        }
        for offset in ["latest~", "latest~x", "latest~-1", "latest~+1", "latest~99999999999999999999"] {
            assert_eq!(error(offset), E::LatestOffset(text(offset)));
            assert!(!error(offset).is_not_found());
        }
        for time in ["yesterday", "2026-11-20T14:00", "2 hours ago", "14:00"] {
            assert_eq!(error(time), E::TimeWithoutAt(text(time)));
        }
        for name in ["tag:", "class:", "guard:", "class::x"] {
            assert_eq!(error(name), E::NoName(text(name)));
        }
        for path in ["latest:", "4f2a:", "@yesterday:", "class:weekly:"] {
            assert_eq!(error(path), E::NoPath(text(path)));
        }
        for time in ["@", "@soon", "@:/etc", "@soon:/etc"] {
            assert!(matches!(error(time), E::Time { .. }), "{time}");
        }
    }

    #[test]
    fn paths_may_be_any_bytes() {
        let selector = Selector::parse_bytes(b"@yesterday:/srv/\xff\xfe:x", &context()).unwrap();
        assert_eq!(selector.path.as_deref(), Some(&b"/srv/\xff\xfe:x"[..]));
        let error = Selector::parse_bytes(b"lat\xffest", &context()).unwrap_err();
        assert!(matches!(error, ParseSelectorError::NotText(_)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(raw: Vec<u8>, text in "(latest|@|tag:|class:|[0-9a-f]{3,8})[~:@/a-z0-9 -]{0,12}") {
            let _ = Selector::parse_bytes(&raw, &context());
            let _ = Selector::parse(&text, &context());
        }

        #[test]
        fn ids_with_any_absolute_path(digits in "[0-9a-f]{4,32}", path in "/\\PC{0,20}") {
            let selector = Selector::parse(&format!("{digits}:{path}"), &context()).unwrap();
            prop_assert_eq!(selector.which, Which::Prefix(digits));
            prop_assert_eq!(selector.path, Some(path.into_bytes()));
        }
    }
}
