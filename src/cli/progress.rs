//! Progress as people and scripts see it: the observer that draws.
//!
//! On a terminal one transient line with phase, share, rate and time left; otherwise one line each minute, so that a
//! log shows that the run is alive; with JSON lines a `status` object each second. SIGUSR1 prints a line at any time.
//! `HOLDFAST_PROGRESS_FPS` sets how often per second the terminal line or the `status` object is renewed.
//!
//! Events only set counters; a thread of its own draws, so that a stalled run still shows its clock.

use super::json::Kind;
use super::log::LogLevel;
use super::output::{JsonMode, Output, display_path};
use crate::domain::units::{format_count, format_duration, format_rate, format_size};
use crate::ops::observer::{Event, Observer, Progress};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
/// How often the drawing thread looks for SIGUSR1.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(250);
/// The rate is that of the last seconds, not of the whole run.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Debug, Clone, Default)]
pub struct ProgressOptions {
    /// `--no-progress`: only SIGUSR1 prints.
    pub disabled: bool,
    /// Renewals per second (`HOLDFAST_PROGRESS_FPS`).
    pub fps: Option<f64>,
    /// Set by SIGUSR1.
    pub wants_line: Arc<AtomicBool>,
}

/// The observer of the command line. Dropping it stops drawing.
pub struct ProgressView {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    output: Arc<Output>,
    state: Mutex<State>,
    stop: Mutex<bool>,
    stopped: Condvar,
}

/// The last counters of one source, or of the phase as a whole.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    bytes_done: u64,
    total_bytes: Option<u64>,
    items_done: u64,
    total_items: Option<u64>,
}

struct State {
    phase: &'static str,
    phase_began: Instant,
    announced: Counters,
    by_source: BTreeMap<String, Counters>,
    current: String,
    samples: VecDeque<(Instant, u64)>,
}

/// A picture of the state, from which lines and objects are made.
#[derive(Debug, Clone, PartialEq)]
struct Picture {
    phase: &'static str,
    elapsed: Duration,
    bytes_done: u64,
    total_bytes: Option<u64>,
    items_done: u64,
    total_items: Option<u64>,
    bytes_per_second: u64,
    current: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProgressView {
    /// Begins to draw.
    pub fn start(output: Arc<Output>, options: ProgressOptions) -> Self {
        let state = State {
            phase: "",
            phase_began: Instant::now(),
            announced: Counters::default(),
            by_source: BTreeMap::new(),
            current: String::new(),
            samples: VecDeque::new(),
        };
        let shared =
            Arc::new(Shared { output, state: Mutex::new(state), stop: Mutex::new(false), stopped: Condvar::new() });
        let drawer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || draw_until_stopped(&drawer, &options))
            // Without the thread the run goes on, only unseen.
            .ok();
        Self { shared, thread }
    }

    /// Stops drawing and takes the transient line away.
    pub fn finish(&mut self) {
        *lock(&self.shared.stop) = true;
        self.shared.stopped.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.shared.output.set_status("");
    }
}

impl Drop for ProgressView {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Observer for ProgressView {
    fn event(&self, event: &Event<'_>) {
        let output = &self.shared.output;
        match event {
            Event::PhaseStarted { phase, total_bytes, total_items } => {
                let mut state = lock(&self.shared.state);
                if phase.is_empty() {
                    // somebody else writes to the terminal now
                    output.set_status("");
                }
                state.phase = phase;
                state.phase_began = Instant::now();
                state.announced =
                    Counters { total_bytes: *total_bytes, total_items: *total_items, ..Counters::default() };
                state.by_source.clear();
                state.samples.clear();
                state.current.clear();
            }
            Event::Progress(progress) => lock(&self.shared.state).take(progress),
            Event::SourceStarted { source, kind } => {
                output.detail("source.started", &format!("{source} ({}): started", kind.as_str()));
            }
            Event::SourceFinished { source, failure: None } => {
                output.detail("source.finished", &format!("{source}: done"));
            }
            Event::SourceFinished { source, failure: Some(reason) } => {
                output.warning("source.failed", Some(source), "", &format!("failed: {reason}"));
            }
            Event::Item { action, path, plain_bytes } => self.item(action, path, *plain_bytes),
            Event::Warning { code, source, subject, message } => output.warning(code, *source, subject, message),
            Event::Note { code, message } => output.note(code, message),
        }
    }
}

impl ProgressView {
    fn item(&self, action: &str, path: &[u8], plain_bytes: u64) {
        let output = &self.shared.output;
        // Thousands of items a second are only worth formatting when somebody asked for them.
        if !output.takes_items() {
            return;
        }
        let text = format!("{action} {} ({})", display_path(path), format_size(plain_bytes));
        if output.options().json == JsonMode::Lines && output.options().verbosity >= 2 {
            output.log(LogLevel::Trace, "item", "", &text);
            let mut body = serde_json::Map::new();
            body.insert("action".to_owned(), action.into());
            super::json::insert_path(&mut body, path);
            body.insert("plain_bytes".to_owned(), plain_bytes.into());
            output.json(Kind::Item, &body);
        } else {
            output.trace("item", &text);
        }
    }
}

impl State {
    fn take(&mut self, progress: &Progress<'_>) {
        let counters = Counters {
            bytes_done: progress.bytes_done,
            total_bytes: progress.total_bytes,
            items_done: progress.items_done,
            total_items: progress.total_items,
        };
        let source = progress.source.unwrap_or_default();
        match self.by_source.get_mut(source) {
            Some(known) => *known = counters,
            None => {
                self.by_source.insert(source.to_owned(), counters);
            }
        }
        if let Some(current) = progress.current {
            self.current = String::from_utf8_lossy(current).into_owned();
        } else if let Some(source) = progress.source {
            source.clone_into(&mut self.current);
        }
    }

