//! The only place that prints.
//!
//! Results go to standard output, talk goes to standard error. `-q` silences talk except errors. With `--json` there is
//! no prose: streaming commands print lines of JSON on standard output, listing commands one document, and what they
//! have to say besides goes to standard error as lines of JSON.
//!
//! A reader that closes our standard output (`| head`) ends the listing quietly: later lines are dropped and
//! [`Output::stdout_closed`] says so. Bytes written through [`Output::raw`] are data, so there the error is returned: a
//! dump that nobody took must not look like a success.

use super::failure::Failure;
use super::json::{self, Kind};
use super::log::{Log, LogEvent, LogLevel};
use serde::Serialize;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether and how JSON is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JsonMode {
    /// Prose.
    #[default]
    Off,
    /// Lines on standard output.
    Lines,
    /// One document on standard output, everything else as lines on standard error.
    Document,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// JSON or prose.
    pub json: JsonMode,
    /// Only errors on standard error.
    pub quiet: bool,
    /// How often `-v` was given.
    pub verbosity: u8,
    /// Colour on standard error.
    pub color: bool,
    /// Standard output is a terminal.
    pub stdout_terminal: bool,
    /// Standard error is a terminal.
    pub stderr_terminal: bool,
    /// Columns of the terminal.
    pub columns: Option<u16>,
}

struct Talk {
    writer: Box<dyn Write + Send>,
    /// The transient line that is on the screen now; empty when there is none.
    status: String,
}

/// Standard output and standard error.
pub struct Output {
    options: OutputOptions,
    results: Mutex<Box<dyn Write + Send>>,
    talk: Mutex<Talk>,
    stdout_closed: AtomicBool,
    /// Why standard output failed, when it was not its reader who went away.
    stdout_error: Mutex<Option<String>>,
    /// The log file, which hears what is said whatever the options are.
    log: Option<Log>,
    log_failed: AtomicBool,
}

/// A column of a table: its heading, and whether it holds numbers, which stand at the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub heading: &'static str,
    /// Numbers stand at the right.
    pub numeric: bool,
}

impl Column {
    /// A column of words.
    pub const fn text(heading: &'static str) -> Self {
        Self { heading, numeric: false }
    }

    /// A column of numbers.
    pub const fn number(heading: &'static str) -> Self {
        Self { heading, numeric: true }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked while printing leaves at worst half a line.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Output {
    /// The real standard output and standard error.
    pub fn system(options: OutputOptions) -> Self {
        Self::new(options, Box::new(io::stdout()), Box::new(io::stderr()))
    }

    /// Any two writers, for tests.
    pub fn new(options: OutputOptions, results: Box<dyn Write + Send>, talk: Box<dyn Write + Send>) -> Self {
        Self {
            options,
            results: Mutex::new(results),
            talk: Mutex::new(Talk { writer: talk, status: String::new() }),
            stdout_closed: AtomicBool::new(false),
            stdout_error: Mutex::new(None),
            log: None,
            log_failed: AtomicBool::new(false),
        }
    }

    /// The same with a log file.
    #[must_use]
    pub fn with_log(self, log: Log) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Writes to the log file alone. `id` is the stable message id, `subject` what it is about, or empty.
    pub fn log(&self, level: LogLevel, id: &str, subject: &str, message: &str) {
        self.log_event(&LogEvent { level, id, source: None, subject, message });
    }

    fn log_event(&self, event: &LogEvent<'_>) {
        if let Some(log) = &self.log {
            self.log_result(log.event(event));
        }
    }

    /// A log that cannot be written stops no backup, and is said once.
    fn log_result(&self, result: io::Result<()>) {
        if let Err(error) = result
            && !self.log_failed.swap(true, Ordering::SeqCst)
        {
            self.put_talk(&format!("warning: The log file cannot be written: {error}\n"));
        }
    }

    /// True when somebody wants to know every item.
    pub fn takes_items(&self) -> bool {
        let log = self.log.as_ref().is_some_and(|log| log.level() == LogLevel::Trace);
        self.options.verbosity >= 2 || log
    }

    /// How this prints.
    pub fn options(&self) -> &OutputOptions {
        &self.options
    }

    /// True once the reader of standard output has gone.
    pub fn stdout_closed(&self) -> bool {
        self.stdout_closed.load(Ordering::SeqCst)
    }

    /// Why the result did not arrive, when it was not its reader who went away: such a run must not end well.
    pub fn stdout_error(&self) -> Option<String> {
        lock(&self.stdout_error).clone()
    }

    /// Prints one line of the result.
    pub fn line(&self, text: &str) {
        let text = if self.options.stdout_terminal { escape_controls(text) } else { text.to_owned() };
        self.put_result(format!("{text}\n").as_bytes());
    }

    /// Prints a text of the result as it is: a help page, a completion script.
    pub fn text(&self, text: &str) {
        self.put_result(text.as_bytes());
    }

    /// Prints a table with headings.
    pub fn table(&self, columns: &[Column], rows: &[Vec<String>]) {
        let columns_max = if self.options.stdout_terminal { self.options.columns } else { None };
        self.put_result(render_table(columns, rows, columns_max, self.options.stdout_terminal).as_bytes());
    }

    /// Prints one JSON object in its envelope on standard output.
    pub fn json(&self, kind: Kind, body: &impl Serialize) {
        match json::envelope(kind, body) {
            Ok(value) => self.put_result(format!("{value}\n").as_bytes()),
            Err(error) => self.put_talk(&format!("error: Cannot write the result as JSON: {error}\n")),
        }
    }

    /// Begins a JSON document whose one list may be too long for memory: `{"schema":..,"type":"result","NOUN":[`.
    pub fn document<'a>(&'a self, noun: &str) -> DocumentOutput<'a> {
        let noun = serde_json::Value::from(noun);
        self.put_result(format!("{{\"schema\":\"{}\",\"type\":\"result\",{noun}:[", json::SCHEMA).as_bytes());
        DocumentOutput { output: self, first: true }
    }

