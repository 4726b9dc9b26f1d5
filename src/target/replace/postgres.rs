//! A new database in the place of an old one, on the same server.
//!
//! The new database is called `NAME_restore_ACT8` while it is filled, the old one `NAME_old_ACT8` once it has made
//! place. Both renames are one transaction, so nobody ever finds the name missing; what stands where follows from the
//! catalogue and the names alone. Before the renames the old database takes no new sessions and those that are open are
//! ended; a rename is refused by the server while anybody is connected.

use std::path::PathBuf;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{Client, Transaction};

use super::emptied::Emptied;
pub use super::postgres_properties::Dumped;
use super::postgres_properties::Properties;
use super::{Error, Names, Replace, State};
use crate::source::postgres::connect::Connection;
use crate::source::postgres::tls::explain;

/// Version, whether it is a standby, rights of the user, prepared transactions.
const FACTS: &str = "select current_setting('server_version_num')::int4, current_setting('server_version'), \
    pg_catalog.pg_is_in_recovery(), (select r.rolsuper or r.rolcreatedb from pg_catalog.pg_roles r \
    where r.rolname = current_user), (select pg_catalog.pg_has_role(current_user, d.datdba, 'MEMBER') \
    from pg_catalog.pg_database d where d.datname = $1), \
    (select count(*) from pg_catalog.pg_prepared_xacts p where p.database = $1), \
    (select count(*) from pg_catalog.pg_replication_slots s where s.database = $1), \
    (select count(*) from pg_catalog.pg_subscription s join pg_catalog.pg_database d on d.oid = s.subdbid \
    where d.datname = $1)";
/// Sessions of a database. Workers of the vacuum give way to a rename by themselves, and only a superuser could end them;
/// parallel workers go with their leader.
const SESSIONS: &str = "from pg_catalog.pg_stat_activity where datname = $1 and pid <> pg_catalog.pg_backend_pid() \
    and coalesce(backend_type, '') not in ('autovacuum worker', 'parallel worker')";
/// How long ended sessions may take to leave.
const DRAIN_ATTEMPTS: u32 = 75;
const DRAIN_PAUSE: Duration = Duration::from_millis(200);
/// Digits of the act's id in a name.
const ACT_DIGITS: usize = 8;
/// Bytes of a name of PostgreSQL; longer ones would be cut by the server.
const NAME_BYTES_MAX: usize = 63;
/// Databases that every server has, to be connected to while others are renamed.
const MAINTENANCE: [&str; 2] = ["postgres", "template1"];
/// Sessions that a message names.
const SESSIONS_NAMED_MAX: usize = 5;

/// The new and the old database of one act in one place.
#[derive(Debug, Clone)]
pub struct PostgresReplacement {
    place: Connection,
    new: String,
    old: String,
    /// False: there was no database when the act began, so taking back leaves none.
    existed: bool,
}

/// What a dump needs of the server that it is restored on.
#[derive(Debug, Clone, Default)]
pub struct Needs<'a> {
    /// Version of the server that it came from, for example `15.18 (Debian 15.18-0+deb12u1)`.
    pub server_version: Option<&'a str>,
    /// Roles that own something or are granted something.
    pub roles: Vec<String>,
    /// Extensions.
    pub extensions: Vec<String>,
    /// Tablespaces.
    pub tablespaces: Vec<String>,
}

/// What a server says before anything is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Its version.
    pub version: String,
    /// Its major version.
    pub major: u32,
    /// Why the restore would fail; empty: nothing is known against it.
    pub problems: Vec<String>,
    /// Who uses the database now.
    pub users: Vec<String>,
}

/// Which of the three names exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct There {
    live: bool,
    live_open: bool,
    new: bool,
    old: bool,
}

impl PostgresReplacement {
    /// The replacement of the connection's database by the act with this id (hexadecimal). `existed` is what [`Self::exists`] said when the act
    /// began.
    pub fn new(place: Connection, act: &str, existed: bool) -> Self {
        let name = place.database().to_owned();
        let act = act.get(..ACT_DIGITS).unwrap_or(act);
        let (new, old) = (with_suffix(&name, &format!("_restore_{act}")), with_suffix(&name, &format!("_old_{act}")));
        Self { place, new, old, existed }
    }

    /// Where the new database is filled.
    pub fn staging(&self) -> Connection {
        self.place.clone().with_database(&self.new)
    }