    /// Sums over the sources; a total that the phase announced wins over sums, which are known only when all are.
    fn picture(&mut self, now: Instant) -> Picture {
        let sum = |field: fn(&Counters) -> u64| self.by_source.values().map(field).fold(0, u64::saturating_add);
        let total = |field: fn(&Counters) -> Option<u64>| {
            let known: Option<Vec<u64>> = self.by_source.values().map(field).collect();
            known.filter(|k| !k.is_empty()).map(|k| k.into_iter().fold(0, u64::saturating_add))
        };
        let bytes_done = sum(|c| c.bytes_done);
        let items_done = sum(|c| c.items_done);
        let total_bytes = self.announced.total_bytes.or_else(|| total(|c| c.total_bytes));
        let total_items = self.announced.total_items.or_else(|| total(|c| c.total_items));
        self.samples.push_back((now, bytes_done));
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW)
        {
            self.samples.pop_front();
        }
        let began = (self.phase_began, 0);
        let (since, before) = self.samples.front().copied().filter(|_| self.samples.len() > 2).unwrap_or(began);
        let ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX).max(1);
        Picture {
            phase: self.phase,
            elapsed: now.duration_since(self.phase_began),
            bytes_done,
            total_bytes,
            items_done,
            total_items,
            bytes_per_second: bytes_done.saturating_sub(before).saturating_mul(1000) / ms,
            current: self.current.clone(),
        }
    }
}

impl Picture {
    /// The done share in thousandths, by bytes if their total is known, else by items.
    fn permille(&self) -> Option<u64> {
        let share = |done: u64, total: Option<u64>| {
            let total = total.filter(|t| *t > 0)?;
            u64::try_from(u128::from(done.min(total)) * 1000 / u128::from(total)).ok()
        };
        share(self.bytes_done, self.total_bytes).or_else(|| share(self.items_done, self.total_items))
    }

    /// Time left at the present rate.
    fn remaining(&self) -> Option<Duration> {
        let left = self.total_bytes?.saturating_sub(self.bytes_done);
        (left > 0).then(|| left.checked_div(self.bytes_per_second).map(Duration::from_secs)).flatten()
    }

    fn line(&self) -> String {
        let mut parts = Vec::new();
        if let Some(permille) = self.permille() {
            parts.push(format!("{} %", permille / 10));
        }
        match (self.bytes_done, self.total_bytes) {
            (0, None) => {}
            (done, Some(total)) => parts.push(format!("{} of {}", format_size(done), format_size(total))),
            (done, None) => parts.push(format_size(done)),
        }
        match (self.items_done, self.total_items) {
            (0, None) => {}
            (done, Some(total)) => parts.push(format!("{} of {} items", format_count(done), format_count(total))),
            (done, None) => parts.push(format!("{} items", format_count(done))),
        }
        if self.bytes_done > 0 {
            parts.push(format_rate(self.bytes_per_second, Duration::from_secs(1)));
        }
        parts.push(format_duration(Duration::from_secs(self.elapsed.as_secs())).replace(".0s", "s"));
        if let Some(left) = self.remaining() {
            parts.push(format!("{} left", format_duration(left).replace(".0s", "s")));
        }
        if !self.current.is_empty() {
            parts.push(display_path(self.current.as_bytes()));
        }
        format!("{}: {}", self.phase, parts.join(", "))
    }

    fn json(&self) -> serde_json::Value {
        let permille = self.permille();
        serde_json::json!({
            "phase": self.phase,
            "percent_done": permille.and_then(|p| u32::try_from(p).ok()).map(|p| f64::from(p) / 1000.0),
            "bytes_done": self.bytes_done,
            "total_bytes": self.total_bytes,
            "items_done": self.items_done,
            "total_items": self.total_items,
            "bytes_per_second": self.bytes_per_second,
            "seconds_elapsed": self.elapsed.as_secs(),
            "seconds_remaining": self.remaining().map(|d| d.as_secs()),
            "current": self.current,
        })
    }
}

