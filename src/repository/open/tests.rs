//! Tests of init and open: every secret, every damaged byte, every kind of wrong repository.

use super::*;
use crate::domain::id::{IndexId, PackId};
use crate::domain::system::{FixedClock, SeededRandom};
use crate::format::envelope::{Header, ObjectTag, encode_object};
use crate::storage::local::LocalStore;
use crate::storage::memory::MemoryStore;
use std::sync::Mutex;

fn clock() -> FixedClock {
    FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH))
}

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
}

fn options(suite: Suite, secrets: &[&Secret]) -> InitOptions {
    let secrets = secrets.iter().map(|s| SlotSecret { secret: (*s).clone(), label: "first".to_owned() }).collect();
    InitOptions {
        suite,
        secrets,
        kdf: KdfCosts::CHEAPEST,
        chunker: ChunkerConfig::DEFAULT,
        pack_bytes_target: 16 << 20,
        host: "h".to_owned(),
        created_by: "holdfast test".to_owned(),
    }
}

fn repository(seed: u64, suite: Suite, secrets: &[&Secret]) -> (MemoryStore, OpenRepository<MemoryStore>) {
    let store = MemoryStore::new();
    let made = init(Arc::new(store.clone()), &options(suite, secrets), &clock(), &SeededRandom::new(seed)).unwrap();
    (store, made)
}

fn try_open(store: &MemoryStore, unlock: Option<&Secret>) -> Result<OpenRepository<MemoryStore>> {
    open(Arc::new(store.clone()), unlock)
}

/// Both keys give the same chunk ids, seals and macs.
fn same_keys(a: &Keys, b: &Keys) -> bool {
    a.mac(b"x") == b.mac(b"x") && a.chunk_id(b"x") == b.chunk_id(b"x") && a.sketch_key() == b.sketch_key()
}

#[test]
fn every_kind_of_secret_opens_what_init_made() {
    let random = SeededRandom::new(9);
    let secrets = [passphrase("pass"), Secret::new_key_file(&random), Secret::new_recovery(&random)];
    let (store, made) = repository(1, Suite::Aes256Gcm, &[&secrets[0], &secrets[1], &secrets[2]]);
    assert_eq!(store.raw_names().len(), 2 + 2 * 3);
    for secret in &secrets {
        let opened = try_open(&store, Some(secret)).unwrap();
        assert_eq!(opened.config, made.config);
        assert!(same_keys(&opened.keys, &made.keys));
        assert_eq!(opened.findings, []);
    }
    assert!(matches!(try_open(&store, None), Err(Error::SecretNeeded { .. })));
    for wrong in [passphrase("pasS"), Secret::new_key_file(&random), Secret::new_recovery(&random)] {
        assert!(matches!(try_open(&store, Some(&wrong)), Err(Error::WrongSecret { tried: 1, .. })));
    }
}

#[test]
fn a_repository_without_encryption_opens_without_a_secret_alone() {
    let (store, made) = repository(1, Suite::None, &[]);
    assert_eq!(store.raw_names(), ["config", "config.copy"]);
    let opened = try_open(&store, None).unwrap();
    assert!(same_keys(&opened.keys, &made.keys));
    assert_eq!(opened.config.suite, Suite::None);
    assert!(matches!(try_open(&store, Some(&passphrase("x"))), Err(Error::NotEncrypted { .. })));
}

#[test]
fn init_happens_once_and_with_sense() {
    let secret = passphrase("x");
    let (store, _) = repository(1, Suite::Aes256Gcm, &[&secret]);
    let again = |store: &MemoryStore, options: &InitOptions| {
        init(Arc::new(store.clone()), options, &clock(), &SeededRandom::new(2)).map(|_| ()).unwrap_err()
    };
    let before = store.raw_names();
    assert!(matches!(again(&store, &options(Suite::None, &[])), Error::AlreadyInitialised { .. }));
    store.raw_remove("config");
    store.put_new(&ObjectName::index(IndexId([1; 16])), b"anything").unwrap();
    assert!(matches!(again(&store, &options(Suite::None, &[])), Error::AlreadyInitialised { .. }));
    store.raw_remove(ObjectName::index(IndexId([1; 16])).as_str());
    assert_eq!(store.raw_names(), before[1..]);

    let empty = MemoryStore::new();
    let mut senseless = vec![
        options(Suite::None, &[&secret]),
        options(Suite::Aes256Gcm, &[]),
        options(Suite::Aes256Gcm, &[&passphrase("")]),
        options(Suite::Aes256Gcm, &[&secret; 17]),
        options(Suite::Aes256Gcm, &[&secret]),
        options(Suite::Aes256Gcm, &[&secret]),
    ];
    senseless[4].kdf.memory_kib = 1024;
    senseless[5].chunker.min_bytes = 7;
    for options in &senseless {
        assert!(matches!(again(&empty, options), Error::Options { .. }), "{options:?}");
    }
    assert!(empty.raw_names().is_empty());
}

