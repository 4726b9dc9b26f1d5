//! The JSON that scripts read: one versioned envelope, RFC 3339 UTC times, bytes as integers, snake_case names. Fields
//! are only ever added.

use crate::domain::original::Original;
use crate::domain::snapshot::{Snapshot, SourceRecord, StreamRecord};
use crate::domain::time_spec::ns_timestamp;
use crate::format::originals;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Name and version of the envelope.
pub const SCHEMA: &str = "holdfast/1";

/// Kinds of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// How far a run is.
    Status,
    /// One thing that was treated.
    Item,
    /// A finding that did not fail the run.
    Warning,
    /// The figures of a finished run.
    Summary,
    /// The one document of a command that lists or answers.
    Result,
}

impl Kind {
    /// The word in `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Item => "item",
            Self::Warning => "warning",
            Self::Summary => "summary",
            Self::Result => "result",
        }
    }
}

/// Puts a body into the envelope. Fields of an object stand beside `schema` and `type`; anything else becomes `value`.
///
/// # Errors
/// When the body cannot be written as JSON (a map whose keys are not text).
pub fn envelope(kind: Kind, body: &impl Serialize) -> Result<Value, serde_json::Error> {
    let mut object = Map::new();
    object.insert("schema".to_owned(), SCHEMA.into());
    object.insert("type".to_owned(), kind.as_str().into());
    match serde_json::to_value(body)? {
        Value::Object(fields) => object.extend(fields),
        Value::Null => {}
        other => {
            object.insert("value".to_owned(), other);
        }
    }
    Ok(Value::Object(object))
}

/// A time as RFC 3339 in UTC.
pub fn time(time_ns: i64) -> String {
    ns_timestamp(time_ns).to_string()
}

/// A path: text, and when its bytes are not text also their base64 under `path_base64`. Text alone would not do, because
/// replacement characters stand for many paths.
pub fn insert_path(object: &mut Map<String, Value>, path: &[u8]) {
    object.insert("path".to_owned(), String::from_utf8_lossy(path).into());
    if std::str::from_utf8(path).is_err() {
        object.insert("path_base64".to_owned(), data_encoding::BASE64.encode(path).into());
    }
}

/// Plain bytes of a source: the content of its files, or all its streams.
fn plain_bytes(source: &SourceRecord) -> u64 {
    source.streams.iter().filter(|s| !s.role.is_about_files()).map(|s| s.plain_bytes).sum()
}

/// A snapshot with everything it says about itself, under the names that the old systems used where they had one.
/// `accepted`: it looked wrong and somebody said that it is good.
pub fn snapshot(snapshot: &Snapshot, accepted: bool) -> Value {
    let total: u64 = snapshot.sources.iter().map(plain_bytes).sum();
    let zone = TimeZone::get(&snapshot.time_zone).unwrap_or(TimeZone::UTC);
    let local = ns_timestamp(snapshot.time_ns).to_zoned(zone);
    let databases: Vec<&str> =
        snapshot.sources.iter().filter(|s| s.kind.is_database()).map(|s| s.kind.as_str()).collect();
    let mut files = Map::new();
    for stream in snapshot.sources.iter().flat_map(|s| &s.streams) {
        files.insert(stream.file_name.clone(), stream.plain_bytes.into());
    }
    let mut object = json!({
        "id": snapshot.id.hex(),
        "short_id": snapshot.id.short(),
        "time": time(snapshot.time_ns),
        "time_zone": snapshot.time_zone,
        "timestamp": local.strftime("%Y%m%d_%H%M%S").to_string(),
        "created_at": local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        "started": time(snapshot.started_ns),
        "finished": time(snapshot.finished_ns),
        "host": snapshot.system.host,
        "user": snapshot.system.user,
        "class": snapshot.class,
        "backup_type": snapshot.class,
        "backup_version": snapshot.system.tool_version,
        "database_type": databases.first(),
        "tags": snapshot.tags,
        "imported": snapshot.imported,
        "originals": originals::of(&snapshot.extensions).iter().map(original).collect::<Vec<_>>(),
        "suspect": snapshot.suspect,
        "accepted": accepted,
        "complete": snapshot.is_complete(),
        "git_commit": snapshot.git.as_ref().map(|g| &g.commit),
        "git_branch": snapshot.git.as_ref().map(|g| &g.branch),
        "git_dirty": snapshot.git.as_ref().map(|g| g.dirty),
        "project_root": snapshot.project_root,
        "backup_scope": snapshot.scope,
        "total_size": total,
        "data_added": snapshot.stored_bytes,
        "compression_ratio": ratio(total, snapshot.stored_bytes),
        "files": files,
        "sources": snapshot.sources.iter().map(source).collect::<Vec<_>>(),
    });
    object["system_info"] = json!({
        "hostname": snapshot.system.host,
        "user": snapshot.system.user,
        "os": snapshot.system.os,
        "os_version": snapshot.system.os_version,
        "tool_version": snapshot.system.tool_version,
    });
    object
}

/// A file that a source was imported from.
fn original(original: &Original) -> Value {
    json!({
        "source": original.source,
        "name": original.name,
        "bytes": original.bytes,
        "sha256": original.sha256.hex(),
        "modified": time(original.modified_ns),
        "packing": (!original.packing.is_empty()).then_some(&original.packing),
    })
}

