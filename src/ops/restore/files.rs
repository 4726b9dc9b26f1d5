//! Files sources: one thread reads the repository, another makes the files, a bounded queue between them.
//!
//! A tree is read twice: first whole, to compare it with its proof and to know what is to come ([`plan`]), then to
//! restore. Memory does not grow with the size of a file or the number of entries.

use super::selection::{PathFilter, Picker, is_at_or_below};
use super::streams::target_error;
use super::{Error, RestoredSource, Run};
use crate::domain::entry::{Entry, EntryKind};
use crate::domain::id::Digest;
use crate::domain::snapshot::{SourceRecord, StreamRole};
use crate::format::tree::TreeReader;
use crate::ops::cancel::Cancel;
use crate::repository::error::RepoError;
use crate::repository::reading::{CopyError, PlacedEntry, Reading};
use crate::repository::stream_reader::StreamReader;
use crate::target::files::{FileSink, Looker, Restorer, TargetError, Verdict, name_mark};
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeSet, HashSet};
use std::io::ErrorKind;

/// Bytes in one step of the queue.
const PIECE_BYTES: u64 = 256 << 10;
/// Steps that wait in the queue: at most 16 MiB of contents.
const STEPS_WAITING: usize = 64;
/// So many files in a row that the storage could not read mean that it is gone.
const UNREADABLE_IN_A_ROW_MAX: u32 = 16;

/// What is to be restored of one source.
pub(super) struct Plan {
    /// Entries, without directories that are only on the way.
    pub(super) entries: u64,
    /// Plain bytes.
    pub(super) plain_bytes: u64,
    /// What is wrong with the tree.
    pub(super) fault: Option<String>,
    /// Only what is at or below this path is made, without the directories on the way to it.
    pub(super) root: Option<Vec<u8>>,
    /// First names that are left out although further names of them are wanted.
    needed: BTreeSet<Vec<u8>>,
}

/// True for an error that costs one object; others end the run.
pub(super) fn is_lost(error: &RepoError) -> bool {
    error.is_damage() || matches!(error, RepoError::Storage(_) | RepoError::Limit { .. })
}

/// Reads a whole tree and compares it, and the list of files in it, with their proofs.
pub(super) fn plan(
    reading: &Reading,
    source: &SourceRecord,
    filter: &PathFilter,
    cancel: &Cancel,
) -> Result<Plan, Error> {
    enum Stop {
        Cancelled,
        Tree(crate::format::tree::TreeError),
    }
    let mut plan = Plan { entries: 0, plain_bytes: 0, fault: None, root: None, needed: BTreeSet::new() };
    let Some(record) = source.streams.iter().find(|s| s.role == StreamRole::Tree) else {
        plan.fault = Some("its tree is missing".to_owned());
        return Ok(plan);
    };
    let mut tree = TreeReader::new();
    let mut root = blake3::Hasher::new();
    let copied = reading.copy_stream(record, |bytes| {
        if cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        tree.feed(bytes);
        while let Some(entry) = tree.next_entry().map_err(Stop::Tree)? {
            plan.add(&entry, filter, &mut root);
        }
        Ok(())
    });
    match copied {
        Ok(()) => {
            let content = source.streams.iter().find(|s| s.role == StreamRole::Content);
            plan.fault = match tree.finish() {
                Err(error) => Some(error.to_string()),
                Ok(_) if content.is_none_or(|c| c.blake3 != Digest(*root.finalize().as_bytes())) => {
                    Some("the files that its tree lists are not those that were recorded".to_owned())
                }
                Ok(_) => None,
            };
        }
        Err(CopyError::Sink(Stop::Cancelled)) => return Err(Error::Interrupted),
        Err(CopyError::Sink(Stop::Tree(error))) => plan.fault = Some(error.to_string()),
        Err(CopyError::Repository(error)) if is_lost(&error) => plan.fault = Some(error.to_string()),
        Err(CopyError::Repository(error)) => return Err(error.into()),
    }
    Ok(plan)
}

