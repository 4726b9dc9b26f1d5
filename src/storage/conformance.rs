//! The promises of a store as one function that every store must pass, in tests and when a user asks whether a place
//! is good enough for a repository.
//!
//! Works on an empty store and leaves objects behind; nothing else may use the store meanwhile.

use super::{DeleteStore, ErrorKind, ObjectKind, ObjectName, Result, SessionPart};
use crate::domain::id::{IndexId, KeySlotId, PackId, SnapshotId};
use crate::domain::system::Random;

/// A promise that a store did not keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The storage at {location} does not keep the contract: {promise} ({seen})")]
pub struct Violation {
    /// The repository.
    pub location: String,
    /// The promise.
    pub promise: &'static str,
    /// What was seen instead.
    pub seen: String,
}

/// Result of a check.
pub type Verdict = std::result::Result<(), Violation>;

/// Checks the whole contract. `one` and `two` are two handles to the same empty store, as two processes have them.
///
/// # Errors
/// [`Violation`]: the first promise that was not kept.
pub fn check(one: &dyn DeleteStore, two: &dyn DeleteStore, random: &dyn Random) -> Verdict {
    let check = Check { one, two, random };
    check.objects()?;
    check.ranges()?;
    check.writers()?;
    check.listing()?;
    check.deletion()?;
    check.quarantine()?;
    check.commit()?;
    check.fence()?;
    check.life()?;
    check.race_of_puts()?;
    check.race_of_commit_and_fence()
}

struct Check<'a> {
    one: &'a dyn DeleteStore,
    two: &'a dyn DeleteStore,
    random: &'a dyn Random,
}

