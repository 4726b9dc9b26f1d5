//! The database server goes down at each recorded step of a restore in place, while the program stands still between two
//! of its calls. `tests/long/faults` has all commands, all faults and full disks.

use crate::cli_restore_in_place::Application;
use std::process::{Command, Stdio};

fn signal(name: &str, process: u32) {
    let ended = Command::new("kill").args([name, &process.to_string()]).status().unwrap();
    assert!(ended.success(), "kill {name}");
}

/// Restores, and ends the server as a crash would once so many entries of the act are written. The exit code.
fn down_after(application: &Application, entries: usize) -> i32 {
    let place = &application.place;
    let acts = place.path("repository/acts");
    let written = || std::fs::read_dir(&acts).map_or(0, std::iter::Iterator::count);
    let wanted = written() + entries;
    let mut command = place.command(["restore", "latest", "--yes"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while written() < wanted && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_micros(300));
    }
    assert!(child.try_wait().unwrap().is_none(), "it ended before entry {entries}");
    signal("-STOP", child.id());
    let stopped = Command::new("sh").args(["-c", &application.cluster.stop_command()]).status().unwrap();
    assert!(stopped.success());
    signal("-CONT", child.id());
    child.wait().unwrap().code().unwrap()
}

#[test]
fn a_server_that_goes_down_at_any_step_leaves_the_old_or_the_new() {
    let application = Application::with_service();
    let place = &application.place;
    for entries in 1..=8 {
        if application.state()[0] == "50 old1" {
            application.change();
        }
        let code = down_after(&application, entries);
        application.cluster.start_again();
        let status = place.run(["status"]).good().stdout.clone();
        match code {
            // Settled: what could not be removed beside it is removed by the next run.
            0 => assert_eq!(application.state()[0], "50 old1", "{entries}: {status}"),
            14 | 21 | 24 => assert_eq!(application.state()[0], "51 new", "{entries}: {status}"),
            22 => assert!(status.contains("holdfast rollback"), "{entries}: {status}"),
            _ => panic!("{entries}: exit code {code}: {status}"),
        }
        if entries % 2 == 0 {
            let ran = place.run(["restore", "latest", "--yes"]);
            assert_eq!(ran.code, 0, "{entries}, {code}: {status}{ran:?}");
            application.is_old();
        } else {
            let ran = place.run(["rollback", "--yes"]);
            match application.state()[0].as_str() {
                "50 old1" => application.is_old(),
                "51 new" => application.is_new(),
                other => panic!("{entries}, {code}: {other} {status}{ran:?}"),
            }
        }
        assert_eq!(place.run(["status"]).good().stdout, "", "{entries}");
    }
}

/// A share of what `tests/long/faults` does: each of four file systems is full when the new is made beside the old, and when the
/// application is started. Small file systems are mounted in a namespace of their own.
#[test]
fn a_disk_that_is_full_at_a_recorded_step_leaves_the_old_or_the_new() {
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/long/faults"));
    script.args(["--binary", env!("CARGO_BIN_EXE_holdfast"), "--only", "restore:full", "--steps", "4,6"]);
    let output = script.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(output.status.success() && said.contains("8 faults, 0 failed"), "{said}{output:?}");
}
