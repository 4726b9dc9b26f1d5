//! Restores over what is there: PostgreSQL, SQLite and files, with a way back.

use crate::support::pg::Cluster;
use crate::support::program::Place;
use std::path::Path;

/// A place with a repository, a configuration of three sources, and one backup of them.
struct Application {
    place: Place,
    cluster: Cluster,
}

impl Application {
    fn new(extra: &str) -> Self {
        let (place, cluster) = (Place::with_repository(), Cluster::start());
        cluster.sql("postgres", "create role app login");
        cluster.sql("postgres", "create database app owner app");
        cluster.sql(
            "app",
            "create table t (id int primary key, v text); insert into t select g, 'old' || g from generate_series(1, 50) g; \
             alter table t owner to app",
        );
        sqlite(&place.path("data.db"), "create table t (v text); insert into t values ('old')");
        place.write("srv/a.txt", "old a");
        place.write("srv/sub/b.txt", "old b");
        let folder = place.path("");
        let config = format!(
            "[[source]]\nname = \"db\"\nkind = \"postgres\"\nurl = \"host={} dbname=app user=postgres\"\n\
             [[source]]\nname = \"journal\"\nkind = \"sqlite\"\npath = \"{folder}data.db\"\n\
             [[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"{folder}srv\"]\n{extra}",
            cluster.path("").display(),
            folder = folder.display(),
        );
        place.write("holdfast.toml", config.replace("FOLDER", &folder.display().to_string()));
        place.run(["backup"]).good();
        Self { place, cluster }
    }

    /// Changes everything that was saved.
    fn change(&self) {
        self.cluster
            .sql("app", "update t set v = 'new'; insert into t values (1000, 'new'); create table added (x int)");
        sqlite(&self.place.path("data.db"), "update t set v = 'new'");
        self.place.write("srv/a.txt", "new a");
        self.place.write("srv/new.txt", "new");
        std::fs::remove_file(self.place.path("srv/sub/b.txt")).unwrap();
    }

    fn state(&self) -> [String; 3] {
        let row = self.cluster.session("app").query_one("select string_agg(v, ',' order by id) from t", &[]).unwrap();
        let rows: String = row.get(0);
        let database = format!("{} {}", rows.split(',').count(), rows.split(',').next().unwrap());
        let journal = sqlite_text(&self.place.path("data.db"), "select v from t");
        let mut files: Vec<String> = crate::support::program::files_below(&self.place.path("srv"))
            .iter()
            .map(|path| {
                format!("{}={}", path.file_name().unwrap().to_string_lossy(), std::fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        [database, journal, files.join(" ")]
    }

    fn is_old(&self) {
        assert_eq!(self.state(), ["50 old1", "old", "a.txt=old a b.txt=old b"]);
        self.nothing_is_left();
    }

    fn is_new(&self) {
        assert_eq!(self.state(), ["51 new", "new", "a.txt=new a new.txt=new"]);
        self.nothing_is_left();
    }

    /// No database and no file of an act is left beside a place.
    fn nothing_is_left(&self) {
        assert_eq!(self.cluster.databases(), ["app", "postgres"]);
        let names: Vec<String> = std::fs::read_dir(self.place.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("holdfast-"))
            .collect();
        assert!(names.is_empty(), "{names:?}");
    }
}

fn sqlite(path: &Path, statements: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

fn sqlite_text(path: &Path, query: &str) -> String {
    rusqlite::Connection::open(path).unwrap().query_row(query, [], |row| row.get(0)).unwrap()
}

#[test]
fn everything_goes_back_and_rollback_undoes_it() {
    let application = Application::new("");
    application.change();
    let place = &application.place;
    // Nobody can be asked.
    place.run(["restore", "latest"]).failed(17, "confirmation");
    application.is_new();
    let ran = place.run(["restore", "latest", "--yes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("restored") && ran.stderr.contains("rollback"), "{ran:?}");
    application.is_old();
    let ran = place.run(["rollback", "--yes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    application.is_new();
    let status = place.run(["status"]);
    assert_eq!((status.code, status.stdout.as_str()), (0, ""), "{status:?}");
}
