//! Tests of the settings as a whole: the example, errors with line, column and suggestion, precedence, masking.

use super::*;
use crate::cli::exit_code::ExitCode;
use crate::domain::retention::{Policy, Window, defaults};
use std::time::Duration;

const EXAMPLE: &str = include_str!("../../../holdfast.example.toml");

struct Bench {
    folder: tempfile::TempDir,
    environment: Environment,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut environment = Environment::empty(folder.path());
        environment.home = Some(folder.path().join("home"));
        Self { folder, environment }
    }

    fn with_config(text: &str) -> Self {
        let bench = Self::new();
        bench.write("holdfast.toml", text);
        bench
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.environment = self.environment.with(name, value);
        self
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn load(&self) -> Result<Settings, Failure> {
        self.load_with(&Overrides::default())
    }

    fn load_with(&self, overrides: &Overrides) -> Result<Settings, Failure> {
        Settings::load(overrides, &self.environment)
    }

    /// The failure's text with the folder cut out.
    fn error(&self) -> String {
        let failure = self.load().map(|_| ()).unwrap_err();
        assert_eq!(failure.exit, ExitCode::Usage);
        failure.text().replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn error_of(text: &str) -> String {
    Bench::with_config(text).error()
}

#[test]
fn the_example_is_read_as_it_stands() {
    let bench = Bench::with_config(EXAMPLE);
    let settings = bench.load().unwrap_or_else(|f| panic!("{}", f.text()));
    assert_eq!(settings.repository.value, Path::new("/var/lib/holdfast/repository"));
    let names: Vec<(&str, &str)> =
        settings.sources.iter().map(|s| (s.name.as_str(), s.source_kind().as_str())).collect();
    assert_eq!(
        names,
        [("app-db", "postgres"), ("journal", "sqlite"), ("code", "files"), ("media", "files"), ("redis", "command")]
    );
    assert_eq!(settings.sources[0].min_size_bytes, Some(10_000));
    let SourceKindSettings::Postgres(db) = &settings.sources[0].kind else { panic!("kind") };
    assert_eq!(db.password, Some(SecretRef::File("/etc/holdfast/app-db.password".into())));
    let SourceKindSettings::Command { command, filename } = &settings.sources[4].kind else { panic!("kind") };
    assert_eq!((command.join(" ").as_str(), filename.as_str()), ("redis-cli --rdb -", "redis.rdb"));
    let sections = &settings.sections;
    // What the example writes down is what is built in.
    assert_eq!(sections.retention, defaults());
    assert_eq!(sections.retention.default.keep_within, Some(Window::days(7)));
    assert_eq!(sections.prune.grace, Duration::from_secs(7 * 86_400));
    assert_eq!(sections.drill.max_duration, Some(Duration::from_secs(7200)));
    assert_eq!(sections.guard.sources, Some(vec!["app-db".to_owned()]));
    assert!(sections.environments["production"].production && !sections.environments["staging"].production);
    assert!(sections.environments["staging"].service.is_some());
    assert_eq!(settings.configured_series("h").unwrap().sources, ["app-db", "code", "journal", "media", "redis"]);
}

#[test]
fn the_commented_keys_of_the_example_are_known_too() {
    // A commented key is uncommented unless the example says it stands instead of another.
    let text: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key)
                if ["pg_bin_dir", "command_prefix", "max_repack_size", "recompress_older"]
                    .iter()
                    .any(|k| key.starts_with(k)) =>
            {
                format!("{key}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let settings = Bench::with_config(&text).load().unwrap_or_else(|f| panic!("{}", f.text()));
    assert_eq!(settings.sections.prune.max_repack_bytes, Some(10_000_000_000));
    let SourceKindSettings::Postgres(db) = &settings.sources[0].kind else { panic!("kind") };
    assert_eq!(db.command_prefix.join(" "), "docker exec -i db");
    let text =
        EXAMPLE.replace("password = { file = \"/etc/holdfast/password\" }", "").replace("# key_file", "key_file");
    let settings = Bench::with_config(&text).load().unwrap_or_else(|f| panic!("{}", f.text()));
    assert_eq!(settings.unlock.unwrap().value, UnlockFrom::KeyFile("/etc/holdfast/repository.key".into()));
}

#[test]
fn unknown_keys_name_line_column_and_the_right_key() {
    for (text, expected) in [
        (
            "[repository]\n  passwrod = \"x\"\n",
            "error: Unknown key 'passwrod' in [repository], line 2, column 3 of holdfast.toml\nhint: did you mean 'password'?\n",
        ),
        (
            "[repositry]\n",
            "error: Unknown key 'repositry' in the configuration, line 1, column 2 of holdfast.toml\nhint: did you mean 'repository'?\n",
        ),
        (
            "[[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"/\"]\nexcludes = []\n",
            "error: Unknown key 'excludes' in [[source]] 'code', line 5, column 1 of holdfast.toml\nhint: did you mean 'exclude'?\n",
        ),
        (
            "[[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"/\"]\nurl = \"postgres://h/d\"\n",
            "error: Unknown key 'url' in [[source]] 'code', line 5, column 1 of holdfast.toml\n\
             hint: 'url' belongs to sources of kind postgres; this one is of kind files\n",
        ),
        (
            "[retention.daily]\nkeep_dayly = 3\n",
            "error: Unknown key 'keep_dayly' in [retention.daily], line 2, column 1 of holdfast.toml\nhint: did you mean 'keep_daily'?\n",
        ),
        (
            "[prune]\nxyz = 3\n",
            "error: Unknown key 'xyz' in [prune], line 2, column 1 of holdfast.toml\n\
             hint: known keys are grace, max_repack_size, recompress_older\n",
        ),
        (
            "[env.staging]\nservice = { stopp = [\"x\"] }\n",
            "error: Unknown key 'stopp' in [env.staging.service], line 2, column 13 of holdfast.toml\nhint: did you mean 'stop'?\n",
        ),
    ] {
        assert_eq!(error_of(text), expected, "{text}");
    }
}

#[test]
fn reserved_tables_are_refused_clearly() {
    for (text, table) in [
        ("[health]\nx = 1\n", "[health]"),
        ("[alerts]\n", "[alerts]"),
        ("[alerts.smtp]\n", "[alerts]"),
        ("[[job]]\n", "[[job]]"),
        ("[schedule]\n", "[schedule]"),
        ("[profile.web]\n", "[profile.NAME]"),
        ("[catalog]\n", "[catalog]"),
    ] {
        let error = error_of(text);
        assert!(error.contains(&format!("hint: {table} is reserved for a later version of holdfast")), "{error}");
        assert!(error.contains("line 1, column "), "{error}");
    }
    let bench = Bench::new();
    let overrides = Overrides { profile: Some("web".to_owned()), ..Overrides::default() };
    assert_eq!(bench.load_with(&overrides).unwrap_err().id, "profile.reserved");
    assert_eq!(bench.set("HOLDFAST_PROFILE", "web").load().unwrap_err().exit, ExitCode::Usage);
}

#[test]
fn wrong_values_say_what_is_wrong() {
    let source = |rest: &str| format!("[[source]]\nname = \"s\"\n{rest}\n");
    for (text, expected) in [
        ("[repository]\nlocation = 7\n".to_owned(), "line 2, column 12"),
        (
            "[repository]\nlocation = \"s3://key:geheim@bucket/x\"\n".to_owned(),
            "Repositories at s3:// are reserved for a later version",
        ),
        ("[repository]\npassword = { file = \"x\", env = \"y\" }\n".to_owned(), "A secret has exactly one origin"),
        (
            "[repository]\npassword = { fil = \"x\" }\n".to_owned(),
            "Unknown origin 'fil' of a secret, line 2, column 14",
        ),
        ("[repository]\npassword = \"\"\n".to_owned(), "The secret is empty"),
        (
            "[repository]\npassword = \"geheim\"\nkey_file = \"k\"\n".to_owned(),
            "has both 'password' and 'key_file', line 3",
        ),
        ("source = 3\n".to_owned(), "Expected [[source]] tables and found a number"),
        ("[[source]]\nkind = \"files\"\npaths = [\"/\"]\n".to_owned(), "[[source]] 1 lacks the key 'name', line 1"),
        (source("paths = [\"/\"]"), "[[source]] 's' lacks the key 'kind'"),
        (source("kind = \"postgresql\"\nurl = \"x\""), "Unknown kind 'postgresql' of [[source]] 's', line 3, column 1"),
        (source("kind = \"postgresql\"\nurl = \"x\""), "hint: did you mean 'postgres'?"),
        (source("kind = \"files\""), "[[source]] 's' lacks the key 'paths'"),
        (source("kind = \"files\"\npaths = \"/srv\""), "Expected a list of paths and found a string"),
        (source("kind = \"files\"\npaths = []"), "[[source]] 's' names no paths"),
        (
            source("kind = \"postgres\"\nurl = \"postgres://u:geheim@h/d\""),
            "source.s.url: The database URL holds a password",
        ),
        (source("kind = \"postgres\"\nurl = \"postgres://h/d\"\nsslmode = \"on\""), "Unknown sslmode 'on'"),
        (
            source("kind = \"postgres\"\nurl = \"postgres://h/d\"\nglobals = \"yes\""),
            "Expected true or false and found a string",
        ),
        (source("kind = \"sqlite\"\npath = \"\""), "The path is empty"),
        (
            source("kind = \"command\"\ncommand = \"redis-cli --rdb -\""),
            "hint: write [\"redis-cli\", \"--rdb\", \"-\"]",
        ),
        (source("kind = \"command\"\ncommand = []"), "The command names no program"),
        (source("kind = \"command\"\ncommand = [\"x\"]\nfilename = \"a/b\""), "'a/b' cannot be a file name"),
        (source("kind = \"sqlite\"\npath = \"x\"\nmin_size = \"10 XB\""), "'10 XB' is not a size"),
        (
            "[[source]]\nname = \"a b\"\nkind = \"sqlite\"\npath = \"x\"\n".to_owned(),
            "'a b' cannot be the name of a source, line 2, column 1",
        ),
        ("[prune]\ngrace = \"7 days\"\nmax_repack_size = -1\n".to_owned(), "The size -1 is negative"),
        ("[drill]\nmax_duration = 7\n".to_owned(), "Expected a duration"),
        ("[retention.daily]\nkeep_daily = -1\n".to_owned(), "The number -1 is out of range"),
        ("[retention]\ndaily = 3\n".to_owned(), "Expected a table under 'retention.daily'"),
        ("[guard]\nsources = [\"none\"]\n".to_owned(), "No source is called 'none' in [guard]"),
        ("[env.x]\ntargets = { none = \"/srv\" }\n".to_owned(), "No source is called 'none' in [env.x]"),
        ("[repository]\nlocation = \"a\nb\"\n".to_owned(), "The configuration is not TOML"),
    ] {
        let error = error_of(&text);
        assert!(error.contains(expected), "{text}\n{error}");
        assert!(!error.contains("geheim"), "{error}");
    }
}

#[test]
fn all_problems_are_told_at_once_in_order() {
    let error = error_of("[repository]\nlocaton = \"x\"\n[prune]\ngrace = 3\n");
    assert_eq!(
        error,
        "error: Unknown key 'localon' in [repository], line 2, column 1 of holdfast.toml\n"
            .replace("localon", "locaton")
            + "  cause: also: prune.grace: Expected a duration such as \"90s\" or \"30d\" and found a number, line 4, column 9 of holdfast.toml\n\
               hint: did you mean 'location'?\n"
    );
    let twice = "[[source]]\nname = \"s\"\nkind = \"sqlite\"\npath = \"x\"\n";
    let error = error_of(&format!("{twice}{twice}"));
    assert!(
        error.starts_with("error: Two sources are called 's': line 1, column 1 of holdfast.toml and line 5, column 1"),
        "{error}"
    );
}

#[test]
fn the_first_file_found_wins_and_parts_are_added() {
    let mut bench = Bench::new();
    bench.environment.system_config = bench.path("etc");
    assert_eq!(bench.load().unwrap().files, Vec::<PathBuf>::new());
    bench.write("etc/holdfast.toml", "[repository]\nlocation = \"/etc-repo\"\n");
    bench.write("etc/conf.d/20-b.toml", "[[source]]\nname = \"b\"\nkind = \"sqlite\"\npath = \"b.db\"\n");
    bench.write(
        "etc/conf.d/10-a.toml",
        "[[source]]\nname = \"a\"\nkind = \"sqlite\"\npath = \"a.db\"\n[prune]\ngrace = \"1d\"\n",
    );
    bench.write("etc/conf.d/readme.txt", "no");
    let settings = bench.load().unwrap();
    assert_eq!(settings.repository.value, Path::new("/etc-repo"));
    let paths: Vec<&SourceKindSettings> = settings.sources.iter().map(|s| &s.kind).collect();
    // Relative paths start from the folder of the file that holds them.
    let sqlite = |name: &str| SourceKindSettings::Sqlite { path: bench.path("etc/conf.d").join(name) };
    assert_eq!(paths, [&sqlite("a.db"), &sqlite("b.db")]);

    bench.write("etc/conf.d/30-c.toml", "[prune]\ngrace = \"2d\"\n");
    let error = bench.error();
    assert_eq!(
        error,
        "error: The key 'grace' is set twice: line 6, column 1 of etc/conf.d/10-a.toml and line 2, column 1 of \
         etc/conf.d/30-c.toml\nhint: keep one of them\n"
    );
    bench.write("home/.config/holdfast/holdfast.toml", "[repository]\nlocation = \"~/r\"\n");
    assert_eq!(bench.load().unwrap().repository.value, bench.path("home/r"));
    bench.write("holdfast.toml", "[repository]\nlocation = \"r\"\n");
    assert_eq!(bench.load().unwrap().repository.value, bench.path("r"));
    bench.write("other.toml", "[repository]\nlocation = \"/variable\"\n");
    let bench = bench.set("HOLDFAST_CONFIG", "other.toml");
    assert_eq!(bench.load().unwrap().repository.value, Path::new("/variable"));
    bench.write("flag.toml", "[repository]\nlocation = \"/flag\"\n");
    let overrides = Overrides { config: Some("flag.toml".into()), ..Overrides::default() };
    assert_eq!(bench.load_with(&overrides).unwrap().repository.value, Path::new("/flag"));
    let missing = Overrides { config: Some("none.toml".into()), ..Overrides::default() };
    assert!(bench.load_with(&missing).unwrap_err().message.contains("none.toml named by -c does not exist"));
}

#[test]
fn flags_win_over_variables_over_files_over_defaults() {
    let origin = |bench: &Bench, overrides: &Overrides| {
        let settings = bench.load_with(overrides).unwrap();
        let shown = settings.shown.iter().find(|s| s.key == "repository.location").unwrap().origin.to_string();
        assert_eq!(shown, settings.repository.origin.to_string());
        (settings.repository.value, settings.repository.origin.kind(), shown)
    };
    let none = Overrides::default();
    let bench = Bench::new();
    assert_eq!(origin(&bench, &none).0, bench.path("home/.local/share/holdfast/repository"));
    bench.write("holdfast.toml", "\n[repository]\nlocation = \"/file\"\n");
    let file = bench.path("holdfast.toml").display().to_string();
    assert_eq!(origin(&bench, &none), ("/file".into(), "config", format!("{file}:3")));
    bench.write(".env", "HOLDFAST_REPOSITORY=/env-file\n");
    let mut bench = bench;
    add_env_file(&mut bench.environment, Path::new(".env")).unwrap();
    assert_eq!(origin(&bench, &none).1, "env");
    assert_eq!(origin(&bench, &none).0, Path::new("/env-file"));
    let mut environment = bench.environment.clone();
    environment.from_file.clear();
    bench.environment = environment.with("HOLDFAST_REPOSITORY", "variable");
    assert_eq!(origin(&bench, &none), (bench.path("variable"), "env", "variable HOLDFAST_REPOSITORY".to_owned()));
    let flag = Overrides { repository: Some("flag".to_owned()), ..none };
    assert_eq!(origin(&bench, &flag), (bench.path("flag"), "flag", "flag --repo".to_owned()));
}

#[test]
fn the_default_repository_of_root_belongs_to_the_machine() {
    let mut bench = Bench::new();
    bench.environment.uid = 0;
    assert_eq!(bench.load().unwrap().repository.value, Path::new("/var/lib/holdfast/repository"));
    let bench = bench.set("XDG_DATA_HOME", "/data");
    assert_eq!(bench.load().unwrap().repository.value, Path::new("/data/holdfast/repository"));
    let mut homeless = Bench::new();
    homeless.environment.home = None;
    assert_eq!(homeless.load().unwrap_err().id, "repository.unnamed");
}

#[test]
fn variables_and_the_names_of_the_old_systems() {
    let bench = Bench::with_config("[retention.default]\nkeep_daily = 3\nkeep_weekly = 4\n")
        .set("BACKUP_ENABLED", "false")
        .set("BACKUP_SCOPE", "(\"code\" \"app-db\")")
        .set("DB_USER", "backup")
        .set("DB_NAME", "app")
        .set("PGDATABASE", "wins")
        .set("DEBUG", "1")
        .set("HOLDFAST_KEEP_DAILY", "9")
        .set("HOLDFAST_KEEP_WITHIN", "2d")
        .set("HOLDFAST_PROGRESS_FPS", "2.5")
        .set("HOLDFAST_LGO", "debug");
    let settings = bench.load().unwrap();
    assert!(!settings.enabled && settings.debug);
    assert_eq!(settings.scope, ["code", "app-db"]);
    let variables = &settings.postgres_variables.0;
    assert_eq!((variables["PGUSER"].as_str(), variables["PGDATABASE"].as_str()), ("backup", "wins"));
    // Variables take the place of the whole table.
    let expected = Policy { keep_daily: Some(9), keep_within: Some(Window::days(2)), ..Policy::default() };
    assert_eq!(settings.sections.retention.default, expected);
    assert!(settings.shown.iter().all(|s| s.key != "retention.default.keep_weekly"));
    assert_eq!(settings.progress_fps, Some(2.5));
    assert!(settings.warnings[0].ends_with("did you mean HOLDFAST_LOG?"), "{:?}", settings.warnings);
    let origin = |key: &str| settings.shown.iter().find(|s| s.key == key).unwrap().origin.to_string();
    assert_eq!(origin("enabled"), "variable BACKUP_ENABLED");
    assert_eq!(origin("retention.default.keep_daily"), "variable HOLDFAST_KEEP_DAILY");
    let bench = bench.set("HOLDFAST_ENABLED", "true").set("HOLDFAST_SCOPE", "code");
    let settings = bench.load().unwrap();
    assert!(settings.enabled);
    assert_eq!(settings.scope, ["code"]);
    for (name, value) in [("HOLDFAST_ENABLED", "maybe"), ("HOLDFAST_PROGRESS_FPS", "0"), ("HOLDFAST_KEEP_DAILY", "x")] {
        assert_eq!(Bench::new().set(name, value).load().unwrap_err().exit, ExitCode::Usage, "{name}");
    }
}

#[test]
fn retention_is_built_in_or_configured_or_in_variables() {
    let retention = |bench: &Bench| bench.load().unwrap_or_else(|f| panic!("{}", f.text())).sections.retention;
    let built_in = Bench::new();
    assert_eq!(retention(&built_in), defaults());
    let shown = built_in.load().unwrap().shown;
    let daily = shown.iter().find(|s| s.key == "retention.daily.keep_daily").unwrap();
    assert_eq!((daily.value.as_str(), &daily.origin), ("30", &Origin::Default));

    // Tables are all there is; a class without one falls under the default, which is built in until configured.
    let text = "[retention.daily]\nkeep_last = 2\nkeep_yearly = 3\nkeep_tags = [\"release\"]\n";
    let configured = retention(&Bench::with_config(text));
    assert_eq!(configured.classes.keys().collect::<Vec<_>>(), ["daily"]);
    assert_eq!(configured.default, defaults().default);
    let (class, policy) = configured.of(Some("daily"));
    assert_eq!((class, policy.keep_last, policy.keep_yearly), (Some("daily"), Some(2), Some(3)));
    assert_eq!(policy.keep_tags, ["release"]);
    assert_eq!(configured.of(Some("manual")), (None, &defaults().default));

    // The old systems' names replace single numbers, ours the table, and ours win.
    let old = Bench::with_config("[retention.default]\nkeep_daily = 3\nkeep_hourly = 5\nkeep_tags = [\"a\"]\n")
        .set("BACKUP_RETENTION_DAYS", "30")
        .set("BACKUP_WEEKLY_RETENTION", "12")
        .set("BACKUP_MONTHLY_RETENTION", "11");
    let expected = Policy {
        keep_hourly: Some(5),
        keep_daily: Some(30),
        keep_weekly: Some(12),
        keep_monthly: Some(11),
        keep_tags: vec!["a".to_owned()],
        ..Policy::default()
    };
    assert_eq!(retention(&old).default, expected);
    let ours = old.set("HOLDFAST_KEEP_LAST", "4").set("HOLDFAST_KEEP_YEARLY", "2");
    let tags = vec!["a".to_owned()];
    let expected = Policy { keep_last: Some(4), keep_yearly: Some(2), keep_tags: tags, ..Policy::default() };
    assert_eq!(retention(&ours).default, expected);
    let pinned = ours.set("HOLDFAST_KEEP_TAGS", "b, c");
    assert_eq!(retention(&pinned).default.keep_tags, ["b", "c"]);
}

#[test]
fn retention_that_keeps_nothing_or_is_no_number_is_refused() {
    for (text, message) in [
        ("[retention.daily]\nkeep_daily = 0\n", "[retention.daily] keeps nothing, line 2"),
        ("[retention.daily]\n", "[retention.daily] keeps nothing"),
        ("[retention.daily]\nkeep_last = -1\n", "The number -1 is out of range"),
        ("[retention.daily]\nkeep_within = 7\n", "Expected a duration"),
        ("[retention.daily]\nkeep_within = \"-7d\"\n", "is not a duration"),
        ("[retention.daily]\nkeep_minutely = 3\n", "Unknown key 'keep_minutely'"),
        ("[retention.daily]\nkeep_last = 1\nkeep_tags = \"x\"\n", "Expected a list of strings"),
    ] {
        let failure = Bench::with_config(text).load().unwrap_err();
        assert_eq!(failure.exit, ExitCode::Usage);
        assert!(failure.text().contains(message), "{text}: {}", failure.text());
    }
    for (name, value) in [
        ("HOLDFAST_KEEP_LAST", "-1"),
        ("HOLDFAST_KEEP_WITHIN", "week"),
        ("HOLDFAST_KEEP_DAILY", "0"),
        ("BACKUP_RETENTION_DAYS", "thirty"),
    ] {
        let failure = Bench::new().set(name, value).load().unwrap_err();
        assert_eq!(failure.exit, ExitCode::Usage, "{name}");
        assert!(failure.text().contains(name) || value == "0", "{}", failure.text());
    }
}

#[test]
fn the_password_follows_the_same_order() {
    let bench = Bench::with_config("[repository]\npassword = \"from-config\"\n");
    bench.write("p", "from-file\n");
    let password = |bench: &Bench, overrides: &Overrides| {
        let settings = bench.load_with(overrides).unwrap();
        let mut prompt = Typed(Vec::new());
        match fetch(settings.unlock.as_ref(), &bench.environment, true, &mut prompt).unwrap() {
            Unlock::Password(secret) => secret.expose_text().unwrap().to_owned(),
            Unlock::KeyFile { contents, .. } => format!("key {}", contents.expose_text().unwrap()),
        }
    };
    let none = Overrides::default();
    assert_eq!(password(&bench, &none), "from-config");
    let by_variable = Bench::with_config("[repository]\nkey_file = \"k\"\n").set("HOLDFAST_PASSWORD", "from-variable");
    assert_eq!(password(&by_variable, &none), "from-variable");
    assert!(by_variable.load().unwrap().shown.iter().all(|s| s.key != "repository.key_file"));
    let flag = Overrides { password_file: Some("p".into()), ..none.clone() };
    assert_eq!(password(&bench, &flag), "from-file");
    let key = Overrides { key_file: Some("p".into()), ..none.clone() };
    assert_eq!(password(&bench, &key), "key from-file");
    let both = Overrides { password_file: Some("p".into()), key_file: Some("p".into()), ..none };
    assert_eq!(bench.load_with(&both).unwrap_err().message, "Both --password-file and --key-file are set");
    let both = by_variable.set("HOLDFAST_KEY_FILE", "k");
    assert_eq!(both.load().unwrap_err().message, "Both HOLDFAST_PASSWORD and HOLDFAST_KEY_FILE are set");
}

struct Typed(Vec<&'static str>);

impl Prompt for Typed {
    fn secret(&mut self, _: &str) -> std::io::Result<Secret> {
        let next = if self.0.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(self.0.remove(0)) };
        next.map(|text: &str| Secret::new(text.as_bytes().to_vec()))
    }
}

#[test]
fn without_password_and_terminal_the_exit_code_is_12() {
    let bench = Bench::new();
    let mut environment = bench.environment.clone();
    let failure = fetch(None, &environment, false, &mut Typed(vec!["x"])).unwrap_err();
    assert_eq!((failure.exit, failure.id), (ExitCode::WrongSecret, "password.missing"));
    environment.stdin_terminal = true;
    assert!(fetch(None, &environment, true, &mut Typed(vec!["x"])).is_err());
    let asked = |words: &[&'static str]| fetch_new(None, &environment, false, &mut Typed(words.to_vec()));
    assert_eq!(
        fetch(None, &environment, false, &mut Typed(vec!["x"])),
        Ok(Unlock::Password(Secret::new(b"x".to_vec())))
    );
    assert_eq!(fetch(None, &environment, false, &mut Typed(vec![""])).unwrap_err().exit, ExitCode::WrongSecret);
    assert!(asked(&["x", "x"]).is_ok());
    assert!(asked(&["", "x", "y", "z", "z"]).is_ok());
    assert_eq!(asked(&["a", "b", "c", "d", "e", "f"]).unwrap_err().id, "password.mismatch");
    assert_eq!(asked(&[]).unwrap_err().exit, ExitCode::WrongSecret);
    let missing = Valued { value: UnlockFrom::Password(SecretRef::File("/no/such".into())), origin: Origin::Default };
    assert_eq!(fetch(Some(&missing), &environment, false, &mut Typed(vec![])).unwrap_err().exit, ExitCode::WrongSecret);
}

#[test]
fn no_secret_is_shown_in_any_form() {
    let text = "[repository]\npassword = \"hunter2\"\n[[source]]\nname = \"db\"\nkind = \"postgres\"\nurl = \"postgres://u@h/d\"\n\
                password = { command = [\"pass\", \"hunter2\"] }\n";
    let bench = Bench::with_config(text).set("PGPASSWORD", "hunter2").set("AWS_SECRET_ACCESS_KEY", "hunter2");
    let with_variable = Bench::with_config(text).set("HOLDFAST_PASSWORD", "hunter2");
    for bench in [bench, with_variable] {
        let settings = bench.load().unwrap();
        for shown in [
            format!("{settings:?}"),
            show_text(&settings),
            show_json(&settings).to_string(),
            format!("{:?}", bench.environment),
        ] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert!(show_text(&settings).contains("repository.password = "));
    }
}

#[test]
fn show_prints_values_and_origins() {
    let bench = Bench::with_config(
        "[repository]\nlocation = \"/r\"\npassword = \"x\"\n[[source]]\nname = \"code\"\nkind = \"files\"\npaths = [\"/srv\"]\n\
         [retention.default]\nkeep_daily = 3\n",
    );
    let settings = bench.load_with(&Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() }).unwrap();
    let folder = bench.folder.path().display().to_string();
    let text = show_text(&settings).replace(&folder, "DIR");
    let expected = "# file DIR/holdfast.toml\n\
        repository.location = \"/r\"           # DIR/holdfast.toml:2\n\
        repository.password = (hidden)       # DIR/holdfast.toml:3\n\
        source.code.name = \"code\"            # DIR/holdfast.toml:5\n\
        source.code.kind = \"files\"           # DIR/holdfast.toml:6\n\
        source.code.paths = [\"/srv\"]         # DIR/holdfast.toml:7\n\
        source.code.exclude = []             # default\n\
        source.code.default_excludes = true  # default\n\
        source.code.one_file_system = false  # default\n\
        retention.default.keep_daily = 3     # DIR/holdfast.toml:9\n\
        enabled = true                       # default\n\
        cache_dir = \"/cache\"                 # flag --cache-dir\n";
    assert_eq!(text, expected);
    let json = show_json(&settings);
    assert_eq!(json["settings"][0]["key"], "repository.location");
    assert_eq!(json["settings"][0]["origin"], "config");
}

#[test]
fn an_unknown_source_name_is_corrected() {
    let settings = Bench::with_config(EXAMPLE).load().unwrap();
    assert_eq!(settings.source("code").unwrap().name, "code");
    assert_eq!(settings.source("jurnal").unwrap_err().hints, ["did you mean 'journal'?"]);
    assert_eq!(Bench::new().load().unwrap().source("x").unwrap_err().hints, ["no source is configured"]);
}
