//! A temporary PostgreSQL server of our own, made of the programs that are installed here.
//!
//! It listens on a Unix socket in a folder that only its own user can enter, never on the network; it lets in nobody but
//! the user who runs us; it is as careless about crashes as a server can be, because nothing in it is to be kept. It
//! ignores every `PG*` variable. As root it runs as the user `postgres`, else `nobody`: PostgreSQL refuses root.
//!
//! Invariant: the server and its folder go when the [`Cluster`] is dropped. What a killed process left is removed by the
//! next one: a folder holds a file that its living owner has locked (the mark of life), so a folder whose file can be
//! locked belongs to nobody.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

use crate::source::command::cannot_start;
use crate::source::postgres::connect::{Connection, LibpqEnvironment};
use crate::source::process::{Child, ChildRead, ProcessSpec, Processes};

/// Beginning of the names of folders.
pub const FOLDER_PREFIX: &str = "holdfast-drill-";
/// The superuser. Not `postgres`, so that a role of that name can come from a dump without being one.
pub const SUPERUSER: &str = "holdfast_drill";
/// The user who fills tables and is nothing else.
pub const LOADER: &str = "holdfast_drill_loader";
/// The mark of life.
const MARK: &str = "alive";
/// The path of a socket may have 107 bytes; its name and a slash take 14 of them.
const SOCKET_FOLDER_MAX: usize = 107 - 14;
const PORT: u16 = 5432;
const START_TIMEOUT: Duration = Duration::from_secs(120);
const INITDB_TIMEOUT: Duration = Duration::from_secs(300);
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No server programs of the version or a later one.
    #[error("Cannot find the server programs of PostgreSQL {wanted} or later{}", found_text(.found))]
    NoServer {
        /// The version that is needed at least.
        wanted: u32,
        /// Versions that are there.
        found: Vec<u32>,
    },
    /// There is no user that the server could run as.
    #[error("PostgreSQL does not run as root, and there is neither a user 'postgres' nor a user 'nobody' here")]
    NoUser,
    /// A folder or file could not be made.
    #[error("Cannot {operation} {}", path.display())]
    Io {
        /// The verb.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program of the server did not do its work.
    #[error("{program} {outcome}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        outcome: String,
        /// Last lines of its stderr.
        stderr: String,
        /// Where the cluster was to be.
        folder: PathBuf,
    },
    /// The run was ended from outside.
    #[error("Interrupted")]
    Interrupted,
}

fn found_text(found: &[u32]) -> String {
    let list: Vec<String> = found.iter().map(u32::to_string).collect();
    if list.is_empty() { String::new() } else { format!(" (there is {})", list.join(", ")) }
}

/// The server programs of one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPrograms {
    /// The folder.
    pub directory: PathBuf,
    /// Their major version.
    pub major: u32,
}

/// Finds the server programs of the lowest version that is not below `wanted`.
/// # Errors
/// [`ClusterError::NoServer`].
pub fn find_server(
    processes: &dyn Processes,
    directories: &[PathBuf],
    wanted: u32,
) -> Result<ServerPrograms, ClusterError> {
    let there = |directory: &&PathBuf| ["initdb", "postgres"].iter().all(|name| directory.join(name).is_file());
    let mut found: Vec<ServerPrograms> = Vec::new();
    for directory in directories.iter().filter(there) {
        let spec = ProcessSpec::new(directory.join("postgres"), ["--version"]);
        let Ok(mut child) = processes.spawn(&spec) else { continue };
        let text = read_all(child.as_mut());
        let version = text.rsplit_once("(PostgreSQL) ").map_or("", |(_, version)| version);
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(major) = digits.parse() {
            found.push(ServerPrograms { directory: directory.clone(), major });
        }
    }
    let versions = || found.iter().map(|programs| programs.major).collect();
    let best = found.iter().filter(|programs| programs.major >= wanted).min_by_key(|programs| programs.major);
    best.cloned().ok_or_else(|| ClusterError::NoServer { wanted, found: versions() })
}

/// What a cluster is made with.
pub struct ClusterMeans<'a> {
    /// Starts the programs; ended early when the run is cancelled.
    pub processes: &'a dyn Processes,
    /// The server programs.
    pub programs: &'a ServerPrograms,
    /// Where its folder goes.
    pub temp_dir: &'a Path,
    /// Eight letters or so that nobody else has.
    pub unique: &'a str,
    /// It must be able to hold publications without a complaint.
    pub publishes: bool,
}

