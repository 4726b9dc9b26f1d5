//! What a guard has done for it, with the sources of the configuration: looked at, saved, verified, put back.

use super::net;
use super::net::Net;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::opening::{self, Listing, ReadingRepository};
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::{Snapshot, SourceKind};
use crate::domain::system::Clock;
use crate::domain::time_spec::timestamp_ns;
use crate::domain::units::format_age;
use crate::ops::cancel::Cancel;
use crate::ops::guard::{self, Covered, Hands, NotBack, Plan, Unfit, UnfitKind};
use crate::ops::in_place::{self, Context, Direction, Item, Place, Purpose, Request};
use crate::ops::verify::{self, VerifyOptions, VerifyReport, VerifyScope};
use crate::repository::snapshots::LoadedSnapshot;
use crate::source::postgres::server;
use std::path::PathBuf;
use std::time::Duration;

/// The hands of the guards of one run.
pub(super) struct ConfiguredHands<'i> {
    pub(super) invocation: &'i Invocation,
    pub(super) listing: &'i Listing,
    /// Production needs no fresh snapshot: somebody said so.
    pub(super) i_know: bool,
}

/// A failure as the guard has it.
fn unfit(failure: Failure) -> Unfit {
    let kind = match failure.exit {
        ExitCode::Damaged => UnfitKind::Damaged,
        ExitCode::GuardClosed => UnfitKind::Closed,
        ExitCode::NoSpace => UnfitKind::NoSpace,
        ExitCode::Locked => UnfitKind::Locked,
        ExitCode::DrillFailed => UnfitKind::Unproved,
        ExitCode::Interrupted | ExitCode::Terminated => UnfitKind::Interrupted,
        ExitCode::NoSource | ExitCode::Usage | ExitCode::Refused => UnfitKind::Source,
        _ => UnfitKind::Repository,
    };
    Unfit { kind, message: failure.message, causes: failure.causes }
}

/// The exit code for what kept a guard from opening.
pub(super) fn exit_of(kind: UnfitKind) -> ExitCode {
    match kind {
        UnfitKind::Source => ExitCode::NoSource,
        UnfitKind::Damaged => ExitCode::Damaged,
        UnfitKind::Closed => ExitCode::GuardClosed,
        UnfitKind::Repository => ExitCode::StorageUnavailable,
        UnfitKind::NoSpace => ExitCode::NoSpace,
        UnfitKind::Locked => ExitCode::Locked,
        UnfitKind::Unproved => ExitCode::DrillFailed,
        UnfitKind::Interrupted => ExitCode::Interrupted,
    }
}

/// What a guard covers, as things that are saved and put back.
fn items(invocation: &Invocation, plan: &Plan) -> Result<Vec<Item>, Failure> {
    let item = |covered: &Covered| {
        let path = PathBuf::from(&covered.reach);
        let place = match covered.kind {
            SourceKind::Postgres => {
                let (connection, search) = net::server(invocation, &covered.source, &covered.reach)?;
                Place::Postgres { connection: Box::new(connection), search }
            }
            SourceKind::Sqlite => Place::Sqlite { path },
            // everything in it is saved, so everything in it is put back
            _ => Place::Tree { path, from: covered.reach.clone(), left_out: None },
        };
        Ok(Item { source: covered.saved_as.clone(), safety_source: covered.saved_as.clone(), place, empties: false })
    };
    plan.covered.iter().map(item).collect()
}

