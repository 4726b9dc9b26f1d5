//! What belongs to a database and stands in no dump of it: owner, encoding, locale, tablespace, access, settings, limit
//! of connections, comment. Read from one database, given to another.

use postgres::Client;
use serde_json::Value;

use super::postgres::quoted;

/// Settings whose stored value is a list of quoted names, which `SET` takes name by name.
const LIST_SETTINGS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Read from a database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Properties {
    owner: String,
    /// None: the one that new databases get anyway, which to name takes a right of its own.
    tablespace: Option<String>,
    encoding: String,
    /// Option of `CREATE DATABASE` and its value.
    locale: Vec<(&'static str, String)>,
    connection_limit: i64,
    /// None: the server's default. Otherwise grantee (none: everybody), privilege, with grant option.
    access: Option<Vec<(Option<String>, String, bool)>>,
    /// Role (none: every), name, value.
    settings: Vec<(Option<String>, String, String)>,
    comment: Option<String>,
}

/// All columns, because their names differ between versions of the server.
const FACTS: &str = "select pg_catalog.to_jsonb(d)::text, pg_catalog.pg_get_userbyid(d.datdba)::text, \
    case when d.dattablespace <> (select n.dattablespace from pg_catalog.pg_database n where n.datname = 'template0') \
    then t.spcname::text end, pg_catalog.pg_encoding_to_char(d.encoding)::text, \
    pg_catalog.shobj_description(d.oid, 'pg_database'), d.datacl is null \
    from pg_catalog.pg_database d join pg_catalog.pg_tablespace t on t.oid = d.dattablespace where d.datname = $1";
const ACCESS: &str = "select case when a.grantee = 0 then null else pg_catalog.pg_get_userbyid(a.grantee)::text end, \
    a.privilege_type, a.is_grantable from pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a \
    where d.datname = $1 order by 1 nulls first, 2";
const SETTINGS: &str = "select case when s.setrole = 0 then null else pg_catalog.pg_get_userbyid(s.setrole)::text end, \
    c from pg_catalog.pg_db_role_setting s join pg_catalog.pg_database d on d.oid = s.setdatabase, \
    unnest(s.setconfig) with ordinality u(c, n) where d.datname = $1 order by 1 nulls first, u.n";

impl Properties {
    /// Reads them; None when there is no such database.
    ///
    /// # Errors
    /// What the server said.
    pub(super) fn read(client: &mut Client, database: &str) -> Result<Option<Self>, postgres::Error> {
        let Some(row) = client.query_opt(FACTS, &[&database])? else { return Ok(None) };
        let all: Value = serde_json::from_str(row.try_get(0)?).unwrap_or_default();
        let text = |name: &str| all.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut properties = Self {
            owner: row.try_get(1)?,
            tablespace: row.try_get(2)?,
            encoding: row.try_get(3)?,
            locale: Vec::new(),
            connection_limit: all.get("datconnlimit").and_then(Value::as_i64).unwrap_or(-1),
            access: None,
            settings: Vec::new(),
            comment: row.try_get(4)?,
        };
        let locale = [("lc_collate", "datcollate"), ("lc_ctype", "datctype")];
        properties.locale.extend(locale.iter().filter_map(|(option, column)| Some((*option, text(column)?))));
        // Since PostgreSQL 15 ('c': the system's), with other column names since 17.
        let its_locale = text("daticulocale").or_else(|| text("datlocale"));
        match text("datlocprovider").as_deref() {
            Some("i") => {
                properties.locale.push(("locale_provider", "icu".to_owned()));
                properties.locale.extend(its_locale.map(|locale| ("icu_locale", locale)));
                properties.locale.extend(text("daticurules").map(|rules| ("icu_rules", rules)));
            }
            Some("b") => {
                properties.locale.push(("locale_provider", "builtin".to_owned()));
                properties.locale.extend(its_locale.map(|locale| ("builtin_locale", locale)));
            }
            _ => {}
        }
        let default_access: bool = row.try_get(5)?;
        if !default_access {
            let rows = client.query(ACCESS, &[&database])?;
            let read = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)));
            properties.access = Some(read.collect::<Result<_, postgres::Error>>()?);
        }
        for row in client.query(SETTINGS, &[&database])? {
            let (role, setting): (Option<String>, String) = (row.try_get(0)?, row.try_get(1)?);
            if let Some((name, value)) = setting.split_once('=') {
                properties.settings.push((role, name.to_owned(), value.to_owned()));
            }
        }
        Ok(Some(properties))
    }

    /// The statement that creates a database like this one, empty.
    pub(super) fn create(&self, name: &str) -> String {
        let mut statement = format!(
            "create database {} template template0 owner {} encoding {}",
            quoted(name),
            quoted(&self.owner),
            literal(&self.encoding)
        );
        for (option, value) in &self.locale {
            statement.push_str(&format!(" {option} {}", literal(value)));
        }
        if let Some(tablespace) = &self.tablespace {
            statement.push_str(&format!(" tablespace {}", quoted(tablespace)));
        }
        statement
    }

    /// The statements that give a filled database the rest.
    pub(super) fn finish(&self, name: &str) -> Vec<String> {
        let database = quoted(name);
        let mut statements = Vec::new();
        if let Some(access) = &self.access {
            statements.push(format!("revoke all on database {database} from public"));
            statements.push(format!("revoke all on database {database} from {}", quoted(&self.owner)));
            for (grantee, privilege, grantable) in access {
                let to = grantee.as_deref().map_or_else(|| "public".to_owned(), quoted);
                let option = if *grantable { " with grant option" } else { "" };
                statements.push(format!("grant {privilege} on database {database} to {to}{option}"));
            }
        }
        for (role, setting, value) in &self.settings {
            let whom = match role {
                Some(role) => format!("role {} in database {database}", quoted(role)),
                None => format!("database {database}"),
            };
            let setting_name = setting.split('.').map(quoted).collect::<Vec<_>>().join(".");
            statements.push(format!("alter {whom} set {setting_name} to {}", setting_value(setting, value)));
        }
        if self.connection_limit != -1 {
            statements.push(format!("alter database {database} connection limit {}", self.connection_limit));
        }
        if let Some(comment) = &self.comment {
            statements.push(format!("comment on database {database} is {}", literal(comment)));
        }
        statements
    }
}

