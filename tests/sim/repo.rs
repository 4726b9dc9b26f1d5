//! A repository on a simulated disk, worked on by the program's own operations, and what must be true of it.

use crate::dice::Dice;
use crate::disk::{Image, Machine, Pid};
use crate::tree_compare;
use holdfast::catalog::Catalog;
use holdfast::domain::id::SnapshotId;
use holdfast::domain::snapshot::SystemInfo;
use holdfast::domain::system::{Clock, Random, SeededRandom};
use holdfast::format::config_object::{ChunkerConfig, WriterParameters};
use holdfast::format::key_slot::{KdfCosts, Secret};
use holdfast::format::parity::ParityShare;
use holdfast::format::seal::{Keys, Suite};
use holdfast::ops::accept::{self, AcceptMeans};
use holdfast::ops::backup::{self, BackupMeans, BackupRequest, SourceFrom, SourceRequest, TurnMeans};
use holdfast::ops::cancel::Cancel;
use holdfast::ops::forget::{self, ForgetMeans, Forgetter, Removal};
use holdfast::ops::observer::Silent;
use holdfast::ops::prune::{self, PruneMeans, PruneOptions, PruneReport};
use holdfast::ops::repair::packs::{self, PacksReport, PacksRequest};
use holdfast::ops::repair::{RepairMeans, snapshots as repair_snapshots};
use holdfast::ops::repair_index::{self, Local};
use holdfast::ops::restore::{self, Selection};
use holdfast::ops::undelete::{self, UndeleteMeans};
use holdfast::ops::verify::{self, PackSelection, VerifyOptions, VerifyScope};
use holdfast::repository::open::{self, InitOptions, SlotSecret};
use holdfast::repository::reading::{Reading, load_snapshots};
use holdfast::repository::session::{Announced, SessionStart};
use holdfast::repository::snapshots::LoadedSnapshot;
use holdfast::source::process::SystemProcesses;
use holdfast::storage::local::LocalStore;
use holdfast::storage::{ReadStore, WriteStore};
use holdfast::target::files::Options as AttributeOptions;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// What an operation says when it fails.
pub(crate) type Said<T> = Result<T, String>;

/// An error with its causes.
fn text(error: impl Error) -> String {
    let mut all = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        all.push_str(&format!(": {next}"));
        cause = next.source();
    }
    all
}

/// A clock that jumps when it is told to, and moves on by a second whenever it is asked.
#[derive(Debug)]
pub(crate) struct SimClock(Mutex<i64>);

/// Long after every file of the tests was made.
pub(crate) const NORMAL_TIME: i64 = 4_000_000_000;

impl SimClock {
    pub(crate) fn new(second: i64) -> Self {
        Self(Mutex::new(second))
    }
}

impl Clock for SimClock {
    fn now(&self) -> jiff::Timestamp {
        let mut second = self.0.lock().expect("clock");
        *second += 1;
        jiff::Timestamp::from_second(*second).expect("a time")
    }
}

/// What one backup saves.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    /// Name of the source and bytes of the stream.
    pub(crate) stream: (String, Arc<Vec<u8>>),
    /// Name of the source, the tree that is read, and a copy of it for comparing.
    pub(crate) tree: Option<(String, PathBuf, PathBuf)>,
    /// Says that it looks wrong.
    pub(crate) suspect: bool,
}

/// Where a snapshot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It was reported and nobody tried to forget it: it must be there.
    Kept,
    /// It was forgotten, and that was reported: it must not be seen.
    Hidden,
    /// Something about it failed half-way: it may be there, and then it must be whole.
    Unclear,
}

/// What is known of a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) stand: Stand,
    pub(crate) accepted: bool,
}

/// What must be true.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    /// What each attempt of a backup wanted to save, by its time.
    pub(crate) attempts: BTreeMap<i64, Content>,
    pub(crate) snapshots: BTreeMap<SnapshotId, Known>,
    /// A forgotten snapshot came back. A prune may have deleted second copies of its records by then
    /// (docs/shortcomings.md): nothing is lost, and `verify` says so.
    pub(crate) copies_may_miss: bool,
}

/// The secret of every simulated repository.
pub(crate) fn secret() -> Secret {
    let random: &dyn Random = &SeededRandom::new(0x5eed);
    Secret::new_key_file(random)
}

const PLACE: &str = "/simulated";

