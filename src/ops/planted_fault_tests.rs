//! An encoder that is wrong by one byte never commits: the backup decodes from storage what it stored and compares.

use super::backup::{self, BackupError, BackupMeans, BackupRequest, SourceFrom, SourceRequest};
use super::cancel::Cancel;
use super::observer::Silent;
use crate::domain::id::RepositoryId;
use crate::domain::snapshot::SystemInfo;
use crate::domain::system::{FixedClock, Random, SeededRandom};
use crate::format::seal::{Keys, Suite};
use crate::repository::error::RepoError;
use crate::repository::{planted_fault, reading};
use crate::source::process::SystemProcesses;
use crate::storage::memory::MemoryStore;
use crate::storage::{ObjectKind, ReadStore, WriteStore};
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

struct Setup {
    store: MemoryStore,
    keys: Arc<Keys>,
    random: Arc<dyn Random>,
}

impl Setup {
    fn new() -> Self {
        let keys = Arc::new(Keys::derive(&[3; 32], RepositoryId([1; 16]), Suite::Aes256Gcm));
        Self { store: MemoryStore::new(), keys, random: Arc::new(SeededRandom::new(5)) }
    }

    fn backup(&self, from: SourceFrom) -> Result<(), BackupError> {
        let (snapshots, bad) = reading::load_snapshots(&self.store, &self.keys).unwrap();
        assert!(bad.is_empty());
        let clock = FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH));
        let means = BackupMeans {
            store: Arc::new(self.store.clone()) as Arc<dyn WriteStore>,
            keys: Arc::clone(&self.keys),
            random: Arc::clone(&self.random),
            parameters: crate::format::config_object::WriterParameters::DEFAULT,
            own_folders: &[],
            clock: &clock,
            processes: &SystemProcesses::new(None),
            observer: &Silent,
            cancel: &Cancel::new(),
            snapshots: &snapshots,
            process_id: 1,
            cache: None,
        };
        let request = BackupRequest {
            sources: vec![SourceRequest { name: "app".to_owned(), from }],
            time_ns: None,
            time_zone: "UTC".to_owned(),
            class: None,
            tags: Vec::new(),
            scope: Vec::new(),
            project_root: None,
            git: None,
            system: SystemInfo { host: "h".to_owned(), ..SystemInfo::default() },
            allow_empty: false,
            min_sizes: Default::default(),
        };
        backup::run(&means, request).map(|_| ())
    }

    fn stream(&self, bytes: &[u8]) -> Result<(), BackupError> {
        let reader = Box::new(Cursor::new(bytes.to_vec()));
        self.backup(SourceFrom::Stdin { reader, file_name: "app.dump".to_owned() })
    }

    fn files(&self, root: PathBuf) -> Result<(), BackupError> {
        self.backup(SourceFrom::Files {
            roots: vec![root],
            exclude: Vec::new(),
            default_excludes: true,
            one_file_system: false,
        })
    }

    fn snapshots(&self) -> usize {
        self.store.list(ObjectKind::Snapshot).unwrap().len() / 4
    }
}

/// Rows of text that all differ.
fn rows(seed: u64, count: usize) -> Vec<u8> {
    let random = SeededRandom::new(seed);
    let random: &dyn Random = &random;
    let row = |_| format!("{}\n", data_encoding::HEXLOWER.encode(&random.bytes::<20>()));
    (0..count).map(row).collect::<String>().into_bytes()
}

/// The rows with one changed and one added.
fn edited(rows: &[u8]) -> Vec<u8> {
    let (head, tail) = rows.split_at(rows.len() / 2 / 41 * 41);
    [head, b"a new row that nobody knows\n", &tail[41..], b"and one at the end\n"].concat()
}

#[test]
fn an_edit_off_by_one_byte_never_commits() {
    let setup = Setup::new();
    let first = rows(1, 3000);
    setup.stream(&first).unwrap();
    planted_fault::arm();
    let error = setup.stream(&edited(&first)).unwrap_err();
    assert!(!planted_fault::is_armed(), "the fault did not happen");
    assert!(matches!(error, BackupError::Repository(RepoError::ProofFailed { .. })), "{error:?}");
    assert_eq!(setup.snapshots(), 1);
    // without the fault the same input is stored
    setup.stream(&edited(&first)).unwrap();
    assert_eq!(setup.snapshots(), 2);
}

#[test]
fn contents_of_files_off_by_one_byte_never_commit() {
    let setup = Setup::new();
    let dir = tempfile::tempdir().unwrap();
    let first = rows(2, 3000);
    std::fs::write(dir.path().join("a"), &first).unwrap();
    setup.files(dir.path().to_owned()).unwrap();
    std::fs::write(dir.path().join("a"), edited(&first)).unwrap();
    planted_fault::arm();
    let error = setup.files(dir.path().to_owned()).unwrap_err();
    assert!(!planted_fault::is_armed(), "the fault did not happen");
    assert!(matches!(error, BackupError::Repository(_)), "{error:?}");
    assert_eq!(setup.snapshots(), 1);
}
