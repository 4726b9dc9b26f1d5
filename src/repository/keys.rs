//! The key slots of a repository: list, add, remove, change a password, and the printable recovery kit.
//!
//! Invariant: at every moment at least one whole slot exists; a new one is written and read back before an old one is
//! deleted, and the last one is never deleted.

use super::open::{
    PASSPHRASE_SLOTS_MAX, SlotSecret, check_secret, now_ns, read_config, read_slots, unlock_root, write_slot,
};
use super::{Error, Finding, Result};
use crate::domain::id::{KeySlotId, RepositoryId};
use crate::domain::system::{Clock, Random};
use crate::format::key_slot::{KdfCosts, KeySlot, NewSlot, Secret, SlotFacts, SlotKind};
use crate::format::seal::Suite;
use crate::storage::{DeleteStore, ObjectName, ReadStore, WriteStore};
use std::collections::BTreeSet;
use zeroize::Zeroizing;

/// A slot as a list shows it. Nothing in it is authenticated before the slot is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its name.
    pub id: KeySlotId,
    /// What it says about itself.
    pub facts: SlotFacts,
}

/// What the machine adds to a new slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotOptions {
    /// Costs for a passphrase.
    pub kdf: KdfCosts,
    /// Name of this host.
    pub host: String,
}

/// The slots that can be read, and what is wrong with others. Needs no secret.
///
/// # Errors
/// As [`super::open::open`], without those about secrets.
pub fn list<S: ReadStore + ?Sized>(store: &S) -> Result<(Vec<SlotInfo>, Vec<Finding>)> {
    let mut findings = Vec::new();
    let slots = slots(store, &mut findings)?;
    let mut infos: Vec<SlotInfo> = slots.into_iter().map(|slot| SlotInfo { id: slot.id, facts: slot.facts }).collect();
    infos.dedup_by_key(|info| info.id);
    Ok((infos, findings))
}