/// A process that has opened the repository.
pub(crate) struct Actor {
    pub(crate) pid: Pid,
    machine: Arc<Machine>,
    store: Arc<LocalStore>,
    keys: Arc<Keys>,
    parameters: WriterParameters,
    random: Arc<dyn Random>,
    clock: SimClock,
    cancel: Cancel,
    catalog: Catalog,
    /// The process is over when this is dropped.
    ends: bool,
}

/// How much parity the processes of a machine write; a tenth of each pack.
pub(crate) fn some_parity() -> Option<ParityShare> {
    ParityShare::new(10)
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.ends {
            self.machine.end(self.pid);
        }
    }
}

/// Makes a repository.
pub(crate) fn init(machine: &Arc<Machine>, seed: u64) -> Said<()> {
    let (pid, disk) = machine.process();
    let result = init_on(disk, seed);
    machine.end(pid);
    result
}

fn init_on(disk: Arc<dyn holdfast::fsio::disk::Disk>, seed: u64) -> Said<()> {
    let store = LocalStore::create_on(Path::new(PLACE), disk).map_err(text)?;
    let options = InitOptions {
        suite: Suite::Aes256Gcm,
        secrets: vec![SlotSecret { secret: secret(), label: "key file".to_owned() }],
        kdf: KdfCosts::CHEAPEST,
        chunker: ChunkerConfig::DEFAULT,
        pack_bytes_target: 16 << 20,
        host: "host".to_owned(),
        created_by: "holdfast test".to_owned(),
    };
    let random = SeededRandom::new(seed);
    open::init(Arc::new(store), &options, &SimClock::new(NORMAL_TIME), &random).map_err(text)?;
    Ok(())
}

impl Actor {
    /// A new process opens the repository.
    pub(crate) fn open(machine: &Arc<Machine>, seed: u64, second: i64) -> Said<Self> {
        let (pid, disk) = machine.process();
        match Self::open_as(machine, pid, disk, seed, second) {
            Ok(mut actor) => {
                actor.ends = true;
                Ok(actor)
            }
            Err(why) => {
                machine.end(pid);
                Err(why)
            }
        }
    }

    /// As [`Self::open`], for a process that exists and goes on.
    pub(crate) fn open_as(
        machine: &Arc<Machine>,
        pid: Pid,
        disk: Arc<dyn holdfast::fsio::disk::Disk>,
        seed: u64,
        second: i64,
    ) -> Said<Self> {
        let store = Arc::new(LocalStore::open_on(Path::new(PLACE), disk));
        let opened = open::open(Arc::clone(&store), Some(&secret())).map_err(text)?;
        let parameters = opened.config.writer_parameters().map_err(text)?.with_parity(machine.parity());
        Ok(Self {
            pid,
            machine: Arc::clone(machine),
            store,
            keys: opened.keys,
            parameters,
            random: Arc::new(SeededRandom::new(seed)),
            clock: SimClock::new(second),
            cancel: Cancel::new(),
            catalog: Catalog::none(),
            ends: false,
        })
    }

    pub(crate) fn snapshots(&self) -> Said<Vec<LoadedSnapshot>> {
        let (good, bad) = load_snapshots(self.store.as_ref(), &self.keys).map_err(text)?;
        match bad.into_iter().next() {
            None => Ok(good),
            Some(bad) => Err(format!("snapshot {} cannot be read: {}", bad.id, text(bad.error))),
        }
    }

    fn loaded(&self, id: SnapshotId) -> Said<LoadedSnapshot> {
        self.snapshots()?.into_iter().find(|s| s.snapshot.id == id).ok_or("it is not there".to_owned())
    }

