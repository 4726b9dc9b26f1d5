//! A database that is made to try a restore in, and dropped afterwards: `holdfast_drill_...` on a server that the user
//! names, or in a temporary cluster.
//!
//! Invariant: only databases that were made here, under such a name, are dropped. On a server of the user's, the mark of
//! life is an advisory lock that a session in another database holds, so the next drill can tell what a dead one left.

use std::collections::{BTreeMap, BTreeSet};

use super::database::TargetError;
use super::postgres::{drop_database, maintenance_session, quoted, refused};
use super::roles::Role;
use crate::source::postgres::connect::Connection;
use crate::source::postgres::tls::explain;

/// Beginning of the names of scratch databases.
pub const DATABASE_PREFIX: &str = "holdfast_drill_";
/// First number of the two that name the advisory lock; the second is a hash of the database's name.
const LOCK_CLASS: i32 = 0x6866_6472;

/// A scratch database. Dropping it drops it.
pub struct Scratch {
    connection: Connection,
    /// Holds the mark of life.
    _session: Option<postgres::Client>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scratch({})", self.connection.without_password())
    }
}

/// How a scratch database came to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Making {
    /// What could not be made as it was, for people.
    pub notes: Vec<String>,
}

impl Scratch {
    /// Makes an empty database with the encoding and locale that the dump's own statement names. `server` leads to any
    /// database of the server; `definition` is the dump's `CREATE DATABASE`.
    /// # Errors
    /// [`TargetError::Client`], [`TargetError::Server`]; nothing is left then.
    pub fn create(
        server: &Connection,
        name: &str,
        definition: &str,
        shared: bool,
    ) -> Result<(Self, Making), TargetError> {
        let connection = server.clone().with_database(name);
        let fail = |error: postgres::Error| refused("create database", &connection, &error);
        let mut client = maintenance_session(server)?;
        if shared {
            // Before the database is there, so that nobody finds it without its mark.
            client.query("select pg_advisory_lock($1, hashtext($2))", &[&LOCK_CLASS, &name]).map_err(fail)?;
        }
        let mut making = Making::default();
        let options = database_options(definition);
        let create = |options: &str| format!("create database {} template template0{options}", quoted(name));
        if let Err(error) = client.batch_execute(&create(&options)) {
            let encoding = database_options(&only_encoding(definition));
            // A locale that is not installed here. The rows are the same without it, their order is not.
            let retried = client.batch_execute(&create(&format!("{encoding} locale 'C'")));
            if options.is_empty() || retried.is_err() {
                return Err(fail(error));
            }
            making.notes.push(format!(
                "This server could not make a database with{options} ({}): the locale is C instead",
                explain(&error)
            ));
        }
        Ok((Self { connection, _session: shared.then_some(client) }, making))
    }

    /// The user who made it, in it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop_database(&self.connection);
    }
}

/// Drops scratch databases of this user whose drills are dead. Says which.
/// # Errors
/// [`TargetError`] when the server cannot be asked.
pub fn drop_leftovers(server: &Connection) -> Result<Vec<String>, TargetError> {
    let fail = |error: postgres::Error| refused("ask", server, &error);
    let mut client = maintenance_session(server)?;
    let names = "select d.datname::text from pg_catalog.pg_database d join pg_catalog.pg_roles r on r.oid = d.datdba \
                 where r.rolname = current_user and d.datname like 'holdfast\\_drill\\_%'";
    let mut dropped = Vec::new();
    for row in client.query(names, &[]).map_err(fail)? {
        let name: String = row.try_get(0).map_err(fail)?;
        let lock = "select pg_try_advisory_lock($1, hashtext($2))";
        let free = client.query_one(lock, &[&LOCK_CLASS, &name]).and_then(|row| row.try_get::<_, bool>(0));
        if free.map_err(fail)? && drop_database(&server.clone().with_database(&name)) {
            dropped.push(name);
        }
    }
    Ok(dropped)
}

/// What tells a database from all others, whatever address leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Number that the server got when it was made.
    pub system: i64,
    /// The database's name.
    pub database: String,
}

/// Asks a database who it is.
/// # Errors
/// [`TargetError`].
pub fn identity(connection: &Connection) -> Result<Identity, TargetError> {
    let fail = |error: postgres::Error| refused("identify", connection, &error);
    let mut client = connection.open()?;
    let query = "select system_identifier, current_database()::text from pg_catalog.pg_control_system()";
    let row = client.query_one(query, &[]).map_err(fail)?;
    Ok(Identity { system: row.try_get(0).map_err(fail)?, database: row.try_get(1).map_err(fail)? })
}

/// Who is on a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its major version.
    pub major: u32,
    /// The user is a superuser.
    pub superuser: bool,
    /// All roles.
    pub roles: BTreeSet<String>,
    /// All tablespaces.
    pub tablespaces: BTreeSet<String>,
}

/// Asks a server.
/// # Errors
/// [`TargetError`].
pub fn server_facts(server: &Connection) -> Result<ServerFacts, TargetError> {
    let fail = |error: postgres::Error| refused("ask", server, &error);
    let mut client = maintenance_session(server)?;
    let query = "select current_setting('server_version_num')::int4, current_setting('is_superuser') = 'on'";
    let row = client.query_one(query, &[]).map_err(fail)?;
    let version: i32 = row.try_get(0).map_err(fail)?;
    let mut names = |query: &str| -> Result<BTreeSet<String>, TargetError> {
        client.query(query, &[]).map_err(fail)?.iter().map(|row| row.try_get(0).map_err(fail)).collect()
    };
    Ok(ServerFacts {
        major: u32::try_from(version / 10_000).unwrap_or_default(),
        superuser: row.try_get(1).map_err(fail)?,
        roles: names("select rolname::text from pg_catalog.pg_roles")?,
        tablespaces: names("select spcname::text from pg_catalog.pg_tablespace")?,
    })
}

