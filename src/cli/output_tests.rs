//! Tests of printing, with writers that record or refuse.

use super::*;
use crate::cli::exit_code::ExitCode;
use std::sync::Arc;

/// A writer whose bytes the test can read.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<u8>>>);

impl Recorder {
    /// Everything written so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(lock(&self.0).clone()).unwrap()
    }
}

impl Write for Recorder {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(buffer);
        Ok(buffer.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose reader has gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output with what it wrote to standard output and standard error.
pub(crate) fn recorded(options: OutputOptions) -> (Output, Recorder, Recorder) {
    let (out, err) = (Recorder::default(), Recorder::default());
    (Output::new(options, Box::new(out.clone()), Box::new(err.clone())), out, err)
}

#[test]
fn results_and_talk_go_apart() {
    let (output, out, err) = recorded(OutputOptions::default());
    output.note("snapshot.chosen", "chose 4f2a");
    output.detail("x", "unseen");
    output.warning("file.unreadable", Some("code"), "/srv/x", "Permission denied");
    output.line("4f2a91c0");
    assert_eq!(out.text(), "4f2a91c0\n");
    assert_eq!(err.text(), "chose 4f2a\nwarning: code: /srv/x: Permission denied\n");
}

#[test]
fn quiet_leaves_errors_and_results() {
    let (output, out, err) = recorded(OutputOptions { quiet: true, verbosity: 2, ..OutputOptions::default() });
    output.note("a", "talk");
    output.trace("a", "talk");
    output.warning("a", None, "", "talk");
    output.line("id");
    output.failure(&Failure::new(ExitCode::Failed, "x.y", "It broke").cause("Why").hint("Do"));
    assert_eq!(out.text(), "id\n");
    assert_eq!(err.text(), "error: It broke\n  cause: Why\nhint: Do\n");
}

#[test]
fn json_lines_and_documents() {
    let (output, out, err) = recorded(OutputOptions { json: JsonMode::Lines, ..OutputOptions::default() });
    output.note("snapshot.chosen", "chose");
    output.warning("w.x", None, "s", "m");
    output.json(Kind::Summary, &serde_json::json!({ "files_new": 3 }));
    output.failure(&Failure::usage("bad.thing", "Bad"));
    let lines: Vec<serde_json::Value> = out.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.iter().map(|l| l["type"].as_str().unwrap()).collect::<Vec<_>>(), ["status", "warning", "summary"]);
    assert!(lines.iter().all(|l| l["schema"] == "holdfast/1"));
    let error: serde_json::Value = serde_json::from_str(&err.text()).unwrap();
    assert_eq!(
        (error["type"].as_str(), error["code"].as_u64(), error["id"].as_str()),
        (Some("error"), Some(2), Some("bad.thing"))
    );

    let (output, out, err) = recorded(OutputOptions { json: JsonMode::Document, ..OutputOptions::default() });
    output.warning("w.x", None, "s", "m");
    output.json(Kind::Result, &serde_json::json!({ "snapshots": [] }));
    assert_eq!(out.text().lines().count(), 1);
    assert!(err.text().contains("\"warning\""));
}

#[test]
fn a_closed_reader_ends_lists_quietly_and_data_loudly() {
    let err = Recorder::default();
    let output = Output::new(OutputOptions::default(), Box::new(Closed), Box::new(err.clone()));
    assert!(!output.stdout_closed());
    output.line("one");
    output.line("two");
    assert!(output.stdout_closed());
    assert_eq!(err.text(), "");
    assert_eq!(output.raw().write_all(b"data").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_full_disk_behind_stdout_is_told() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let err = Recorder::default();
    let output = Output::new(OutputOptions::default(), Box::new(Full), Box::new(err.clone()));
    output.line("x");
    assert!(output.stdout_error().is_some_and(|error| !error.is_empty()));
    assert!(output.stdout_closed());
}

#[test]
fn control_characters_cannot_reach_a_terminal() {
    let evil = "a\x1b[2J\nb\u{202e}c\u{9b}d\te";
    let terminal = OutputOptions { stdout_terminal: true, stderr_terminal: true, ..OutputOptions::default() };
    let (output, out, err) = recorded(terminal);
    output.line(evil);
    output.note("x", evil);
    output.warning("x", None, evil, "unreadable");
    output.table(&[Column::text("NAME")], &[vec![evil.to_owned()]]);
    output.failure(&Failure::usage("x", evil));
    for text in [out.text(), err.text()] {
        assert!(!text.contains(['\x1b', '\u{202e}', '\u{9b}', '\t']), "{text:?}");
        assert!(text.contains(r"a\x1b[2J\nb\u{202e}c\u{9b}d\te") || text.contains(r"a\x1b[2J"), "{text:?}");
    }
    assert_eq!(display_path(b"/a\xff\xfe\n/\xc3\xbc"), "/a\\xff\\xfe\\n/\u{fc}");
    let (output, out, _) = recorded(OutputOptions::default());
    output.line("a\tb");
    assert_eq!(out.text(), "a\tb\n");
}

#[test]
fn colour_is_only_where_it_is_wanted() {
    let failure = Failure::usage("x", "Bad").hint("Good");
    let (output, _, err) = recorded(OutputOptions { color: true, ..OutputOptions::default() });
    output.failure(&failure);
    assert_eq!(err.text(), "\x1b[1;31merror:\x1b[0m Bad\n\x1b[36mhint:\x1b[0m Good\n");
}

#[test]
fn the_transient_line_is_cleared_and_drawn_again() {
    let options = OutputOptions { stderr_terminal: true, columns: Some(30), ..OutputOptions::default() };
    let (output, _, err) = recorded(options);
    output.set_status("50 %");
    output.note("x", "hello");
    output.set_status("");
    assert_eq!(err.text(), "\r\x1b[2K50 %\r\x1b[2Khello\n50 %\r\x1b[2K");
    let (output, _, err) = recorded(options);
    output.set_status(&"x".repeat(100));
    assert_eq!(err.text().chars().filter(|c| *c == 'x').count(), 28);
    let (output, _, err) = recorded(OutputOptions::default());
    output.set_status("not a terminal");
    assert_eq!(err.text(), "");
}

#[test]
fn tables_align_and_are_not_padded() {
    let (output, out, _) = recorded(OutputOptions::default());
    let rows = [
        vec!["4f2a".to_owned(), "7 B".to_owned(), "x".to_owned()],
        vec!["91".to_owned(), "1.0 KB".to_owned(), String::new()],
    ];
    output.table(&[Column::text("ID"), Column::number("SIZE"), Column::text("TAGS")], &rows);
    assert_eq!(out.text(), "ID      SIZE  TAGS\n4f2a     7 B  x\n91    1.0 KB\n");
}

#[test]
fn questions_are_answered_by_a_line() {
    let (output, _, err) = recorded(OutputOptions::default());
    assert_eq!(output.ask("Sure? ", &mut &b" yes \nmore"[..]).unwrap(), "yes");
    assert_eq!(err.text(), "Sure? ");
}

#[test]
fn a_long_document_is_printed_item_by_item() {
    let (output, out, _) = recorded(OutputOptions { json: JsonMode::Document, ..OutputOptions::default() });
    output.document("entries").finish();
    assert_eq!(out.text(), "{\"schema\":\"holdfast/1\",\"type\":\"result\",\"entries\":[]}\n");
    let (output, out, _) = recorded(OutputOptions { json: JsonMode::Document, ..OutputOptions::default() });
    let mut document = output.document("entries");
    for path in ["/a", "/b"] {
        document.push(&serde_json::json!({ "path": path })).unwrap();
    }
    document.finish();
    let value: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
    assert_eq!(value["entries"][1]["path"], "/b");
}
