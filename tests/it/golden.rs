//! Repositories written by earlier versions, kept for ever: each is restored bit for bit, with its password and with
//! its key file. `HOLDFAST_GOLDEN=vN` writes the folder of a new format version; folders that exist are never touched.

use crate::small_repository::{PASSWORD, Saved, Small, make_with, restore_all};
use data_encoding::BASE64;
use holdfast::catalog::Catalog;
use holdfast::domain::entry::{Entry, EntryKind};
use holdfast::domain::id::{PackId, SnapshotId};
use holdfast::domain::system::FixedClock;
use holdfast::format::config_object::WriterParameters;
use holdfast::format::key_slot::Secret;
use holdfast::format::parity::{Parity, ParityShare};
use holdfast::format::seal::Suite;
use holdfast::ops::cancel::Cancel;
use holdfast::ops::observer::Silent;
use holdfast::ops::verify::{self, PackSelection, VerifyOptions, VerifyScope};
use holdfast::repository::open;
use holdfast::repository::reading::Reading;
use holdfast::storage::local::LocalStore;
use holdfast::storage::{ObjectKind, ObjectName, ReadStore, WriteStore};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

/// The format versions that this program reads; each has a folder.
const VERSIONS: [&str; 1] = ["v1"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn base64(bytes: &[u8]) -> Value {
    BASE64.encode(bytes).into()
}

fn bytes_of(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().expect("text").as_bytes()).expect("base64")
}

/// Everything that a restore would put back, apart from contents.
fn entry_json(entry: &Entry) -> Value {
    let kind = match &entry.kind {
        EntryKind::File(file) => json!({"file": file.size, "sparse": file.sparse}),
        EntryKind::Directory => json!("directory"),
        EntryKind::Symlink(target) => json!({"symlink": base64(target)}),
        other => panic!("the golden repository has no {other:?}"),
    };
    let xattrs: Vec<Value> = entry.xattrs.iter().map(|(n, v)| json!([base64(n), base64(v)])).collect();
    json!({
        "path": base64(&entry.path), "kind": kind, "mode": entry.mode, "uid": entry.uid, "gid": entry.gid,
        "user": entry.user, "group": entry.group, "mtime_ns": entry.mtime_ns, "xattrs": xattrs,
    })
}

fn saved_json(saved: &Saved) -> Value {
    let files: BTreeMap<String, Value> = saved.files.iter().map(|(p, c)| (BASE64.encode(p), base64(c))).collect();
    let entries: Vec<Value> = saved.entries.iter().map(entry_json).collect();
    json!({"id": saved.id.hex(), "dump": base64(&saved.dump), "files": files, "entries": entries})
}

/// Writes a repository of a version.
fn write(version: &str, suite: Suite, name: &str, parity: Option<ParityShare>) {
    let folder = golden().join(version).join(name);
    fs::create_dir_all(&folder).expect("folder");
    let store: Arc<dyn WriteStore> =
        Arc::new(LocalStore::create(&folder.join("repository")).expect("a new repository"));
    let Small { key_file, saved, .. } = make_with(store, suite, 2026, WriterParameters::DEFAULT.with_parity(parity));
    if suite != Suite::None {
        fs::write(folder.join("password.txt"), PASSWORD).expect("password");
        fs::write(folder.join("key.txt"), key_file.to_text().expect("a key file").as_bytes()).expect("key");
    }
    let expected = json!({"snapshots": saved.iter().map(saved_json).collect::<Vec<_>>()});
    fs::write(folder.join("expected.json"), format!("{expected:#}\n")).expect("expected");
}

/// What must come out, from the folder itself.
fn expected(folder: &Path) -> Vec<(Saved, Value)> {
    let text = fs::read(folder.join("expected.json")).expect("expected.json");
    let value: Value = serde_json::from_slice(&text).expect("JSON");
    let read = |snapshot: &Value| {
        let files = snapshot["files"].as_object().expect("files");
        let files = files.iter().map(|(p, c)| (BASE64.decode(p.as_bytes()).expect("path"), bytes_of(c))).collect();
        let id = SnapshotId::parse(snapshot["id"].as_str().expect("id")).expect("id");
        let saved = Saved { id, dump: bytes_of(&snapshot["dump"]), files, entries: Vec::new() };
        (saved, snapshot["entries"].clone())
    };
    value["snapshots"].as_array().expect("snapshots").iter().map(read).collect()
}

