//! Errors of the rooms below become failures here: exit code, stable message id, and what to do next.
//!
//! Every kind of error has its line; there is no catch-all, so that a new kind of error is given a place on purpose.

use super::exit_code::ExitCode;
use super::failure::Failure;
use crate::format;
use crate::ops::cancel::Cancelled;
use crate::repository;
use crate::repository::error::RepoError;
use crate::source::SourceError;
use crate::source::postgres::connect::ConnectError;
use crate::storage::{self, ErrorKind};
use crate::target::{database, files, replace};
use std::io;

/// The hint for every failure that means damage.
const VERIFY: &str = "run `holdfast verify --read-data` to see everything that is affected; change nothing before";

impl From<Cancelled> for Failure {
    fn from(_: Cancelled) -> Self {
        // SIGTERM's own code is put in at the end of the run.
        Self::interrupted(ExitCode::Interrupted)
    }
}

impl From<storage::Error> for Failure {
    fn from(error: storage::Error) -> Self {
        let of = |exit, id| Self::from_error(exit, id, &error);
        match error.kind {
            ErrorKind::NotFound => of(ExitCode::Damaged, "object.missing").hint(VERIFY),
            ErrorKind::Size => of(ExitCode::Damaged, "object.damaged").hint(VERIFY),
            ErrorKind::AlreadyExists => of(ExitCode::Refused, "object.exists"),
            ErrorKind::NoSpace => of(ExitCode::NoSpace, "storage.no_space").hint(format!(
                "free space for {} and run the command again; what is stored is unharmed",
                error.location
            )),
            ErrorKind::Refused => of(ExitCode::StorageUnavailable, "storage.refused")
                .hint(format!("check who owns {} and whether it is mounted read-only", error.location)),
            ErrorKind::Fenced => of(ExitCode::Locked, "session.fenced")
                .hint("another process took this run for dead and a prune went on without it; run the backup again"),
            ErrorKind::Unsuitable => of(ExitCode::StorageUnavailable, "storage.unsuitable")
                .hint("put the repository on a local file system such as ext4, xfs or btrfs"),
            ErrorKind::Other => of(ExitCode::StorageUnavailable, "storage.failed")
                .hint(format!("check that {} is mounted and its disk is healthy, then try again", error.location)),
        }
    }
}

impl From<format::Error> for Failure {
    fn from(error: format::Error) -> Self {
        let (exit, id) = match error {
            format::Error::Damaged { .. } => (ExitCode::Damaged, "object.damaged"),
            format::Error::NewerVersion { .. }
            | format::Error::UnknownFeatures { .. }
            | format::Error::WriterParameters { .. } => (ExitCode::Refused, "repository.newer"),
            format::Error::OutOfMemory { .. } => (ExitCode::Failed, "memory"),
        };
        Self::from_error(exit, id, &error).hint(match exit {
            ExitCode::Damaged => VERIFY,
            ExitCode::Refused => "install the newest holdfast; nothing was touched",
            _ => "free some memory and try again",
        })
    }
}

impl From<repository::Error> for Failure {
    fn from(error: repository::Error) -> Self {
        use repository::Error;
        let of = |exit, id| Self::from_error(exit, id, &error);
        match &error {
            Error::NoRepository { .. } => of(ExitCode::NoRepository, "repository.none")
                .hint("run `holdfast init` to make one, or name another place with -r DIR or HOLDFAST_REPOSITORY"),
            Error::Unfinished { .. } => of(ExitCode::NoRepository, "repository.unfinished")
                .hint("run `holdfast init` again: nothing is in it, and what the first one wrote is replaced"),
            Error::AlreadyInitialised { .. } => of(ExitCode::Refused, "repository.exists")
                .hint("use it as it is, or name another directory with -r DIR; nothing was touched"),
            Error::WrongSecret { kind, .. } => of(ExitCode::WrongSecret, "password.wrong")
                .hint(format!("check the {kind} and, with `holdfast config show`, where it comes from"))
                .hint("`holdfast key list` shows the key slots; the recovery kit opens the repository too"),
            Error::SecretNeeded { .. } => of(ExitCode::WrongSecret, "password.missing")
                .hint("give --password-file or --key-file, or set HOLDFAST_PASSWORD_FILE"),
            Error::NotEncrypted { .. } => of(ExitCode::WrongSecret, "repository.not_encrypted")
                .hint("if it is meant to be open to everyone, give no password and no key")
                .hint("if it was encrypted once, somebody may have replaced it"),
            Error::NewerVersion { .. } => {
                of(ExitCode::Refused, "repository.newer").hint("install the newest holdfast; nothing was touched")
            }
            Error::Damaged { .. } => of(ExitCode::Damaged, "repository.damaged").hint(VERIFY),
            Error::OutOfMemory { .. } => of(ExitCode::Failed, "memory").hint("free some memory and try again"),
            Error::Options { .. } => of(ExitCode::Usage, "repository.options"),
            Error::NoSuchSlot { .. } => {
                of(ExitCode::Usage, "key.unknown").hint("run `holdfast key list` to see what there is")
            }
            Error::LastSlot { .. } => of(ExitCode::Refused, "key.last")
                .hint("add another key with `holdfast key add` first; nothing was changed"),
            Error::Storage(_) => match error {
                Error::Storage(storage) => Self::from(storage),
                _ => of(ExitCode::StorageUnavailable, "storage.failed"),
            },
        }
    }
}

