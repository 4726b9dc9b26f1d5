//! What a running operation tells whoever watches it. Operations never print; the command line draws, a test records.

use crate::domain::snapshot::SourceKind;

/// Something that happened. Counters are totals since the phase began, never differences, so that an event may be
/// dropped without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A phase began; the one before is over.
    PhaseStarted {
        /// What is being done, a stable word or two for people and scripts: `reading sources`, `verifying packs`. Empty:
        /// nothing of which progress could be shown, for example a program that talks for itself.
        phase: &'static str,
        /// Bytes to come, where known.
        total_bytes: Option<u64>,
        /// Items (files, packs) to come, where known.
        total_items: Option<u64>,
    },
    /// A source is being read, or written back.
    SourceStarted {
        /// Its name.
        source: &'a str,
        /// Its kind.
        kind: SourceKind,
    },
    /// A source is done.
    SourceFinished {
        /// Its name.
        source: &'a str,
        /// Why it failed, if it did.
        failure: Option<&'a str>,
    },
    /// How far things are.
    Progress(Progress<'a>),
    /// One thing was treated.
    Item {
        /// What was done: `new`, `changed`, `unmodified`, `restored`, `verified`.
        action: &'static str,
        /// Its path or name, raw bytes.
        path: &'a [u8],
        /// Its plain size.
        plain_bytes: u64,
    },
    /// A finding that does not end the operation.
    Warning {
        /// Stable id, for example `file.unreadable`.
        code: &'a str,
        /// The source it belongs to, if any.
        source: Option<&'a str>,
        /// The path, table or object it is about; may be empty.
        subject: &'a str,
        /// One sentence.
        message: &'a str,
    },
    /// Something the user should know before it acts, for example which snapshot was chosen.
    Note {
        /// Stable id, for example `snapshot.chosen`.
        code: &'a str,
        /// One sentence.
        message: &'a str,
    },
}

/// How far a phase, or one source within it, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress<'a> {
    /// The source whose counters these are; None for the phase as a whole.
    pub source: Option<&'a str>,
    /// Plain bytes treated.
    pub bytes_done: u64,
    /// Plain bytes to treat in all, where known.
    pub total_bytes: Option<u64>,
    /// Items treated.
    pub items_done: u64,
    /// Items to treat in all, where known.
    pub total_items: Option<u64>,
    /// The path or name being treated, raw bytes.
    pub current: Option<&'a [u8]>,
}

/// Watches an operation. Called from many threads, often; must return at once.
pub trait Observer: Send + Sync {
    /// Takes note of an event.
    fn event(&self, event: &Event<'_>);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