/// A running server. Dropping it ends it and removes everything.
pub struct Cluster {
    folder: Folder,
    server: Box<dyn Child>,
    connection: Connection,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.folder.path.display())
    }
}

/// The folder of a cluster, with its socket's folder when that had to be elsewhere.
struct Folder {
    path: PathBuf,
    socket: PathBuf,
    user: Option<(u32, u32)>,
    /// Held locked as long as we live.
    _mark: File,
}

impl Cluster {
    /// Makes and starts a server.
    /// # Errors
    /// [`ClusterError`]; nothing is left then.
    pub fn start(means: &ClusterMeans<'_>) -> Result<Self, ClusterError> {
        let folder = Folder::create(means)?;
        let data = folder.path.join("data");
        let mut args: Vec<OsString> = Vec::new();
        let user = format!("--username={SUPERUSER}");
        let fixed = ["--encoding=UTF8", "--locale=C", "--no-sync", "--auth=peer", &user];
        args.extend(fixed.map(OsString::from));
        args.extend(["--pgdata".into(), data.clone().into_os_string()]);
        folder.run(means, "initdb", args)?;
        folder.configure(&data, means.publishes)?;
        let spec = folder.spec(means, "postgres", vec!["-D".into(), data.into_os_string()]);
        let server =
            means.processes.spawn(&spec).map_err(|error| folder.failed("postgres", &cannot_start(&spec, &error)))?;
        let connection = folder.connection();
        let mut cluster = Self { folder, server, connection };
        cluster.await_start()?;
        Ok(cluster)
    }

    /// The superuser in the database `postgres`.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Another user in the same database; only [`LOADER`] is let in beside the superuser.
    pub fn connection_as(&self, user: &str) -> Connection {
        self.folder.connection_as(user)
    }

    /// Makes an empty folder that belongs to the server, for a tablespace.
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn make_folder(&self, name: &str) -> Result<PathBuf, ClusterError> {
        let path = self.folder.path.join(name);
        make_folder(&path, self.folder.user)?;
        Ok(path)
    }

