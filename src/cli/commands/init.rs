//! `init`: makes a repository, its keys, and on request a recovery kit.
//!
//! Order: files that hold keys are made before the repository that needs them, so that there is never a repository
//! whose key was lost on the way; what was made for nothing is removed again.

use super::secret_file::SecretFile;
use crate::cli::args::init::InitArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening;
use crate::cli::settings::{self, TerminalPrompt, Unlock};
use crate::domain::system::Clock;
use crate::domain::time_spec::{format_local, timestamp_ns};
use crate::format::config_object::ChunkerConfig;
use crate::format::key_slot::{KdfCosts, Secret, SlotKind};
use crate::format::seal::Suite;
use crate::repository;
use crate::repository::keys::RecoveryKit;
use crate::repository::open::{self, InitOptions, OpenRepository, SlotSecret};
use crate::storage::local::LocalStore;
use crate::storage::{ErrorKind, ReadStore};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where writers close a pack.
const PACK_BYTES_TARGET: u32 = 16 << 20;

/// Makes a repository and says where it is.
pub(crate) fn run(invocation: &Invocation, args: &InitArgs) -> Result<ExitCode, Failure> {
    if invocation.global.dry_run {
        return dry_run(invocation);
    }
    let repository = make(invocation, args)?;
    let config = &repository.config;
    if invocation.global.json {
        let body = json!({
            "repository_id": config.repository.hex(),
            "location": repository.store.location(),
            "encrypted": config.suite != Suite::None,
        });
        invocation.output.json(Kind::Result, &body);
    } else {
        invocation.output.line(&config.repository.hex());
    }
    Ok(ExitCode::Success)
}

fn dry_run(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let path = &invocation.settings()?.repository.value;
    refuse_existing(path)?;
    invocation.output.note("init.would", &format!("would make a repository in {}", path.display()));
    Ok(ExitCode::Success)
}

/// Makes the repository that the settings name.
///
/// # Errors
/// Exit codes 2, 12, 15, 16, 24.
pub(crate) fn make(invocation: &Invocation, args: &InitArgs) -> Result<OpenRepository<LocalStore>, Failure> {
    let settings = invocation.settings()?;
    let path = &settings.repository.value;
    // Before a password is asked for.
    refuse_existing(path)?;
    let mut key_file = None;
    let mut kit_file = None;
    let mut secrets = Vec::new();
    if args.insecure_no_encryption {
        if settings.unlock.is_some() {
            let message = "A password or key is set, and --insecure-no-encryption makes no use of it";
            return Err(Failure::usage("init.conflict", message)
                .hint("leave out one of the two; `holdfast config show` says where the password is set"));
        }
    } else {
        match &args.new_key_file {
            Some(path) => {
                let (file, secret) = new_key_file(invocation, path)?;
                key_file = Some(file);
                secrets.push(labelled(invocation, secret));
            }
            None => secrets.push(labelled(invocation, first_secret(invocation)?)),
        }
        if let Some(path) = kit_path(invocation, args)? {
            kit_file = Some(SecretFile::create(&path)?);
            secrets.push(labelled(invocation, Secret::new_recovery(&invocation.random)));
        }
    }
    let repository = create(invocation, path, secrets.clone())?;
    let output = &invocation.output;
    let location = repository.store.location();
    output.note("init.made", &format!("made repository {} in {location}", repository.config.repository.short()));
    if let Some(file) = key_file {
        output.note("init.key_file", &format!("the key is in {}: keep a copy elsewhere", file.keep().display()));
    }
    if let (Some(file), Some(secret)) = (kit_file, secrets.last()) {
        write_kit(invocation, file, &repository, &secret.secret)?;
    }
    match repository.config.suite {
        Suite::None => {
            output.warning("init.no_encryption", None, "", "it is not encrypted: whoever reads it reads the data")
        }
        Suite::Aes256Gcm if secrets.len() == 1 => output.note(
            "init.one_key",
            "without its password or key nobody can read it; `holdfast key add --recovery-kit FILE` makes a second one",
        ),
        Suite::Aes256Gcm => {}
    }
    Ok(repository)
}