impl Plan {
    fn add(&mut self, entry: &Entry, filter: &PathFilter, root: &mut blake3::Hasher) {
        if let EntryKind::File(file) = &entry.kind {
            root.update(&file.stream_bytes().to_le_bytes());
            root.update(&file.hash.0);
        }
        if !filter.is_open() && !filter.wants(&entry.path, entry.kind == EntryKind::Directory) {
            return;
        }
        self.entries += 1;
        match &entry.kind {
            EntryKind::File(file) => self.plain_bytes += file.stream_bytes(),
            EntryKind::HardLink(first) if !filter.is_open() && !filter.wants(first, false) => {
                self.needed.insert(first.clone());
            }
            _ => {}
        }
    }
}

/// What would be restored.
pub(super) fn show(
    run: &mut Run<'_>,
    source: &SourceRecord,
    plan: &Plan,
    filter: &PathFilter,
    looker: Option<&Looker>,
) -> Result<RestoredSource, Error> {
    let mut restored = RestoredSource::new(source);
    let mut preview = looker.map(Preview::new);
    say_fault(run, source, plan);
    let mut picker = Picker::new(filter, &plan.needed);
    let mut picked = Vec::new();
    let tree = match run.reading.tree(source) {
        Ok(tree) => tree,
        Err(error) if is_lost(&error) => return Ok(restored),
        Err(error) => return Err(error.into()),
    };
    for placed in tree {
        run.cancel.check()?;
        match placed {
            Ok(placed) => picker.pick(placed, &mut picked),
            Err(error) if is_lost(&error) => break,
            Err(error) => return Err(error.into()),
        }
        for placed in picked.drain(..) {
            let verdict = preview.as_mut().map_or(Verdict::New, |preview| preview.entry(run, &placed.entry));
            match verdict {
                Verdict::New => run.item("would restore", &placed.entry.path, size(&placed.entry)),
                Verdict::Replace => run.item("would replace", &placed.entry.path, size(&placed.entry)),
                Verdict::Same if placed.entry.kind == EntryKind::Directory => {}
                Verdict::Same => run.report.unchanged += 1,
                Verdict::Keep => {
                    run.item("would keep", &placed.entry.path, 0);
                    run.report.kept += 1;
                }
            }
            if matches!(verdict, Verdict::New | Verdict::Replace) {
                count(&mut restored, &placed.entry);
            }
        }
    }
    if let Some(mut preview) = preview {
        preview.leave_to(run, None);
    }
    Ok(restored)
}

/// A dry run in a target that holds something: what is there of the directories on the way to an entry.
struct Preview<'a> {
    looker: &'a Looker,
    open: Vec<(Vec<u8>, HashSet<u64>)>,
}

impl<'a> Preview<'a> {
    fn new(looker: &'a Looker) -> Self {
        Self { looker, open: Vec::new() }
    }

    fn entry(&mut self, run: &mut Run<'_>, entry: &Entry) -> Verdict {
        self.leave_to(run, Some(&entry.path));
        if let Some((_, names)) = self.open.last_mut() {
            let name = entry.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            names.insert(name_mark(name));
        }
        if entry.kind == EntryKind::Directory {
            self.open.push((entry.path.clone(), HashSet::new()));
        }
        self.looker.judge(entry)
    }

    /// Leaves the directories that do not hold a path, telling what would go from them.
    fn leave_to(&mut self, run: &mut Run<'_>, path: Option<&[u8]>) {
        while let Some((directory, names)) = self.open.pop() {
            if path.is_some_and(|path| is_at_or_below(path, &directory)) {
                self.open.push((directory, names));
                return;
            }
            for extra in self.looker.extras(&directory, &names) {
                run.report.deleted += 1;
                run.item("would delete", &extra, 0);
            }
        }
    }
}

/// Stored bytes of a file.
fn size(entry: &Entry) -> u64 {
    if let EntryKind::File(file) = &entry.kind { file.stream_bytes() } else { 0 }
}