    fn await_start(&mut self) -> Result<(), ClusterError> {
        let began = Instant::now();
        loop {
            if self.connection.open().is_ok() {
                return Ok(());
            }
            let exit = self.server.wait(Some(Duration::from_millis(50)));
            let outcome = match exit {
                Ok(Some(exit)) => exit.to_string(),
                _ if began.elapsed() > START_TIMEOUT => "did not begin to listen".to_owned(),
                Ok(None) => continue,
                Err(error) => format!("cannot be waited for: {error}"),
            };
            let stderr = self.server.stderr_tail();
            let folder = self.folder.path.clone();
            return Err(ClusterError::Failed { program: "postgres".to_owned(), outcome, stderr, folder });
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // At once and without writing anything back: there is nothing to keep. What SIGTERM asks for would wait.
        stop_server(&self.folder.path.join("data"));
        // Not more than ends a hang: the server is on its way out.
        self.server.kill();
    }
}

impl Folder {
    fn create(means: &ClusterMeans<'_>) -> Result<Self, ClusterError> {
        let user = server_user()?;
        let temp_dir = std::path::absolute(means.temp_dir).unwrap_or_else(|_| means.temp_dir.to_owned());
        let path = temp_dir.join(format!("{FOLDER_PREFIX}{}", means.unique));
        make_folder(&path, user)?;
        let mark = File::create_new(path.join(MARK)).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        });
        let mark = match mark {
            Ok(mark) => mark,
            Err(source) => {
                let _ = std::fs::remove_dir_all(&path);
                return Err(ClusterError::Io { operation: "lock", path: path.join(MARK), source });
            }
        };
        let mut folder = Self { socket: path.clone(), path, user, _mark: mark };
        if folder.path.as_os_str().len() > SOCKET_FOLDER_MAX {
            let socket = Path::new("/tmp").join(format!("{FOLDER_PREFIX}{}", means.unique));
            make_folder(&socket, user)?;
            // Only from here on, so that nothing is removed that we did not make.
            folder.socket = socket;
            let pointer = folder.path.join("socket");
            std::fs::write(&pointer, folder.socket.as_os_str().as_encoded_bytes())
                .map_err(|source| ClusterError::Io { operation: "write", path: pointer, source })?;
        }
        Ok(folder)
    }

    fn configure(&self, data: &Path, publishes: bool) -> Result<(), ClusterError> {
        let quoted = |path: &Path| path.to_string_lossy().replace('\'', "''");
        let settings = format!(
            "listen_addresses = ''\nport = {PORT}\nunix_socket_directories = '{}'\nunix_socket_permissions = 0777\n\
             fsync = off\nfull_page_writes = off\nsynchronous_commit = off\nwal_level = {}\nmax_wal_senders = 0\n\
             max_wal_size = 256MB\ncheckpoint_timeout = 1h\nautovacuum = off\njit = off\nmax_connections = 20\n\
             max_locks_per_transaction = 1024\nshared_buffers = 128MB\nmaintenance_work_mem = 128MB\n\
             lo_compat_privileges = on\nlogging_collector = off\nlog_min_messages = error\nlc_messages = 'C'\n",
            quoted(&self.socket),
            // Building an index writes no log at the lower level.
            if publishes { "logical" } else { "minimal" },
        );
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        // A user without a name cannot be told by the server. Nobody else enters the folder of its socket.
        let method = if user.is_some() { "peer map=drill" } else { "trust" };
        let user = user.unwrap_or_default().replace('"', "\"\"");
        let files = [
            // The last value of a setting wins, so it can stand after what initdb wrote.
            ("postgresql.conf", settings, true),
            ("pg_hba.conf", format!("local all all {method}\n"), false),
            ("pg_ident.conf", format!("drill \"{user}\" {SUPERUSER}\ndrill \"{user}\" {LOADER}\n"), false),
        ];
        for (name, text, keep) in files {
            let path = data.join(name);
            let old = if keep { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
            // The file exists and keeps its owner.
            std::fs::write(&path, old + &text).map_err(|source| ClusterError::Io {
                operation: "write",
                path,
                source,
            })?;
        }
        Ok(())
    }

    fn spec(&self, means: &ClusterMeans<'_>, program: &str, args: Vec<OsString>) -> ProcessSpec {
        let mut spec = ProcessSpec::new(means.programs.directory.join(program), args);
        spec.env = self.connection().client_environment();
        spec.env.extend(["PGDATA", "PG_COLOR", "LC_MESSAGES", "LANGUAGE"].map(|name| (name.into(), None)));
        spec.env.push(("LC_ALL".into(), Some("C".into())));
        spec.env.push(("TZ".into(), Some("UTC".into())));
        spec.directory = Some(self.path.clone());
        spec.user = self.user;
        spec
    }

    /// Runs a program of the server to its end.
    fn run(&self, means: &ClusterMeans<'_>, program: &str, args: Vec<OsString>) -> Result<(), ClusterError> {
        let spec = self.spec(means, program, args);
        let mut child =
            means.processes.spawn(&spec).map_err(|error| self.failed(program, &cannot_start(&spec, &error)))?;
        read_all(child.as_mut());
        match child.wait(Some(INITDB_TIMEOUT)) {
            Ok(Some(exit)) if exit.success() => Ok(()),
            Ok(Some(exit)) => Err(ClusterError::Failed {
                program: program.to_owned(),
                outcome: exit.to_string(),
                stderr: child.stderr_tail(),
                folder: self.path.clone(),
            }),
            Ok(None) => Err(ClusterError::Interrupted),
            Err(error) => Err(self.failed(program, &error)),
        }
    }

    fn failed(&self, program: &str, error: &dyn std::fmt::Display) -> ClusterError {
        let (outcome, folder) = (format!("cannot be used: {error}"), self.path.clone());
        ClusterError::Failed { program: program.to_owned(), outcome, stderr: String::new(), folder }
    }

    fn connection(&self) -> Connection {
        self.connection_as(SUPERUSER)
    }

    fn connection_as(&self, user: &str) -> Connection {
        let socket = self.socket.to_string_lossy().replace('\\', "\\\\").replace('\'', "\\'");
        let text = format!("host='{socket}' port={PORT} user={user} dbname=postgres connect_timeout=10");
        // Nothing of it can be refused, and the surroundings are empty on purpose.
        Connection::resolve(&text, &LibpqEnvironment::default()).unwrap_or_else(|_| unreachable_connection())
    }
}

/// Stands for a connection text that could not be read, which no socket's path makes; opening it fails.
fn unreachable_connection() -> Connection {
    #[allow(clippy::expect_used, reason = "a constant text")]
    Connection::resolve("host=/nonexistent", &LibpqEnvironment::default()).expect("a constant text")
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.socket != self.path {
            remove_folder(&self.socket);
        }
        remove_folder(&self.path);
    }
}