    /// Saves, as the program's command does. `time` is the backup's time and tells attempts apart.
    pub(crate) fn backup(&self, content: &Content, time: i64) -> Said<SnapshotId> {
        let mut sources = Vec::new();
        let reader = Box::new(std::io::Cursor::new(content.stream.1.to_vec()));
        let from = SourceFrom::Stdin { reader, file_name: "dump.sql".to_owned() };
        sources.push(SourceRequest { name: content.stream.0.clone(), from });
        if let Some((name, root, _)) = &content.tree {
            let roots = vec![root.clone()];
            let from =
                SourceFrom::Files { roots, exclude: Vec::new(), default_excludes: false, one_file_system: false };
            sources.push(SourceRequest { name: name.clone(), from });
        }
        let names: Vec<String> = sources.iter().map(|s| s.name.clone()).collect();
        let turn_means = TurnMeans {
            store: Arc::clone(&self.store) as Arc<dyn WriteStore>,
            keys: Arc::clone(&self.keys),
            random: self.random.as_ref(),
            clock: &self.clock,
            observer: &Silent,
            cancel: &self.cancel,
            process_id: self.pid,
            patience: Duration::ZERO,
        };
        let turn = backup::take_turn(&turn_means, "host", &names).map_err(text)?;
        let snapshots = self.snapshots()?;
        let means = BackupMeans {
            store: Arc::clone(&self.store) as Arc<dyn WriteStore>,
            keys: Arc::clone(&self.keys),
            random: Arc::clone(&self.random),
            parameters: self.parameters,
            own_folders: &[],
            clock: &self.clock,
            processes: &SystemProcesses::default(),
            observer: &Silent,
            cancel: &self.cancel,
            snapshots: &snapshots,
            cache: None,
            process_id: self.pid,
        };
        let min = content.suspect.then(|| (content.stream.0.clone(), 1 << 40));
        let request = BackupRequest {
            sources,
            time_ns: Some(time),
            time_zone: "UTC".to_owned(),
            class: None,
            tags: Vec::new(),
            scope: Vec::new(),
            project_root: None,
            git: None,
            system: SystemInfo { host: "host".to_owned(), ..SystemInfo::default() },
            allow_empty: true,
            min_sizes: min.into_iter().collect(),
        };
        let report = backup::run_in_turn(&means, request, turn).map_err(text)?;
        if let Some((name, error)) = report.failures.into_iter().next() {
            return Err(format!("source {name} failed: {}", text(error)));
        }
        match report.findings.first() {
            Some(finding) => Err(format!("finding: {finding}")),
            None => Ok(report.snapshot.id),
        }
    }

    /// Who this process is, for a session of such sources.
    fn start(&self, sources: Vec<String>) -> SessionStart {
        let random: &dyn Random = self.random.as_ref();
        let id = SnapshotId(random.bytes());
        SessionStart { id, host: "host".to_owned(), process: self.pid, started_ns: 0, sources }
    }

    /// Begins a session that lives as long as what is returned.
    pub(crate) fn announce(&self, source: &str) -> Said<Announced> {
        let start = self.start(vec![source.to_owned()]);
        Announced::new(Arc::clone(&self.store) as Arc<dyn WriteStore>, Arc::clone(&self.keys), &start).map_err(text)
    }

    pub(crate) fn forget(&self, id: SnapshotId) -> Said<()> {
        let loaded = self.loaded(id)?;
        let means = ForgetMeans {
            store: self.store.as_ref(),
            keys: &self.keys,
            clock: &self.clock,
            cancel: &self.cancel,
            who: Forgetter { host: "host".into(), user: "user".into(), tool_version: "test".into() },
        };
        let removal = Removal { snapshot: &loaded, reason: "named".to_owned() };
        let report = forget::run(&means, vec![removal]).map_err(text)?;
        if report.forgotten == [id] { Ok(()) } else { Err("it is blocked".to_owned()) }
    }

    pub(crate) fn undelete(&self, id: SnapshotId) -> Said<()> {
        let means = UndeleteMeans {
            store: Arc::clone(&self.store),
            keys: Arc::clone(&self.keys),
            parameters: self.parameters,
            random: Arc::clone(&self.random),
            clock: &self.clock,
            host: "host".to_owned(),
            process_id: self.pid,
            cache: None,
        };
        undelete::run(&means, id).map_err(text)
    }

    pub(crate) fn accept(&self, id: SnapshotId) -> Said<()> {
        let loaded = self.loaded(id)?;
        let means = AcceptMeans {
            store: self.store.as_ref(),
            keys: &self.keys,
            clock: &self.clock,
            host: "host".to_owned(),
            user: "user".to_owned(),
            tool_version: "test".to_owned(),
        };
        accept::run(&means, &loaded).map(drop).map_err(text)
    }

    pub(crate) fn prune(&self, options: PruneOptions) -> Said<PruneReport> {
        let roots = || {
            let now = i64::try_from(self.clock.now().as_nanosecond()).expect("a time");
            prune::roots::read(self.store.as_ref(), &self.keys, &self.catalog, now, Duration::ZERO)
        };
        let means = PruneMeans {
            catalog: &self.catalog,
            store: Arc::clone(&self.store) as Arc<_>,
            keys: Arc::clone(&self.keys),
            parameters: self.parameters,
            random: Arc::clone(&self.random),
            clock: &self.clock,
            observer: &Silent,
            cancel: &self.cancel,
            cache: None,
            host: "host".to_owned(),
            process_id: self.pid,
            roots: &roots,
        };
        prune::run(&means, &options).map_err(|error| format!("{error:?}"))
    }