impl ConfiguredHands<'_> {
    /// The repository as it is now: what was written since it was opened is seen.
    fn reread(&self) -> Result<ReadingRepository, Failure> {
        self.listing.again(self.invocation)?.read(self.invocation)
    }

    /// Decodes the data of a snapshot and compares it with its proofs.
    fn prove(&self, snapshot: SnapshotId, sources: Vec<String>) -> Result<VerifyReport, Failure> {
        let repository = self.reread()?;
        let catalog = opening::catalog(self.invocation, repository.repository.config.repository)?;
        let options = VerifyOptions { sources, ..VerifyOptions::new(VerifyScope::Snapshots(vec![snapshot])) };
        let (clock, observer, cancel) = (&self.invocation.clock, self.invocation.observer(), &self.invocation.cancel);
        verify::run(&repository.reading, &catalog, &options, clock, observer, cancel).map_err(super::verify::failure_of)
    }

    /// Restores a snapshot into scratch things and compares: destructive tests run only once that it can be put back is
    /// shown, not hoped.
    fn drill(&self, snapshot: SnapshotId) -> Result<(), Failure> {
        let repository = self.reread()?;
        let snapshots = repository.snapshots()?;
        let found = snapshots.iter().find(|loaded| loaded.snapshot.id == snapshot).ok_or_else(|| {
            let message = format!("Snapshot {} is not there any more", snapshot.short());
            Failure::new(ExitCode::SnapshotNotFound, "snapshot.not_found", message)
        })?;
        super::drill::prove_snapshot(self.invocation, &repository, &found.snapshot).map_err(|failure| {
            // That it cannot even be restored is no better than that it comes back as something else.
            let exit = if failure.exit == ExitCode::RolledBack { ExitCode::DrillFailed } else { failure.exit };
            Failure { exit, ..failure }
        })
    }

    /// A tree is put back as a whole, and what holdfast keeps in it is in no snapshot.
    fn holds_nothing_of_ours(&self, covered: &Covered) -> Result<(), Failure> {
        let own = opening::own_folders(self.invocation, self.listing.repository.config.repository)?;
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let place = real(&PathBuf::from(&covered.reach));
        match own.iter().map(real).find(|folder| folder.starts_with(&place) && folder.exists()) {
            None => Ok(()),
            Some(folder) => {
                let message = format!("{} cannot be guarded as a whole", covered.place);
                Err(Failure::new(ExitCode::Refused, "guard.own_folder", message)
                    .cause(format!("holdfast keeps {} there, which no snapshot holds", folder.display())))
            }
        }
    }

    /// Production is touched only while a fresh snapshot that can be read stands beside the guard's own.
    fn fresh(&self, plan: &Plan) -> Result<(), Failure> {
        let settings = self.invocation.settings()?;
        let environment = plan.environment.as_ref().and_then(|name| settings.sections.environments.get(name));
        if self.i_know || !environment.is_some_and(|environment| environment.production) {
            return Ok(());
        }
        let within = settings.sections.guard.fresh_within;
        let snapshots = self.listing.snapshots()?;
        for covered in &plan.covered {
            let closed = |why: String| {
                let message =
                    format!("Production is not touched without a fresh verified snapshot of {}", covered.source);
                Failure::new(ExitCode::GuardClosed, "guard.not_fresh", message).cause(why)
            };
            let Some(newest) = newest_good(&snapshots, covered) else {
                return Err(closed("there is none".to_owned()));
            };
            let age_ns = timestamp_ns(self.invocation.clock.now()).saturating_sub(newest.time_ns);
            let age = Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0));
            let short = newest.id.short();
            if age > within {
                let (age, within) = (format_age(age), crate::domain::units::format_duration(within));
                return Err(closed(format!("the newest, {short}, is of {age}, and fresh means within {within}")));
            }
            let report = self.prove(newest.id, vec![covered.source.clone(), covered.saved_as.clone()])?;
            if report.is_damaged() {
                return Err(closed(format!("{short} cannot be read back")));
            }
        }
        Ok(())
    }
}

/// The newest snapshot in which a covered source is good.
fn newest_good<'s>(snapshots: &'s [LoadedSnapshot], covered: &Covered) -> Option<&'s Snapshot> {
    let good = |snapshot: &&Snapshot| {
        [&covered.source, &covered.saved_as].into_iter().any(|name| {
            let record = snapshot.source(name).filter(|record| record.failure.is_none());
            record.is_some() && !snapshot.is_suspect_for(name)
        })
    };
    snapshots.iter().map(|loaded| &loaded.snapshot).filter(good).max_by_key(|snapshot| snapshot.time_ns)
}

