//! One PostgreSQL connection as libpq would make it: the URL, then the service, then `PG*`, then libpq's defaults.
//!
//! The environment is passed in ([`LibpqEnvironment`]); this file reads none. A connection knows three forms: for
//! people (never a password), for a client program (arguments without a password, the password in its environment),
//! and a live session by the `postgres` crate.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::config::{ChannelBinding, SslMode as CrateSslMode, SslNegotiation, TargetSessionAttrs};
use zeroize::Zeroizing;

use super::conninfo::{self, Pairs};
use super::passfile::{self, PassfileAnswer};
use super::tls;
use crate::source::SourceError;

/// Where servers of Debian, of Red Hat and of a plain build put their sockets.
const SOCKET_DIRECTORIES: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];
/// A check must not hang for ever on a host that swallows packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Variables of libpq and the keywords they stand for.
const VARIABLES: &[(&str, &str)] = &[
    ("PGAPPNAME", "application_name"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGDATABASE", "dbname"),
    ("PGGSSDELEGATION", "gssdelegation"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGGSSLIB", "gsslib"),
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGKRBSRVNAME", "krbsrvname"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGOPTIONS", "options"),
    ("PGPASSFILE", "passfile"),
    ("PGPASSWORD", "password"),
    ("PGPORT", "port"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSERVICE", "service"),
    ("PGSERVICEFILE", "servicefile"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLCOMPRESSION", "sslcompression"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLSNI", "sslsni"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGUSER", "user"),
];

/// Variables that would change what a dump contains or how it is spelled; a client never inherits them.
const UNWANTED: &[&str] = &["PGCLIENTENCODING", "PGDATESTYLE", "PGGEQO", "PGSYSCONFDIR", "PGTZ", "PGLOCALEDIR"];

/// Why a connection could not be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The text is neither a URI nor pairs.
    #[error("The PostgreSQL connection has {reason}")]
    Syntax {
        /// What was found.
        reason: String,
    },
    /// A keyword that libpq does not know.
    #[error("'{keyword}' is not a setting of a PostgreSQL connection")]
    Keyword {
        /// The keyword.
        keyword: String,
    },
    /// A setting with a value that it cannot have.
    #[error("'{value}' is not a value for the PostgreSQL setting {keyword}")]
    Value {
        /// The keyword.
        keyword: String,
        /// The value.
        value: String,
    },
    /// A service that is not defined, or wrongly.
    #[error("PostgreSQL service '{service}' cannot be used: {reason}")]
    Service {
        /// Its name.
        service: String,
        /// Why.
        reason: String,
    },
}

/// What libpq would find around it.
#[derive(Clone, Default)]
pub struct LibpqEnvironment {
    /// The `PG*` variables; others are ignored.
    pub variables: BTreeMap<String, String>,
    /// The user's home directory, for `.pgpass`, `.pg_service.conf` and `.postgresql/`.
    pub home: Option<PathBuf>,
    /// Name of the user of the operating system: the default database user.
    pub os_user: String,
}

/// How a connection is encrypted, as libpq defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server insists.
    Allow,
    /// If the server can; the certificate is not verified.
    Prefer,
    /// Always; the certificate is verified only if a root certificate file is there.
    Require,
    /// Always; the certificate must come from a known authority.
    VerifyCa,
    /// Always; the certificate must also carry the host's name.
    VerifyFull,
}

/// One server of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name, address, or the directory of a socket.
    pub host: String,
    /// Address to use instead of looking the name up.
    pub address: Option<std::net::IpAddr>,
    /// Port.
    pub port: u16,
}

impl HostPort {
    /// True for a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/') || self.host.starts_with('@')
    }
}

