//! A real PostgreSQL for a test: a cluster of its own in a temporary directory, stopped and removed at the end.
//!
//! The programs are looked for below `/usr/lib/postgresql` (Debian), then along PATH. `initdb` refuses root, so as root
//! everything runs as the user `postgres` through `setpriv`. The cluster listens on a Unix socket in its own directory,
//! and on 127.0.0.1 only where a test asks for it.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// Whether and how a cluster speaks TLS on 127.0.0.1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// The socket only.
    SocketOnly,
    /// TCP without TLS.
    Plain,
    /// TCP with a certificate for `localhost`, signed by the authority in `ca.crt`.
    Leaf,
    /// TCP with a self-signed certificate that is an authority itself, as `openssl req -x509` makes it.
    SelfSignedAuthority,
}

/// A running cluster.
pub(crate) struct Cluster {
    directory: TempDir,
    bin: PathBuf,
    port: u16,
}

impl Cluster {
    /// A cluster on its socket.
    pub(crate) fn start() -> Self {
        Self::with_network(Network::SocketOnly)
    }

    /// A cluster that may also listen on 127.0.0.1. There `pwuser` needs its password, `tlsuser` needs TLS, and
    /// everybody else is trusted.
    pub(crate) fn with_network(network: Network) -> Self {
        let bin = bin_directory();
        // Short, because the path of a socket may have 107 bytes only.
        let directory = tempfile::Builder::new().prefix("hfpg").tempdir_in("/tmp").unwrap();
        run("cp", ["-a".as_ref(), template().as_os_str(), directory.path().join("data").as_os_str()]);
        let port = if network == Network::SocketOnly { 5432 } else { free_port() };
        let cluster = Self { directory, bin, port };
        cluster.configure(network);
        if is_root() {
            run("chown", ["-R".as_ref(), "postgres:".as_ref(), cluster.directory.path().as_os_str()]);
        }
        let (data, log) = (cluster.path("data"), cluster.path("log"));
        let started = as_postgres(&cluster.bin.join("pg_ctl"))
            .args(["-w", "-D"])
            .arg(&data)
            .arg("-l")
            .arg(&log)
            .arg("start")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(started.success(), "pg_ctl start failed: {}", std::fs::read_to_string(&log).unwrap_or_default());
        cluster
    }

