//! `key`: list, add, remove and replace key slots.

use super::init::{labelled, new_key_file, new_secret, write_kit};
use super::secret_file::SecretFile;
use crate::cli::args::key::{KeyArgs, KeyCommand, NewKeyArgs};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::opening;
use crate::cli::output::Column;
use crate::cli::settings::{Origin, SecretRef, TerminalPrompt, UnlockFrom, Valued, fetch_new};
use crate::domain::id::KeySlotId;
use crate::domain::time_spec::format_local;
use crate::format::key_slot::{KdfCosts, Secret, SlotKind};
use crate::format::seal::Suite;
use crate::repository::keys::{self, SlotOptions};
use crate::repository::open::OpenRepository;
use crate::storage::local::LocalStore;
use crate::storage::{ObjectKind, ReadStore};
use serde_json::json;
use std::collections::BTreeSet;

/// Manages key slots.
pub(crate) fn run(invocation: &Invocation, args: &KeyArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        KeyCommand::List => list(invocation),
        KeyCommand::Add(new) => add(invocation, new, false),
        KeyCommand::Passwd(new) => add(invocation, new, true),
        KeyCommand::Remove { id } => remove(invocation, id),
    }
}

/// Lists the slots. Needs no password: what a slot says about itself is not secret.
fn list(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let store = opening::locate(invocation)?;
    let (slots, findings) = keys::list(&store)?;
    let output = &invocation.output;
    if invocation.global.json {
        let slots: Vec<_> = slots
            .iter()
            .map(|slot| {
                json!({
                    "id": slot.id.hex(),
                    "kind": slot.facts.kind.as_str(),
                    "label": slot.facts.label,
                    "created": json::time(slot.facts.created_ns),
                    "host": slot.facts.host,
                })
            })
            .collect();
        output.json(Kind::Result, &json!({ "keys": slots }));
    } else if slots.is_empty() {
        output.note("key.none", "the repository is not encrypted and has no keys");
    } else {
        let columns = ["ID", "Kind", "Made", "Label"].map(Column::text);
        let zone = &invocation.environment.time_zone;
        let rows: Vec<Vec<String>> = slots
            .iter()
            .map(|slot| {
                let facts = &slot.facts;
                let made = format_local(facts.created_ns, zone);
                vec![slot.id.short(), facts.kind.as_str().to_owned(), made, facts.label.clone()]
            })
            .collect();
        output.table(&columns, &rows);
    }
    opening::conclude(invocation, findings.iter().map(opening::describe).collect(), ExitCode::Success)
}

/// Adds a slot; with `replace` the slot that opened the repository goes when the new one is there.
fn add(invocation: &Invocation, new: &NewKeyArgs, replace: bool) -> Result<ExitCode, Failure> {
    let (repository, unlock) = opening::unlock(invocation, opening::locate(invocation)?)?;
    let (Some(unlock), Suite::Aes256Gcm) = (unlock, repository.config.suite) else {
        return Err(Failure::new(
            ExitCode::Refused,
            "key.not_encrypted",
            "The repository is not encrypted, so it has no keys",
        )
        .hint("encryption is chosen when a repository is made; make a new one with `holdfast init`"));
    };
    if invocation.global.dry_run {
        let what = if replace { "replace the key that opened the repository" } else { "add a key" };
        invocation.output.note("key.would", &format!("would {what}"));
        return Ok(ExitCode::Success);
    }
    let made = make(invocation, new)?;
    let slot = store_slot(invocation, &repository, &unlock, &made.secret, replace)?;
    let output = &invocation.output;
    match (made.file, made.is_kit) {
        (Some(file), true) => {
            if let Err(failure) = write_kit(invocation, file, &repository, &made.secret) {
                // Nobody has the key of that slot.
                return Err(match keys::remove(&*repository.store, slot) {
                    Ok(()) => failure.hint("the new key was removed again"),
                    Err(error) => {
                        failure.caused_by(&error).hint(format!("remove it: holdfast key remove {}", slot.short()))
                    }
                });
            }
        }
        (Some(file), false) => {
            output.note("key.file", &format!("the key is in {}: keep a copy elsewhere", file.keep().display()));
        }
        (None, _) => {}
    }
    match invocation.global.json {
        true => output.json(Kind::Result, &json!({ "id": slot.hex(), "kind": made.secret.kind().as_str() })),
        false => output.line(&slot.hex()),
    }
    opening::conclude(invocation, repository.findings.iter().map(opening::describe).collect(), ExitCode::Success)
}