/// A resolved connection.
#[derive(Clone)]
pub struct Connection {
    /// Everything but secrets, as libpq keywords.
    pairs: Pairs,
    password: Option<Zeroizing<String>>,
    passfile: Option<PathBuf>,
    home: Option<PathBuf>,
    /// True when the host was named, not found.
    host_named: bool,
    hosts: Vec<HostPort>,
    ssl_mode: SslMode,
    notes: Vec<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("target", &self.without_password()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Resolves a URI, pairs, or a database name against libpq's environment.
    /// # Errors
    /// [`ConnectError`].
    pub fn resolve(text: &str, environment: &LibpqEnvironment) -> Result<Self, ConnectError> {
        let mut pairs = conninfo::parse(text)?;
        let variable = |key: &str| {
            let name = VARIABLES.iter().find(|(_, keyword)| *keyword == key).map(|(name, _)| *name)?;
            environment.variables.get(name).filter(|value| !value.is_empty()).cloned()
        };
        if let Some(service) = pairs.get("service").cloned().or_else(|| variable("service")) {
            let file = pairs.get("servicefile").cloned().or_else(|| variable("servicefile"));
            let files = service_files(file, environment);
            for (key, value) in passfile::service(&service, &files)? {
                pairs.entry(key).or_insert(value);
            }
        }
        for (name, keyword) in VARIABLES {
            if let Some(value) = environment.variables.get(*name).filter(|value| !value.is_empty()) {
                pairs.entry((*keyword).to_owned()).or_insert_with(|| value.clone());
            }
        }
        pairs.remove("service");
        pairs.remove("servicefile");
        pairs.retain(|_, value| !value.is_empty());
        let password = pairs.remove("password").map(Zeroizing::new);
        for secret in conninfo::SECRETS {
            pairs.remove(*secret);
        }
        let passfile = pairs.remove("passfile").map(PathBuf::from);
        let passfile = passfile.or_else(|| environment.home.as_ref().map(|home| home.join(".pgpass")));
        if !environment.os_user.is_empty() {
            pairs.entry("user".to_owned()).or_insert_with(|| environment.os_user.clone());
        }
        if let Some(user) = pairs.get("user").cloned() {
            pairs.entry("dbname".to_owned()).or_insert(user);
        }
        let host_named = pairs.contains_key("host") || pairs.contains_key("hostaddr");
        let hosts = hosts_of(&pairs)?;
        let ssl_mode = ssl_mode_of(&pairs)?;
        let home = environment.home.clone();
        Ok(Self { pairs, password, passfile, home, host_named, hosts, ssl_mode, notes: Vec::new() }.note_passfile())
    }

    /// The same connection with a password from the configuration; it wins over every other.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.password = Some(Zeroizing::new(password.to_owned()));
        self.notes.clear();
        self
    }

    /// The same connection with another encryption mode, unless the text or `PGSSLMODE` named one.
    /// # Errors
    /// [`ConnectError::Value`].
    pub fn with_default_sslmode(mut self, mode: &str) -> Result<Self, ConnectError> {
        self.pairs.entry("sslmode".to_owned()).or_insert_with(|| mode.to_owned());
        self.ssl_mode = ssl_mode_of(&self.pairs)?;
        Ok(self)
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(mut self, database: &str) -> Self {
        self.pairs.insert("dbname".to_owned(), database.to_owned());
        self
    }

    /// The database.
    pub fn database(&self) -> &str {
        self.get("dbname").unwrap_or_default()
    }

    /// The user.
    pub fn user(&self) -> &str {
        self.get("user").unwrap_or_default()
    }

    /// A setting by its libpq keyword, secrets excepted.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.pairs.get(keyword).map(String::as_str)
    }

    /// The servers, in the order they are tried.
    pub fn hosts(&self) -> &[HostPort] {
        &self.hosts
    }

    /// How it is encrypted.
    pub fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// The home directory that `.postgresql/` is looked for in.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// Things the user should know, such as a password file that was not used.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A URI for people and for snapshots. It has no password.
    pub fn without_password(&self) -> String {
        let mut uri = "postgres://".to_owned();
        if let Some(user) = self.get("user") {
            uri.push_str(&conninfo::encode(user));
            uri.push('@');
        }
        let hosts = self.hosts.iter().map(|host| {
            let name = if host.host.contains(':') && !host.is_socket() {
                format!("[{}]", host.host)
            } else {
                conninfo::encode(&host.host)
            };
            format!("{name}:{}", host.port)
        });
        uri.push_str(&hosts.collect::<Vec<_>>().join(","));
        uri.push('/');
        uri.push_str(&conninfo::encode(self.database()));
        uri
    }

