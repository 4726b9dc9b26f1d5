//! The log file (`--log-file`): what a run says, one line for each event, with the time, whatever `-q` and `--json` do
//! to the terminal.
//!
//! Lines are appended in one write each, so that runs beside each other do not tear them. Nothing that is secret gets
//! here, because nothing secret is ever said: passwords are types that do not print, and arguments are not logged.

use super::failure::Failure;
use super::output::escape_controls;
use crate::domain::system::Clock;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

/// How much a line matters, most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// The run failed.
    Error,
    /// A finding that does not end the run.
    Warn,
    /// What a run says by default: its start, the result of each source, its summary, its end.
    #[default]
    Info,
    /// What `-v` adds.
    Debug,
    /// What `-vv` adds: every item.
    Trace,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word in lines and in `HOLDFAST_LOG`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// Reads `HOLDFAST_LOG`.
    ///
    /// # Errors
    /// Exit code 2 for any other word.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let word = text.trim().to_ascii_lowercase();
        Self::ALL.into_iter().find(|level| level.as_str() == word).ok_or_else(|| {
            Failure::usage("variable.log", "HOLDFAST_LOG is not a level of the log")
                .hint("the levels are error, warn, info, debug and trace")
        })
    }

    /// How often `-v` must be given for the terminal to say as much; `HOLDFAST_LOG` never makes it say less.
    pub fn verbosity(self) -> u8 {
        match self {
            Self::Trace => 2,
            Self::Debug => 1,
            _ => 0,
        }
    }
}

/// One event.
#[derive(Debug, Clone, Copy)]
pub struct LogEvent<'a> {
    /// How much it matters.
    pub level: LogLevel,
    /// The stable message id.
    pub id: &'a str,
    /// The source it belongs to, if any.
    pub source: Option<&'a str>,
    /// The path, table or object it is about; may be empty.
    pub subject: &'a str,
    /// One sentence.
    pub message: &'a str,
}

/// An open log file.
pub struct Log {
    file: Mutex<File>,
    json: bool,
    level: LogLevel,
    process: u32,
    clock: Box<dyn Clock>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({})", self.level.as_str())
    }
}

impl Log {
    /// Opens the file for appending; a new one is readable by its owner alone. `json` makes every line a JSON object.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, json: bool, level: LogLevel, clock: Box<dyn Clock>) -> io::Result<Self> {
        let file = File::options().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { file: Mutex::new(file), json, level, process: std::process::id(), clock })
    }

    /// What it takes.
    pub fn level(&self) -> LogLevel {
        self.level
    }

    /// Writes an event, if the level takes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn event(&self, event: &LogEvent<'_>) -> io::Result<()> {
        self.write(event, Map::new())
    }

    /// Writes the failure that ends a run: its code, causes and hints too.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn failure(&self, failure: &Failure) -> io::Result<()> {
        let mut message = failure.message.clone();
        let mut more = Map::new();
        if self.json {
            more.insert("code".to_owned(), failure.exit.code().into());
            more.insert("causes".to_owned(), failure.causes.clone().into());
            more.insert("hints".to_owned(), failure.hints.clone().into());
        } else {
            message.push_str(&format!(" (exit code {})", failure.exit.code()));
            failure.causes.iter().for_each(|cause| message.push_str(&format!("; cause: {cause}")));
            failure.hints.iter().for_each(|hint| message.push_str(&format!("; hint: {hint}")));
        }
        let event = LogEvent { level: LogLevel::Error, id: failure.id, source: None, subject: "", message: &message };
        self.write(&event, more)
    }

    fn write(&self, event: &LogEvent<'_>, more: Map<String, Value>) -> io::Result<()> {
        if event.level > self.level {
            return Ok(());
        }
        let time = format!("{:.3}", self.clock.now());
        let LogEvent { level, id, source, subject, message } = *event;
        let line = if self.json {
            let mut object = Map::new();
            object.insert("time".to_owned(), time.into());
            object.insert("level".to_owned(), level.as_str().into());
            object.insert("process".to_owned(), self.process.into());
            object.insert("id".to_owned(), id.into());
            if let Some(source) = source {
                object.insert("source".to_owned(), source.into());
            }
            if !subject.is_empty() {
                object.insert("subject".to_owned(), subject.into());
            }
            object.insert("message".to_owned(), message.into());
            object.extend(more);
            format!("{}\n", Value::Object(object))
        } else {
            let from = source.map(|source| format!("{source}: ")).unwrap_or_default();
            let about =
                if subject.is_empty() || message.contains(subject) { String::new() } else { format!("{subject}: ") };
            let text = escape_controls(&format!("{from}{about}{message}"));
            format!("{time} {} [{}] {id}: {text}\n", level.as_str(), self.process)
        };
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::FixedClock;

    fn lines(json: bool, level: LogLevel) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let time = "2026-11-20T14:30:45.5Z".parse().unwrap();
        let log = Log::open(&path, json, level, Box::new(FixedClock(Mutex::new(time)))).unwrap();
        for level in LogLevel::ALL {
            let event = LogEvent { level, id: "an.id", source: Some("db"), subject: "/a\nb", message: "said" };
            log.event(&event).unwrap();
        }
        log.failure(&Failure::usage("x.y", "It broke").cause("rust").hint("oil it")).unwrap();
        std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_appended_with_their_times_and_nothing_breaks_them() {
        let process = std::process::id();
        let all = lines(false, LogLevel::Trace);
        assert_eq!(all.len(), 7);
        assert_eq!(all[0], "before");
        assert_eq!(all[3], format!("2026-11-20T14:30:45.500Z info [{process}] an.id: db: /a\\nb: said"));
        let failure = format!("error [{process}] x.y: It broke (exit code 2); cause: rust; hint: oil it");
        assert!(all[6].ends_with(&failure), "{all:?}");
        let json: Vec<Value> =
            lines(true, LogLevel::Trace).iter().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(json[1]["level"], "warn");
        assert_eq!(json[1]["subject"], "/a\nb");
        assert_eq!((json[5]["code"].as_u64(), json[5]["causes"][0].as_str()), (Some(2), Some("rust")));
    }

    #[test]
    fn a_level_leaves_out_what_matters_less() {
        for (level, count) in [(LogLevel::Error, 3), (LogLevel::Warn, 4), (LogLevel::Info, 5), (LogLevel::Trace, 7)] {
            assert_eq!(lines(false, level).len(), count, "{level:?}");
            assert_eq!(LogLevel::parse(&level.as_str().to_uppercase()).unwrap(), level);
        }
        assert_eq!(LogLevel::parse("loud").unwrap_err().exit.code(), 2);
    }
}