/// Adds a slot. `unlock` is a secret that opens the repository already.
///
/// # Errors
/// As [`super::open::open`], and [`Error::Options`].
pub fn add<S: WriteStore + ?Sized>(
    store: &S,
    unlock: &Secret,
    new: &SlotSecret,
    options: &SlotOptions,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<KeySlotId> {
    check_secret(&new.secret)?;
    let unlocked = unlock_root(store, Some(unlock))?;
    let Some(root) = unlocked.root else {
        return Err(Error::NotEncrypted { location: store.location() });
    };
    let passphrases = slots(store, &mut Vec::new())?.iter().filter(|s| s.facts.kind == SlotKind::Passphrase).count();
    if new.secret.kind() == SlotKind::Passphrase && passphrases >= PASSPHRASE_SLOTS_MAX {
        return Err(Error::Options { reason: "A repository has at most 16 passwords".to_owned() });
    }
    let facts =
        NewSlot { label: new.label.clone(), created_ns: now_ns(clock), host: options.host.clone(), kdf: options.kdf };
    write_slot(store, unlocked.config.repository, &root, &new.secret, facts, random)
}

/// Removes a slot, both copies. Readers that opened the repository before keep their key: a secret that somebody else
/// has copied is not revoked by this.
///
/// # Errors
/// [`Error::NoSuchSlot`], [`Error::LastSlot`], and as [`list`].
pub fn remove<S: DeleteStore + ?Sized>(store: &S, id: KeySlotId) -> Result<()> {
    let location = store.location();
    let whole: BTreeSet<KeySlotId> = slots(store, &mut Vec::new())?.into_iter().map(|slot| slot.id).collect();
    let names = [ObjectName::key(id, 0), ObjectName::key(id, 1)];
    if !whole.contains(&id) {
        // A slot of which no copy is whole opens nothing, so its remains may go.
        let mut removed = false;
        for name in &names {
            removed |= store.delete(name)?;
        }
        return if removed { Ok(()) } else { Err(Error::NoSuchSlot { id, location }) };
    }
    if whole.len() == 1 {
        return Err(Error::LastSlot { id, location });
    }
    for name in &names {
        store.delete(name)?;
    }
    Ok(())
}

/// Changes a password: adds a slot for the new one, then removes the slot that the old one opened. Returns the new
/// slot. An interruption leaves both.
///
/// # Errors
/// As [`add`] and [`remove`]; [`Error::Options`] when either secret is no password.
pub fn change_password<S: DeleteStore + ?Sized>(
    store: &S,
    old: &Secret,
    new: &Secret,
    options: &SlotOptions,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<KeySlotId> {
    if [old, new].iter().any(|secret| secret.kind() != SlotKind::Passphrase) {
        return Err(Error::Options { reason: "Only a password can be changed, and only into a password".to_owned() });
    }
    check_secret(new)?;
    let unlocked = unlock_root(store, Some(old))?;
    let (Some(root), Some(old_slot)) = (unlocked.root, unlocked.slot) else {
        return Err(Error::NotEncrypted { location: store.location() });
    };
    let label = slots(store, &mut Vec::new())?
        .into_iter()
        .find(|slot| slot.id == old_slot)
        .map_or_else(String::new, |slot| slot.facts.label);
    let facts = NewSlot { label, created_ns: now_ns(clock), host: options.host.clone(), kdf: options.kdf };
    let id = write_slot(store, unlocked.config.repository, &root, new, facts, random)?;
    remove(store, old_slot)?;
    Ok(id)
}

/// All whole slots of the repository that the configuration names.
fn slots<S: ReadStore + ?Sized>(store: &S, findings: &mut Vec<Finding>) -> Result<Vec<KeySlot>> {
    let configs = read_config(store, findings)?;
    let mut repositories: Vec<RepositoryId> =
        configs.iter().filter(|(_, c)| c.suite() != Suite::None).map(|(_, c)| c.repository()).collect();
    repositories.dedup();
    let mut all = Vec::new();
    for repository in repositories {
        all.append(&mut read_slots(store, repository, findings)?);
    }
    Ok(all)
}

/// What stands in a recovery kit.
#[derive(Debug)]
pub struct RecoveryKit<'a> {
    /// The repository.
    pub repository: RepositoryId,
    /// Where it is.
    pub location: &'a str,
    /// When the kit was made, as text for people.
    pub created: &'a str,
    /// The program, for example `holdfast 0.1.0`.
    pub created_by: &'a str,
    /// The recovery secret.
    pub secret: &'a Secret,
}

impl RecoveryKit<'_> {
    /// The document to print: plain text, at most 80 columns where the location allows it. The document itself can be
    /// given as a key file.
    ///
    /// # Errors
    /// [`Error::Options`] when the secret is a password, which is never printed.
    pub fn document(&self) -> Result<Zeroizing<String>> {
        let Some(block) = self.secret.to_text() else {
            return Err(Error::Options { reason: "A recovery kit holds a random key, never a password".to_owned() });
        };
        let quoted = shell_quoted(self.location);
        Ok(Zeroizing::new(format!(
            "\
HOLDFAST RECOVERY KIT

Print this page, keep it in a safe place away from the machine, and delete the
file. Whoever has this page and the repository can read every backup in it.

  Repository   {repository}
  Location     {location}
  Made         {created} by {created_by}

The key (capital or small letters, spaces and hyphens do not matter):

{block}
To restore with it:

  1. Install holdfast and bring the repository to the machine.
  2. Save this page, or just the key with its BEGIN and END lines, as kit.txt.
     Typing the key where the password is asked for works as well.
  3. export HOLDFAST_KEY_FILE=kit.txt
     holdfast -r {quoted} snapshots
     holdfast -r {quoted} restore latest --target /tmp/restored

  To set a new password:

     holdfast -r {quoted} key add
",
            repository = self.repository,
            location = self.location,
            created = self.created,
            created_by = self.created_by,
            block = *block,
        )))
    }
}