impl From<RepoError> for Failure {
    fn from(error: RepoError) -> Self {
        let of = |exit, id| Self::from_error(exit, id, &error);
        match &error {
            RepoError::Storage(_) => match error {
                RepoError::Storage(storage) => Self::from(storage),
                _ => of(ExitCode::StorageUnavailable, "storage.failed"),
            },
            RepoError::Damaged { .. } => of(ExitCode::Damaged, "object.damaged").hint(VERIFY),
            RepoError::Missing { .. } | RepoError::PackGone { .. } => {
                of(ExitCode::Damaged, "object.missing").hint(VERIFY)
            }
            RepoError::Format {
                source: format::Error::NewerVersion { .. } | format::Error::UnknownFeatures { .. },
                ..
            } => of(ExitCode::Refused, "repository.newer").hint("install the newest holdfast; nothing was touched"),
            RepoError::Format { .. } => of(ExitCode::Damaged, "object.damaged").hint(VERIFY),
            RepoError::ProofFailed { .. } => of(ExitCode::Damaged, "proof.failed").hint(
                "nothing was committed; run the backup again, and if it happens again test the memory and the disk",
            ),
            RepoError::Cache { source, .. } => {
                let exit = if is_no_space(source) { ExitCode::NoSpace } else { ExitCode::Failed };
                of(exit, "cache.unusable").hint("the cache can be deleted at any time, or moved with --cache-dir DIR")
            }
            RepoError::Newer { .. } => {
                of(ExitCode::Refused, "repository.newer").hint("install the newest holdfast; nothing was touched")
            }
            RepoError::Limit { .. } => of(ExitCode::Failed, "format.limit"),
            RepoError::ActTaken { .. } => {
                of(ExitCode::Locked, "act.taken").hint("wait until it is over; `holdfast history` shows how far it is")
            }
            RepoError::Interrupted => Self::interrupted(ExitCode::Interrupted),
        }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let of = |id| Self::from_error(ExitCode::NoSource, id, &error);
        match &error {
            SourceError::Path { source, .. } if is_no_space(source) => {
                Self::from_error(ExitCode::NoSpace, "source.no_space", &error)
                    .hint("free space there, or set TMPDIR to another place")
            }
            SourceError::Path { .. } => of("source.path").hint("check the path and who may read it"),
            SourceError::Unreachable { .. } => {
                of("source.unreachable").hint("check that the server runs, its address, and the user's rights")
            }
            SourceError::Client { hint, .. } => {
                let failure = of("source.client");
                if hint.is_empty() { failure } else { failure.hint(hint.clone()) }
            }
            SourceError::Failed { program, stderr, .. } => with_lines(of("source.failed"), stderr)
                .hint(format!("find out with {program} itself what it lacks, then run the backup again")),
            SourceError::Content { .. } => of("source.content").hint("check what writes it, then run the backup again"),
            SourceError::Empty { .. } => of("source.empty")
                .hint("check what writes it, then run the backup again; where empty is right, say --allow-empty"),
            SourceError::Interrupted => Self::interrupted(ExitCode::Interrupted),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let exit = match error {
            ConnectError::Syntax { .. } | ConnectError::Keyword { .. } | ConnectError::Value { .. } => ExitCode::Usage,
            ConnectError::Service { .. } => ExitCode::NoSource,
        };
        Self::from_error(exit, "postgres.connection", &error)
    }
}

impl From<database::TargetError> for Failure {
    fn from(error: database::TargetError) -> Self {
        use database::TargetError;
        let of = |exit, id| Self::from_error(exit, id, &error);
        let rolled_back = |removed: bool| if removed { ExitCode::RolledBack } else { ExitCode::NotRolledBack };
        let what_is_left = |removed: bool, target: &str| match removed {
            true => format!("nothing of the restore is left in {target}"),
            false => format!("{target} holds a part of the restore: remove it before you try again"),
        };
        match &error {
            TargetError::Exists { .. } => of(ExitCode::Refused, "target.exists")
                .hint("name another one, or remove it yourself; nothing was touched"),
            TargetError::OlderServer { .. } => of(ExitCode::Refused, "target.older_server")
                .hint("restore it on a server of that version or a later one; nothing was touched"),
            TargetError::Client(_) => match error {
                // The server restored into could not be used: nothing was touched.
                TargetError::Client(source) => Self::from(source),
                _ => of(ExitCode::NoSource, "target.client"),
            },
            TargetError::Path { source, .. } if is_no_space(source) => {
                of(ExitCode::NoSpace, "target.no_space").hint("free space there and run the restore again")
            }
            TargetError::Path { operation: "create a file in", .. } => of(ExitCode::Refused, "target.path")
                .hint("name a place in a directory that exists and that this user can write; nothing was touched"),
            TargetError::Path { .. } => of(ExitCode::RolledBack, "target.path"),
            TargetError::Server { operation: "create database", removed: true, .. } => {
                of(ExitCode::Refused, "target.server").hint("nothing was touched")
            }
            TargetError::Server { target, removed, .. } => {
                of(rolled_back(*removed), "target.server").hint(what_is_left(*removed, target))
            }
            TargetError::Failed { target, removed, stderr, .. } => {
                with_lines(of(rolled_back(*removed), "target.failed"), stderr).hint(what_is_left(*removed, target))
            }
            TargetError::Undone { stderr, .. } => with_lines(of(ExitCode::RolledBack, "target.undone"), stderr),
            TargetError::Content { .. } => of(ExitCode::Damaged, "target.content").hint(VERIFY),
        }
    }
}

impl From<files::TargetError> for Failure {
    fn from(error: files::TargetError) -> Self {
        use files::TargetError;
        let of = |exit, id| Self::from_error(exit, id, &error);
        match &error {
            TargetError::TargetNotEmpty { .. } => of(ExitCode::Refused, "target.not_empty")
                .hint("name a new or empty directory; nothing was touched")
                .hint("or say with --overwrite what becomes of the files that are there"),
            TargetError::NoSpace { .. } => of(ExitCode::NoSpace, "target.no_space")
                .hint("free space there, remove what was restored, and run the restore again"),
            TargetError::UnsafePath { .. } => of(ExitCode::Damaged, "target.unsafe_path")
                .hint("no snapshot that holdfast wrote holds such a path; run `holdfast verify --read-data`"),
            TargetError::Content { .. } => of(ExitCode::Damaged, "target.content").hint(VERIFY),
            TargetError::Io { .. } => of(ExitCode::NotRolledBack, "target.failed")
                .hint("what was restored so far stays there; remove it and try again"),
        }
    }
}

impl From<replace::Error> for Failure {
    fn from(error: replace::Error) -> Self {
        use replace::Error;
        let of = |exit, id| Self::from_error(exit, id, &error);
        match &error {
            Error::Busy { by, .. } => {
                let failure = of(ExitCode::Refused, "replace.busy");
                by.iter().fold(failure, |failure, line| failure.cause(line.clone())).hint("stop what uses it, then run the command again")
            }
            Error::NothingStaged { .. } => of(ExitCode::Failed, "replace.nothing_staged").hint("run the restore again"),
            Error::InUse { .. } => of(ExitCode::Refused, "replace.in_use"),
            Error::Unexpected { .. } => of(ExitCode::NotRolledBack, "replace.unexpected")
                .hint("look at the names beside the place: what belongs to the restore has `holdfast-` in its name; move nothing that is older than it"),
            Error::MountPoint { .. } => of(ExitCode::Refused, "replace.mount_point")
                .hint("restore with --target and --overwrite: files are replaced one by one then"),
            Error::Unsuitable { .. } => of(ExitCode::Refused, "replace.unsuitable"),
            Error::Content { .. } => of(ExitCode::Damaged, "target.content").hint(VERIFY),
            Error::NoSpace { .. } => of(ExitCode::NoSpace, "target.no_space").hint("free space there and run the restore again"),
            Error::Io { .. } => of(ExitCode::NotRolledBack, "replace.failed")
                .hint("run the command again: it goes on, or goes back, from where it stopped"),
            Error::Server { .. } => of(ExitCode::NotRolledBack, "target.server")
                .hint("run the command again: it goes on, or goes back, from where it stopped"),
            Error::Client(_) => match error {
                Error::Client(source) => Self::from(source),
                _ => of(ExitCode::NoSource, "target.client"),
            },
        }
    }
}

/// A full disk, a quota, or a limit on the size of files.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// A file of the user's that cannot be written (a report, a key file, manual pages).
pub(crate) fn file_failure(operation: &str, path: &std::path::Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        _ if is_no_space(error) => ExitCode::NoSpace,
        io::ErrorKind::AlreadyExists => ExitCode::Refused,
        _ => ExitCode::Failed,
    };
    Failure::new(exit, "file", format!("Cannot {operation} {}", path.display())).caused_by(error)
}