    /// The name of the new database until it takes its place.
    pub fn new_name(&self) -> &str {
        &self.new
    }

    /// The name of the old database after that.
    pub fn old_name(&self) -> &str {
        &self.old
    }

    /// True when the place holds a database now.
    ///
    /// # Errors
    /// [`Error`] when the server cannot be asked.
    pub fn exists(place: &Connection) -> Result<bool, Error> {
        let mut client = session(place, &[place.database()])?;
        let found = client.query_opt("select from pg_catalog.pg_database where datname = $1", &[&place.database()]);
        found.map(|row| row.is_some()).map_err(|error| refused("look for database", place.database(), &error))
    }

    /// Who uses the database now, one line each.
    ///
    /// # Errors
    /// [`Error`] when the server cannot be asked.
    pub fn users(place: &Connection) -> Result<Vec<String>, Error> {
        let mut client = session(place, &[place.database()])?;
        sessions(&mut client, place.database())
            .map_err(|error| refused("list the sessions of", place.database(), &error))
    }

    /// Creates the new database, empty, as the old one is made: owner, encoding, locale, tablespace; where there is no
    /// old one, as the dump says. One that a dead run of the same act left is dropped first. Returns what could not be
    /// made so, for people.
    ///
    /// # Errors
    /// [`Error`]; nothing new is left then.
    pub fn create_new(&self, dumped: &Dumped) -> Result<Vec<String>, Error> {
        let mut client = self.session()?;
        let live = self.place.database();
        let properties =
            Properties::read(&mut client, live).map_err(|e| refused("read the properties of", live, &e))?;
        drop_database(&mut client, &self.new)?;
        let fail = |error: postgres::Error| refused("create database", &self.new, &error);
        if let Some(properties) = &properties {
            client.batch_execute(&properties.create(&self.new)).map_err(fail)?;
            return Ok(Vec::new());
        }
        let mut notes = Vec::new();
        if let Err(error) = client.batch_execute(&dumped.create(&self.new)) {
            // From template0, because what an administrator put into template1 would clash with the dump.
            let plain = format!("create database {} template template0", quoted(&self.new));
            client.batch_execute(&plain).map_err(fail)?;
            notes.push(format!(
                "Database {live} has the encoding, locale and tablespace of the server, because those of the dump cannot be used: {}",
                explain(&error)
            ));
        }
        if !dumped.owner.is_empty() {
            let statement = format!("alter database {} owner to {}", quoted(&self.new), quoted(&dumped.owner));
            if let Err(error) = client.batch_execute(&statement) {
                notes.push(format!("Database {live} does not belong to {}: {}", dumped.owner, explain(&error)));
            }
        }
        Ok(notes)
    }

    /// Gives the filled new database what belongs to a database as a whole and is not restored with what it holds: access,
    /// settings, the limit of connections, the comment; those of the old one, or where there is none, of the dump. Done
    /// after filling, because a setting such as `default_transaction_read_only` would stop that. Returns what it could
    /// not be given, for people.
    ///
    /// # Errors
    /// [`Error`].
    pub fn finish_new(&self, dumped: &Dumped) -> Result<Vec<String>, Error> {
        let mut client = self.session()?;
        let live = self.place.database();
        let Some(properties) =
            Properties::read(&mut client, live).map_err(|error| refused("read the properties of", live, &error))?
        else {
            let mut notes = Vec::new();
            for (statement, shown) in dumped.finish(&self.new) {
                if let Err(error) = client.batch_execute(&statement) {
                    notes.push(format!("Database {live} lacks what the dump says of it: {shown}: {}", explain(&error)));
                }
            }
            return Ok(notes);
        };
        let fail = |error: postgres::Error| refused("set the properties of", &self.new, &error);
        let mut transaction = client.transaction().map_err(fail)?;
        for statement in properties.finish(&self.new) {
            transaction.batch_execute(&statement).map_err(fail)?;
        }
        transaction.commit().map_err(fail)?;
        Ok(Vec::new())
    }

