//! `ls`: what is in a snapshot; without a selector the list of snapshots.

use super::snapshots::not_json;
use crate::cli::args::ls::LsArgs;
use crate::cli::args::snapshots::SnapshotsArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json;
use crate::cli::opening;
use crate::cli::output::{Output, display_path};
use crate::domain::entry::{Entry, EntryKind};
use crate::domain::snapshot::{SourceRecord, StreamRecord};
use crate::domain::time_spec::ns_timestamp;
use crate::ops::ls::{self, Listed, LsError, LsOptions};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use std::ops::ControlFlow;

/// Lists a snapshot.
pub(crate) fn run(invocation: &Invocation, args: &LsArgs) -> Result<ExitCode, Failure> {
    let Some(selector) = &args.selector else {
        let all = SnapshotsArgs { scope: args.scope.clone(), size: args.long, ..SnapshotsArgs::default() };
        return super::snapshots::run(invocation, &all);
    };
    let opened = opening::open_for_reading(invocation)?;
    let chosen = opened.choose(invocation, selector, &args.scope)?;
    let snapshot = &chosen.snapshot.snapshot;
    let options = LsOptions { sources: args.scope.sources.clone(), path: chosen.path };
    let zone = &invocation.environment.time_zone;
    let output = &invocation.output;
    // Begun with the first item, so that a failure before it leaves no half document.
    let mut document = None;
    let mut problem = None;
    let mut print = |listed: Listed<'_>| {
        match (invocation.global.json, listed) {
            (_, Listed::Failed(source, reason)) => {
                output.warning("source.failed", Some(&source.name), "", &format!("not in this snapshot: {reason}"));
            }
            (true, listed) => {
                let document = document.get_or_insert_with(|| output.document("entries"));
                if let Err(error) = document.push(&as_json(listed)) {
                    problem = Some(not_json(&error));
                    return ControlFlow::Break(());
                }
            }
            (false, Listed::Entry(_, entry)) => output.line(&entry_line(output, entry, args.long, zone)),
            (false, Listed::Stream(source, stream)) => {
                output.line(&stream_line(source, stream, args.long, snapshot.time_ns, zone));
            }
        }
        // `| head` has seen enough.
        if output.stdout_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    ls::run(&opened.reading, snapshot, &options, &invocation.cancel, &mut print).map_err(failure)?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    if invocation.global.json {
        document.unwrap_or_else(|| output.document("entries")).finish();
    }
    opened.conclude(invocation, ExitCode::Success)
}

fn failure(error: LsError) -> Failure {
    match error {
        LsError::Repository(error) => error.into(),
        LsError::Interrupted => Failure::interrupted(ExitCode::Interrupted),
        LsError::NoSuchSource { ref known, .. } => {
            let hint = format!("its sources are {}", known.join(", "));
            Failure::from_error(ExitCode::Usage, "source.unknown", &error).hint(hint)
        }
        LsError::NoSuchPath { .. } => Failure::from_error(ExitCode::SnapshotNotFound, "path.not_found", &error)
            .hint("run `holdfast ls` with the snapshot alone to see what it holds"),
    }
}

/// Times to the second, in local time.
fn local_time(time_ns: i64, zone: &TimeZone) -> String {
    ns_timestamp(time_ns).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A path for the list: as it is, so that scripts can use it; escaped on a terminal or where it would break the line.
fn shown_path(output: &Output, path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !output.options().stdout_terminal && !text.contains(['\n', '\r']) => text.to_owned(),
        _ => display_path(path),
    }
}

fn entry_line(output: &Output, entry: &Entry, long: bool, zone: &TimeZone) -> String {
    let path = shown_path(output, &entry.path);
    if !long {
        return path;
    }
    let owner = |name: &Option<String>, number: u32| name.clone().unwrap_or_else(|| number.to_string());
    let size = match &entry.kind {
        EntryKind::File(file) => file.size.to_string(),
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => format!("{major},{minor}"),
        _ => "0".to_owned(),
    };
    let target = match &entry.kind {
        EntryKind::Symlink(target) => format!(" -> {}", shown_path(output, target)),
        EntryKind::HardLink(first) => format!(" link to {}", shown_path(output, first)),
        EntryKind::File(file) if file.torn => " (changed while it was read)".to_owned(),
        _ => String::new(),
    };
    let (user, group) = (owner(&entry.user, entry.uid), owner(&entry.group, entry.gid));
    let time = local_time(entry.mtime_ns, zone);
    format!("{} {user:8} {group:8} {size:>12} {time} {path}{target}", mode_text(entry))
}