#[test]
fn nothing_there_and_something_lost_are_told_apart() {
    let empty = MemoryStore::new();
    assert!(matches!(try_open(&empty, None), Err(Error::NoRepository { .. })));
    let secret = Secret::new_key_file(&SeededRandom::new(9));
    let (store, _) = repository(1, Suite::Aes256Gcm, &[&secret]);
    store.raw_remove("config");
    // as an init leaves it that was interrupted: nobody begins anything here
    assert!(matches!(try_open(&store, Some(&secret)), Err(Error::Unfinished { .. })));
    assert!(!is_initialised(&store).unwrap());
    store.put_new(&ObjectName::pack(PackId([1; 16])), b"anything").unwrap();
    assert!(is_initialised(&store).unwrap());
    let opened = try_open(&store, Some(&secret)).unwrap();
    assert_eq!(
        opened.findings.iter().map(|f| (f.object.as_str(), f.problem)).collect::<Vec<_>>(),
        [("config", Problem::Missing)]
    );
    store.raw_remove("config.copy");
    assert!(matches!(try_open(&store, Some(&secret)), Err(Error::Damaged { .. })));
    let (store, _) = repository(1, Suite::Aes256Gcm, &[&secret]);
    store.raw_names().iter().filter(|n| n.starts_with("keys/")).for_each(|n| drop(store.raw_remove(n)));
    assert!(matches!(try_open(&store, Some(&secret)), Err(Error::Damaged { .. })));
}

/// Every byte of every copy, one at a time: the other copy serves, the damage is reported, the keys are right.
#[test]
fn one_damaged_copy_is_reported_and_the_other_serves() {
    let secret = Secret::new_key_file(&SeededRandom::new(9));
    let (store, made) = repository(1, Suite::Aes256Gcm, &[&secret]);
    let names = store.raw_names();
    assert_eq!(names.len(), 4);
    for name in &names {
        let good = store.raw_get(name).unwrap();
        let flips = (0..good.len()).flat_map(|at| [0x01, 0x80, 0xff].map(|xor| (at, xor)));
        let flipped = flips.map(|(at, xor)| {
            let mut bad = good.clone();
            bad[at] ^= xor;
            bad
        });
        let cut = (0..good.len()).map(|at| good[..at].to_vec());
        let longer = [[good.as_slice(), &[0]].concat(), vec![0; 1 << 20]];
        for bad in flipped.chain(cut).chain(longer) {
            store.raw_replace(name, bad);
            let opened = try_open(&store, Some(&secret)).unwrap();
            assert!(same_keys(&opened.keys, &made.keys));
            assert_eq!(opened.config, made.config);
            let objects: Vec<_> = opened.findings.iter().map(|f| (f.object.as_str(), f.problem)).collect();
            assert_eq!(objects, [(name.as_str(), Problem::Damaged)]);
        }
        store.raw_replace(name, good);
    }
    assert_eq!(try_open(&store, Some(&secret)).unwrap().findings, []);
}

/// The same with both copies damaged: an error, never a panic, never another key.
#[test]
fn two_damaged_copies_are_an_error() {
    let secret = Secret::new_key_file(&SeededRandom::new(9));
    let (store, _) = repository(1, Suite::Aes256Gcm, &[&secret]);
    let names = store.raw_names();
    for pair in names.chunks(2) {
        let goods: Vec<Vec<u8>> = pair.iter().map(|name| store.raw_get(name).unwrap()).collect();
        for at in 0..goods[0].len() {
            for (name, good) in pair.iter().zip(&goods) {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                store.raw_replace(name, bad);
            }
            let error = try_open(&store, Some(&secret)).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{pair:?} byte {at}: {error:?}");
        }
        pair.iter().zip(goods).for_each(|(name, good)| store.raw_replace(name, good));
    }
    assert!(try_open(&store, Some(&secret)).is_ok());
}

/// Damage whose checksum was made to fit, as by someone who can write to the storage but has no key.
#[test]
fn forged_copies_never_give_another_key_or_configuration() {
    let secret = Secret::new_key_file(&SeededRandom::new(9));
    let (store, made) = repository(1, Suite::Aes256Gcm, &[&secret]);
    for name in store.raw_names() {
        let good = store.raw_get(&name).unwrap();
        for at in 0..good.len() - 32 {
            for xor in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= xor;
                let end = bad.len() - 32;
                let sum = *blake3::hash(&bad[..end]).as_bytes();
                bad[end..].copy_from_slice(&sum);
                store.raw_replace(&name, bad);
                match try_open(&store, Some(&secret)) {
                    Ok(opened) => {
                        assert!(same_keys(&opened.keys, &made.keys), "{name} byte {at}");
                        assert_eq!(opened.config, made.config, "{name} byte {at}");
                        assert!(!opened.findings.is_empty(), "{name} byte {at}");
                    }
                    // A forger can always make a repository unreadable, or call it newer than it is.
                    Err(Error::Damaged { .. } | Error::NewerVersion { .. }) => {}
                    Err(other) => panic!("{name} byte {at}: {other:?}"),
                }
            }
        }
        store.raw_replace(&name, good);
    }
}

