//! Saving sources that are streams: database dumps and images, programs, standard input.

use super::prove::Proving;
use super::sample::Sampler;
use super::{OriginalSource, SaveError, Saving};
use crate::domain::id::Digest;
use crate::domain::snapshot::{SourceRecord, StreamRecord, StreamRole};
use crate::ops::observer::{Event, Progress};
use crate::repository::session::BackupSession;
use crate::repository::stream_writer::{StreamSettings, StreamWriter};
use crate::source::command::{CommandStream, StdinStream};
use crate::source::original::OriginalStream;
use crate::source::postgres::client::{self, ClientSearch};
use crate::source::postgres::connect::Connection;
use crate::source::postgres::dump::{self, DumpOptions, Globals};
use crate::source::postgres::server;
use crate::source::process::ProcessSpec;
use crate::source::sqlite::{self, SqliteOptions, SqliteStream};
use crate::source::{SourceError, SourceStream, StreamProof};
use aws_lc_rs::digest::{Context, SHA256};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Bytes read from a source at a time.
const READ_BYTES: usize = 1 << 20;
/// A program that gives no byte for this long is taken for dead.
const STALL_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// How long `pg_dump` waits for locks on tables.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Where a stream goes.
struct Place<'a> {
    role: StreamRole,
    file_name: &'a str,
    settings: StreamSettings,
}

impl<'a> Place<'a> {
    /// As dumps are stored.
    fn data(role: StreamRole, file_name: &'a str) -> Self {
        Self { role, file_name, settings: StreamSettings::data() }
    }
}

/// Reads a stream to its end and stores it; the source's verdict decides whether it counts.
fn save_stream(
    saving: &Saving<'_>,
    session: &mut BackupSession,
    mut stream: Box<dyn SourceStream>,
    place: &Place<'_>,
    record: &mut SourceRecord,
    proofs: &mut Vec<Proving>,
) -> Result<StreamProof, SaveError> {
    let mut parent = None;
    for version in saving.history(place.role) {
        parent = session.open_parent(version)?;
        if parent.is_some() {
            break;
        }
    }
    let candidates = if parent.is_none() { saving.candidates(session) } else { Vec::new() };
    let mut writer = StreamWriter::new(session, parent, candidates, place.settings);
    let mut sha256 = Context::new(&SHA256);
    let mut sampler = (place.role == StreamRole::Data).then(Sampler::new);
    let mut buffer = vec![0u8; READ_BYTES];
    let mut plain_bytes = 0u64;
    loop {
        if saving.means.cancel.is_cancelled() {
            return Err(SourceError::Interrupted.into());
        }
        let n = stream.read(&mut buffer)?;
        let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else { break };
        sha256.update(part);
        writer.push(session, part)?;
        if let Some(sampler) = &mut sampler {
            sampler.push(part);
        }
        plain_bytes += part.len() as u64;
        saving.means.observer.event(&Event::Progress(Progress {
            source: Some(saving.name),
            bytes_done: plain_bytes,
            ..Progress::default()
        }));
    }
    let proof = match stream.finish() {
        Ok(proof) => proof,
        Err(SourceError::Empty { .. }) if plain_bytes == 0 && saving.allow_empty => StreamProof::default(),
        Err(error) => return Err(error.into()),
    };
    let stored = writer.finish(session)?;
    if let Some(sampler) = sampler {
        sampler.finish(&mut saving.tried.borrow_mut().sample);
    }
    let mut digest = Digest::default();
    digest.0.copy_from_slice(sha256.finish().as_ref());
    if stored.is_new {
        proofs.push(Proving::Stream { version: stored.version, name: place.file_name.to_owned() });
    }
    record.streams.push(StreamRecord {
        role: place.role,
        file_name: place.file_name.to_owned(),
        version: stored.version,
        plain_bytes: stored.plain_bytes,
        blake3: stored.root,
        sha256: Some(digest),
        added_bytes: 0,
        volatile: proof.volatile.clone(),
    });
    Ok(proof)
}

fn take_proof(saving: &Saving<'_>, record: &mut SourceRecord, proof: StreamProof) {
    record.tables.extend(proof.tables);
    for warning in proof.warnings {
        saving.warn(record, warning);
    }
}