    /// Looks at the server and the place, and changes nothing.
    ///
    /// # Errors
    /// [`Error`] when the server cannot be asked.
    pub fn examine(place: &Connection, needs: &Needs<'_>) -> Result<Examined, Error> {
        let mut client = session(place, &[place.database()])?;
        let database = place.database();
        let fail = |error: postgres::Error| refused("look at", database, &error);
        let row = client.query_one(FACTS, &[&database]).map_err(fail)?;
        let version_num: i32 = row.try_get(0).map_err(fail)?;
        let major = u32::try_from(version_num).unwrap_or_default() / 10_000;
        let version: String = row.try_get(1).map_err(fail)?;
        let mut problems = Vec::new();
        if let Some(text) = needs.server_version
            && let Some(needed) = text.split(['.', ' ']).next().and_then(|first| first.parse::<u32>().ok())
            && major < needed
        {
            problems.push(format!("the server is PostgreSQL {version}, older than the dump's, {text}"));
        }
        let (standby, may_create, may_own): (bool, bool, Option<bool>) =
            (row.try_get(2).map_err(fail)?, row.try_get(3).map_err(fail)?, row.try_get(4).map_err(fail)?);
        if standby {
            problems.push("the server is a standby and takes no changes".to_owned());
        }
        if !may_create {
            problems.push(format!("user {} may not create databases (ALTER ROLE ... CREATEDB)", place.user()));
        }
        if may_own == Some(false) {
            problems.push(format!("user {} does not own database {database} and is no superuser", place.user()));
        }
        for (column, what) in [(5, "prepared transactions"), (6, "logical replication slots"), (7, "subscriptions")] {
            let count: i64 = row.try_get(column).map_err(fail)?;
            if count > 0 {
                problems
                    .push(format!("database {database} has {count} {what}, and would lose them: remove them first"));
            }
        }
        for (what, names, catalog) in [
            ("roles", &needs.roles, "select rolname::text from pg_catalog.pg_roles where rolname = any($1)"),
            (
                "extensions",
                &needs.extensions,
                "select name::text from pg_catalog.pg_available_extensions where name = any($1)",
            ),
            (
                "tablespaces",
                &needs.tablespaces,
                "select spcname::text from pg_catalog.pg_tablespace where spcname = any($1)",
            ),
        ] {
            let rows = client.query(catalog, &[names]).map_err(fail)?;
            let there = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>().map_err(fail)?;
            let missing: Vec<&str> = names.iter().filter(|name| !there.contains(name)).map(String::as_str).collect();
            if !missing.is_empty() {
                problems.push(format!("the dump needs {what} that the server does not have: {}", missing.join(", ")));
            }
        }
        let users = sessions(&mut client, database).map_err(fail)?;
        Ok(Examined { version, major, problems, users })
    }

    /// The folder of a server of this machine in which the place's database is; none when it is not here, or cannot be told.
    pub fn local_folder(place: &Connection) -> Option<PathBuf> {
        let host = place.hosts().first()?;
        let name = host.host.as_str();
        if !host.is_socket() && !matches!(name, "localhost" | "127.0.0.1" | "::1") {
            return None;
        }
        let mut client = session(place, &[place.database()]).ok()?;
        let query = "select coalesce((select nullif(pg_catalog.pg_tablespace_location(dattablespace), '') \
                     from pg_catalog.pg_database where datname = $1), current_setting('data_directory'))";
        let folder: String = client.query_one(query, &[&place.database()]).ok()?.try_get(0).ok()?;
        Some(PathBuf::from(folder)).filter(|folder| folder.is_dir())
    }

    fn session(&self) -> Result<Client, Error> {
        session(&self.place, &[self.place.database(), &self.new, &self.old])
    }