    fn repair_means<'a>(&'a self, catalog: &'a Catalog) -> RepairMeans<'a> {
        RepairMeans {
            store: Arc::clone(&self.store) as Arc<_>,
            keys: Arc::clone(&self.keys),
            parameters: self.parameters,
            random: Arc::clone(&self.random),
            clock: &self.clock,
            observer: &Silent,
            cancel: &self.cancel,
            local: Local { catalog, cache: None },
            host: "host".to_owned(),
            process_id: self.pid,
        }
    }

    pub(crate) fn repair_packs(&self) -> Said<PacksReport> {
        packs::run(&self.repair_means(&self.catalog), &PacksRequest::default()).map_err(text)
    }

    pub(crate) fn repair_snapshots(&self) -> Said<()> {
        let request = repair_snapshots::SnapshotsRequest::default();
        repair_snapshots::run(&self.repair_means(&self.catalog), &request).map(drop).map_err(text)
    }

    pub(crate) fn repair_index(&self) -> Said<()> {
        let store = Arc::clone(&self.store) as Arc<dyn WriteStore>;
        let local = Local { catalog: &self.catalog, cache: None };
        let random = self.random.as_ref();
        let start = self.start(Vec::new());
        repair_index::run(&store, &self.keys, random, local, Some(&start), &Silent, &self.cancel)
            .map(drop)
            .map_err(text)
    }

    fn reading(&self) -> Said<Reading> {
        let store = Arc::clone(&self.store) as Arc<dyn ReadStore>;
        Reading::open(store, Arc::clone(&self.keys), None).map_err(text)
    }

    /// `verify --read-data`: every finding, and what is affected.
    pub(crate) fn verify(&self) -> Said<Vec<String>> {
        let options = VerifyOptions::new(VerifyScope::ReadData(PackSelection::All));
        let report = verify::run(&self.reading()?, &self.catalog, &options, &self.clock, &Silent, &self.cancel);
        let report = report.map_err(text)?;
        let mut all: Vec<String> = report.findings.iter().map(|f| format!("{f:?}")).collect();
        all.extend(report.affected.iter().map(|a| format!("{a:?}")));
        all.extend(report.unreadable_snapshots);
        Ok(all)
    }

    /// Restores a snapshot and compares it with what was saved.
    fn compare(&self, reading: &Reading, loaded: &LoadedSnapshot, content: &Content) -> Said<()> {
        let folder = scratch()?;
        let target = folder.path().join("target");
        let options = restore::Options {
            target: target.clone(),
            existing: None,
            selection: Selection::default(),
            dry_run: false,
            attributes: AttributeOptions::for_this_user(),
        };
        let report = restore::run(reading, &loaded.snapshot, &[], &options, &Silent, &self.cancel).map_err(text)?;
        if !report.is_complete() {
            return Err(format!("it is not restored whole: {:?}", report.lost));
        }
        let written: Vec<&String> = report.sources.iter().flat_map(|s| &s.written).collect();
        let [stream] = written.as_slice() else { return Err(format!("streams {written:?}")) };
        let bytes = std::fs::read(target.join(stream)).map_err(|e| format!("{stream}: {e}"))?;
        if bytes != *content.stream.1 {
            return Err(format!("the stream has {} other bytes", bytes.len()));
        }
        let Some((_, root, copy)) = &content.tree else { return Ok(()) };
        let restored = target.join(root.strip_prefix("/").map_err(text)?);
        let differences = tree_compare::differences(copy, &restored);
        if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
    }
}

/// A temporary folder, in memory where that is possible.
pub(crate) fn scratch() -> Said<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.map_err(text)
}

impl Truth {
    /// Remembers what a backup is about to save.
    pub(crate) fn attempt(&mut self, time: i64, content: &Content) {
        self.attempts.insert(time, content.clone());
    }

    /// A backup was reported.
    pub(crate) fn reported(&mut self, id: SnapshotId) {
        self.snapshots.insert(id, Known { stand: Stand::Kept, accepted: false });
    }

    pub(crate) fn set(&mut self, id: SnapshotId, stand: Stand) {
        if let Some(known) = self.snapshots.get_mut(&id) {
            known.stand = stand;
        }
    }

    pub(crate) fn of(&self, stand: Stand) -> Vec<SnapshotId> {
        self.snapshots.iter().filter(|(_, known)| known.stand == stand).map(|(id, _)| *id).collect()
    }