/// Plain bytes for each stored byte, to two digits; absent when nothing was stored.
fn ratio(plain: u64, stored: u64) -> Option<f64> {
    let hundredths = (u128::from(plain) * 100).checked_div(u128::from(stored))?;
    u32::try_from(hundredths).ok().map(|h| f64::from(h) / 100.0)
}

fn source(source: &SourceRecord) -> Value {
    json!({
        "name": source.name,
        "kind": source.kind.as_str(),
        "location": source.location,
        "failure": source.failure,
        "plain_bytes": plain_bytes(source),
        "data_added": source.streams.iter().map(|s| s.added_bytes).sum::<u64>(),
        "reader_version": source.reader_version,
        "server_version": source.server_version,
        "live_bytes": source.live_bytes,
        "duration_ms": source.duration_ms,
        "tables": source.tables,
        "files": source.files,
        "warnings": source.warnings,
        "streams": source.streams.iter().map(stream).collect::<Vec<_>>(),
    })
}

fn stream(stream: &StreamRecord) -> Value {
    json!({
        "role": stream.role,
        "file_name": stream.file_name,
        "plain_bytes": stream.plain_bytes,
        "data_added": stream.added_bytes,
        "blake3": stream.blake3.hex(),
        "sha256": stream.sha256.map(|d| d.hex()),
        "checksum": stream.sha256.map(|d| format!("sha256:{d}")),
        "volatile": stream.volatile,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{Digest, SnapshotId, VersionId};
    use crate::domain::snapshot::{GitInfo, SourceKind, StreamRole, SystemInfo};

    fn example() -> Snapshot {
        let stream = StreamRecord {
            role: StreamRole::Data,
            file_name: "app-db.dump".to_owned(),
            version: VersionId([1; 16]),
            plain_bytes: 1000,
            blake3: Digest([2; 32]),
            sha256: Some(Digest([3; 32])),
            added_bytes: 100,
            volatile: Vec::new(),
        };
        let source = SourceRecord {
            name: "app-db".to_owned(),
            kind: SourceKind::Postgres,
            location: "postgres://backup@127.0.0.1/app".to_owned(),
            failure: None,
            streams: vec![stream],
            reader_version: "pg_dump 15".to_owned(),
            server_version: Some("15.4".to_owned()),
            tables: Vec::new(),
            files: None,
            warnings: Vec::new(),
            live_bytes: None,
            duration_ms: 12,
        };
        Snapshot {
            id: SnapshotId([0xab; 16]),
            time_ns: 1_720_441_822_000_000_000,
            time_zone: "Europe/Berlin".to_owned(),
            started_ns: 1_720_441_822_000_000_000,
            finished_ns: 1_720_441_823_000_000_000,
            system: SystemInfo { host: "web1".to_owned(), user: "app".to_owned(), ..SystemInfo::default() },
            class: Some("hourly".to_owned()),
            tags: vec!["v2.3".to_owned()],
            imported: false,
            suspect: None,
            git: Some(GitInfo { commit: "c0ffee".to_owned(), branch: "main".to_owned(), dirty: true }),
            project_root: None,
            scope: Vec::new(),
            sources: vec![source],
            heads: Vec::new(),
            stored_bytes: 80,
            extensions: Vec::new(),
        }
    }

    #[test]
    fn the_envelope_comes_first_and_fields_stand_beside_it() {
        let value = envelope(Kind::Result, &json!({ "snapshots": [] })).unwrap();
        assert_eq!(value, json!({ "schema": "holdfast/1", "type": "result", "snapshots": [] }));
        assert_eq!(envelope(Kind::Item, &7).unwrap()["value"], 7);
        for (kind, word) in [(Kind::Status, "status"), (Kind::Warning, "warning"), (Kind::Summary, "summary")] {
            assert_eq!(envelope(kind, &()).unwrap()["type"], word);
        }
    }

    #[test]
    fn a_snapshot_says_what_every_old_system_said() {
        let value = snapshot(&example(), false);
        assert_eq!(value["id"], "ab".repeat(16));
        assert_eq!(value["time"], "2024-07-08T12:30:22Z");
        assert_eq!(value["timestamp"], "20240708_143022");
        assert_eq!(value["created_at"], "2024-07-08T14:30:22+02:00");
        assert_eq!(value["compression_ratio"], 12.5);
        assert_eq!(value["total_size"], 1000);
        assert_eq!(value["files"]["app-db.dump"], 1000);
        assert_eq!(value["sources"][0]["streams"][0]["checksum"], format!("sha256:{}", "03".repeat(32)));
        for key in [
            "host",
            "class",
            "tags",
            "backup_type",
            "backup_version",
            "database_type",
            "git_commit",
            "git_branch",
            "project_root",
            "backup_scope",
            "system_info",
            "sources",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
        let empty = snapshot(&Snapshot { stored_bytes: 0, ..example() }, false);
        assert!(empty["compression_ratio"].is_null());
    }

    #[test]
    fn paths_that_are_not_text_keep_their_bytes() {
        let mut object = Map::new();
        insert_path(&mut object, b"/srv/\xff");
        assert_eq!(object["path_base64"], "L3Nydi//");
        let mut object = Map::new();
        insert_path(&mut object, b"/srv/x");
        assert_eq!(object.len(), 1);
    }
}