/// Writes the recovery kit of a new slot.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_kit(
    invocation: &Invocation,
    file: SecretFile,
    repository: &OpenRepository<LocalStore>,
    secret: &Secret,
) -> Result<(), Failure> {
    let location = repository.store.location();
    let created = format_local(timestamp_ns(invocation.clock.now()), &invocation.environment.time_zone);
    let program = Invocation::program();
    let kit = RecoveryKit {
        repository: repository.config.repository,
        location: &location,
        created: &created,
        created_by: &program,
        secret,
    };
    let path = file.write(kit.document()?.as_bytes())?.keep();
    invocation.output.note(
        "recovery_kit.written",
        &format!("the recovery kit is in {}: print it, keep it elsewhere, delete the file", path.display()),
    );
    Ok(())
}

/// A fresh key file on disk; it goes away again when it is not kept.
///
/// # Errors
/// When it exists or cannot be written.
pub(crate) fn new_key_file(invocation: &Invocation, path: &Path) -> Result<(SecretFile, Secret), Failure> {
    let secret = Secret::new_key_file(&invocation.random);
    let file = SecretFile::create(&invocation.environment.directory.join(path))?;
    let file = match secret.to_text() {
        Some(text) => file.write(text.as_bytes())?,
        None => file,
    };
    Ok((file, secret))
}

/// Asks for a new password, or takes what the settings name.
fn first_secret(invocation: &Invocation) -> Result<Secret, Failure> {
    let settings = invocation.settings()?;
    let (environment, no_input) = (&invocation.environment, invocation.global.no_input);
    let unlock = settings::fetch_new(settings.unlock.as_ref(), environment, no_input, &mut TerminalPrompt)?;
    new_secret(&unlock)
}

/// The secret of a new slot.
///
/// # Errors
/// Exit code 2 for a password that would be taken for a recovery key later; 12 for a key file that is none.
pub(crate) fn new_secret(unlock: &Unlock) -> Result<Secret, Failure> {
    let secret = opening::to_secret(unlock)?;
    if matches!(unlock, Unlock::Password(_)) && secret.kind() != SlotKind::Passphrase {
        let message = "The new password is a recovery key, and would be taken for one when it is typed";
        return Err(Failure::usage("password.recovery_key", message).hint("choose another password"));
    }
    Ok(secret)
}

/// A secret with a label that tells its owner where it comes from.
pub(crate) fn labelled(invocation: &Invocation, secret: Secret) -> SlotSecret {
    let environment = &invocation.environment;
    SlotSecret { secret, label: format!("{}@{}", environment.user, environment.host) }
}

/// Where the recovery kit goes; on a terminal it is offered.
fn kit_path(invocation: &Invocation, args: &InitArgs) -> Result<Option<PathBuf>, Failure> {
    let directory = &invocation.environment.directory;
    if let Some(path) = &args.recovery_kit {
        return Ok(Some(directory.join(path)));
    }
    if args.no_recovery_kit || invocation.global.yes || !invocation.may_ask() {
        return Ok(None);
    }
    let question = "A recovery kit is a second, printable key with the commands that restore.\n\
                    File to write it to (empty: none): ";
    // Line by line: the terminal's control characters are escaped within one question.
    let mut answer = String::new();
    for line in question.lines() {
        match line.strip_suffix(": ") {
            Some(_) => answer = invocation.ask(line)?,
            None => invocation.output.note("recovery_kit.offer", line),
        }
    }
    Ok((!answer.is_empty()).then(|| invocation.environment.expand_path(&answer, directory)))
}

/// Refuses a place that holds a repository.
fn refuse_existing(path: &Path) -> Result<(), Failure> {
    match LocalStore::open(path) {
        Ok(store) if open::is_initialised(&store)? => {
            Err(repository::Error::AlreadyInitialised { location: store.location() }.into())
        }
        Err(error) if error.kind != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn create(
    invocation: &Invocation,
    path: &Path,
    secrets: Vec<SlotSecret>,
) -> Result<OpenRepository<LocalStore>, Failure> {
    let options = InitOptions {
        suite: if secrets.is_empty() { Suite::None } else { Suite::Aes256Gcm },
        secrets,
        kdf: KdfCosts::DEFAULT,
        chunker: ChunkerConfig::DEFAULT,
        pack_bytes_target: PACK_BYTES_TARGET,
        host: invocation.environment.host.clone(),
        created_by: Invocation::program(),
    };
    let store = LocalStore::create(path).map_err(|error| match error.kind {
        ErrorKind::AlreadyExists => Failure::from_error(ExitCode::Refused, "init.not_empty", &error)
            .hint("name a new or empty directory with -r DIR; nothing was touched"),
        _ => Failure::from(error),
    })?;
    Ok(open::init(Arc::new(store), &options, &invocation.clock, &invocation.random)?)
}