    /// Both oracles, from storage alone: every snapshot that was reported and not forgotten is there, whatever is there
    /// restores to what was saved, and what was reported as hidden or accepted is.
    pub(crate) fn check(&self, image: &Image) -> Said<()> {
        let machine = Machine::new(image.clone(), 0);
        let actor = Actor::open(&machine, 0xc4ec, NORMAL_TIME)?;
        let visible = actor.snapshots()?;
        let reading = actor.reading()?;
        for (id, known) in &self.snapshots {
            let found = visible.iter().find(|s| s.snapshot.id == *id);
            match (known.stand, found) {
                (Stand::Kept, None) => return Err(format!("O1: snapshot {id} was reported and is not there")),
                (Stand::Hidden, Some(_)) => return Err(format!("O2: snapshot {id} was reported as forgotten")),
                (Stand::Kept, Some(found)) if known.accepted && found.snapshot.suspect.is_some() => {
                    return Err(format!("O2: snapshot {id} was reported as accepted"));
                }
                _ => {}
            }
        }
        for loaded in &visible {
            let (id, time) = (loaded.snapshot.id, loaded.snapshot.time_ns);
            let content = self.attempts.get(&time).ok_or(format!("O1: nobody saved snapshot {id}"))?;
            actor.compare(&reading, loaded, content).map_err(|why| format!("O1: snapshot {id}: {why}"))?;
        }
        match reading.findings().first() {
            None => Ok(()),
            Some(finding) => Err(format!("O1: damage: {finding}")),
        }
    }

    /// `verify --read-data` finds nothing.
    pub(crate) fn check_whole(&self, image: &Image) -> Said<()> {
        let machine = Machine::new(image.clone(), 0);
        let mut findings = Actor::open(&machine, 0xc4ed, NORMAL_TIME)?.verify()?;
        let one_copy =
            ["of its record is in no pack", "copy 1 of its literal bytes, a part of a tree, is not complete"];
        findings.retain(|finding| !self.copies_may_miss || !one_copy.iter().any(|words| finding.contains(words)));
        if findings.is_empty() { Ok(()) } else { Err(format!("verify finds {}", findings.join("; "))) }
    }
}

/// Text in rows, like a dump.
pub(crate) fn rows(dice: &mut Dice, count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..count {
        let row = format!("{}\t{:016x}\trow {:08x}\n", dice.below(1 << 20), dice.next(), dice.next() as u32);
        out.extend_from_slice(row.as_bytes());
    }
    out
}

/// Changes a few rows.
pub(crate) fn edit(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..1 + dice.below(3) {
        let at = dice.below(bytes.len() as u64 + 1) as usize;
        let end = (at + dice.below(300) as usize).min(bytes.len());
        let count = dice.below(6);
        let new = rows(dice, count);
        bytes.splice(at..end, new);
    }
}

/// A tree on the real disk that changes, with a copy of each of its states.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    name: String,
    states: u32,
}

impl Site {
    pub(crate) fn new(name: &str) -> Self {
        Self { folder: scratch().expect("a temporary folder"), name: name.to_owned(), states: 0 }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    /// Changes the tree and keeps a copy.
    pub(crate) fn change(&mut self, dice: &mut Dice) -> (String, PathBuf, PathBuf) {
        let root = self.root();
        std::fs::create_dir_all(root.join("sub")).expect("a folder");
        for _ in 0..3 {
            let name = format!("{}file{}", if dice.one_in(2) { "sub/" } else { "" }, dice.below(5));
            if dice.one_in(5) {
                let _ = std::fs::remove_file(root.join(&name));
            } else {
                let count = dice.below(60);
                std::fs::write(root.join(&name), rows(dice, count)).expect("a file");
            }
        }
        self.states += 1;
        // each state has times of its own, long ago
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + u64::from(self.states) * 1000);
        for path in walk(&root) {
            std::fs::File::open(&path).and_then(|file| file.set_modified(time)).expect("a time");
        }
        let copy = self.folder.path().join(format!("state{}", self.states));
        let done = std::process::Command::new("cp").arg("-a").arg(&root).arg(&copy).status().expect("cp");
        assert!(done.success());
        (self.name.clone(), root, copy)
    }
}

/// A folder and everything below it, folders after what they hold.
fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if root.is_dir() {
        let mut names: Vec<PathBuf> = root.read_dir().expect("a folder").map(|e| e.expect("an entry").path()).collect();
        names.sort();
        found.extend(names.iter().flat_map(|path| walk(path)));
    }
    found.push(root.to_owned());
    found
}