    /// The pairs for `--dbname=` of a client program: no secret among them. With `named_only` the server is left out
    /// when nobody named it, because a program behind a command prefix has defaults of its own.
    pub fn client_conninfo(&self, named_only: bool) -> String {
        let mut pairs = self.pairs.clone();
        if !self.host_named
            && !named_only
            && let Some(host) = self.hosts.first()
        {
            pairs.insert("host".to_owned(), host.host.clone());
        }
        conninfo::write(&pairs)
    }

    /// Changes to the environment of a client program: the password or the password file, and no variable of ours that
    /// would change the connection behind our back.
    pub fn client_environment(&self) -> Vec<(OsString, Option<OsString>)> {
        let removed = VARIABLES.iter().map(|(name, _)| *name).chain(UNWANTED.iter().copied());
        let mut changes: Vec<(OsString, Option<OsString>)> = removed.map(|name| (name.into(), None)).collect();
        match (&self.password, &self.passfile) {
            (Some(password), _) => changes.push(("PGPASSWORD".into(), Some(password.as_str().into()))),
            (None, Some(passfile)) => changes.push(("PGPASSFILE".into(), Some(passfile.into()))),
            (None, None) => {}
        }
        changes
    }

    /// Opens a session, trying every server in turn.
    /// # Errors
    /// [`SourceError::Unreachable`] with what the last server or the network said.
    pub fn open(&self) -> Result<postgres::Client, SourceError> {
        let mut reason = "no server is named".to_owned();
        for host in &self.hosts {
            match self.open_host(host) {
                Ok(client) => return Ok(client),
                Err(text) => reason = text,
            }
        }
        if let Some(note) = self.notes.first() {
            reason = format!("{reason} ({note})");
        }
        Err(SourceError::Unreachable { target: self.without_password(), reason })
    }

    fn open_host(&self, host: &HostPort) -> Result<postgres::Client, String> {
        let config = self.crate_config(host)?;
        let plain = |config: &postgres::Config| {
            let mut config = config.clone();
            config.ssl_mode(CrateSslMode::Disable);
            config.connect(postgres::NoTls)
        };
        if host.is_socket() || self.ssl_mode == SslMode::Disable {
            // libpq never encrypts a Unix socket.
            return plain(&config).map_err(|error| tls::explain(&error));
        }
        let encrypted = |mode: CrateSslMode| {
            let connector = tls::connector(self)?;
            let mut config = config.clone();
            config.ssl_mode(mode);
            config.connect(connector).map_err(|error| tls::explain(&error))
        };
        match self.ssl_mode {
            SslMode::Allow => {
                plain(&config).or_else(|first| encrypted(CrateSslMode::Require).map_err(|_| tls::explain(&first)))
            }
            SslMode::Prefer => encrypted(CrateSslMode::Prefer).or_else(|first| plain(&config).map_err(|_| first)),
            _ => encrypted(CrateSslMode::Require),
        }
    }