/// What a dump says of the database that it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dumped {
    /// `CREATE DATABASE`.
    pub definition: String,
    /// Its owner; empty when that is not known.
    pub owner: String,
    /// Its tablespace; empty: the server's default.
    pub tablespace: String,
    /// `ALTER DATABASE`, `GRANT`, `COMMENT` and the like, one statement each.
    pub statements: Vec<String>,
}

impl Dumped {
    /// The statement that creates a database like this one, empty and without its owner.
    pub(super) fn create(&self, name: &str) -> String {
        let mut statement = format!(
            "create database {} template template0{}",
            quoted(name),
            crate::target::scratch::database_options(&self.definition)
        );
        if !self.tablespace.is_empty() {
            statement.push_str(&format!(" tablespace {}", quoted(&self.tablespace)));
        }
        statement
    }

    /// The statements that give a filled database the rest; as second values those as the dump has them.
    pub(super) fn finish(&self, name: &str) -> impl Iterator<Item = (String, &str)> {
        self.statements.iter().filter_map(move |statement| Some((of_database(statement, name)?, statement.as_str())))
    }
}

/// A statement about a database, made to be about another one. None for statements that are not about one.
fn of_database(statement: &str, name: &str) -> Option<String> {
    const KNOWN: [&str; 6] = ["ALTER DATABASE ", "ALTER ROLE ", "GRANT ", "REVOKE ", "COMMENT ON ", "SECURITY LABEL "];
    const WORD: &str = "DATABASE ";
    if !KNOWN.iter().any(|known| statement.starts_with(known)) {
        return None;
    }
    let mut quote = None;
    for (at, c) in statement.char_indices() {
        match quote {
            Some(open) => quote = (c != open).then_some(open),
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None => {
                let (before, rest) = statement.split_at_checked(at)?;
                let Some(rest) = rest.strip_prefix(WORD).filter(|_| before.is_empty() || before.ends_with(' ')) else {
                    continue;
                };
                let after = match rest.strip_prefix('"') {
                    None => rest.get(rest.find(' ').unwrap_or(rest.len())..)?,
                    // A quote within the name is written twice.
                    Some(inner) => {
                        let mut open = true;
                        let end = inner.char_indices().find(|(at, c)| {
                            open ^= *c == '"';
                            !open && !inner.get(at + 1..).is_some_and(|next| next.starts_with('"')) && *c == '"'
                        });
                        inner.get(end?.0 + 1..)?
                    }
                };
                return Some(format!("{before}{WORD}{}{after}", quoted(name)));
            }
        }
    }
    None
}

fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    // A backslash means itself in this form whatever standard_conforming_strings says.
    if text.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// The stored value as `SET` takes it.
fn setting_value(name: &str, value: &str) -> String {
    if !LIST_SETTINGS.contains(&name.to_ascii_lowercase().as_str()) {
        return literal(value);
    }
    let items = list_items(value);
    if items.is_empty() { literal("") } else { items.iter().map(|i| literal(i)).collect::<Vec<_>>().join(", ") }
}

/// The names of a list such as `"$user", public`.
fn list_items(value: &str) -> Vec<String> {
    let (mut items, mut item, mut quoted, mut was_quoted) = (Vec::new(), String::new(), false, false);
    let mut characters = value.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                item.push('"');
            }
            '"' => (quoted, was_quoted) = (!quoted, true),
            ',' if !quoted => {
                items.push(std::mem::take(&mut item));
                was_quoted = false;
            }
            c if c.is_whitespace() && !quoted => {}
            c => item.push(c),
        }
    }
    if !item.is_empty() || was_quoted {
        items.push(item);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_a_dump_are_made_to_be_about_the_new_database() {
        for (statement, expected) in [
            ("ALTER DATABASE app SET work_mem TO '7MB'", Some("ALTER DATABASE \"new\" SET work_mem TO '7MB'")),
            (
                "ALTER ROLE reader IN DATABASE \"a \"\"b\"\" DATABASE c\" SET x TO 'DATABASE app '",
                Some("ALTER ROLE reader IN DATABASE \"new\" SET x TO 'DATABASE app '"),
            ),
            ("GRANT CONNECT ON DATABASE app TO reader", Some("GRANT CONNECT ON DATABASE \"new\" TO reader")),
            ("COMMENT ON DATABASE app IS 'it''s'", Some("COMMENT ON DATABASE \"new\" IS 'it''s'")),
            ("UPDATE pg_catalog.pg_database SET datistemplate = true WHERE datname = 'app'", None),
            ("DROP DATABASE app", None),
            ("ALTER ROLE x IN DATABASE", None),
            ("ALTER DATABASE \"cut", None),
        ] {
            assert_eq!(of_database(statement, "new").as_deref(), expected, "{statement}");
        }
    }

    #[test]
    fn settings_are_written_as_they_are_read() {
        assert_eq!(setting_value("work_mem", "64MB"), "'64MB'");
        assert_eq!(setting_value("my.x", "it's, \"so\""), "'it''s, \"so\"'");
        assert_eq!(
            setting_value("search_path", "\"$user\", public, \"a \"\"b\"\", c\""),
            "'$user', 'public', 'a \"b\", c'"
        );
        assert_eq!(setting_value("search_path", ""), "''");
        assert_eq!(setting_value("search_path", "\"\""), "''");
        assert_eq!(literal("a\\b"), " E'a\\\\b'");
    }
}