    fn there(&self, client: &mut Client) -> Result<There, Error> {
        let live = self.place.database();
        let rows = client
            .query(
                "select datname::text, datallowconn from pg_catalog.pg_database where datname in ($1, $2, $3)",
                &[&live, &self.new, &self.old],
            )
            .map_err(|error| refused("look for database", live, &error))?;
        let mut there = There::default();
        for row in rows {
            let fail = |error: postgres::Error| refused("look for database", live, &error);
            let (name, open): (String, bool) = (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
            match name {
                name if name == live => (there.live, there.live_open) = (true, open),
                name if name == self.new => there.new = true,
                _ => there.old = true,
            }
        }
        Ok(there)
    }

    fn judge(&self, there: There) -> State {
        match (self.existed, there.live, there.new, there.old) {
            (true, true, false, true) | (false, true, false, false) => State::Swapped,
            (true, true, true, false) if there.live_open => State::Staged,
            (true, true, false, false) if there.live_open => State::Untouched,
            (false, _, true, false) => State::Staged,
            (false, false, false, false) => State::Untouched,
            _ => State::Halfway,
        }
    }

    /// Closes a database to new sessions and ends those that are open.
    fn drain(&self, client: &mut Client, database: &str) -> Result<(), Error> {
        client
            .batch_execute(&format!("alter database {} allow_connections false", quoted(database)))
            .map_err(|error| refused("close", database, &error))?;
        let mut left = Vec::new();
        for _ in 0..DRAIN_ATTEMPTS {
            left = sessions(client, database).map_err(|error| refused("list the sessions of", database, &error))?;
            if left.is_empty() {
                return Ok(());
            }
            let end = format!("select pg_catalog.pg_terminate_backend(pid) {SESSIONS}");
            client.query(&end, &[&database]).map_err(|error| {
                let reason = format!("{}; it is used by {}", explain(&error), left.join(", "));
                Error::Server { operation: "end the sessions of", target: database.to_owned(), reason }
            })?;
            std::thread::sleep(DRAIN_PAUSE);
        }
        Err(Error::Busy { place: format!("Database {database}"), by: left })
    }

    /// Renames in one transaction; a session that slipped in makes the server refuse, and is ended in its turn.
    fn rename(&self, client: &mut Client, steps: &[(&str, &str)], drained: &[&str]) -> Result<(), Error> {
        let mut attempts = DRAIN_ATTEMPTS / 10;
        loop {
            for database in drained {
                self.drain(client, database)?;
            }
            let renamed = client.transaction().and_then(|mut transaction: Transaction<'_>| {
                for (from, to) in steps {
                    transaction.batch_execute(&format!("alter database {} rename to {}", quoted(from), quoted(to)))?;
                }
                // What stands under the live name takes sessions again in the same moment.
                let live = quoted(self.place.database());
                transaction.batch_execute(&format!("alter database {live} allow_connections true"))?;
                transaction.commit()
            });
            match renamed {
                Ok(()) => return Ok(()),
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && attempts > 0 => attempts -= 1,
                Err(error) => return Err(refused("rename database", self.place.database(), &error)),
            }
        }
    }
}

impl Replace for PostgresReplacement {
    fn state(&self) -> Result<State, Error> {
        let mut client = self.session()?;
        let there = self.there(&mut client)?;
        let lost = self.existed && !there.live && !there.old;
        if lost || (there.live && there.new && there.old) { Err(self.unexpected(there)) } else { Ok(self.judge(there)) }
    }

    fn swap(&self) -> Result<(), Error> {
        let mut client = self.session()?;
        let (live, there) = (self.place.database(), self.there(&mut client)?);
        match (there.live, there.new, there.old) {
            (true, true, false) if self.existed => {
                self.rename(&mut client, &[(live, &self.old), (&self.new, live)], &[live, &self.new])
            }
            // An administrator renamed by hand, or there was none.
            (false, true, _) => self.rename(&mut client, &[(&self.new, live)], &[&self.new]),
            _ if self.judge(there) == State::Swapped => Ok(()),
            (_, false, false) => Err(Error::NothingStaged { place: self.place.without_password() }),
            _ => Err(self.unexpected(there)),
        }
    }

    fn unswap(&self) -> Result<(), Error> {
        let mut client = self.session()?;
        let (live, there) = (self.place.database(), self.there(&mut client)?);
        match (there.live, there.new, there.old) {
            (true, false, true) => {
                self.rename(&mut client, &[(live, &self.new), (&self.old, live)], &[live, &self.old])
            }
            (false, _, true) => self.rename(&mut client, &[(&self.old, live)], &[&self.old]),
            (true, false, false) if !self.existed => {
                self.drain(&mut client, live)?;
                let statement = format!("alter database {} rename to {}", quoted(live), quoted(&self.new));
                client.batch_execute(&statement).map_err(|error| refused("rename database", live, &error))
            }
            (true, _, false) if there.live_open => Ok(()),
            (true, _, false) => self.open(&mut client),
            (false, _, false) if !self.existed => Ok(()),
            _ => Err(self.unexpected(there)),
        }
    }

    fn discard_new(&self) -> Result<(), Error> {
        let mut client = self.session()?;
        let there = self.there(&mut client)?;
        if there.old || (self.existed && !there.live) {
            return Err(self.in_use(&self.new, there));
        }
        drop_database(&mut client, &self.new)
    }

    fn discard_old(&self) -> Result<(), Error> {
        let mut client = self.session()?;
        let there = self.there(&mut client)?;
        if !there.live || there.new {
            return Err(self.in_use(&self.old, there));
        }
        drop_database(&mut client, &self.old)
    }

