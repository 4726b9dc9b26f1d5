//! What a user or a script is told when a run fails: what happened, why, what to do next, and the exit code.
//!
//! Rooms below raise typed errors that hold facts; only here do they become sentences with hints. The text is
//!
//! ```text
//! error: Snapshot 4f2a91c0 cannot be restored completely
//!   cause: Pack 91c07be2 is damaged at byte 1048576
//! hint: run `holdfast verify` to see which other snapshots are affected
//! ```

use super::exit_code::ExitCode;
use super::json::SCHEMA;
use crate::domain::selector::{ParseSelectorError, SelectError};
use jiff::tz::TimeZone;

/// A failed run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: ExitCode,
    /// The stable message id, for scripts.
    pub id: &'static str,
    /// What happened, one sentence without a full stop.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure without causes and hints yet.
    pub fn new(exit: ExitCode, id: &'static str, message: impl Into<String>) -> Self {
        Self { exit, id, message: message.into(), causes: Vec::new(), hints: Vec::new() }
    }

    /// A usage error (exit code 2).
    pub fn usage(id: &'static str, message: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, id, message)
    }

    /// A failure whose message is the error's and whose causes are the chain of its sources.
    pub fn from_error(exit: ExitCode, id: &'static str, error: &dyn std::error::Error) -> Self {
        Self::new(exit, id, error.to_string()).caused_by_sources_of(error)
    }

    /// The run was ended by a signal.
    pub fn interrupted(exit: ExitCode) -> Self {
        Self::new(exit, "interrupted", "Interrupted; nothing that was complete before is lost")
    }

    /// Adds a cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds an error and the chain of its sources as causes.
    #[must_use]
    pub fn caused_by(self, error: &dyn std::error::Error) -> Self {
        self.cause(error.to_string()).caused_by_sources_of(error)
    }

    fn caused_by_sources_of(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = error.source();
        while let Some(source) = next {
            let text = source.to_string();
            // Some libraries print their source in their own text; the same sentence twice helps nobody.
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            next = source.source();
        }
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// A selector that could not be read.
    pub fn from_selector_text(error: &ParseSelectorError) -> Self {
        let (exit, id) = match error.is_not_found() {
            true => (ExitCode::SnapshotNotFound, "snapshot.not_found"),
            false => (ExitCode::Usage, "selector.unreadable"),
        };
        let failure = Self::from_error(exit, id, error);
        match error {
            ParseSelectorError::TimeWithoutAt(text) => failure.hint(format!("write '@{text}'")),
            ParseSelectorError::Time { .. } => failure,
            _ => failure
                .hint(format!("accepted are {}", crate::domain::selector::ACCEPTED_FORMS))
                .hint("run `holdfast snapshots` to see what there is"),
        }
    }

    /// A selector that chose nothing.
    pub fn from_selection(error: &SelectError, tz: &TimeZone) -> Self {
        let (exit, id) = match error {
            SelectError::SeveralSeries { .. } => (ExitCode::Usage, "series.ambiguous"),
            SelectError::AmbiguousPrefix { .. } => (ExitCode::SnapshotNotFound, "snapshot.ambiguous"),
            _ => (ExitCode::SnapshotNotFound, "snapshot.not_found"),
        };
        let mut failure = Self::from_error(exit, id, error);
        failure.causes.extend(error.candidates(tz));
        match error {
            SelectError::SeveralSeries { .. } => {
                failure.hint("name one with --host and --source, or give a snapshot id")
            }
            SelectError::AmbiguousPrefix { .. } => failure.hint("give more digits"),
            SelectError::OnlyUnfit { .. } => {
                failure.hint("run `holdfast snapshots` and name one by id, or by @TIME if it is suspect or imported")
            }
            SelectError::NoSnapshots { scoped: false, .. } => failure.hint("run `holdfast backup` first"),
            _ => failure.hint("run `holdfast snapshots` to see what there is"),
        }
    }

    /// The lines for people, without colour, each ended by a line feed.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for cause in &self.causes {
            text.push_str(&format!("  cause: {cause}\n"));
        }
        for hint in &self.hints {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }

    /// The object for scripts.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "schema": SCHEMA,
            "type": "error",
            "code": self.exit.code(),
            "id": self.id,
            "message": self.message,
            "causes": self.causes,
            "hints": self.hints,
        })
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::SnapshotId;
    use crate::domain::selector::{Scope, Selector, SnapshotSummary, resolve};
    use crate::domain::snapshot::Series;
    use crate::domain::time_spec::Context;

    #[derive(Debug, thiserror::Error)]
    #[error("Cannot read {path}")]
    struct Outer {
        path: &'static str,
        source: std::io::Error,
    }

    #[test]
    fn an_error_chain_is_printed_once() {
        let error = Outer { path: "/etc/x", source: std::io::Error::other("disk on fire") };
        let failure = Failure::from_error(ExitCode::Failed, "file.unreadable", &error).hint("use another disk");
        assert_eq!(failure.text(), "error: Cannot read /etc/x\n  cause: disk on fire\nhint: use another disk\n");
        let json = failure.json();
        assert_eq!(json["schema"], "holdfast/1");
        assert_eq!(json["type"], "error");
        assert_eq!(json["code"], 1);
        assert_eq!(json["id"], "file.unreadable");
        assert_eq!(json["message"], "Cannot read /etc/x");
        assert_eq!(json["causes"][0], "disk on fire");
        let outer = Failure::usage("x", "Y").caused_by(&error);
        assert_eq!(outer.causes, ["Cannot read /etc/x", "disk on fire"]);
    }

    #[test]
    fn selectors_fail_with_their_codes() {
        let context = Context { now: "2026-11-20T14:30:45Z".parse().unwrap(), tz: TimeZone::UTC };
        let of_text = |text: &str| Failure::from_selector_text(&Selector::parse(text, &context).unwrap_err());
        assert_eq!(of_text("nonsense").exit, ExitCode::SnapshotNotFound);
        assert_eq!(of_text("abc").exit, ExitCode::SnapshotNotFound);
        assert_eq!(of_text("yesterday").hints, ["write '@yesterday'"]);
        assert_eq!(of_text("yesterday").exit, ExitCode::Usage);
        let soon = of_text("@soon");
        assert_eq!(soon.exit, ExitCode::Usage);
        assert!(soon.causes[0].starts_with("'soon' is not a time; accepted are: 2026-11-20,"), "{:?}", soon.causes);

        let snapshots = ["web1", "web2"].map(|host| SnapshotSummary {
            id: SnapshotId([host.len() as u8; 16]),
            time_ns: 0,
            series: Series { host: host.to_owned(), sources: vec!["db".to_owned()] },
            class: None,
            tags: Vec::new(),
            imported: false,
            suspect_sources: Vec::new(),
            failed_sources: Vec::new(),
        });
        let choose = |text: &str| {
            let error = resolve(&Selector::parse(text, &context).unwrap(), &snapshots, &Scope::default()).unwrap_err();
            Failure::from_selection(&error, &context.tz)
        };
        let several = choose("latest");
        assert_eq!((several.exit, several.id), (ExitCode::Usage, "series.ambiguous"));
        assert_eq!(several.causes[1], "series web2: db, newest 04040404 of 1970-01-01 00:00 (+00:00)");
        assert_eq!(choose("0404").exit, ExitCode::SnapshotNotFound);
        assert_eq!(choose("abcd").exit, ExitCode::SnapshotNotFound);
        assert_eq!(choose("@1969-01-01").exit, ExitCode::SnapshotNotFound);
    }
}
