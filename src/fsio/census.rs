//! Which processes live, from `/proc`.
//!
//! A mark is four parts with `/` between them: the machine's id, the id of its boot, the number of the process's
//! namespace, the tick of that boot at which it started. A process id alone would say little, since ids are given again.

use crate::domain::act::{Census, Owner, Whereabouts};

/// The processes of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemCensus;

/// Field of `/proc/PID/stat` that says when a process started, counted after the name in parentheses.
const START_FIELD: usize = 19;

fn text(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Machine, boot and namespace of this process.
fn place() -> [String; 3] {
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digits = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    [text("/etc/machine-id"), text("/proc/sys/kernel/random/boot_id"), digits]
}

/// The tick at which a process started; `None` when there is none of that id, or when it is over and only waits for its
/// parent to notice.
fn start(process: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // the name may hold spaces and parentheses
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.clone().next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(START_FIELD).map(str::to_owned)
}

impl Census for SystemCensus {
    fn mark(&self, process: u32) -> String {
        let [machine, boot, namespace] = place();
        start(process).map(|start| format!("{machine}/{boot}/{namespace}/{start}")).unwrap_or_default()
    }

    fn find(&self, owner: &Owner) -> Whereabouts {
        let [machine, boot, namespace] = place();
        let parts: Vec<&str> = owner.mark.split('/').collect();
        let [its_machine, its_boot, its_namespace, its_start] = parts.as_slice() else {
            return Whereabouts::Elsewhere;
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if *its_machine != machine || (!owner.host.is_empty() && owner.host != host) {
            return Whereabouts::Elsewhere;
        }
        if *its_boot != boot {
            // without an id of its own this may be another machine of the same name
            return if machine.is_empty() { Whereabouts::Elsewhere } else { Whereabouts::Dead };
        }
        if *its_namespace != namespace {
            return Whereabouts::Elsewhere;
        }
        match start(owner.process) {
            Some(start) if start == *its_start => Whereabouts::Alive,
            _ => Whereabouts::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(process: u32, mark: String) -> Owner {
        Owner { host: String::new(), user: String::new(), process, mark }
    }

    #[test]
    fn this_process_lives_and_one_that_ended_does_not() {
        let census = SystemCensus;
        let own = std::process::id();
        let mark = census.mark(own);
        assert_eq!(mark.split('/').count(), 4, "{mark}");
        assert_eq!(census.find(&owner(own, mark.clone())), Whereabouts::Alive);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let of_child = owner(child.id(), census.mark(child.id()));
        assert_eq!(census.find(&of_child), Whereabouts::Alive);
        child.kill().unwrap();
        // over, though nobody has asked for its exit status yet
        while census.find(&of_child) == Whereabouts::Alive {
            std::thread::yield_now();
        }
        assert_eq!(census.find(&of_child), Whereabouts::Dead);
        child.wait().unwrap();
        assert_eq!(census.find(&of_child), Whereabouts::Dead);
        assert_eq!(census.mark(child.id()), "");
        // The id was given again to another process.
        let (front, _) = mark.rsplit_once('/').unwrap();
        assert_eq!(census.find(&owner(own, format!("{front}/1"))), Whereabouts::Dead);
    }

    #[test]
    fn of_other_machines_and_containers_nothing_is_known() {
        let census = SystemCensus;
        let own = std::process::id();
        let mark = census.mark(own);
        let parts: Vec<&str> = mark.split('/').collect();
        let with = |at: usize, text: &str| {
            let mut parts = parts.clone();
            parts[at] = text;
            owner(own, parts.join("/"))
        };
        assert_eq!(census.find(&with(0, "0123")), Whereabouts::Elsewhere);
        assert_eq!(census.find(&with(2, "1")), Whereabouts::Elsewhere);
        let other_host = Owner { host: "another-host".to_owned(), ..owner(own, mark.clone()) };
        assert_eq!(census.find(&other_host), Whereabouts::Elsewhere);
        for mark in ["", "a", "a/b/c/d/e"] {
            assert_eq!(census.find(&owner(own, mark.to_owned())), Whereabouts::Elsewhere);
        }
        // The machine was started again.
        let expected = if parts[0].is_empty() { Whereabouts::Elsewhere } else { Whereabouts::Dead };
        assert_eq!(census.find(&with(1, "another-boot")), expected);
    }
}