fn count(restored: &mut RestoredSource, entry: &Entry) {
    match entry.kind {
        EntryKind::File(_) | EntryKind::HardLink(_) => restored.files += 1,
        EntryKind::Directory => restored.directories += 1,
        _ => restored.others += 1,
    }
    restored.plain_bytes += size(entry);
}

fn say_fault(run: &mut Run<'_>, source: &SourceRecord, plan: &Plan) {
    if let Some(fault) = &plan.fault {
        let reason = format!("the list of its files is damaged, what it still names is restored: {fault}");
        run.lost(&source.name, None, reason);
    }
}

/// What the reading thread hands to the writing one, in tree order.
enum Step {
    /// Make something without contents.
    Make(Entry),
    /// Create a file; its bytes follow.
    Begin(Entry),
    /// The file is there. True: as the snapshot has it; false: it stays as it is.
    There(Entry, bool),
    /// The next stored bytes of the file.
    Bytes(Vec<u8>),
    /// The file is whole.
    End,
    /// The rest of the file cannot be read.
    Lost(RepoError),
    /// The rest of the tree cannot be read.
    TreeLost(RepoError),
    /// Everything was read.
    Done,
    /// The repository failed as a whole.
    Failed(RepoError),
}

/// Restores a files source below the target.
pub(super) fn restore(
    run: &mut Run<'_>,
    source: &SourceRecord,
    plan: &Plan,
    filter: &PathFilter,
    restorer: &mut Restorer,
) -> Result<RestoredSource, Error> {
    say_fault(run, source, plan);
    let reading = run.reading;
    let looker = restorer.looker()?;
    std::thread::scope(|scope| {
        let (sender, receiver) = crossbeam_channel::bounded(STEPS_WAITING);
        let picker = Picker::new(filter, &plan.needed);
        let root = plan.root.as_deref();
        let reader = Reader { reading, source, root, looker, sender, unreadable_in_a_row: 0 };
        std::thread::Builder::new()
            .name("restore-reader".to_owned())
            .spawn_scoped(scope, move || reader.run(picker))
            .map_err(|source| Error::Thread { source: Some(source) })?;
        let mut writer = Writer {
            run,
            source,
            restorer,
            open: None,
            restored: RestoredSource::new(source),
            tree_fault: plan.fault.is_some(),
        };
        // The receiver goes when this returns, and with it the reason for the reader to go on.
        writer.run(receiver)?;
        Ok(writer.restored)
    })
}

/// The receiver is gone: the run ends for another reason.
struct Gone;

struct Reader<'a> {
    reading: &'a Reading,
    source: &'a SourceRecord,
    root: Option<&'a [u8]>,
    looker: Option<Looker>,
    sender: Sender<Step>,
    unreadable_in_a_row: u32,
}