/// How often what is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drawing {
    /// Nothing but SIGUSR1.
    Nothing,
    /// The transient line.
    Transient(Duration),
    /// A line each minute.
    Lines,
    /// JSON `status` objects.
    Json(Duration),
}

fn drawing(output: &Output, options: &ProgressOptions) -> Drawing {
    let settings = output.options();
    let interval = |default: f64| {
        let fps = options.fps.filter(|fps| fps.is_finite() && *fps > 0.0).unwrap_or(default);
        Duration::from_secs_f64((1.0 / fps).clamp(0.016, 3600.0))
    };
    match settings.json {
        _ if options.disabled => Drawing::Nothing,
        JsonMode::Lines => Drawing::Json(interval(1.0)),
        JsonMode::Document => Drawing::Nothing,
        JsonMode::Off if settings.quiet => Drawing::Nothing,
        JsonMode::Off if settings.stderr_terminal => Drawing::Transient(interval(10.0)),
        JsonMode::Off => Drawing::Lines,
    }
}

fn draw_until_stopped(shared: &Shared, options: &ProgressOptions) {
    let drawing = drawing(&shared.output, options);
    let interval = match drawing {
        Drawing::Transient(interval) | Drawing::Json(interval) => interval,
        Drawing::Lines => LINE_INTERVAL,
        Drawing::Nothing => Duration::MAX,
    };
    let mut last = Instant::now();
    let mut stop = lock(&shared.stop);
    while !*stop {
        let tick = interval.min(SIGNAL_INTERVAL);
        stop = shared.stopped.wait_timeout(stop, tick).unwrap_or_else(PoisonError::into_inner).0;
        if *stop {
            break;
        }
        let now = Instant::now();
        let picture = lock(&shared.state).picture(now);
        if options.wants_line.swap(false, Ordering::SeqCst) {
            print_line(&shared.output, &picture);
        }
        if now.duration_since(last) < interval || picture.phase.is_empty() {
            continue;
        }
        last = now;
        match drawing {
            Drawing::Transient(_) => shared.output.set_status(&picture.line()),
            Drawing::Json(_) => shared.output.json(Kind::Status, &picture.json()),
            Drawing::Lines => shared.output.note("progress", &picture.line()),
            Drawing::Nothing => {}
        }
    }
}