/// Removes folders of clusters and other scratch folders whose owners are dead, ending servers that outlived them.
/// Says what it removed.
pub fn remove_leftovers(temp_dir: &Path) -> Vec<PathBuf> {
    let ours = rustix::process::geteuid().as_raw();
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(temp_dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX);
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // The mark is made by whoever runs the drill, also where the folder belongs to the server's user. Somebody
        // else's folder is not ours to remove, and a folder without a mark may be one that is being made.
        let Ok(mark) = File::open(path.join(MARK)) else { continue };
        let owned = mark.metadata().is_ok_and(|metadata| metadata.uid() == ours && metadata.is_file());
        if !named || !is_folder || !owned {
            continue;
        }
        if rustix::fs::flock(&mark, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        stop_server(&path.join("data"));
        if let Ok(socket) = std::fs::read_to_string(path.join("socket")) {
            let socket = Path::new(&socket);
            let name = socket.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if socket.parent() == Some(Path::new("/tmp")) && name.starts_with(FOLDER_PREFIX) {
                let _ = std::fs::remove_dir_all(socket);
            }
        }
        if remove_folder(&path) {
            removed.push(path);
        }
    }
    removed
}

/// A folder for scratch files with a mark of life. Dropping it removes it.
#[derive(Debug)]
pub struct ScratchFolder {
    path: PathBuf,
    _mark: File,
}

impl ScratchFolder {
    /// Makes one.
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn create(temp_dir: &Path, unique: &str) -> Result<Self, ClusterError> {
        let path = temp_dir.join(format!("{FOLDER_PREFIX}{unique}"));
        make_folder(&path, None)?;
        let mark = File::create_new(path.join(MARK)).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        });
        match mark {
            Ok(mark) => Ok(Self { path, _mark: mark }),
            Err(source) => {
                let _ = std::fs::remove_dir_all(&path);
                Err(ClusterError::Io { operation: "lock", path: path.join(MARK), source })
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        remove_folder(&self.path);
    }
}

/// Removes a folder with everything in it. True when it is gone.
fn remove_folder(path: &Path) -> bool {
    let began = Instant::now();
    loop {
        match std::fs::remove_dir_all(path) {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
            Err(_) if began.elapsed() > REMOVE_TIMEOUT => return false,
            // A restored directory may be closed to us, who own it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open_folders(path),
            // A program that was ended a moment ago may have made one more file.
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Gives the owner access to every directory below.
fn open_folders(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_folders(&entry.path());
        }
    }
}

/// Ends a server at once, if one runs with this data folder.
fn stop_server(data: &Path) {
    let Ok(text) = std::fs::read_to_string(data.join("postmaster.pid")) else { return };
    // A server that `initdb` runs for itself writes its number below zero.
    let number = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()?.checked_abs());
    let Some(pid) = number.and_then(Pid::from_raw) else { return };
    // The number may have been given to somebody else meanwhile: a server stands in its data folder.
    let place = PathBuf::from(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
    let is_it = || std::fs::read_link(&place).is_ok_and(|at| same_folder(&at, data));
    if !is_it() || rustix::process::kill_process(pid, Signal::QUIT).is_err() {
        return;
    }
    let began = Instant::now();
    while is_it() && began.elapsed() < STOP_TIMEOUT {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn same_folder(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    a == b || (identity(a).is_some() && identity(a) == identity(b))
}

/// As whom the server runs; none: as we do.
fn server_user() -> Result<Option<(u32, u32)>, ClusterError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Ok(Some(user)) = nix::unistd::User::from_name(name) {
            return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    Err(ClusterError::NoUser)
}

/// A new folder that only its owner enters.
fn make_folder(path: &Path, owner: Option<(u32, u32)>) -> Result<(), ClusterError> {
    let fail = |operation| move |source| ClusterError::Io { operation, path: path.to_owned(), source };
    std::fs::DirBuilder::new().mode(0o700).create(path).map_err(fail("create"))?;
    if let Some((user, group)) = owner {
        std::os::unix::fs::chown(path, Some(user), Some(group)).map_err(fail("give away"))?;
    }
    Ok(())
}

/// Everything that a program says on stdout, up to a bound.
fn read_all(child: &mut dyn Child) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0u8; 4096]);
    while let Ok(ChildRead::Bytes(n)) = child.read(&mut buffer, Some(INITDB_TIMEOUT)) {
        if n == 0 {
            break;
        }
        if text.len() < 64 << 10 {
            text.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
