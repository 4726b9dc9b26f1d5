//! Two summaries side by side: what is missing, what is new, what is not the same.

use super::archive::{EntryKey, Item, Summary};
use super::{Proof, TableProof};
use crate::domain::snapshot::TableRows;
use std::collections::{BTreeMap, BTreeSet};

/// Kinds that every version of PostgreSQL writes in the same way, compared even when two versions meet.
const STEADY: [&str; 14] = [
    "TABLE",
    "TABLE DATA",
    "VIEW",
    "MATERIALIZED VIEW",
    "SEQUENCE",
    "SEQUENCE SET",
    "INDEX",
    "FUNCTION",
    "PROCEDURE",
    "TRIGGER",
    "FK CONSTRAINT",
    "SCHEMA",
    "DOMAIN",
    "EXTENSION",
];

/// Compares the summary of the stored dump, and the rows that its snapshot records, with that of the restored database.
pub(super) fn compare(stored: &Summary, recorded: &[TableRows], restored: &Summary) -> Proof {
    let mut proof = Proof::default();
    let strict = major(&stored.server_version) == major(&restored.server_version)
        && major(&stored.dump_version) == major(&restored.dump_version);
    if !strict {
        proof.notes.push(format!(
            "The dump was made by pg_dump {} of a server {}, the restored database was read by pg_dump {} on a server \
             {}: versions write definitions in their own ways, so rows, sequences and large objects were compared, and \
             other objects by name only",
            stored.dump_version, stored.server_version, restored.dump_version, restored.server_version
        ));
    }
    if stored.aside.database_properties {
        proof.notes.push(
            "What belongs to the database as a whole (its comment, privileges and settings) is not restored into a \
             new database and was not compared"
                .to_owned(),
        );
    }
    same_record(stored, recorded, &mut proof);
    let keys: BTreeSet<&EntryKey> = stored.items.keys().chain(restored.items.keys()).collect();
    for key in keys {
        if !strict && !STEADY.contains(&key.kind.as_str()) {
            continue;
        }
        let empty = Vec::new();
        let (mut a, mut b) =
            (stored.items.get(key).unwrap_or(&empty).clone(), restored.items.get(key).unwrap_or(&empty).clone());
        a.sort_unstable();
        b.sort_unstable();
        if key.kind == "TABLE DATA" {
            rows(key, &a, &b, strict, &mut proof);
        } else {
            object(key, &a, &b, strict, &mut proof);
        }
    }
    large_objects(stored, restored, &mut proof);
    proof.decided()
}

/// What the snapshot's record says must be what its dump says.
fn same_record(stored: &Summary, recorded: &[TableRows], proof: &mut Proof) {
    // The record joins schema and table by a dot, which may also stand within a name: rows of equal names add up.
    let mut in_dump: BTreeMap<String, u64> = BTreeMap::new();
    for (key, items) in stored.items.iter().filter(|(key, _)| key.kind == "TABLE DATA") {
        let name = if key.schema.is_empty() { key.name.clone() } else { format!("{}.{}", key.schema, key.name) };
        *in_dump.entry(name).or_default() += items.iter().filter_map(|item| item.rows).sum::<u64>();
    }
    let mut in_record: BTreeMap<&str, u64> = BTreeMap::new();
    for table in recorded {
        *in_record.entry(&table.table).or_default() += table.rows;
    }
    for (table, rows) in in_record {
        let found = in_dump.get(table).copied();
        if found != Some(rows) {
            let found = found.map_or("none".to_owned(), |n| n.to_string());
            proof.differs(|| format!("table {table}: the snapshot records {rows} rows, its dump has {found}"));
        }
    }
}

fn rows(key: &EntryKey, stored: &[Item], restored: &[Item], strict: bool, proof: &mut Proof) {
    let name = named(key);
    let count = |items: &[Item]| items.iter().map(|item| item.rows).sum::<Option<u64>>();
    let there = |items: &[Item]| if items.is_empty() { None } else { count(items).or(Some(0)) };
    let (expected, found) = (there(stored), there(restored));
    let (schema, table) = (key.schema.clone(), key.name.clone());
    proof.tables.push(TableProof { schema, table, rows_expected: expected, rows_restored: found });
    match (expected, found) {
        (Some(expected), None) => proof.differs(|| format!("table {name} is missing, with {expected} rows")),
        (None, Some(found)) => proof.differs(|| format!("table {name} is not in the snapshot, and has {found} rows")),
        (Some(expected), Some(found)) if expected != found => {
            proof.differs(|| format!("table {name} has {found} rows instead of {expected}"));
        }
        _ if stored.iter().map(|i| i.content).ne(restored.iter().map(|i| i.content)) => {
            let rows = expected.unwrap_or_default();
            proof.differs(|| format!("table {name} has {rows} rows, as it must, but not all with the saved contents"));
        }
        _ if strict && stored != restored => proof.differs(|| format!("table {name} has other columns")),
        _ => {}
    }
}

fn object(key: &EntryKey, stored: &[Item], restored: &[Item], strict: bool, proof: &mut Proof) {
    let (what, name) = (key.kind.to_lowercase(), named(key));
    match (stored.len(), restored.len()) {
        (0, _) => proof.differs(|| format!("{what} {name} is not in the snapshot")),
        (_, 0) => proof.differs(|| format!("{what} {name} is missing")),
        (a, b) if a != b => proof.differs(|| format!("{what} {name} is there {b} times instead of {a}")),
        _ if stored == restored => {}
        _ if key.kind == "SEQUENCE SET" => proof.differs(|| format!("sequence {name} does not have the saved value")),
        _ if strict => proof.differs(|| format!("{what} {name} is not defined as it was saved")),
        _ => {}
    }
}

fn large_objects(stored: &Summary, restored: &Summary, proof: &mut Proof) {
    let numbers: BTreeSet<i64> = stored.large_objects.keys().chain(restored.large_objects.keys()).copied().collect();
    for oid in numbers {
        match (stored.large_objects.get(&oid), restored.large_objects.get(&oid)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(_), Some(_)) => proof.differs(|| format!("large object {oid} does not have the saved contents")),
            (Some(_), None) => proof.differs(|| format!("large object {oid} is missing")),
            (None, _) => proof.differs(|| format!("large object {oid} is not in the snapshot")),
        }
    }
}

fn named(key: &EntryKey) -> String {
    match key.schema.as_str() {
        "" | "-" => key.name.clone(),
        schema => format!("{schema}.{}", key.name),
    }
}

/// `15` of `15.18 (Debian 15.18-0+deb12u1)`.
pub(super) fn major(version: &str) -> &str {
    version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
}