    fn names(&self) -> Names {
        Names { place: self.place.without_password(), new: self.new.clone(), old: self.old.clone() }
    }
}

impl Emptied for PostgresReplacement {
    /// The names say it all.
    fn begin_emptying(&self) -> Result<(), Error> {
        Ok(())
    }

    fn end_emptying(&self) -> Result<(), Error> {
        let mut client = self.session()?;
        let there = self.there(&mut client)?;
        if there.live && !there.live_open { self.open(&mut client) } else { Ok(()) }
    }
}

impl PostgresReplacement {
    /// Lets sessions into the database again.
    fn open(&self, client: &mut Client) -> Result<(), Error> {
        let live = self.place.database();
        client
            .batch_execute(&format!("alter database {} allow_connections true", quoted(live)))
            .map_err(|error| refused("open", live, &error))
    }

    fn in_use(&self, what: &str, there: There) -> Error {
        Error::InUse {
            place: self.place.without_password(),
            what: format!("Database {what}"),
            state: self.judge(there),
        }
    }

    fn unexpected(&self, there: There) -> Error {
        let yes = |found: bool| if found { "exists" } else { "does not exist" };
        let found = format!(
            "{} {}, {} {}, {} {}",
            self.place.database(),
            yes(there.live),
            self.new,
            yes(there.new),
            self.old,
            yes(there.old)
        );
        Error::Unexpected { place: self.place.without_password(), found }
    }
}

/// A session in a database that is none of those that are renamed.
pub(super) fn session(place: &Connection, avoid: &[&str]) -> Result<Client, Error> {
    let mut refused = None;
    for database in MAINTENANCE.iter().filter(|name| !avoid.contains(name)) {
        match place.clone().with_database(database).open() {
            Ok(client) => return Ok(client),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(Error::Client(refused.unwrap_or(crate::source::SourceError::Interrupted)))
}

pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn refused(operation: &'static str, target: &str, error: &postgres::Error) -> Error {
    Error::Server { operation, target: target.to_owned(), reason: explain(error) }
}

fn sessions(client: &mut Client, database: &str) -> Result<Vec<String>, postgres::Error> {
    let query = format!(
        "select coalesce(usename::text, 'the server itself'), coalesce(nullif(application_name, ''), backend_type, ''), \
         coalesce(host(client_addr), 'the socket'), count(*) {SESSIONS} group by 1, 2, 3 order by 4 desc, 1, 2, 3"
    );
    let mut found = Vec::new();
    for row in client.query(&query, &[&database])? {
        let (user, program, address): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let count: i64 = row.try_get(3)?;
        let times = if count > 1 { format!(" ({count} sessions)") } else { String::new() };
        found.push(format!("{user} with {program} from {address}{times}"));
    }
    if found.len() > SESSIONS_NAMED_MAX {
        let more = found.len() - SESSIONS_NAMED_MAX;
        found.truncate(SESSIONS_NAMED_MAX);
        found.push(format!("{more} more"));
    }
    Ok(found)
}

/// Drops a database that an act created or set aside. One that does not exist is no error.
fn drop_database(client: &mut Client, name: &str) -> Result<(), Error> {
    let quoted = quoted(name);
    // FORCE ends sessions (PostgreSQL 13 and later).
    match client.batch_execute(&format!("drop database if exists {quoted} with (force)")) {
        Err(error) if error.code() == Some(&SqlState::SYNTAX_ERROR) => client
            .batch_execute(&format!("drop database if exists {quoted}"))
            .map_err(|error| refused("drop database", name, &error)),
        other => other.map_err(|error| refused("drop database", name, &error)),
    }
}

/// The name with a suffix, cut so that the server does not cut it: the suffix must stay whole.
fn with_suffix(name: &str, suffix: &str) -> String {
    let mut end = NAME_BYTES_MAX.saturating_sub(suffix.len()).min(name.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", name.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_before_the_suffix_and_between_characters() {
        assert_eq!(with_suffix("app", "_old_0123abcd"), "app_old_0123abcd");
        let long = "ä".repeat(40);
        let cut = with_suffix(&long, "_restore_0123abcd");
        assert!(cut.len() <= NAME_BYTES_MAX && cut.ends_with("_restore_0123abcd"), "{cut}");
        assert_ne!(with_suffix(&long, "_restore_0123abcd"), with_suffix(&long, "_old_0123abcd"));
    }
}