impl Reader<'_> {
    fn run(mut self, picker: Picker<'_>) {
        let last = match self.tree(picker) {
            Ok(step) => step,
            Err(Gone) => return,
        };
        // Nobody left to tell is fine.
        let _ = self.sender.send(last);
    }

    fn send(&self, step: Step) -> Result<(), Gone> {
        self.sender.send(step).map_err(|_| Gone)
    }

    /// Reads the tree to its end; returns the last step.
    fn tree(&mut self, mut picker: Picker<'_>) -> Result<Step, Gone> {
        let reading = self.reading;
        let tree = match reading.tree(self.source) {
            Ok(tree) => tree,
            Err(error) if is_lost(&error) => return Ok(Step::TreeLost(error)),
            Err(error) => return Ok(Step::Failed(error)),
        };
        let mut content = None;
        let mut picked = Vec::new();
        for placed in tree {
            match placed {
                Ok(placed) => picker.pick(placed, &mut picked),
                Err(error) if is_lost(&error) => return Ok(Step::TreeLost(error)),
                Err(error) => return Ok(Step::Failed(error)),
            }
            picked.retain(|placed| self.root.is_none_or(|root| is_at_or_below(&placed.entry.path, root)));
            for placed in picked.drain(..) {
                if let Some(last) = self.entry(placed, &mut content)? {
                    return Ok(last);
                }
            }
        }
        Ok(Step::Done)
    }

    /// Hands one entry on. A step is returned when it is the last.
    fn entry(&mut self, placed: PlacedEntry, content: &mut Option<StreamReader>) -> Result<Option<Step>, Gone> {
        let EntryKind::File(file) = &placed.entry.kind else {
            self.send(Step::Make(placed.entry))?;
            return Ok(None);
        };
        match self.looker.as_ref().map(|looker| looker.judge(&placed.entry)) {
            Some(verdict @ (Verdict::Same | Verdict::Keep)) => {
                self.send(Step::There(placed.entry, verdict == Verdict::Same))?;
                return Ok(None);
            }
            Some(Verdict::New | Verdict::Replace) | None => {}
        }
        let (mut at, stored_bytes) = (placed.content_offset, file.stream_bytes());
        let end = at.saturating_add(stored_bytes);
        self.send(Step::Begin(placed.entry))?;
        while at < end {
            let to = (at + PIECE_BYTES).min(end);
            match self.piece(content, at, to) {
                Ok(bytes) => self.send(Step::Bytes(bytes))?,
                Err(error) if !is_lost(&error) => return Ok(Some(Step::Failed(error))),
                Err(error) if error.is_damage() => {
                    self.unreadable_in_a_row = 0;
                    self.send(Step::Lost(error))?;
                    return Ok(None);
                }
                Err(error) => {
                    self.unreadable_in_a_row += 1;
                    if self.unreadable_in_a_row > UNREADABLE_IN_A_ROW_MAX {
                        return Ok(Some(Step::Failed(error)));
                    }
                    self.send(Step::Lost(error))?;
                    return Ok(None);
                }
            }
            self.unreadable_in_a_row = 0;
            at = to;
        }
        self.send(Step::End)?;
        Ok(None)
    }

    fn piece(&self, content: &mut Option<StreamReader>, at: u64, to: u64) -> Result<Vec<u8>, RepoError> {
        let stream = match content {
            Some(stream) => stream,
            None => content.insert(self.reading.content(self.source)?),
        };
        let mut bytes = Vec::with_capacity(usize::try_from(to - at).unwrap_or_default());
        stream.read(&self.reading.index, &self.reading.packs, at, to, &mut bytes)?;
        Ok(bytes)
    }
}

/// The file whose bytes are coming.
struct OpenFile {
    path: Vec<u8>,
    entry: Entry,
    /// None: its bytes are skipped, for a reason that was told.
    sink: Option<FileSink>,
}

struct Writer<'a, 'r> {
    run: &'a mut Run<'r>,
    source: &'a SourceRecord,
    restorer: &'a mut Restorer,
    open: Option<OpenFile>,
    restored: RestoredSource,
    /// That the tree is damaged was told already.
    tree_fault: bool,
}

impl Writer<'_, '_> {
    fn run(&mut self, receiver: Receiver<Step>) -> Result<(), Error> {
        loop {
            self.run.cancel.check()?;
            match receiver.recv().map_err(|_| Error::Thread { source: None })? {
                Step::Make(entry) => self.make(&entry)?,
                Step::Begin(entry) => self.begin(entry)?,
                Step::There(entry, same) => self.there(&entry, same)?,
                Step::Bytes(bytes) => self.bytes(&bytes)?,
                Step::End => self.end()?,
                Step::Lost(error) => self.lost(&error),
                Step::TreeLost(error) => {
                    self.restorer.delete_no_more();
                    if !self.tree_fault {
                        let reason = format!("the rest of the list of its files cannot be read: {error}");
                        self.run.lost(&self.source.name, None, reason);
                    }
                    return Ok(());
                }
                Step::Done => return Ok(()),
                Step::Failed(error) => return Err(error.into()),
            }
        }
    }

    fn make(&mut self, entry: &Entry) -> Result<(), Error> {
        match self.restorer.make(entry) {
            Ok(()) => self.done(entry),
            Err(error) => self.refused(&entry.path, error)?,
        }
        Ok(())
    }