fn stream_line(source: &SourceRecord, stream: &StreamRecord, long: bool, time_ns: i64, zone: &TimeZone) -> String {
    if !long {
        return stream.file_name.clone();
    }
    let time = local_time(time_ns, zone);
    let (kind, name) = (source.kind.as_str(), &stream.file_name);
    format!("{kind:10} {:17} {:>12} {time} {name}", source.name, stream.plain_bytes)
}

/// `drwxr-xr-x` and the like.
fn mode_text(entry: &Entry) -> String {
    let kind = match entry.kind {
        EntryKind::File(_) | EntryKind::HardLink(_) => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink(_) => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharDevice { .. } => 'c',
        EntryKind::BlockDevice { .. } => 'b',
    };
    let mode = entry.mode;
    let bit = |mask: u32, letter: char| if mode & mask != 0 { letter } else { '-' };
    let execute = |mask: u32, special: u32, both: char, alone: char| match (mode & mask != 0, mode & special != 0) {
        (true, true) => both,
        (false, true) => alone,
        (true, false) => 'x',
        (false, false) => '-',
    };
    [
        kind,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        execute(0o100, 0o4000, 's', 'S'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        execute(0o010, 0o2000, 's', 'S'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        execute(0o001, 0o1000, 't', 'T'),
    ]
    .iter()
    .collect()
}

fn kind_word(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File(_) => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink(_) => "symlink",
        EntryKind::HardLink(_) => "hardlink",
        EntryKind::Fifo => "fifo",
        EntryKind::Socket => "socket",
        EntryKind::CharDevice { .. } => "char_device",
        EntryKind::BlockDevice { .. } => "block_device",
    }
}

fn as_json(listed: Listed<'_>) -> Map<String, Value> {
    let mut object = Map::new();
    match listed {
        Listed::Entry(source, entry) => {
            object.insert("source".to_owned(), source.name.clone().into());
            object.insert("kind".to_owned(), kind_word(&entry.kind).into());
            json::insert_path(&mut object, &entry.path);
            object.insert("mode".to_owned(), format!("{:04o}", entry.mode).into());
            object.insert("uid".to_owned(), entry.uid.into());
            object.insert("gid".to_owned(), entry.gid.into());
            object.insert("user".to_owned(), entry.user.clone().into());
            object.insert("group".to_owned(), entry.group.clone().into());
            object.insert("modified".to_owned(), json::time(entry.mtime_ns).into());
            match &entry.kind {
                EntryKind::File(file) => {
                    object.insert("size".to_owned(), file.size.into());
                    object.insert("blake3".to_owned(), file.hash.hex().into());
                    object.insert("torn".to_owned(), file.torn.into());
                }
                EntryKind::Symlink(target) | EntryKind::HardLink(target) => {
                    let mut inner = Map::new();
                    json::insert_path(&mut inner, target);
                    object.extend(inner.into_iter().map(|(key, value)| (key.replace("path", "target"), value)));
                }
                EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                    object.insert("major".to_owned(), (*major).into());
                    object.insert("minor".to_owned(), (*minor).into());
                }
                EntryKind::Directory | EntryKind::Fifo | EntryKind::Socket => {}
            }
        }
        Listed::Stream(source, stream) => {
            object.insert("source".to_owned(), source.name.clone().into());
            object.insert("kind".to_owned(), "stream".into());
            object.insert("path".to_owned(), stream.file_name.clone().into());
            object.insert("size".to_owned(), stream.plain_bytes.into());
            object.insert("blake3".to_owned(), stream.blake3.hex().into());
            object.insert("sha256".to_owned(), stream.sha256.map(|digest| digest.hex()).into());
        }
        Listed::Failed(source, reason) => {
            object.insert("source".to_owned(), source.name.clone().into());
            object.insert("failure".to_owned(), reason.into());
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_spelled_as_ls_does() {
        let entry = |kind, mode| Entry {
            path: b"/x".to_vec(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime_ns: 0,
            xattrs: Vec::new(),
        };
        for (kind, mode, text) in [
            (EntryKind::Directory, 0o755, "drwxr-xr-x"),
            (EntryKind::Directory, 0o1777, "drwxrwxrwt"),
            (EntryKind::File(Default::default()), 0o4755, "-rwsr-xr-x"),
            (EntryKind::File(Default::default()), 0o6644, "-rwSr-Sr--"),
            (EntryKind::Fifo, 0o1000, "p--------T"),
            (EntryKind::Symlink(b"y".to_vec()), 0o777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode_text(&entry(kind, mode)), text);
        }
    }
}