fn store_slot(
    invocation: &Invocation,
    repository: &OpenRepository<LocalStore>,
    unlock: &Secret,
    new: &Secret,
    replace: bool,
) -> Result<KeySlotId, Failure> {
    let options = SlotOptions { kdf: KdfCosts::DEFAULT, host: invocation.environment.host.clone() };
    let (clock, random) = (&invocation.clock, &invocation.random);
    let store = &*repository.store;
    let both_passwords = [unlock, new].iter().all(|secret| secret.kind() == SlotKind::Passphrase);
    if replace && both_passwords {
        return Ok(keys::change_password(store, unlock, new, &options, clock, random)?);
    }
    let slot = keys::add(store, unlock, &labelled(invocation, new.clone()), &options, clock, random)?;
    if let (true, Some(old)) = (replace, repository.slot) {
        keys::remove(store, old)?;
    }
    Ok(slot)
}

/// A new secret, and the file that it is kept in, if any.
struct NewKey {
    secret: Secret,
    file: Option<SecretFile>,
    is_kit: bool,
}

fn make(invocation: &Invocation, new: &NewKeyArgs) -> Result<NewKey, Failure> {
    let directory = &invocation.environment.directory;
    if let Some(path) = &new.new_key_file {
        let (file, secret) = new_key_file(invocation, path)?;
        return Ok(NewKey { secret, file: Some(file), is_kit: false });
    }
    if let Some(path) = &new.recovery_kit {
        let file = SecretFile::create(&directory.join(path))?;
        return Ok(NewKey { secret: Secret::new_recovery(&invocation.random), file: Some(file), is_kit: true });
    }
    let from = new.new_password_file.as_ref().map(|path| Valued {
        value: UnlockFrom::Password(SecretRef::File(directory.join(path))),
        origin: Origin::Flag("--new-password-file"),
    });
    let no_input = invocation.global.no_input;
    let unlock =
        fetch_new(from.as_ref(), &invocation.environment, no_input, &mut TerminalPrompt).map_err(|failure| {
            // The general hints are about the password that opens the repository.
            let hint = "give --new-password-file, --new-key-file or --recovery-kit";
            if failure.id == "password.missing" { Failure { hints: vec![hint.to_owned()], ..failure } } else { failure }
        })?;
    Ok(NewKey { secret: new_secret(&unlock)?, file: None, is_kit: false })
}

/// Removes a slot. Needs no password, as whoever may delete files can do the same; but it asks.
fn remove(invocation: &Invocation, text: &str) -> Result<ExitCode, Failure> {
    let store = opening::locate(invocation)?;
    let (slots, _) = keys::list(&store)?;
    let slot = find_slot(&store, text)?;
    let label = slots.iter().find(|known| known.id == slot).map(|known| &known.facts);
    let described = label.map(|facts| format!(" ({}, {})", facts.kind.as_str(), facts.label)).unwrap_or_default();
    if invocation.global.dry_run {
        invocation.output.note("key.would", &format!("would remove key slot {}{described}", slot.short()));
        return Ok(ExitCode::Success);
    }
    invocation.confirm(&format!("Remove key slot {}{described}?", slot.short()))?;
    keys::remove(&store, slot)?;
    invocation.output.note("key.removed", &format!("removed key slot {}{described}", slot.short()));
    if invocation.global.json {
        invocation.output.json(Kind::Result, &json!({ "id": slot.hex() }));
    }
    Ok(ExitCode::Success)
}

/// The slot whose id begins with the text, damaged ones included.
fn find_slot(store: &LocalStore, text: &str) -> Result<KeySlotId, Failure> {
    let wanted = text.to_ascii_lowercase();
    let mut found: BTreeSet<KeySlotId> = BTreeSet::new();
    for info in store.list(ObjectKind::Key)? {
        let name = info.name.as_str().strip_prefix("keys/").unwrap_or_default();
        let id = KeySlotId::parse(name.strip_suffix(".copy").unwrap_or(name));
        found.extend(id.ok().filter(|id| !wanted.is_empty() && id.hex().starts_with(&wanted)));
    }
    let mut ids = found.iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) => Ok(*id),
        (None, _) => Err(Failure::usage("key.unknown", format!("No key slot's id begins with '{text}'"))
            .hint("run `holdfast key list` to see what there is")),
        (Some(_), Some(_)) => {
            let failure =
                Failure::usage("key.ambiguous", format!("'{text}' is the beginning of {} key slot ids", found.len()));
            Err(failure.hint("give more digits"))
        }
    }
}
