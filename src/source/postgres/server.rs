//! Questions to a live server before a dump: its version, the database's size, and what the user may read.

use super::connect::Connection;
use super::tls::explain;
use crate::source::SourceError;

/// Names of unreadable tables that are listed; the rest is only counted.
const UNREADABLE_LISTED_MAX: usize = 50;

/// What the user may do about roles and settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalsAccess {
    /// Roles with their passwords.
    Full,
    /// Roles without passwords: the user may not read `pg_authid`.
    WithoutPasswords,
    /// Nothing.
    None,
}

/// What a server says about itself and one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// `server_version_num`, for example 150018.
    pub version_num: u32,
    /// `server_version`, for example `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// Size of the database on disk, bytes; unknown where the user may not ask.
    pub database_bytes: Option<u64>,
    /// Tables and sequences that the user may not read, as `schema.table`, sorted; at most 50.
    pub unreadable: Vec<String>,
    /// How many there are in all.
    pub unreadable_count: u64,
    /// True for a superuser.
    pub superuser: bool,
    /// What the user may see of roles.
    pub globals: GlobalsAccess,
    /// True for a standby.
    pub in_recovery: bool,
}

impl ServerInfo {
    /// The major version: 15 for 15.18, 9 for 9.6.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// An error that names the tables the user may not read, if there are any: `pg_dump` would stop at the first.
    /// # Errors
    /// [`SourceError::Content`].
    pub fn require_readable(&self, connection: &Connection) -> Result<(), SourceError> {
        if self.unreadable_count == 0 {
            return Ok(());
        }
        let more = self.unreadable_count - self.unreadable.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(SourceError::Content {
            subject: connection.without_password(),
            reason: format!(
                "cannot be dumped: user {} may not read {}{more} (grant pg_read_all_data to the user, or SELECT on \
                 these tables and USAGE on their schemas)",
                connection.user(),
                self.unreadable.join(", ")
            ),
        })
    }
}

const FACTS: &str = "select current_setting('server_version_num')::int4, current_setting('server_version'), \
    current_setting('is_superuser') = 'on', pg_is_in_recovery(), \
    has_table_privilege('pg_catalog.pg_authid', 'SELECT'), has_table_privilege('pg_catalog.pg_roles', 'SELECT')";

/// Members of extensions are left to the extension, and foreign tables to their server, as `pg_dump` does.
const UNREADABLE: &str = "select format('%s.%s', n.nspname, c.relname), count(*) over () \
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'p', 'S') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' \
    and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::regclass \
        and d.objid = c.oid and d.deptype = 'e') \
    and not (has_schema_privilege(n.oid, 'USAGE') and case when c.relkind = 'S' \
        then has_sequence_privilege(c.oid, 'SELECT') else has_table_privilege(c.oid, 'SELECT') end) \
    order by 1 limit 50";

/// Asks the server.
/// # Errors
/// [`SourceError::Unreachable`]: no connection, no such database, a refused question.
pub fn inspect(connection: &Connection) -> Result<ServerInfo, SourceError> {
    let mut client = connection.open()?;
    let fail = |error: postgres::Error| SourceError::Unreachable {
        target: connection.without_password(),
        reason: explain(&error),
    };
    let facts = client.query_one(FACTS, &[]).map_err(fail)?;
    let authid: bool = facts.try_get(4).map_err(fail)?;
    let roles: bool = facts.try_get(5).map_err(fail)?;
    let version_num: i32 = facts.try_get(0).map_err(fail)?;
    // The user may be denied CONNECT-level facts on hosted servers; the size is only for people.
    let bytes: Option<i64> =
        client.query_one("select pg_database_size(current_database())", &[]).ok().and_then(|row| row.try_get(0).ok());
    let rows = client.query(UNREADABLE, &[]).map_err(fail)?;
    let names = rows.iter().take(UNREADABLE_LISTED_MAX).map(|row| row.try_get(0)).collect::<Result<_, _>>();
    let count: i64 = rows.first().map_or(Ok(0), |row| row.try_get(1)).map_err(fail)?;
    Ok(ServerInfo {
        version_num: u32::try_from(version_num).unwrap_or_default(),
        version: facts.try_get(1).map_err(fail)?,
        database_bytes: bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        unreadable: names.map_err(fail)?,
        unreadable_count: u64::try_from(count).unwrap_or_default(),
        superuser: facts.try_get(2).map_err(fail)?,
        globals: match (authid, roles) {
            (true, _) => GlobalsAccess::Full,
            (false, true) => GlobalsAccess::WithoutPasswords,
            (false, false) => GlobalsAccess::None,
        },
        in_recovery: facts.try_get(3).map_err(fail)?,
    })
}