/// The text as one word for a POSIX shell.
fn shell_quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::{FixedClock, SeededRandom};
    use crate::format::config_object::ChunkerConfig;
    use crate::repository::open::{InitOptions, init, open};
    use crate::storage::memory::MemoryStore;
    use std::sync::{Arc, Mutex};

    fn clock() -> FixedClock {
        FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH))
    }

    fn passphrase(text: &str) -> Secret {
        Secret::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    fn labelled(secret: &Secret) -> SlotSecret {
        SlotSecret { secret: secret.clone(), label: "a label".to_owned() }
    }

    fn slot_options() -> SlotOptions {
        SlotOptions { kdf: KdfCosts::CHEAPEST, host: "h".to_owned() }
    }

    fn repository(random: &SeededRandom, secret: &Secret) -> MemoryStore {
        let store = MemoryStore::new();
        let options = InitOptions {
            suite: Suite::Aes256Gcm,
            secrets: vec![labelled(secret)],
            kdf: KdfCosts::CHEAPEST,
            chunker: ChunkerConfig::DEFAULT,
            pack_bytes_target: 16 << 20,
            host: "h".to_owned(),
            created_by: "holdfast test".to_owned(),
        };
        init(Arc::new(store.clone()), &options, &clock(), random).unwrap();
        store
    }

    fn opens(store: &MemoryStore, secret: &Secret) -> bool {
        open(Arc::new(store.clone()), Some(secret)).is_ok()
    }

    #[test]
    fn slots_come_and_go_and_the_last_one_stays() {
        let random = SeededRandom::new(1);
        let (first, second) = (Secret::new_key_file(&random), Secret::new_recovery(&random));
        let store = repository(&random, &first);
        let (listed, findings) = list(&store).unwrap();
        assert_eq!((listed.len(), findings.len()), (1, 0));
        let old = listed[0].id;
        assert!(matches!(remove(&store, old), Err(Error::LastSlot { .. })));

        let wrong = add(&store, &second, &labelled(&second), &slot_options(), &clock(), &random);
        assert!(matches!(wrong, Err(Error::WrongSecret { .. })));
        let new = add(&store, &first, &labelled(&second), &slot_options(), &clock(), &random).unwrap();
        assert!(opens(&store, &first) && opens(&store, &second));
        assert_eq!(list(&store).unwrap().0.len(), 2);

        remove(&store, old).unwrap();
        assert!(!opens(&store, &first) && opens(&store, &second));
        assert!(matches!(remove(&store, old), Err(Error::NoSuchSlot { .. })));
        assert!(matches!(remove(&store, new), Err(Error::LastSlot { .. })));
        assert_eq!(store.raw_names().iter().filter(|n| n.starts_with("keys/")).count(), 2);
    }

    #[test]
    fn a_damaged_slot_does_not_count_as_another_one() {
        let random = SeededRandom::new(2);
        let (first, second) = (Secret::new_key_file(&random), Secret::new_recovery(&random));
        let store = repository(&random, &first);
        let old = list(&store).unwrap().0[0].id;
        let new = add(&store, &first, &labelled(&second), &slot_options(), &clock(), &random).unwrap();
        for copy in [0, 1] {
            store.raw_replace(ObjectName::key(new, copy).as_str(), b"rubbish".to_vec());
        }
        assert_eq!(list(&store).unwrap().1.len(), 2);
        assert!(matches!(remove(&store, old), Err(Error::LastSlot { .. })));
        // Its remains can be cleared away.
        remove(&store, new).unwrap();
        assert!(list(&store).unwrap().1.is_empty());
    }

    #[test]
    fn passwords_change() {
        let random = SeededRandom::new(3);
        let (old, new) = (passphrase("old"), passphrase("new"));
        let store = repository(&random, &old);
        let change = |from: &Secret, to: &Secret| change_password(&store, from, to, &slot_options(), &clock(), &random);
        assert!(matches!(change(&passphrase("other"), &new), Err(Error::WrongSecret { .. })));
        assert!(matches!(change(&old, &passphrase("")), Err(Error::Options { .. })));
        assert!(matches!(change(&old, &Secret::new_recovery(&random)), Err(Error::Options { .. })));
        assert!(opens(&store, &old));
        let id = change(&old, &new).unwrap();
        assert!(!opens(&store, &old) && opens(&store, &new));
        let (listed, findings) = list(&store).unwrap();
        assert!(findings.is_empty());
        assert_eq!(listed.iter().map(|i| (i.id, i.facts.label.as_str())).collect::<Vec<_>>(), [(id, "a label")]);
    }

    #[test]
    fn the_number_of_passwords_is_bounded() {
        let random = SeededRandom::new(4);
        let key = Secret::new_key_file(&random);
        let store = repository(&random, &key);
        for n in 0..PASSPHRASE_SLOTS_MAX {
            let new = labelled(&passphrase(&format!("p{n}")));
            add(&store, &key, &new, &slot_options(), &clock(), &random).unwrap();
        }
        let one_more = labelled(&passphrase("one more"));
        let refused = add(&store, &key, &one_more, &slot_options(), &clock(), &random);
        assert!(matches!(refused, Err(Error::Options { .. })));
        assert!(opens(&store, &key));
    }

    #[test]
    fn the_kit_can_be_used_as_it_is_printed() {
        let random = SeededRandom::new(5);
        let (first, recovery) = (Secret::new_key_file(&random), Secret::new_recovery(&random));
        let store = repository(&random, &first);
        add(&store, &first, &labelled(&recovery), &slot_options(), &clock(), &random).unwrap();
        let kit = RecoveryKit {
            repository: RepositoryId([0xab; 16]),
            location: "/srv/it's here",
            created: "2026-11-20 14:00",
            created_by: "holdfast 0.1.0",
            secret: &recovery,
        };
        let document = kit.document().unwrap();
        assert!(opens(&store, &Secret::from_key_file(document.as_bytes()).unwrap()));
        assert!(document.contains(r"holdfast -r '/srv/it'\''s here' restore latest --target"), "{}", *document);
        assert!(document.contains(&"ab".repeat(16)));
        assert!(document.lines().all(|line| line.len() <= 80), "{}", *document);
        assert!(RecoveryKit { secret: &passphrase("x"), ..kit }.document().is_err());
    }
}