#[test]
fn nobody_turns_encryption_off() {
    let secret = Secret::new_key_file(&SeededRandom::new(9));
    let (store, made) = repository(1, Suite::Aes256Gcm, &[&secret]);
    let downgraded = Config { suite: Suite::None, ..made.config.clone() };
    let public = Keys::public(made.config.repository);
    store.raw_replace("config", downgraded.encode(&public, 0));
    let opened = try_open(&store, Some(&secret)).unwrap();
    assert_eq!(opened.config, made.config);
    assert_eq!(opened.findings.len(), 1);
    assert!(matches!(try_open(&store, None), Err(Error::SecretNeeded { .. })));
    store.raw_replace("config.copy", downgraded.encode(&public, 1));
    assert!(matches!(try_open(&store, Some(&secret)), Err(Error::NotEncrypted { .. })));
}

#[test]
fn objects_of_another_repository_are_not_taken() {
    let secret = Secret::new_key_file(&SeededRandom::new(9));
    let (store, made) = repository(1, Suite::Aes256Gcm, &[&secret]);
    let (other, _) = repository(2, Suite::Aes256Gcm, &[&secret]);
    // The other's slots beside ours: reported, and ours still opens.
    for name in other.raw_names().iter().filter(|n| n.starts_with("keys/")) {
        store.raw_replace(name, other.raw_get(name).unwrap());
    }
    let opened = try_open(&store, Some(&secret)).unwrap();
    assert!(same_keys(&opened.keys, &made.keys));
    assert_eq!(opened.findings.len(), 2);
    // The other's configuration in place of one of ours: one of the two repositories is opened, whole.
    for (copy, name) in ["config", "config.copy"].into_iter().enumerate() {
        let mixed = repository(1, Suite::Aes256Gcm, &[&secret]).0;
        mixed.raw_replace(name, other.raw_get(name).unwrap());
        let opened = try_open(&mixed, Some(&secret)).unwrap();
        assert_eq!(opened.config, made.config);
        assert!(same_keys(&opened.keys, &made.keys));
        assert!(opened.findings.iter().any(|f| f.object == name), "copy {copy}: {:?}", opened.findings);
    }
}

#[test]
fn strange_names_among_the_keys_are_reported_and_harmless() {
    let secret = Secret::new_key_file(&SeededRandom::new(9));
    let (store, _) = repository(1, Suite::Aes256Gcm, &[&secret]);
    store.raw_replace("keys/notes.txt", b"x".to_vec());
    for n in 0..SLOTS_MAX {
        store.raw_replace(&format!("keys/ff{n:030x}"), b"rubbish".to_vec());
    }
    let opened = try_open(&store, Some(&secret)).unwrap();
    assert!(opened.findings.iter().any(|f| f.problem == Problem::Unknown && f.object == "keys/notes.txt"));
}

#[test]
fn repositories_of_the_future_are_refused_by_name() {
    let secret = Secret::new_key_file(&SeededRandom::new(9));
    let (store, made) = repository(1, Suite::Aes256Gcm, &[&secret]);
    let id = made.config.repository;
    let header = Header { mandatory_features: 4, ..Header::new(ObjectTag::Config, id, id.0, 1) };
    store.raw_replace("config", encode_object(&header, b"a body of the future"));
    assert!(matches!(try_open(&store, Some(&secret)), Err(Error::NewerVersion { .. })));
}

#[test]
fn a_local_repository_is_made_and_opened() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let secret = passphrase("x");
    {
        let store: Arc<dyn WriteStore> = Arc::new(LocalStore::create(&at).unwrap());
        init(store, &options(Suite::Aes256Gcm, &[&secret]), &clock(), &SeededRandom::new(1)).unwrap();
    }
    let store: Arc<dyn ReadStore> = Arc::new(LocalStore::open(&at).unwrap());
    assert_eq!(open(store, Some(&secret)).unwrap().findings, []);
    let bare: Arc<dyn ReadStore> = Arc::new(LocalStore::open(dir.path()).unwrap());
    assert!(matches!(open(bare, Some(&secret)), Err(Error::NoRepository { .. })));
}