    fn crate_config(&self, host: &HostPort) -> Result<postgres::Config, String> {
        let mut config = postgres::Config::new();
        config.user(self.user()).dbname(self.database()).port(host.port);
        match host.address {
            Some(address) => config.hostaddr(address).host(&host.host),
            None => config.host(&host.host),
        };
        config.application_name(self.get("application_name").unwrap_or("holdfast"));
        let seconds = self.get("connect_timeout").and_then(|text| text.parse::<u64>().ok()).filter(|s| *s > 0);
        config.connect_timeout(seconds.map_or(CONNECT_TIMEOUT, Duration::from_secs));
        if let Some(options) = self.get("options") {
            config.options(options);
        }
        if self.get("sslnegotiation") == Some("direct") {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        config.channel_binding(match self.get("channel_binding") {
            Some("disable") => ChannelBinding::Disable,
            Some("require") => ChannelBinding::Require,
            _ => ChannelBinding::Prefer,
        });
        config.target_session_attrs(match self.get("target_session_attrs") {
            Some("read-write" | "primary") => TargetSessionAttrs::ReadWrite,
            Some("read-only" | "standby") => TargetSessionAttrs::ReadOnly,
            _ => TargetSessionAttrs::Any,
        });
        if let Some(password) = self.password_for(host) {
            config.password(password.as_str());
        }
        Ok(config)
    }

    fn password_for(&self, host: &HostPort) -> Option<Zeroizing<String>> {
        if let Some(password) = &self.password {
            return Some(password.clone());
        }
        match self.ask_passfile(host)? {
            PassfileAnswer::Found(password) => Some(Zeroizing::new(password)),
            _ => None,
        }
    }

    fn ask_passfile(&self, host: &HostPort) -> Option<PassfileAnswer> {
        // libpq calls its default socket directory "localhost" here; ours may be any of the usual ones.
        let name = match host.host.as_str() {
            socket if SOCKET_DIRECTORIES.contains(&socket) => "localhost",
            other => other,
        };
        let path = self.passfile.as_ref()?;
        Some(passfile::lookup(path, name, &host.port.to_string(), self.database(), self.user()))
    }

    fn note_passfile(mut self) -> Self {
        if self.password.is_none()
            && let Some(PassfileAnswer::Refused(note)) = self.hosts.first().and_then(|host| self.ask_passfile(host))
        {
            self.notes.push(note);
        }
        self
    }
}

fn service_files(named: Option<String>, environment: &LibpqEnvironment) -> Vec<PathBuf> {
    let directory = environment.variables.get("PGSYSCONFDIR").map_or("/etc/postgresql-common", String::as_str);
    let user = environment.home.as_ref().map(|home| home.join(".pg_service.conf"));
    let first = named.map(PathBuf::from).or(user);
    first.into_iter().chain([Path::new(directory).join("pg_service.conf")]).collect()
}

fn hosts_of(pairs: &Pairs) -> Result<Vec<HostPort>, ConnectError> {
    let list = |key: &str| pairs.get(key).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
    let (names, addresses) = (list("host").unwrap_or_default(), list("hostaddr").unwrap_or_default());
    let ports = list("port").unwrap_or_default();
    let mut hosts = Vec::new();
    for index in 0..names.len().max(addresses.len()).max(1) {
        let port = match ports.as_slice() {
            [] => "",
            [one] => one,
            many => many.get(index).copied().unwrap_or_default(),
        };
        let invalid = |keyword: &str, value: &str| ConnectError::Value { keyword: keyword.into(), value: value.into() };
        let port = if port.is_empty() { 5432 } else { port.parse().map_err(|_| invalid("port", port))? };
        let address = match addresses.get(index).filter(|text| !text.is_empty()) {
            Some(text) => Some(text.parse().map_err(|_| invalid("hostaddr", text))?),
            None => None,
        };
        let name = names.get(index).filter(|name| !name.is_empty()).map(|name| (*name).to_owned());
        let host = name.or_else(|| address.map(|a: std::net::IpAddr| a.to_string()));
        hosts.push(HostPort { host: host.unwrap_or_else(|| default_host(port)), address, port });
    }
    Ok(hosts)
}

/// The first usual directory with a socket for the port; without one, TCP on this machine.
fn default_host(port: u16) -> String {
    let has_socket = |directory: &&&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_DIRECTORIES.iter().find(has_socket).map_or("localhost", |directory| directory).to_owned()
}

fn ssl_mode_of(pairs: &Pairs) -> Result<SslMode, ConnectError> {
    Ok(match pairs.get("sslmode").map(String::as_str) {
        None if pairs.get("requiressl").map(String::as_str) == Some("1") => SslMode::Require,
        // The roots of the system verify nothing useful without the name.
        None if pairs.get("sslrootcert").map(String::as_str) == Some("system") => SslMode::VerifyFull,
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(other) => {
            return Err(ConnectError::Value { keyword: "sslmode".to_owned(), value: other.to_owned() });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn environment(variables: &[(&str, &str)]) -> LibpqEnvironment {
        LibpqEnvironment {
            variables: variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            home: None,
            os_user: "me".into(),
        }
    }

    #[test]
    fn the_text_wins_over_the_service_and_that_over_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".pg_service.conf"), "[s]\nhost=service\nport=1\ndbname=sdb\n").unwrap();
        let mut environment = environment(&[
            ("PGSERVICE", "s"),
            ("PGHOST", "env"),
            ("PGPORT", "9"),
            ("PGUSER", "envuser"),
            ("HOME", "/x"),
        ]);
        environment.home = Some(dir.path().to_owned());
        let connection = Connection::resolve("postgres://:77/text", &environment).unwrap();
        assert_eq!(connection.without_password(), "postgres://envuser@service:77/text");
        let connection = Connection::resolve("", &environment).unwrap();
        assert_eq!(connection.without_password(), "postgres://envuser@service:1/sdb");
    }

    #[test]
    fn defaults_are_those_of_libpq() {
        let connection = Connection::resolve("host=h", &environment(&[])).unwrap();
        assert_eq!(connection.without_password(), "postgres://me@h:5432/me");
        assert_eq!(connection.ssl_mode(), SslMode::Prefer);
        for (text, mode) in [("sslmode=disable", SslMode::Disable), ("sslrootcert=system", SslMode::VerifyFull)] {
            assert_eq!(Connection::resolve(text, &environment(&[])).unwrap().ssl_mode(), mode);
        }
        for bad in ["sslmode=maybe", "port=x host=h", "hostaddr=h"] {
            assert!(matches!(Connection::resolve(bad, &environment(&[])), Err(ConnectError::Value { .. })), "{bad}");
        }
        let several = Connection::resolve("postgres://h1,h2:7/db", &environment(&[])).unwrap();
        assert_eq!(several.without_password(), "postgres://me@h1:5432,h2:7/db");
    }

    #[test]
    fn a_password_travels_by_environment_only() {
        let connection =
            Connection::resolve("postgres://u:hunter2@h/db", &environment(&[("PGPASSWORD", "other")])).unwrap();
        for text in [connection.without_password(), connection.client_conninfo(false), format!("{connection:?}")] {
            assert!(!text.contains("hunter2") && !text.contains("other"), "{text}");
        }
        let changes = connection.client_environment();
        assert_eq!(changes.last(), Some(&("PGPASSWORD".into(), Some("hunter2".into()))));
        assert!(changes.contains(&("PGSERVICE".into(), None)) && changes.contains(&("PGCLIENTENCODING".into(), None)));
        assert_eq!(connection.with_password("new").client_environment().last().unwrap().1, Some("new".into()));
    }

    #[test]
    fn the_password_file_is_asked_and_its_refusal_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".pgpass");
        std::fs::write(&path, "h:5432:db:u:filed\nlocalhost:*:*:*:local\n").unwrap();
        let mut environment = environment(&[]);
        environment.home = Some(dir.path().to_owned());
        for (mode, wanted, notes) in [(0o600, Some("filed"), 0), (0o644, None, 1)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let connection = Connection::resolve("postgres://u@h/db", &environment).unwrap();
            let password = connection.password_for(&connection.hosts()[0]);
            assert_eq!((password.as_ref().map(|p| p.as_str()), connection.notes().len()), (wanted, notes));
            assert_eq!(connection.client_environment().last().unwrap().0, "PGPASSFILE");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let connection = Connection::resolve("host=/var/run/postgresql", &environment).unwrap();
        assert_eq!(connection.password_for(&connection.hosts()[0]).unwrap().as_str(), "local");
    }

    #[test]
    fn an_unreachable_server_is_named_without_its_password() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("host={} user=u password=hunter2", dir.path().display());
        let error = Connection::resolve(&text, &environment(&[])).unwrap().open().err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, SourceError::Unreachable { .. }) && !text.contains("hunter2"), "{text}");
    }
}