impl Hands for ConfiguredHands<'_> {
    fn look(&self, plan: &Plan) -> Result<(), Unfit> {
        self.fresh(plan).map_err(unfit)?;
        for covered in &plan.covered {
            match covered.kind {
                SourceKind::Postgres => {
                    let found = net::server(self.invocation, &covered.source, &covered.reach).map_err(unfit)?;
                    server::inspect(&found.0).map_err(|error| unfit(Failure::from(error)))?;
                }
                // that a SQLite database is consistent is found out with the image that is saved of it
                _ => {
                    if covered.kind == SourceKind::Files {
                        self.holds_nothing_of_ours(covered).map_err(unfit)?;
                    }
                    if let Err(error) = std::fs::metadata(&covered.reach) {
                        let message = format!("Cannot read {}", covered.place);
                        let failure = Failure::new(ExitCode::NoSource, "source.path", message);
                        return Err(unfit(failure.caused_by(&error)));
                    }
                }
            }
        }
        Ok(())
    }

    fn save(&self, plan: &Plan) -> Result<SnapshotId, Unfit> {
        let save = || -> Result<Snapshot, Failure> {
            let repository = self.reread()?;
            let net = Net::new(self.invocation, &repository)?;
            let items = items(self.invocation, plan)?;
            let tags = vec![plan.tag()];
            let saved = net.save_as(&items, plan.purpose.class(), tags);
            saved.map_err(super::in_place_errors::save_failure)
        };
        let snapshot = save().map_err(|failure| match self.invocation.cancel.is_cancelled() {
            // Whatever a program said that was ended with us.
            true => unfit(Failure::interrupted(ExitCode::Interrupted)),
            false => unfit(failure),
        })?;
        if let Some(reason) = &snapshot.suspect {
            let message = format!("What is saved looks wrong, and may be so already: {reason}");
            self.invocation.output.warning("guard.suspect", None, "", &message);
        }
        Ok(snapshot.id)
    }

    fn verify(&self, plan: &Plan, snapshot: SnapshotId) -> Result<(), Unfit> {
        let report = self.prove(snapshot, Vec::new()).map_err(unfit)?;
        if !report.is_damaged() && report.streams_proved > 0 {
            return match plan.purpose {
                guard::Purpose::Test => self.drill(snapshot).map_err(unfit),
                guard::Purpose::Migration => Ok(()),
            };
        }
        let message = format!("Snapshot {} cannot be read back as it was saved", snapshot.short());
        let causes = report.findings.iter().map(|f| format!("{} is {}: {}", f.object, f.problem, f.reason)).collect();
        Err(Unfit { kind: UnfitKind::Damaged, message, causes })
    }

    fn put_back(&self, plan: &Plan, snapshot: SnapshotId) -> Result<(), NotBack> {
        let put_back = || -> Result<(), Failure> {
            let repository = self.reread()?;
            let net = Net::new(self.invocation, &repository)?;
            let base = net.context();
            // What was begun is carried through, also after the wish to stop that may be its cause.
            let go_on = Cancel::new();
            let context = Context { processes: base.steady, cancel: &go_on, ..base };
            in_place::heal(&context, Direction::Back)?;
            let snapshots = repository.snapshots()?;
            let found = snapshots.iter().find(|loaded| loaded.snapshot.id == snapshot).ok_or_else(|| {
                let message = format!("Snapshot {} is not there any more", snapshot.short());
                Failure::new(ExitCode::SnapshotNotFound, "snapshot.not_found", message)
            })?;
            let service = context.surroundings.service(plan.environment.as_deref()).is_configured();
            let request = Request {
                purpose: Purpose::Guard,
                snapshot: &found.snapshot,
                items: items(self.invocation, plan)?,
                environment: plan.environment.clone(),
                safety: false,
                service,
                check: false,
            };
            let outcome = in_place::run(&context, &request).map_err(super::in_place_errors::failure_of)?;
            for left in &outcome.left {
                let text = format!("Not removed: {left}; the next restore, rollback or guard's rollback removes it");
                self.invocation.output.warning("restore.left", None, "", &text);
            }
            Ok(())
        };
        put_back().map_err(|failure| {
            let details = failure.causes.into_iter().chain(failure.hints).collect();
            NotBack { message: failure.message, details }
        })
    }
}
