//! What surrounds the process: variables, folders, terminals, user, host, time. Gathered once; everything else takes
//! this value, so that tests give any surroundings they like. The only reader of `std::env`.

use crate::domain::system::Clock;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

const SYSTEM_CONFIG: &str = "/etc/holdfast";

/// The surroundings of one run.
#[derive(Clone)]
pub struct Environment {
    /// The variables. Secrets are among them: this type never prints their values.
    pub variables: BTreeMap<OsString, OsString>,
    /// The variables that came from a file, and the file.
    pub from_file: BTreeMap<OsString, PathBuf>,
    /// The working directory.
    pub directory: PathBuf,
    /// The folder of the machine's configuration.
    pub system_config: PathBuf,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// The effective user id.
    pub uid: u32,
    /// The user's name, or the number where there is none.
    pub user: String,
    /// The host's name.
    pub host: String,
    /// The text of `/etc/os-release`, where there is one.
    pub os_release: Option<String>,
    /// Local time.
    pub time_zone: TimeZone,
    /// True when standard input is a terminal.
    pub stdin_terminal: bool,
    /// True when standard output is a terminal.
    pub stdout_terminal: bool,
    /// True when standard error is a terminal.
    pub stderr_terminal: bool,
    /// Columns of the terminal.
    pub terminal_columns: Option<u16>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("directory", &self.directory)
            .field("home", &self.home)
            .field("uid", &self.uid)
            .field("user", &self.user)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Environment {
    /// Gathers the real surroundings.
    ///
    /// # Errors
    /// When the working directory no longer exists.
    pub fn from_system() -> std::io::Result<Self> {
        use std::io::IsTerminal;
        let variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let uid = nix::unistd::Uid::effective();
        let entry = nix::unistd::User::from_uid(uid).ok().flatten();
        let home = variables.get(OsStr::new("HOME")).filter(|h| !h.is_empty()).map(PathBuf::from);
        Ok(Self {
            from_file: BTreeMap::new(),
            directory: std::env::current_dir()?,
            system_config: PathBuf::from(SYSTEM_CONFIG),
            home: home.or_else(|| entry.as_ref().map(|e| e.dir.clone())),
            uid: uid.as_raw(),
            user: entry.map_or_else(|| uid.to_string(), |e| e.name),
            host: host_name(),
            os_release: std::fs::read_to_string("/etc/os-release").ok(),
            time_zone: TimeZone::system(),
            stdin_terminal: std::io::stdin().is_terminal(),
            stdout_terminal: std::io::stdout().is_terminal(),
            stderr_terminal: std::io::stderr().is_terminal(),
            terminal_columns: rustix::termios::tcgetwinsize(rustix::stdio::stderr()).ok().map(|size| size.ws_col),
            variables,
        })
    }

    /// Surroundings without variables, terminals and home, for tests.
    pub fn empty(directory: impl Into<PathBuf>) -> Self {
        Self {
            variables: BTreeMap::new(),
            from_file: BTreeMap::new(),
            directory: directory.into(),
            // A test must not see the configuration of the machine it runs on.
            system_config: PathBuf::from("/nonexistent"),
            home: None,
            uid: 1000,
            user: "tester".to_owned(),
            host: "testhost".to_owned(),
            os_release: None,
            time_zone: TimeZone::UTC,
            stdin_terminal: false,
            stdout_terminal: false,
            stderr_terminal: false,
            terminal_columns: None,
        }
    }

    /// Sets a variable in this value (never in the process).
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// A variable's raw value; an empty one counts as absent, as scripts clear variables that way.
    pub fn raw(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|v| !v.is_empty())
    }

    /// A variable as text; None also when it is not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.raw(name)?.to_str()
    }

    /// A variable as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.raw(name).map(PathBuf::from)
    }

    /// True for root.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// A base folder of the XDG specification: the variable when it is absolute, else `fallback` below the home.
    pub fn xdg(&self, variable: &str, fallback: &str) -> Option<PathBuf> {
        let set = self.path(variable).filter(|p| p.is_absolute());
        set.or_else(|| self.home.as_ref().map(|home| home.join(fallback)))
    }

    /// Where local state lives (catalog, ledgers): systemd's `STATE_DIRECTORY`, else below `XDG_STATE_HOME`.
    pub fn state_directory(&self) -> Option<PathBuf> {
        // systemd gives several folders with colons between them.
        let systemd = self.text("STATE_DIRECTORY").and_then(|s| s.split(':').find(|p| p.starts_with('/')));
        systemd.map(PathBuf::from).or_else(|| self.xdg("XDG_STATE_HOME", ".local/state").map(|d| d.join("holdfast")))
    }

    /// Where caches live, below `XDG_CACHE_HOME`.
    pub fn cache_directory(&self) -> Option<PathBuf> {
        self.xdg("XDG_CACHE_HOME", ".cache").map(|d| d.join("holdfast"))
    }

    /// A path that may begin with `~/`, as configuration files hold them; relative ones are taken from `base`.
    pub fn expand_path(&self, text: &str, base: &std::path::Path) -> PathBuf {
        let below_home = text.strip_prefix("~/").or(if text == "~" { Some("") } else { None });
        match (below_home, &self.home) {
            (Some(""), Some(home)) => home.clone(),
            (Some(rest), Some(home)) => home.join(rest),
            _ => base.join(text),
        }
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// The computer's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_real_surroundings_are_gathered() {
        let environment = Environment::from_system().unwrap();
        assert!(environment.directory.is_absolute());
        assert!(!environment.host.is_empty() && !environment.user.is_empty());
        assert_eq!(environment.raw("PATH"), std::env::var_os("PATH").as_deref());
    }

    #[test]
    fn debug_shows_no_values() {
        let environment = Environment::empty("/").with("HOLDFAST_PASSWORD", "hunter2");
        let debug = format!("{environment:?}");
        assert!(debug.contains("HOLDFAST_PASSWORD") && !debug.contains("hunter2"), "{debug}");
    }

    #[test]
    fn folders_follow_xdg_and_systemd() {
        let mut environment = Environment::empty("/w");
        assert_eq!(environment.cache_directory(), None);
        environment.home = Some("/home/u".into());
        assert_eq!(environment.cache_directory(), Some("/home/u/.cache/holdfast".into()));
        assert_eq!(environment.state_directory(), Some("/home/u/.local/state/holdfast".into()));
        let environment = environment.with("XDG_STATE_HOME", "/x").with("XDG_CACHE_HOME", "relative");
        assert_eq!(environment.state_directory(), Some("/x/holdfast".into()));
        assert_eq!(environment.cache_directory(), Some("/home/u/.cache/holdfast".into()));
        let environment = environment.with("STATE_DIRECTORY", "/var/lib/holdfast:/var/lib/other");
        assert_eq!(environment.state_directory(), Some("/var/lib/holdfast".into()));
    }

    #[test]
    fn empty_variables_count_as_absent_and_paths_expand() {
        let mut environment = Environment::empty("/w").with("A", "");
        assert_eq!(environment.text("A"), None);
        environment.home = Some("/home/u".into());
        let base = Path::new("/etc/holdfast");
        for (text, path) in
            [("~/r", "/home/u/r"), ("~", "/home/u"), ("~x", "/etc/holdfast/~x"), ("r", "/etc/holdfast/r"), ("/r", "/r")]
        {
            assert_eq!(environment.expand_path(text, base), PathBuf::from(path), "{text}");
        }
    }
}