/// The line that SIGUSR1 asked for.
fn print_line(output: &Output, picture: &Picture) {
    match output.options().json {
        JsonMode::Lines => output.json(Kind::Status, &picture.json()),
        _ => output.note("progress", &picture.line()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::OutputOptions;
    use crate::cli::output::tests::recorded;
    use crate::domain::snapshot::SourceKind;

    fn state() -> State {
        State {
            phase: "reading sources",
            phase_began: Instant::now(),
            announced: Counters::default(),
            by_source: BTreeMap::new(),
            current: String::new(),
            samples: VecDeque::new(),
        }
    }

    fn progress(source: &str, bytes_done: u64, total_bytes: Option<u64>) -> Progress<'_> {
        Progress { source: Some(source), bytes_done, total_bytes, ..Progress::default() }
    }

    #[test]
    fn sources_add_up_and_an_unknown_total_stays_unknown() {
        let mut state = state();
        let later = state.phase_began + Duration::from_secs(2);
        state.take(&progress("a", 40_000_000, Some(100_000_000)));
        state.take(&progress("a", 60_000_000, Some(100_000_000)));
        let one = state.picture(later);
        assert_eq!(one.line(), "reading sources: 60 %, 60.0 MB of 100 MB, 30.0 MB/s, 2s, 1s left, a");
        assert_eq!(one.json()["percent_done"], 0.6);
        assert_eq!(one.json()["seconds_remaining"], 1);
        state.take(&progress("b", 1, None));
        let two = state.picture(later);
        assert_eq!((two.bytes_done, two.total_bytes, two.permille()), (60_000_001, None, None));
        assert!(two.json()["percent_done"].is_null());
        state.announced.total_bytes = Some(120_000_002);
        assert_eq!(state.picture(later).permille(), Some(500));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut state = state();
        let began = state.phase_began;
        for second in 0..100u64 {
            // Ten megabytes a second for ninety seconds, then nothing.
            state.take(&progress("a", second.min(90) * 10_000_000, None));
            state.picture(began + Duration::from_secs(second));
        }
        let picture = state.picture(began + Duration::from_secs(100));
        assert_eq!(picture.bytes_per_second, 0);
        assert_eq!(picture.line(), "reading sources: 900 MB, 0 B/s, 1m 40s, a");
    }

    #[test]
    fn items_count_where_bytes_do_not() {
        let mut state = state();
        state.announced.total_items = Some(80_000);
        state.take(&Progress { items_done: 20_000, current: Some(b"/srv/\x1b[2J"), ..Progress::default() });
        let picture = state.picture(state.phase_began + Duration::from_secs(61));
        assert_eq!(picture.line(), "reading sources: 25 %, 20,000 of 80,000 items, 1m 1s, /srv/\\x1b[2J");
    }

    #[test]
    fn what_is_drawn_where() {
        let drawn = |options: OutputOptions, progress: ProgressOptions| drawing(&recorded(options).0, &progress);
        let plain = OutputOptions::default();
        let terminal = OutputOptions { stderr_terminal: true, ..plain };
        let json = OutputOptions { json: JsonMode::Lines, ..terminal };
        let fps = |fps: f64| ProgressOptions { fps: Some(fps), ..ProgressOptions::default() };
        assert_eq!(drawn(plain, ProgressOptions::default()), Drawing::Lines);
        assert_eq!(drawn(terminal, ProgressOptions::default()), Drawing::Transient(Duration::from_millis(100)));
        assert_eq!(drawn(terminal, fps(0.5)), Drawing::Transient(Duration::from_secs(2)));
        assert_eq!(drawn(terminal, fps(-1.0)), Drawing::Transient(Duration::from_millis(100)));
        assert_eq!(drawn(json, ProgressOptions::default()), Drawing::Json(Duration::from_secs(1)));
        assert_eq!(drawn(OutputOptions { quiet: true, ..terminal }, ProgressOptions::default()), Drawing::Nothing);
        let disabled = ProgressOptions { disabled: true, ..ProgressOptions::default() };
        assert_eq!(drawn(json, disabled), Drawing::Nothing);
        assert_eq!(drawn(OutputOptions { json: JsonMode::Document, ..plain }, fps(9.0)), Drawing::Nothing);
    }

    /// Waits for the drawing thread, which a loaded machine may delay.
    fn wait_for(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !what() {
            assert!(Instant::now() < deadline, "nothing was drawn");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_terminal_shows_a_line_that_goes_away() {
        let (output, _, err) =
            recorded(OutputOptions { stderr_terminal: true, columns: Some(100), ..OutputOptions::default() });
        let mut view =
            ProgressView::start(Arc::new(output), ProgressOptions { fps: Some(60.0), ..ProgressOptions::default() });
        view.event(&Event::PhaseStarted { phase: "verifying packs", total_bytes: Some(10), total_items: None });
        view.event(&Event::Progress(Progress { bytes_done: 5, ..Progress::default() }));
        wait_for(|| err.text().contains("verifying packs: 50 %, 5 B of 10 B"));
        view.finish();
        assert!(err.text().ends_with("\r\x1b[2K"));
    }

    #[test]
    fn a_signal_prints_a_line_even_without_progress() {
        let (output, _, err) = recorded(OutputOptions::default());
        let options = ProgressOptions { disabled: true, ..ProgressOptions::default() };
        let wants_line = Arc::clone(&options.wants_line);
        let view = ProgressView::start(Arc::new(output), options);
        view.event(&Event::PhaseStarted { phase: "reading sources", total_bytes: None, total_items: None });
        wants_line.store(true, Ordering::SeqCst);
        wait_for(|| err.text().contains("reading sources: 0s\n"));
    }

    #[test]
    fn events_become_words() {
        let (output, out, err) = recorded(OutputOptions { verbosity: 2, ..OutputOptions::default() });
        let view = ProgressView::start(Arc::new(output), ProgressOptions::default());
        view.event(&Event::SourceStarted { source: "db", kind: SourceKind::Postgres });
        view.event(&Event::Item { action: "new", path: b"/a\xff", plain_bytes: 12 });
        view.event(&Event::SourceFinished { source: "db", failure: Some("Connection refused") });
        view.event(&Event::Note { code: "snapshot.chosen", message: "chose 4f2a" });
        drop(view);
        assert_eq!(out.text(), "");
        assert_eq!(
            err.text(),
            "db (postgres): started\nnew /a\\xff (12 B)\nwarning: db: failed: Connection refused\nchose 4f2a\n"
        );
        let (output, out, _) =
            recorded(OutputOptions { verbosity: 2, json: JsonMode::Lines, ..OutputOptions::default() });
        let view =
            ProgressView::start(Arc::new(output), ProgressOptions { disabled: true, ..ProgressOptions::default() });
        view.event(&Event::Item { action: "new", path: b"/a", plain_bytes: 12 });
        drop(view);
        let item: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
        assert_eq!((item["type"].as_str(), item["path"].as_str()), (Some("item"), Some("/a")));
    }
}