/// Makes roles in a temporary cluster, without passwords and without the right to log in. Only an owner of something
/// in the dump stays a superuser that was one: what belongs to it may need that. What could not be made is returned.
/// # Errors
/// [`TargetError`].
pub fn make_roles(
    server: &Connection,
    roles: &BTreeMap<String, Role>,
    owners: &BTreeSet<String>,
) -> Result<Vec<String>, TargetError> {
    let fail = |error: postgres::Error| refused("make roles in", server, &error);
    let known = server_facts(server)?.roles;
    let mut client = maintenance_session(server)?;
    let mut notes = Vec::new();
    for (name, role) in roles {
        let mut attributes = vec!["nologin"];
        attributes.extend((role.superuser && owners.contains(name)).then_some("superuser"));
        attributes.extend(role.bypasses_row_security.then_some("bypassrls"));
        attributes.extend(role.no_inherit.then_some("noinherit"));
        if !known.contains(name) && !name.starts_with("pg_") {
            client
                .batch_execute(&format!("create role {} with {}", quoted(name), attributes.join(" ")))
                .map_err(fail)?;
        }
    }
    for (name, role) in roles {
        for group in &role.member_of {
            if let Err(error) = client.batch_execute(&format!("grant {} to {}", quoted(group), quoted(name))) {
                notes.push(format!("Role {name} could not be made a member of {group}: {}", explain(&error)));
            }
        }
    }
    Ok(notes)
}

/// Runs statements in a database.
/// # Errors
/// [`TargetError::Server`] with what the server says.
pub fn execute(connection: &Connection, operation: &'static str, statements: &str) -> Result<(), TargetError> {
    let mut client = connection.open()?;
    client.batch_execute(statements).map_err(|error| refused(operation, connection, &error))
}

/// Functions that are closed to a role because their owners took them from everybody, opened to it. Returns the
/// statements that close them again, which leaves their privileges as they were.
/// # Errors
/// [`TargetError`].
pub fn open_functions(connection: &Connection, role: &str) -> Result<String, TargetError> {
    let fail = |error: postgres::Error| refused("grant functions in", connection, &error);
    let mut client = connection.open()?;
    let query = "select p.oid::regprocedure::text, p.prokind = 'p' from pg_catalog.pg_proc p \
                 where p.proacl is not null and p.prokind <> 'a' and p.pronamespace <> 'pg_catalog'::regnamespace \
                 and not has_function_privilege($1::text, p.oid, 'EXECUTE')";
    let (mut open, mut close) = (String::new(), String::new());
    for row in client.query(query, &[&role]).map_err(fail)? {
        let (name, procedure): (String, bool) = (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
        let kind = if procedure { "procedure" } else { "function" };
        open.push_str(&format!("grant execute on {kind} {name} to {};", quoted(role)));
        close.push_str(&format!("revoke execute on {kind} {name} from {};", quoted(role)));
    }
    client.batch_execute(&open).map_err(fail)?;
    Ok(close)
}

/// The options of a `CREATE DATABASE` that decide how text is stored and compared, as ` KEY = 'value'` pairs. Keys that
/// are not on the list, and values that are more than a word, are left out: the statement comes from a dump.
pub(super) fn database_options(definition: &str) -> String {
    const KEYS: [&str; 9] = [
        "ENCODING",
        "LOCALE_PROVIDER",
        "LOCALE",
        "LC_COLLATE",
        "LC_CTYPE",
        "ICU_LOCALE",
        "ICU_RULES",
        "BUILTIN_LOCALE",
        "STRATEGY",
    ];
    let mut options = String::new();
    let words = definition_words(definition);
    for window in words.windows(3) {
        let [key, equals, value] = window else { continue };
        if equals == "=" && KEYS.contains(&key.as_str()) && is_value(value) {
            options.push_str(&format!(" {key} = {value}"));
        }
    }
    options
}

fn only_encoding(definition: &str) -> String {
    let words = definition_words(definition);
    let encoding = words.windows(3).find(|window| window.first().is_some_and(|key| key == "ENCODING"));
    encoding.map_or_else(String::new, |window| window.join(" "))
}

/// A plain word, or one text in single quotes.
fn is_value(value: &str) -> bool {
    match value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(text) => !text.replace("''", "").contains(['\'', '\\']),
        None => !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
    }
}

/// Words and quoted texts, each with its quotes.
fn definition_words(definition: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in definition.chars() {
        match quote {
            Some(open) => {
                word.push(c);
                quote = (c != open).then_some(open);
            }
            None if c.is_whitespace() || c == ';' => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            None => {
                quote = matches!(c, '\'' | '"').then_some(c);
                word.push(c);
            }
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_decides_about_text_is_taken_from_the_dump() {
        let usual = "CREATE DATABASE \"a = 'b\" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = icu \
                     LOCALE = 'C' ICU_LOCALE = 'de''x' TABLESPACE = fast;\n";
        let options = database_options(usual);
        assert_eq!(options, " ENCODING = 'UTF8' LOCALE_PROVIDER = icu LOCALE = 'C' ICU_LOCALE = 'de''x'");
        assert_eq!(database_options(&only_encoding(usual)), " ENCODING = 'UTF8'");
        for hostile in ["ENCODING = 'a' ; drop", "LOCALE = 'x\\' ; y'", "LOCALE = x;y", "LOCALE = a'b'c"] {
            let options = database_options(hostile);
            assert!(!options.contains(';') && !options.contains('\\') && options != " LOCALE = a'b'c", "{options}");
        }
        assert_eq!(database_options(""), "");
    }
}