/// A PostgreSQL database: checks, dump, roles and settings.
pub(super) fn save_postgres(
    saving: &Saving<'_>,
    session: &mut BackupSession,
    connection: &Connection,
    search: &ClientSearch,
    globals: bool,
    record: &mut SourceRecord,
    proofs: &mut Vec<Proving>,
) -> Result<(), SaveError> {
    let processes = saving.means.processes;
    let server = server::inspect(connection)?;
    record.server_version = Some(server.version.clone());
    record.live_bytes = server.database_bytes;
    let tools = client::find(processes, search, Some(server.major()))?;
    record.reader_version = tools.version.clone();
    server.require_readable(connection)?;
    let options = DumpOptions { lock_timeout: Some(LOCK_TIMEOUT), stall_timeout: Some(STALL_TIMEOUT) };
    let stream = dump::dump(processes, &tools, connection, &options)?;
    let file_name = format!("{}.dump", saving.name);
    let place = Place::data(StreamRole::Data, &file_name);
    let proof = save_stream(saving, session, Box::new(stream), &place, record, proofs)?;
    take_proof(saving, record, proof);
    if !globals {
        return Ok(());
    }
    let file_name = format!("{}.globals.sql", saving.name);
    let place = Place::data(StreamRole::Globals, &file_name);
    match dump::globals(processes, &tools, connection, server.globals, &options) {
        Globals::Skipped(warning) => saving.warn(record, warning),
        Globals::Stream(stream) => match save_stream(saving, session, Box::new(stream), &place, record, proofs) {
            Ok(proof) => {
                // tables are those of the database's own dump
                let proof = StreamProof { tables: Vec::new(), ..proof };
                take_proof(saving, record, proof);
            }
            Err(SaveError::Source(SourceError::Interrupted)) => return Err(SourceError::Interrupted.into()),
            Err(SaveError::Source(error)) => {
                saving.warn(record, dump::globals_failed(connection, &error));
            }
            Err(error) => return Err(error),
        },
    }
    Ok(())
}

/// A SQLite database: a consistent image.
pub(super) fn save_sqlite(
    saving: &Saving<'_>,
    session: &mut BackupSession,
    path: &Path,
    options: &SqliteOptions,
    record: &mut SourceRecord,
    proofs: &mut Vec<Proving>,
) -> Result<(), SaveError> {
    record.reader_version = sqlite::library_version();
    let stream = SqliteStream::open(path, options)?;
    record.live_bytes = Some(stream.live_bytes());
    let file_name = format!("{}.sqlite3", saving.name);
    let place = Place::data(StreamRole::Data, &file_name);
    let proof = save_stream(saving, session, Box::new(stream), &place, record, proofs)?;
    take_proof(saving, record, proof);
    Ok(())
}

/// The output of a program.
pub(super) fn save_command(
    saving: &Saving<'_>,
    session: &mut BackupSession,
    spec: &ProcessSpec,
    file_name: &str,
    record: &mut SourceRecord,
    proofs: &mut Vec<Proving>,
) -> Result<(), SaveError> {
    record.reader_version = spec.name();
    let subject = format!("The output of {}", spec.name());
    let stream = CommandStream::start(saving.means.processes, spec, &subject, None)?;
    let place = Place::data(StreamRole::Data, file_name);
    let proof = save_stream(saving, session, Box::new(stream), &place, record, proofs)?;
    take_proof(saving, record, proof);
    Ok(())
}

/// Standard input.
pub(super) fn save_stdin(
    saving: &Saving<'_>,
    session: &mut BackupSession,
    reader: Box<dyn Read + Send>,
    file_name: &str,
    record: &mut SourceRecord,
    proofs: &mut Vec<Proving>,
) -> Result<(), SaveError> {
    let stream = StdinStream::new(reader, Some(saving.means.cancel.flag()));
    let place = Place::data(StreamRole::Data, file_name);
    let proof = save_stream(saving, session, Box::new(stream), &place, record, proofs)?;
    take_proof(saving, record, proof);
    Ok(())
}

/// A file that another tool left behind: its bytes, unpacked.
pub(super) fn save_original(
    saving: &Saving<'_>,
    session: &mut BackupSession,
    from: OriginalSource,
    record: &mut SourceRecord,
    proofs: &mut Vec<Proving>,
) -> Result<(), SaveError> {
    let packing = from.examined.packing.as_str();
    let packed = if packing.is_empty() { String::new() } else { format!(", {packing}") };
    record.reader_version = format!("{}{packed}", from.examined.content.as_str());
    let stream = OriginalStream::open(&from.path, &from.options, from.examined)?;
    let place = Place { settings: StreamSettings::originals(), ..Place::data(StreamRole::Data, &from.file_name) };
    let proof = save_stream(saving, session, Box::new(stream), &place, record, proofs)?;
    take_proof(saving, record, proof);
    Ok(())
}