    /// The raw bytes of a result (`dump`). Errors, a closed reader among them, are returned.
    pub fn raw(&self) -> RawOutput<'_> {
        RawOutput { output: self }
    }

    /// Says something, unless `-q`. `id` is the stable message id.
    pub fn note(&self, id: &str, text: &str) {
        self.say(0, id, text);
    }

    /// Says something with `-v`.
    pub fn detail(&self, id: &str, text: &str) {
        self.say(1, id, text);
    }

    /// Says something with `-vv`.
    pub fn trace(&self, id: &str, text: &str) {
        self.say(2, id, text);
    }

    fn say(&self, level: u8, id: &str, text: &str) {
        let log_level = match level {
            0 => LogLevel::Info,
            1 => LogLevel::Debug,
            _ => LogLevel::Trace,
        };
        self.log(log_level, id, "", text);
        if self.options.quiet || self.options.verbosity < level {
            return;
        }
        match self.options.json {
            JsonMode::Off => self.put_talk(&format!("{}\n", escape_controls(text))),
            _ => self.json_aside(Kind::Status, &serde_json::json!({ "id": id, "message": text })),
        }
    }

    /// Prints a finding that does not end the run, unless `-q`. In JSON lines it is always printed: there it is data.
    pub fn warning(&self, code: &str, source: Option<&str>, subject: &str, message: &str) {
        self.log_event(&LogEvent { level: LogLevel::Warn, id: code, source, subject, message });
        match self.options.json {
            JsonMode::Off if self.options.quiet => {}
            JsonMode::Off => {
                let from = source.map(|s| format!("{s}: ")).unwrap_or_default();
                let about = if subject.is_empty() || message.contains(subject) {
                    String::new()
                } else {
                    format!("{subject}: ")
                };
                let text = escape_controls(&format!("{from}{about}{message}"));
                self.put_talk(&format!("{} {text}\n", self.paint("33", "warning:")));
            }
            _ => {
                let body = serde_json::json!({ "id": code, "source": source, "subject": subject, "message": message });
                self.json_aside(Kind::Warning, &body);
            }
        }
    }

    /// Prints a failure; never silenced. It should be the last thing that a run prints.
    pub fn failure(&self, failure: &Failure) {
        self.set_status("");
        if let Some(log) = &self.log {
            self.log_result(log.failure(failure));
        }
        if self.options.json != JsonMode::Off {
            self.put_talk(&format!("{}\n", failure.json()));
            return;
        }
        let mut text = String::new();
        for line in failure.text().lines() {
            let painted = match line.split_once(' ') {
                Some(("error:", rest)) => format!("{} {}", self.paint("1;31", "error:"), escape_controls(rest)),
                Some(("hint:", rest)) => format!("{} {}", self.paint("36", "hint:"), escape_controls(rest)),
                _ => escape_controls(line),
            };
            text.push_str(&painted);
            text.push('\n');
        }
        self.put_talk(&text);
    }

    /// Shows a transient line on standard error, or takes it away (empty text). Only on a terminal.
    pub fn set_status(&self, text: &str) {
        if !self.options.stderr_terminal {
            return;
        }
        let mut talk = lock(&self.talk);
        let shown = fit(&escape_controls(text), self.options.columns);
        if shown == talk.status {
            return;
        }
        // Standard error that went away is no reason to stop a backup.
        let _ = talk.writer.write_all(format!("\r\x1b[2K{shown}").as_bytes());
        let _ = talk.writer.flush();
        talk.status = shown;
    }

    /// Asks on the terminal and reads one line; the caller has made sure that there is a terminal.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub fn ask(&self, question: &str, input: &mut dyn io::BufRead) -> io::Result<String> {
        Ok(self.ask_or_end(question, input)?.unwrap_or_default())
    }

    /// As [`Self::ask`]; `None` when the input has ended.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub fn ask_or_end(&self, question: &str, input: &mut dyn io::BufRead) -> io::Result<Option<String>> {
        self.set_status("");
        let mut talk = lock(&self.talk);
        talk.writer.write_all(escape_controls(question).as_bytes())?;
        talk.writer.flush()?;
        let mut answer = String::new();
        let bytes = input.read_line(&mut answer)?;
        Ok((bytes > 0).then(|| answer.trim().to_owned()))
    }

    /// A line of a conversation on the terminal: shown whatever the verbosity, because a question follows.
    pub fn talk(&self, text: &str) {
        self.put_talk(&format!("{}\n", escape_controls(text)));
    }

    /// JSON that is not the result: beside it in a stream, on standard error when the result is one document.
    fn json_aside(&self, kind: Kind, body: &impl Serialize) {
        match (self.options.json, json::envelope(kind, body)) {
            (JsonMode::Lines, Ok(value)) => self.put_result(format!("{value}\n").as_bytes()),
            (_, Ok(value)) => self.put_talk(&format!("{value}\n")),
            (_, Err(_)) => {}
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.options.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn put_result(&self, bytes: &[u8]) {
        if self.stdout_closed() {
            return;
        }
        if let Err(error) = self.write_result(bytes)
            && error.kind() != ErrorKind::BrokenPipe
        {
            *lock(&self.stdout_error) = Some(error.to_string());
        }
    }

    fn write_result(&self, bytes: &[u8]) -> io::Result<()> {
        // On one terminal the transient line must be gone before the result is printed.
        let redraw =
            if self.options.stdout_terminal { std::mem::take(&mut lock(&self.talk).status) } else { String::new() };
        if !redraw.is_empty() {
            let _ = lock(&self.talk).writer.write_all(b"\r\x1b[2K");
        }
        let mut results = lock(&self.results);
        let written = results.write_all(bytes).and_then(|()| results.flush());
        if written.is_err() {
            // Whatever the reason (a closed pipe, a full disk), the result did not arrive as a whole.
            self.stdout_closed.store(true, Ordering::SeqCst);
        }
        drop(results);
        if !redraw.is_empty() {
            self.set_status(&redraw);
        }
        written
    }

    fn put_talk(&self, text: &str) {
        let mut talk = lock(&self.talk);
        let status = std::mem::take(&mut talk.status);
        let clear = if status.is_empty() { "" } else { "\r\x1b[2K" };
        let _ = talk.writer.write_all(format!("{clear}{text}{status}").as_bytes());
        let _ = talk.writer.flush();
        talk.status = status;
    }
}

/// A JSON document that is printed item by item.
pub struct DocumentOutput<'a> {
    output: &'a Output,
    first: bool,
}