/// Adds the last lines that a program wrote.
fn with_lines(mut failure: Failure, stderr: &str) -> Failure {
    failure.causes.extend(stderr.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned));
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage_error(kind: ErrorKind) -> storage::Error {
        let (name, location) = ("packs/ab/x".to_owned(), "/repo".to_owned());
        storage::Error { kind, operation: "write", name, location, source: None }
    }

    #[test]
    fn storage_errors_have_the_codes_of_the_conventions() {
        for (kind, code) in [
            (ErrorKind::NotFound, 13),
            (ErrorKind::Size, 13),
            (ErrorKind::AlreadyExists, 24),
            (ErrorKind::NoSpace, 16),
            (ErrorKind::Refused, 15),
            (ErrorKind::Unsuitable, 15),
            (ErrorKind::Other, 15),
            (ErrorKind::Fenced, 11),
        ] {
            // The same however deep it comes from.
            let direct = Failure::from(storage_error(kind));
            assert_eq!(direct.exit.code(), code, "{kind:?}");
            assert_eq!(direct.message, "Cannot write packs/ab/x in /repo");
            assert_eq!(Failure::from(RepoError::Storage(storage_error(kind))), direct);
            assert_eq!(Failure::from(repository::Error::Storage(storage_error(kind))), direct);
        }
    }

    #[test]
    fn a_target_that_is_left_half_done_says_so() {
        let failed = |removed| database::TargetError::Failed {
            program: "pg_restore".to_owned(),
            outcome: "exited with status 1".to_owned(),
            stderr: "one\n\ntwo\n".to_owned(),
            target: "postgres://h/copy".to_owned(),
            removed,
        };
        let (clean, dirty) = (Failure::from(failed(true)), Failure::from(failed(false)));
        assert_eq!((clean.exit.code(), dirty.exit.code()), (21, 22));
        assert_eq!(clean.causes, ["one", "two"]);
        assert!(dirty.hints[0].contains("remove it"), "{dirty:?}");
    }

    #[test]
    fn a_full_disk_is_told_apart_everywhere() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let source = SourceError::Path { operation: "write", path: "/tmp/x".into(), source: full() };
        assert_eq!(Failure::from(source).exit, ExitCode::NoSpace);
        let cache = RepoError::Cache { path: "/cache".to_owned(), source: full() };
        assert_eq!(Failure::from(cache).exit, ExitCode::NoSpace);
        let target = database::TargetError::Path { operation: "write", path: "/x".into(), source: full() };
        assert_eq!(Failure::from(target).exit, ExitCode::NoSpace);
        assert_eq!(file_failure("write", "/x".as_ref(), &full()).exit, ExitCode::NoSpace);
    }
}