fn check(folder: &Path, secret: Option<&Secret>) {
    let store: Arc<dyn ReadStore> = Arc::new(LocalStore::open(&folder.join("repository")).expect("repository"));
    let opened = open::open(store, secret).expect("opens");
    assert_eq!(opened.findings, []);
    let reading = Reading::open(opened.store, opened.keys, None).expect("index");
    let mut all = expected(folder);
    let (snapshots, unreadable) = reading.snapshots().expect("snapshots");
    assert_eq!((snapshots.len(), unreadable.len()), (all.len(), 0));
    for (saved, wanted) in &mut all {
        let loaded = snapshots.iter().find(|l| l.snapshot.id == saved.id).expect("the snapshot is there");
        if let Some(code) = loaded.snapshot.source("code") {
            let entries = reading.tree(code).expect("tree").map(|placed| placed.expect("entry").entry);
            saved.entries = entries.collect();
        }
        let found: Vec<Value> = saved.entries.iter().map(entry_json).collect();
        assert_eq!(&Value::Array(found), wanted);
        assert_eq!(saved.files.is_empty(), saved.entries.is_empty());
    }
    let saved: Vec<Saved> = all.into_iter().map(|(saved, _)| saved).collect();
    assert_eq!(restore_all(&reading, &saved), 0, "something cannot be restored");
    let options = VerifyOptions::new(VerifyScope::ReadData(PackSelection::All));
    let clock = FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH));
    let report = verify::run(&reading, &Catalog::none(), &options, &clock, &Silent, &Cancel::new()).expect("verify");
    assert_eq!((report.findings, report.notes), (Vec::new(), Vec::new()));
}

#[test]
fn every_version_that_is_read_has_its_folder() {
    if let Ok(version) = std::env::var("HOLDFAST_GOLDEN") {
        assert!(VERSIONS.contains(&version.as_str()), "name {version} in VERSIONS first");
        // what is there stays; a version may get more of them
        let repositories = [
            ("encrypted", Suite::Aes256Gcm, None),
            ("open", Suite::None, None),
            ("parity", Suite::Aes256Gcm, ParityShare::new(10)),
        ];
        for (name, suite, parity) in repositories {
            if !golden().join(&version).join(name).exists() {
                write(&version, suite, name, parity);
            }
        }
    }
    let folders = fs::read_dir(golden()).expect("tests/golden").map(|item| item.expect("item"));
    let mut names: Vec<String> = folders
        .filter(|item| item.file_type().expect("type").is_dir())
        .map(|item| item.file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, VERSIONS);
}

#[test]
fn golden_repositories_restore_bit_for_bit() {
    for version in VERSIONS {
        let encrypted = golden().join(version).join("encrypted");
        let password = fs::read(encrypted.join("password.txt")).expect("password");
        check(&encrypted, Some(&Secret::Passphrase(Zeroizing::new(password))));
        let key = fs::read(encrypted.join("key.txt")).expect("key file");
        check(&encrypted, Some(&Secret::from_key_file(&key).expect("a key file")));
        check(&golden().join(version).join("open"), None);
    }
    let parity = golden().join("v1").join("parity");
    let key = fs::read(parity.join("key.txt")).expect("key file");
    check(&parity, Some(&Secret::from_key_file(&key).expect("a key file")));
}

#[test]
fn packs_of_the_golden_repository_with_parity_come_back() {
    let folder = golden().join("v1").join("parity").join("repository");
    let store = LocalStore::open(&folder).expect("repository");
    let packs = store.list(ObjectKind::Pack).expect("packs");
    assert!(packs.len() > 4);
    for info in packs {
        let whole = store.get(&info.name, 1 << 20).expect("a pack");
        let id = PackId::parse(info.name.as_str().rsplit('/').next().expect("a name")).expect("an id");
        let object = store.get(&ObjectName::parity(id), 1 << 20).expect("its parity");
        let parity = Parity::find(&object, id).expect("whole");
        let shape = parity.shape();
        let mut bad = whole.clone();
        // as many shards as there are rows, from the end
        let lost = (shape.rows as usize).min(shape.shards());
        let from = (shape.shards() - lost) * shape.shard_bytes as usize;
        bad[from..].iter_mut().for_each(|byte| *byte ^= 0xff);
        assert_eq!(parity.heal(&bad), Ok(whole), "{}", info.name);
    }
}