impl Check<'_> {
    fn violated(&self, promise: &'static str, seen: String) -> Violation {
        Violation { location: self.one.location(), promise, seen }
    }

    /// The call must succeed with this value.
    fn gives<T: PartialEq + std::fmt::Debug>(&self, promise: &'static str, got: Result<T>, want: &T) -> Verdict {
        match got {
            Ok(got) if got == *want => Ok(()),
            other => Err(self.violated(promise, short(&format!("{other:?} instead of {want:?}")))),
        }
    }

    /// The call must fail with this kind.
    fn fails<T>(&self, promise: &'static str, got: Result<T>, want: ErrorKind) -> Verdict {
        match got {
            Err(error) if error.kind == want => Ok(()),
            Err(error) => Err(self.violated(promise, short(&format!("{error:?} instead of {want:?}")))),
            Ok(_) => Err(self.violated(promise, format!("success instead of {want:?}"))),
        }
    }

    fn pack(&self) -> ObjectName {
        ObjectName::pack(PackId(self.random.bytes()))
    }

    fn objects(&self) -> Verdict {
        let names = [
            ObjectName::config(0),
            ObjectName::config(1),
            ObjectName::key(KeySlotId(self.random.bytes()), 0),
            ObjectName::key(KeySlotId(self.random.bytes()), 1),
            ObjectName::index(IndexId(self.random.bytes())),
            self.pack(),
        ];
        for name in &names {
            self.gives("an object that was never written is certainly absent", self.one.stored_bytes(name), &None)?;
            self.fails("an absent object is reported as such", self.one.get(name, 99), ErrorKind::NotFound)?;
            self.gives("a new object can be written", self.one.put_new(name, b"first"), &())?;
            self.gives("what was written is read at once", self.one.get(name, 5), &b"first".to_vec())?;
            self.gives("another handle reads it at once", self.two.get(name, 5), &b"first".to_vec())?;
            self.gives("its length is known", self.two.stored_bytes(name), &Some(5))?;
            let again = self.two.put_new(name, b"second");
            self.fails("a name that is taken is refused", again, ErrorKind::AlreadyExists)?;
            self.gives("an object never changes", self.one.get(name, 9), &b"first".to_vec())?;
            self.fails("a longer object than allowed is refused", self.one.get(name, 4), ErrorKind::Size)?;
        }
        let empty = self.pack();
        self.gives("an empty object can be written", self.one.put_new(&empty, b""), &())?;
        self.gives("an empty object can be read", self.one.get(&empty, 0), &Vec::new())
    }

    fn ranges(&self) -> Verdict {
        let name = self.pack();
        self.fails("a range of an absent object fails", self.one.get_range(&name, 0, 1), ErrorKind::NotFound)?;
        self.gives("a new object can be written", self.one.put_new(&name, b"0123456789"), &())?;
        for (offset, length, want) in [(0, 10, "0123456789"), (3, 4, "3456"), (9, 1, "9"), (10, 0, ""), (0, 0, "")] {
            let got = self.two.get_range(&name, offset, length);
            self.gives("a range is read exactly", got, &want.as_bytes().to_vec())?;
        }
        for (offset, length) in [(0, 11), (10, 1), (11, 0), (u64::MAX, 1), (u64::MAX, u32::MAX), (0, u32::MAX)] {
            let got = self.one.get_range(&name, offset, length);
            self.fails("a range past the end is refused", got, ErrorKind::Size)?;
        }
        Ok(())
    }

    fn writers(&self) -> Verdict {
        let name = self.pack();
        let mut wanted = Vec::new();
        let mut writer = self.one.create(&name).map_err(|e| self.violated("a writer can be made", format!("{e:?}")))?;
        for part in 0..50u32 {
            let bytes = part.to_le_bytes().repeat(999);
            self.gives("a writer takes bytes", writer.write(&bytes), &())?;
            wanted.extend_from_slice(&bytes);
            self.gives("an unfinished object is not seen", self.two.stored_bytes(&name), &None)?;
        }
        self.gives("a writer finishes", writer.finish(), &())?;
        let got = self.two.get(&name, wanted.len() as u64).map(|got| got == wanted);
        self.gives("a large object is read as written", got, &true)?;

        let name = self.pack();
        let before = self.one.list(ObjectKind::Temporary).map(|l| l.len());
        let mut writer = self.one.create(&name).map_err(|e| self.violated("a writer can be made", format!("{e:?}")))?;
        self.gives("a writer takes bytes", writer.write(b"dropped"), &())?;
        self.gives("leftovers of a live writer stay", self.two.clear_leftovers(), &0)?;
        drop(writer);
        self.gives("a dropped writer leaves no object", self.two.stored_bytes(&name), &None)?;
        let after = self.one.list(ObjectKind::Temporary).map(|l| l.len()).ok();
        self.gives("a dropped writer leaves nothing behind", before.map(Some), &after)?;

        self.gives("a new object can be written", self.one.put_new(&name, b"x"), &())?;
        let late = self.two.create(&name).and_then(|writer| writer.finish());
        self.fails("a writer does not replace an object", late, ErrorKind::AlreadyExists)
    }

    fn listing(&self) -> Verdict {
        let mut wanted: Vec<ObjectName> = (0..20).map(|_| ObjectName::index(IndexId(self.random.bytes()))).collect();
        for name in &wanted {
            self.gives("a new object can be written", self.one.put_new(name, b"abc"), &())?;
        }
        wanted.sort();
        let list =
            self.two.list(ObjectKind::Index).map_err(|e| self.violated("objects are listed", format!("{e:?}")))?;
        if !list.is_sorted_by(|a, b| a.name < b.name) {
            return Err(self.violated("a list is sorted by name, without repeats", format!("{} names", list.len())));
        }
        let lengths_right = list.iter().filter(|i| wanted.contains(&i.name)).all(|i| i.stored_bytes == 3);
        let all_listed = wanted.iter().all(|name| list.iter().any(|i| i.name == *name));
        if !lengths_right || !all_listed {
            return Err(self.violated("what was written is listed at once", format!("{} names", list.len())));
        }
        for kind in ObjectKind::ALL {
            let list = self.two.list(kind).map_err(|e| self.violated("every kind is listed", format!("{e:?}")))?;
            if let Some(odd) = list.iter().find(|i| i.name.kind() != Some(kind)) {
                return Err(self.violated("a list holds one kind", format!("{} under {kind:?}", odd.name)));
            }
        }
        self.gives("there are no strays", self.one.list_strays(), &Vec::new())
    }

    fn deletion(&self) -> Verdict {
        let name = self.pack();
        self.gives("deleting what is absent says so", self.one.delete(&name), &false)?;
        self.gives("a new object can be written", self.one.put_new(&name, b"abc"), &())?;
        self.gives("a range is read exactly", self.one.get_range(&name, 0, 3), &b"abc".to_vec())?;
        self.gives("an object can be deleted", self.one.delete(&name), &true)?;
        self.gives("a deleted object is absent at once", self.two.stored_bytes(&name), &None)?;
        let range = self.one.get_range(&name, 0, 3);
        self.fails("a deleted object is not read by its deleter", range, ErrorKind::NotFound)?;
        self.gives("deleting again says so", self.two.delete(&name), &false)
    }

    fn quarantine(&self) -> Verdict {
        for name in [self.pack(), ObjectName::index(IndexId(self.random.bytes()))] {
            let (first, second) = (ObjectName::quarantined(&name, 0), ObjectName::quarantined(&name, 1));
            self.gives("putting aside what is absent says so", self.one.quarantine(&name), &None)?;
            self.gives("a new object can be written", self.one.put_new(&name, b"old"), &())?;
            self.gives("a range is read exactly", self.one.get_range(&name, 0, 3), &b"old".to_vec())?;
            self.gives("an object can be put aside", self.one.quarantine(&name), &Some(first.clone()))?;
            self.gives("what was put aside has left its place", self.two.stored_bytes(&name), &None)?;
            let range = self.one.get_range(&name, 0, 3);
            self.fails("what was put aside is not read under its old name", range, ErrorKind::NotFound)?;
            self.gives("what was put aside is kept", self.two.get(&first, 3), &b"old".to_vec())?;
            // A healed object comes back under its own name, and may be damaged once more.
            self.gives("its name can be used again", self.one.put_new(&name, b"new"), &())?;
            self.gives("the same name can be put aside twice", self.two.quarantine(&name), &Some(second.clone()))?;
            self.gives("nothing that was put aside is replaced", self.one.get(&first, 3), &b"old".to_vec())?;
            self.gives("the second is kept beside it", self.one.get(&second, 3), &b"new".to_vec())?;
            let listed = self.two.list(ObjectKind::Quarantine);
            let both = listed.map(|list| [&first, &second].iter().all(|n| list.iter().any(|i| i.name == **n)));
            self.gives("what was put aside is listed", both, &true)?;
        }
        Ok(())
    }

    fn commit(&self) -> Verdict {
        let id = SnapshotId(self.random.bytes());
        let (manifest, copy) = (SessionPart::Manifest, SessionPart::ManifestCopy);
        let orphan = self.one.put_new(&ObjectName::session(id, manifest), b"m");
        self.fails("a part without a session is refused", orphan, ErrorKind::Fenced)?;
        let guard =
            self.one.begin_session(id, b"start").map_err(|e| self.violated("a session begins", short_debug(&e)))?;
        if guard.id() != id {
            return Err(self.violated("a guard names its session", guard.id().hex()));
        }
        let second = self.two.begin_session(id, b"other").map(|_| ());
        self.fails("a session id is used once", second, ErrorKind::AlreadyExists)?;
        let start = ObjectName::session(id, SessionPart::Start);
        self.gives("the start record is there", self.two.get(&start, 9), &b"start".to_vec())?;
        self.gives("a part can be written", self.one.put_new(&ObjectName::session(id, manifest), b"m"), &())?;
        self.gives("a part can be written", self.one.put_new(&ObjectName::session(id, copy), b"c"), &())?;
        let early = self.two.stored_bytes(&ObjectName::snapshot(id, manifest));
        self.gives("nothing is visible before the commit", early, &None)?;
        self.gives("a session commits", self.one.commit(&*guard), &())?;
        let published = self.two.get(&ObjectName::snapshot(id, manifest), 9);
        self.gives("a committed snapshot is read at once", published, &b"m".to_vec())?;
        let listed = self.two.list(ObjectKind::Snapshot).map(|l| l.iter().filter(|i| is_of(&i.name, id)).count());
        self.gives("a committed snapshot is listed with all parts", listed, &3)?;
        self.gives("a committed session is gone", self.two.stored_bytes(&start), &None)?;
        self.gives("a committed session cannot be fenced", self.two.fence(id), &false)?;
        self.fails("a session commits once", self.one.commit(&*guard), ErrorKind::Fenced)?;
        self.gives("a committed session is no longer alive", self.two.session_is_alive(id), &false)?;
        let reuse = self.two.begin_session(id, b"x").map(|_| ());
        self.fails("a committed id is never used again", reuse, ErrorKind::AlreadyExists)
    }

    fn fence(&self) -> Verdict {
        let id = SnapshotId(self.random.bytes());
        self.gives("fencing what never was says so", self.two.fence(id), &false)?;
        let guard =
            self.one.begin_session(id, b"start").map_err(|e| self.violated("a session begins", short_debug(&e)))?;
        let manifest = ObjectName::session(id, SessionPart::Manifest);
        self.gives("a part can be written", self.one.put_new(&manifest, b"m"), &())?;
        self.gives("a session can be fenced", self.two.fence(id), &true)?;
        self.gives("fencing again says so", self.two.fence(id), &false)?;
        self.fails("a fenced session cannot commit", self.one.commit(&*guard), ErrorKind::Fenced)?;
        let part = self.one.put_new(&ObjectName::session(id, SessionPart::ManifestCopy), b"c");
        self.fails("a fenced session takes no more parts", part, ErrorKind::Fenced)?;
        let visible = self.two.stored_bytes(&ObjectName::snapshot(id, SessionPart::Manifest));
        self.gives("a fenced session is no snapshot", visible, &None)?;
        let listed = self.two.list(ObjectKind::Fenced).map(|l| l.iter().filter(|i| is_of(&i.name, id)).count());
        self.gives("a fenced session keeps its parts", listed, &2)
    }

    fn life(&self) -> Verdict {
        let id = SnapshotId(self.random.bytes());
        self.gives("an unknown session is not alive", self.two.session_is_alive(id), &false)?;
        let guard =
            self.one.begin_session(id, b"start").map_err(|e| self.violated("a session begins", short_debug(&e)))?;
        self.gives("a session is alive", self.two.session_is_alive(id), &true)?;
        self.gives("asking again changes nothing", self.two.session_is_alive(id), &true)?;
        self.gives("a live session is no leftover", self.two.clear_leftovers(), &0)?;
        drop(guard);
        self.gives("a session whose guard is gone is dead", self.two.session_is_alive(id), &false)?;
        self.gives("a dead session can be fenced", self.two.fence(id), &true)
    }

    fn race_of_puts(&self) -> Verdict {
        for round in 0..8 {
            let name = if round % 2 == 0 { self.pack() } else { ObjectName::index(IndexId(self.random.bytes())) };
            let wins = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..4u8)
                    .map(|n| {
                        let store = if n % 2 == 0 { self.one } else { self.two };
                        let name = &name;
                        scope.spawn(move || store.put_new(name, &[n; 100]).is_ok())
                    })
                    .collect();
                racers.into_iter().filter_map(|racer| racer.join().ok()).filter(|won| *won).count()
            });
            if wins != 1 {
                return Err(self.violated("of racing writers exactly one wins", format!("{wins} won")));
            }
        }
        Ok(())
    }

    fn race_of_commit_and_fence(&self) -> Verdict {
        for _ in 0..16 {
            let id = SnapshotId(self.random.bytes());
            let guard =
                self.one.begin_session(id, b"start").map_err(|e| self.violated("a session begins", short_debug(&e)))?;
            let (committed, fenced) = std::thread::scope(|scope| {
                let fencer = scope.spawn(|| self.two.fence(id));
                let committed = self.one.commit(&*guard);
                (committed, fencer.join().unwrap_or(Ok(false)))
            });
            let snapshot = self.two.stored_bytes(&ObjectName::snapshot(id, SessionPart::Start));
            let fine = match (&committed, &fenced, &snapshot) {
                (Ok(()), Ok(false), Ok(Some(_))) => true,
                (Err(error), Ok(true), Ok(None)) => error.kind == ErrorKind::Fenced,
                _ => false,
            };
            if !fine {
                let seen = short(&format!("commit {committed:?}, fence {fenced:?}, snapshot {snapshot:?}"));
                return Err(self.violated("of commit and fence exactly one wins", seen));
            }
        }
        Ok(())
    }
}