impl DocumentOutput<'_> {
    /// Prints one item of the list.
    ///
    /// # Errors
    /// When the item cannot be written as JSON (a map whose keys are not text).
    pub fn push(&mut self, item: &impl Serialize) -> Result<(), serde_json::Error> {
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        self.output.put_result(format!("{comma}{}", serde_json::to_string(item)?).as_bytes());
        Ok(())
    }

    /// Ends the document.
    pub fn finish(self) {
        self.output.put_result(b"]}\n");
    }
}

/// Standard output as plain bytes.
pub struct RawOutput<'a> {
    output: &'a Output,
}

impl Write for RawOutput<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.output.write_result(buffer)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        lock(&self.output.results).flush()
    }
}

/// True for characters that change what a terminal does, or the order in which it shows text.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces control characters, line feeds and tabs included, by escapes: a file name must not move the cursor.
pub fn escape_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_control(c) && c.is_ascii() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_control(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// A path for people: text with control characters and bytes that are not text escaped.
pub fn display_path(path: &[u8]) -> String {
    let mut out = String::new();
    for chunk in path.utf8_chunks() {
        out.push_str(&escape_controls(chunk.valid()));
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Cuts a line so that it does not wrap: a wrapped transient line cannot be taken away again.
fn fit(text: &str, columns: Option<u16>) -> String {
    let limit = usize::from(columns.unwrap_or(80)).saturating_sub(1).max(20);
    if text.chars().count() <= limit { text.to_owned() } else { text.chars().take(limit - 1).chain(['…']).collect() }
}

fn render_table(columns: &[Column], rows: &[Vec<String>], columns_max: Option<u16>, terminal: bool) -> String {
    use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
    if columns_max.is_none()
        && let Some(text) = plain_table(columns, rows)
    {
        return text;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    match columns_max {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    let align = |column: &Column| if column.numeric { CellAlignment::Right } else { CellAlignment::Left };
    table.set_header(columns.iter().map(|c| Cell::new(c.heading).set_alignment(align(c))));
    for row in rows {
        let cells = columns.iter().zip(row).map(|(column, text)| {
            let text = if terminal { escape_controls(text) } else { text.replace('\n', "\\n") };
            Cell::new(text).set_alignment(align(column))
        });
        table.add_row(cells);
    }
    let mut text = String::new();
    for line in table.lines() {
        // comfy-table pads the first column by one blank and every line to the full width.
        text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        text.push('\n');
    }
    text
}

/// The same table for long lists, in a fraction of the time: with texts of ASCII alone, whose width is their length, and no
/// width to keep to. None for others.
fn plain_table(columns: &[Column], rows: &[Vec<String>]) -> Option<String> {
    let is_plain = |text: &String| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if !rows.iter().flatten().all(is_plain) {
        return None;
    }
    let width = |(at, column): (usize, &Column)| {
        let widest = rows.iter().filter_map(|row| row.get(at)).map(String::len).max();
        widest.unwrap_or(0).max(column.heading.len())
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(width).collect();
    let mut text = String::with_capacity((rows.len() + 1) * widths.iter().map(|width| width + 2).sum::<usize>());
    let blanks = " ".repeat(widths.iter().copied().max().unwrap_or(0));
    let headings: Vec<String> = columns.iter().map(|column| column.heading.to_owned()).collect();
    for row in std::iter::once(&headings).chain(rows) {
        let start = text.len();
        for ((cell, width), column) in row.iter().zip(&widths).zip(columns) {
            let fill = blanks.get(..width - cell.len()).unwrap_or_default();
            let (before, after) = if column.numeric { (fill, "") } else { ("", fill) };
            text.extend([before, cell, after, "  "]);
        }
        text.truncate(start + text.get(start..).map_or(0, |line| line.trim_end().len()));
        text.push('\n');
    }
    Some(text)
}

#[cfg(test)]
#[path = "output_tests.rs"]
pub(crate) mod tests;
