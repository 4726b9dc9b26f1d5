//! The program itself, run in surroundings of its own: no variable of the developer's machine, no home, no
//! configuration, and no repository outside of a temporary folder.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The password of repositories made by [`Place::init`].
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A temporary folder with a home, in which the program runs.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// What a run printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.path("home")).unwrap();
        place
    }

    /// A place with an encrypted repository.
    pub(crate) fn with_repository() -> Self {
        let place = Self::new();
        let ran = place.run(["init"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        place
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in the folder, with the folders above it.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// The program with the password set.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.bare(args);
        command.env("HOLDFAST_PASSWORD", PASSWORD);
        command
    }

    /// The program without any secret.
    pub(crate) fn bare<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let home = self.path("home");
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            // All of them, because root's defaults are not below its home.
            .env("XDG_DATA_HOME", home.join("data"))
            .env("XDG_STATE_HOME", home.join("state"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("HOLDFAST_REPOSITORY", self.path("repository"))
            .env("TZ", "UTC")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        run(&mut self.command(args))
    }

    pub(crate) fn run_bare<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        run(&mut self.bare(args))
    }

    /// Runs with bytes on standard input.
    pub(crate) fn run_with_input<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
        let mut command = self.command(args);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        // Small inputs only: they fit into the pipe, or the program reads them before it fills its own.
        child.stdin.take().unwrap().write_all(input).unwrap();
        ran(child.wait_with_output().unwrap())
    }

    /// Runs a backup that must succeed, and gives the id it printed.
    pub(crate) fn backup<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(["backup"]);
        command.args(args);
        let ran = run(&mut command);
        assert_eq!(ran.code, 0, "{ran:?}");
        let id = ran.stdout.trim_end().to_owned();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{ran:?}");
        id
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    ran(command.output().unwrap())
}

fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"));
    Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ran {
    /// The run failed with this code, said so, and printed nothing on standard output.
    pub(crate) fn failed(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.contains("error: ") && self.stderr.contains(words), "{words}: {self:?}");
        assert!(!self.stderr.contains("Internal error"), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
    }

    /// The run failed with this code and said so; what it printed before does not matter.
    #[track_caller]
    pub(crate) fn failed_with_output(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.contains("error: ") && self.stderr.contains(words), "{words}: {self:?}");
    }

    /// The run succeeded.
    #[track_caller]
    pub(crate) fn good(&self) -> &Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Standard output as one JSON document.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The last line of standard error as JSON.
    pub(crate) fn json_error(&self) -> serde_json::Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Every file below a folder, as text for comparing.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).into_iter().flatten() {
            let item = item.unwrap();
            match item.file_type().unwrap().is_dir() {
                true => folders.push(item.path()),
                false => found.push(item.path()),
            }
        }
    }
    found.sort();
    found
}

/// True when this process may mount in a name space of its own.
pub(crate) fn can_mount() -> bool {
    let probe = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    probe.is_ok_and(|output| output.status.success())
}