fn is_of(name: &ObjectName, id: SnapshotId) -> bool {
    name.as_str().split('/').nth(1) == Some(id.hex().as_str())
}

fn short_debug(error: &super::Error) -> String {
    short(&format!("{error:?}"))
}

fn short(text: &str) -> String {
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::SeededRandom;
    use crate::storage::memory::MemoryStore;
    use crate::storage::{ObjectInfo, ObjectWriter, ReadStore, SessionGuard, WriteStore};

    /// What the planted fault does.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Fault {
        Overwrites,
        HidesFromList,
        CommitsFenced,
        ShortRange,
        AlwaysAlive,
        QuarantineReplaces,
        QuarantineCopies,
    }

    struct Faulty(MemoryStore, Fault);

    impl ReadStore for Faulty {
        fn location(&self) -> String {
            self.0.location()
        }
        fn get(&self, name: &ObjectName, max_bytes: u64) -> Result<Vec<u8>> {
            self.0.get(name, max_bytes)
        }
        fn get_range(&self, name: &ObjectName, offset: u64, length: u32) -> Result<Vec<u8>> {
            match self.0.get_range(name, offset, length) {
                Err(error) if self.1 == Fault::ShortRange && error.kind == ErrorKind::Size => Ok(Vec::new()),
                other => other,
            }
        }
        fn stored_bytes(&self, name: &ObjectName) -> Result<Option<u64>> {
            self.0.stored_bytes(name)
        }
        fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectInfo>> {
            let mut list = self.0.list(kind)?;
            if self.1 == Fault::HidesFromList {
                list.pop();
            }
            Ok(list)
        }
        fn list_strays(&self) -> Result<Vec<String>> {
            self.0.list_strays()
        }
        fn reserve_fault(&self) -> Result<Option<String>> {
            self.0.reserve_fault()
        }
    }

    impl WriteStore for Faulty {
        fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
            if self.1 == Fault::Overwrites {
                self.0.raw_remove(name.as_str());
            }
            self.0.put_new(name, bytes)
        }
        fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>> {
            self.0.create(name)
        }
        fn begin_session(&self, id: SnapshotId, start: &[u8]) -> Result<Box<dyn SessionGuard>> {
            self.0.begin_session(id, start)
        }
        fn commit(&self, guard: &dyn SessionGuard) -> Result<()> {
            match self.0.commit(guard) {
                Err(error) if self.1 == Fault::CommitsFenced && error.kind == ErrorKind::Fenced => Ok(()),
                other => other,
            }
        }
        fn fence(&self, id: SnapshotId) -> Result<bool> {
            self.0.fence(id)
        }
        fn session_is_alive(&self, id: SnapshotId) -> Result<bool> {
            Ok(self.1 == Fault::AlwaysAlive || self.0.session_is_alive(id)?)
        }
        fn settle(&self, kind: ObjectKind) -> Result<()> {
            self.0.settle(kind)
        }
        fn clear_leftovers(&self) -> Result<u64> {
            self.0.clear_leftovers()
        }
    }

    impl DeleteStore for Faulty {
        fn delete(&self, name: &ObjectName) -> Result<bool> {
            self.0.delete(name)
        }
        fn remove_run(&self, kind: ObjectKind, id: SnapshotId) -> Result<bool> {
            self.0.remove_run(kind, id)
        }
        fn quarantine(&self, name: &ObjectName) -> Result<Option<ObjectName>> {
            let to = ObjectName::quarantined(name, 0);
            if self.1 == Fault::QuarantineReplaces {
                self.0.raw_remove(to.as_str());
            }
            if self.1 == Fault::QuarantineCopies
                && let Some(bytes) = self.0.raw_get(name.as_str())
            {
                self.0.raw_replace(to.as_str(), bytes);
                return Ok(Some(to));
            }
            self.0.quarantine(name)
        }
        fn release_reserve(&self) -> Result<u64> {
            self.0.release_reserve()
        }
        fn restore_reserve(&self) -> Result<()> {
            self.0.restore_reserve()
        }
    }

    #[test]
    fn planted_faults_are_found() {
        for fault in [
            Fault::Overwrites,
            Fault::HidesFromList,
            Fault::CommitsFenced,
            Fault::ShortRange,
            Fault::AlwaysAlive,
            Fault::QuarantineReplaces,
            Fault::QuarantineCopies,
        ] {
            let store = MemoryStore::new();
            let verdict = check(&Faulty(store.clone(), fault), &Faulty(store, fault), &SeededRandom::new(2));
            assert!(verdict.is_err(), "{fault:?}");
        }
    }
}