    fn configure(&self, network: Network) {
        let listen = if network == Network::SocketOnly { "" } else { "127.0.0.1" };
        let mut settings = format!(
            "listen_addresses = '{listen}'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             shared_buffers = 16MB\nmax_connections = 30\n",
            self.port,
            self.directory.path().display()
        );
        if matches!(network, Network::Leaf | Network::SelfSignedAuthority) {
            make_certificates(self.directory.path(), network);
            for (name, file) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
                settings.push_str(&format!("{name} = '{}'\n", self.path(file).display()));
            }
            settings.push_str("ssl = on\n");
        }
        let rules = "local all all trust\nhost all pwuser 127.0.0.1/32 scram-sha-256\n\
                     hostnossl all tlsuser 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 trust\n";
        append(&self.path("data/postgresql.conf"), &settings);
        std::fs::write(self.path("data/pg_hba.conf"), rules).unwrap();
    }

    /// The shell command that ends the server at once, as a crash would.
    pub(crate) fn stop_command(&self) -> String {
        let words = as_postgres(&self.bin.join("pg_ctl"));
        let words: Vec<String> = std::iter::once(words.get_program())
            .chain(words.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        format!("cd /tmp && {} -m immediate -w -D {} stop >/dev/null", words.join(" "), self.path("data").display())
    }

    /// Starts the server again.
    pub(crate) fn start_again(&self) {
        let mut command = as_postgres(&self.bin.join("pg_ctl"));
        command.args(["-w", "-D"]).arg(self.path("data")).arg("-l").arg(self.path("log")).arg("start");
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
    }

    /// A path in the cluster's directory, which holds the socket and the certificates.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory of the server's own client programs.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// The port on 127.0.0.1 and of the socket.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A connection text for a database over the socket, as the superuser.
    pub(crate) fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// A connection text for a database over the socket.
    pub(crate) fn url_as(&self, user: &str, database: &str) -> String {
        format!("host='{}' port={} user={user} dbname={database}", self.directory.path().display(), self.port)
    }

    /// Makes a folder of client programs like the server's, but that `pg_restore` runs the script `fault` in the database
    /// after it has restored.
    pub(crate) fn programs_with_fault(&self, bin: &Path, fault: &Path) {
        std::fs::create_dir(bin).unwrap();
        for name in ["pg_dump", "pg_dumpall", "psql"] {
            std::os::unix::fs::symlink(self.bin().join(name), bin.join(name)).unwrap();
        }
        let real = self.bin().display();
        let script = format!(
            "#!/bin/sh\n'{real}/pg_restore' \"$@\" || exit $?\nfor a; do case $a in --dbname=*) to=${{a#--dbname=}};; esac; done\n\
             exec '{real}/psql' -q -v ON_ERROR_STOP=1 -f '{}' \"$to\" >/dev/null\n",
            fault.display()
        );
        let wrapper = bin.join("pg_restore");
        std::fs::write(&wrapper, script).unwrap();
        std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// A session as the superuser.
    pub(crate) fn session(&self, database: &str) -> ::postgres::Client {
        ::postgres::Client::connect(&self.url(database), ::postgres::NoTls).unwrap()
    }

    /// Runs statements as the superuser.
    pub(crate) fn sql(&self, database: &str, statements: &str) {
        self.session(database).batch_execute(statements).unwrap();
    }

    /// Names of all databases but the templates.
    pub(crate) fn databases(&self) -> Vec<String> {
        let query = "select datname::text from pg_database where not datistemplate order by 1";
        self.session("postgres").query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The schema and data of a database as plain SQL, without the key that differs on every run.
    pub(crate) fn plain_dump(&self, database: &str) -> String {
        let output = Command::new(self.bin.join("pg_dump")).arg("-d").arg(self.url(database)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = as_postgres(&self.bin.join("pg_ctl"))
            .args(["-m", "immediate", "-w", "-D"])
            .arg(self.path("data"))
            .arg("stop")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// The directory with `initdb`, `pg_ctl` and the clients; the newest version found.
pub(crate) fn bin_directory() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    found.sort();
    let along_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find(|directory| directory.join("initdb").is_file())
    };
    found.pop().map(|(_, bin)| bin).or_else(along_path).expect(
        "These tests need a PostgreSQL server: install it (Debian: apt-get install postgresql-15) so that initdb is in \
         /usr/lib/postgresql/VERSION/bin or on PATH",
    )
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn as_postgres(program: &Path) -> Command {
    let mut command;
    if is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    } else {
        command = Command::new(program);
    }
    command.current_dir("/tmp").stdin(Stdio::null());
    command
}

fn run<'a>(program: &str, args: impl IntoIterator<Item = &'a OsStr>) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn append(path: &Path, text: &str) {
    let old = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, format!("{old}\n{text}")).unwrap();
}

/// An empty cluster that others are copied from: `initdb` takes a second, a copy takes a tenth of it. It is kept below
/// the target directory from run to run.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let bin = bin_directory();
        let output = Command::new(bin.join("initdb")).arg("--version").output().unwrap();
        let version: String =
            String::from_utf8_lossy(&output.stdout).chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pg-template-{version}"));
        if kept.join("PG_VERSION").is_file() {
            return kept;
        }
        let work = tempfile::Builder::new().prefix("hfpg").tempdir_in("/tmp").unwrap();
        if is_root() {
            run("chown", ["postgres:".as_ref(), work.path().as_os_str()]);
        }
        let output = as_postgres(&bin.join("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(work.path().join("data"))
            .output()
            .unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let staged = kept.with_extension(std::process::id().to_string());
        run("cp", ["-a".as_ref(), work.path().join("data").as_os_str(), staged.as_os_str()]);
        // Another test process may have been first; its template is as good as ours.
        if std::fs::rename(&staged, &kept).is_err() {
            std::fs::remove_dir_all(&staged).unwrap();
        }
        kept
    })
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn make_certificates(directory: &Path, network: Network) {
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    };
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let with_curve = |rest: &[&'static str]| [&["req", "-x509"], &curve[..], rest].concat();
    if network == Network::SelfSignedAuthority {
        let name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
        openssl(&with_curve(&[&["-keyout", "server.key", "-out", "server.crt"], &name[..]].concat()));
    } else {
        openssl(&with_curve(&["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority"]));
        openssl(&with_curve(&["-keyout", "other.key", "-out", "other.crt", "-subj", "/CN=other authority"]));
        let request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        openssl(&[&request[..], &["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"]].concat());
        std::fs::write(directory.join("leaf.ext"), "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost\n")
            .unwrap();
        let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(&[&sign[..], &["-days", "2", "-extfile", "leaf.ext", "-out", "server.crt"]].concat());
    }
    std::fs::set_permissions(directory.join("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
}