    /// A file that is in the target already.
    fn there(&mut self, entry: &Entry, same: bool) -> Result<(), Error> {
        self.run.bytes_done += size(entry);
        match self.restorer.keep_file(entry, same) {
            Ok(()) => {
                let warnings = self.restorer.take_warnings();
                self.run.found(Some(&self.source.name), warnings);
                self.run.items_done += 1;
                self.run.progress(&self.source.name, &entry.path);
                Ok(())
            }
            Err(error) => self.refused(&entry.path, error),
        }
    }

    fn begin(&mut self, entry: Entry) -> Result<(), Error> {
        let path = entry.path.clone();
        let sink = match self.restorer.begin_file(&entry) {
            Ok(sink) => sink,
            Err(error) => {
                self.refused(&path, error)?;
                None
            }
        };
        self.open = Some(OpenFile { path, entry, sink });
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.run.bytes_done += bytes.len() as u64;
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(sink) = &mut open.sink else { return Ok(()) };
        if let Err(error) = sink.write(bytes) {
            // The file goes with its sink.
            open.sink = None;
            let path = open.path.clone();
            return self.refused(&path, error);
        }
        if bytes.len() as u64 == PIECE_BYTES {
            self.run.progress(&self.source.name, &open.path);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Some(sink) = open.sink else {
            let warnings = self.restorer.take_warnings();
            self.run.found(Some(&self.source.name), warnings);
            return Ok(());
        };
        match sink.finish() {
            Ok(warnings) => {
                self.run.found(Some(&self.source.name), warnings);
                self.done(&open.entry);
                Ok(())
            }
            Err(error) => self.refused(&open.path, error),
        }
    }

    /// The bytes of the open file cannot be read; what was written of it goes with the sink.
    fn lost(&mut self, error: &RepoError) {
        if let Some(open) = self.open.take() {
            drop(open.sink);
            self.run.lost(&self.source.name, Some(&open.path), error.to_string());
        }
    }

    /// Counts an entry, unless the restorer left it out.
    fn done(&mut self, entry: &Entry) {
        let warnings = self.restorer.take_warnings();
        let deleted = self.restorer.take_deleted();
        self.run.deleted(deleted);
        let skipped = |code: &str| code == "file.socket_skipped" || code == "file.device_skipped";
        let left_out = warnings.iter().any(|w| w.incomplete || skipped(&w.code));
        self.run.found(Some(&self.source.name), warnings);
        self.run.items_done += 1;
        self.run.progress(&self.source.name, &entry.path);
        if !left_out {
            self.run.item("restored", &entry.path, size(entry));
            count(&mut self.restored, entry);
        }
    }

    /// What concerns one entry alone is noted; everything else ends the run.
    fn refused(&mut self, path: &[u8], error: TargetError) -> Result<(), Error> {
        match error {
            TargetError::UnsafePath { .. } | TargetError::Content { .. } => {
                self.run.lost(&self.source.name, Some(path), error.to_string());
                Ok(())
            }
            TargetError::Io { operation, path: at, source } => {
                if !concerns_one_name(&source) {
                    return Err(target_error(operation, &at, source).into());
                }
                let warning = crate::domain::snapshot::SourceWarning {
                    code: "file.not_restored".to_owned(),
                    subject: String::from_utf8_lossy(path).into_owned(),
                    message: format!("The target's file system does not take it: {source}"),
                    incomplete: true,
                };
                self.run.found(Some(&self.source.name), vec![warning]);
                Ok(())
            }
            TargetError::TargetNotEmpty { .. } | TargetError::NoSpace { .. } => Err(error.into()),
        }
    }
}

/// A name that this file system cannot hold: too long, or with characters it does not have.
fn concerns_one_name(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidFilename | ErrorKind::InvalidInput)
        || error.raw_os_error() == Some(rustix::io::Errno::ILSEQ.raw_os_error())
}
