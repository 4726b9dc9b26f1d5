//! Commit, branch and dirty flag of the git work tree that a run covers.
//!
//! Commit and branch are read from the files of `.git`, so they are known without git installed. Only the question
//! whether tracked files differ needs the program. Nothing here ever fails a backup: what cannot be told is left out.

use crate::domain::snapshot::GitInfo;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest time given to `git status`; a very large tree is then recorded as clean rather than delaying the backup.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// No file of `.git` that is read here is larger.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Reads the state of the work tree that holds `directory`; None when there is none, or nothing is committed yet.
/// `dirty` answers whether tracked files of the work tree differ; see [`git_status_dirty`].
pub fn git_info(directory: &Path, dirty: &dyn Fn(&Path) -> Option<bool>) -> Option<GitInfo> {
    let (work_tree, git_dir) = directory.ancestors().find_map(|d| Some((d, find_git_dir(d)?)))?;
    let head = read_text(&git_dir.join("HEAD"))?;
    let head = head.trim();
    let (commit, branch) = match head.strip_prefix("ref:") {
        None => (head.to_owned(), String::new()),
        Some(reference) => {
            let reference = reference.trim();
            let branch = reference.strip_prefix("refs/heads/").unwrap_or(reference);
            (resolve_reference(&git_dir, reference)?, branch.to_owned())
        }
    };
    let is_commit = matches!(commit.len(), 40 | 64) && commit.bytes().all(|b| b.is_ascii_hexdigit());
    is_commit.then(|| GitInfo { commit, branch, dirty: dirty(work_tree).unwrap_or(false) })
}

/// Asks the git program whether tracked files differ from the commit; None when it cannot say.
pub fn git_status_dirty(work_tree: &Path) -> Option<bool> {
    let mut child = Command::new("git")
        // A file system monitor is a program that the work tree names; a backup must not run it. Nor must it lock.
        .args(["-c", "core.fsmonitor=false", "--no-optional-locks", "-C"])
        .arg(work_tree)
        .args(["status", "--porcelain", "--untracked-files=no"])
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdout = child.stdout.take()?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut byte = [0u8; 1];
        // One byte is enough to know; the receiver may have given up, which is no error.
        let _ = sender.send(stdout.read(&mut byte).map(|n| n > 0));
    });
    let answer = receiver.recv_timeout(STATUS_TIMEOUT).ok().and_then(Result::ok);
    if answer != Some(false) {
        // The rest of the list is not wanted, or the time is up. A child that has just ended cannot be killed.
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    let _ = reader.join();
    match answer {
        Some(true) => Some(true),
        Some(false) if status.success() => Some(false),
        _ => None,
    }
}

/// `.git` itself, or the folder that a `.git` file points to (linked work trees, submodules).
fn find_git_dir(directory: &Path) -> Option<PathBuf> {
    let candidate = directory.join(".git");
    let metadata = std::fs::metadata(&candidate).ok()?;
    if metadata.is_dir() {
        return Some(candidate);
    }
    let text = read_text(&candidate)?;
    Some(directory.join(text.trim().strip_prefix("gitdir:")?.trim()))
}

fn resolve_reference(git_dir: &Path, reference: &str) -> Option<String> {
    // A name with `..` would lead out of the repository.
    if reference.split('/').any(|part| part == ".." || part.is_empty()) {
        return None;
    }
    let common = match read_text(&git_dir.join("commondir")) {
        Some(text) => git_dir.join(text.trim()),
        None => git_dir.to_owned(),
    };
    for folder in [git_dir, common.as_path()] {
        if let Some(text) = read_text(&folder.join(reference)) {
            return Some(text.trim().to_owned());
        }
    }
    let packed = read_text(&common.join("packed-refs"))?;
    packed.lines().find_map(|line| {
        let (commit, name) = line.split_once(' ')?;
        (name == reference).then(|| commit.to_owned())
    })
}

fn read_text(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(directory: &Path, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", "-C"])
            .arg(directory)
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn a_real_work_tree() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path();
        git(tree, &["init", "-q", "-b", "feature/x"]);
        assert_eq!(git_info(tree, &git_status_dirty), None, "nothing is committed yet");
        std::fs::write(tree.join("a"), "1").unwrap();
        git(tree, &["add", "a"]);
        git(tree, &["commit", "-qm", "one"]);
        let commit = git(tree, &["rev-parse", "HEAD"]);
        let clean = GitInfo { commit: commit.clone(), branch: "feature/x".to_owned(), dirty: false };
        assert_eq!(git_info(tree, &git_status_dirty), Some(clean.clone()));

        std::fs::write(tree.join("untracked"), "1").unwrap();
        std::fs::create_dir(tree.join("sub")).unwrap();
        assert_eq!(git_info(&tree.join("sub"), &git_status_dirty), Some(clean.clone()));
        git(tree, &["pack-refs", "--all"]);
        assert_eq!(git_info(tree, &git_status_dirty), Some(clean.clone()));

        std::fs::write(tree.join("a"), "22").unwrap();
        assert_eq!(git_info(tree, &git_status_dirty), Some(GitInfo { dirty: true, ..clean.clone() }));
        assert_eq!(git_info(tree, &|_| None), Some(clean.clone()), "without git the flag is false");

        git(tree, &["checkout", "-q", "--force", "--detach"]);
        assert_eq!(git_info(tree, &git_status_dirty), Some(GitInfo { branch: String::new(), ..clean }));
    }

    #[test]
    fn a_linked_work_tree() {
        let root = tempfile::tempdir().unwrap();
        let main = root.path().join("main");
        std::fs::create_dir(&main).unwrap();
        git(&main, &["init", "-q", "-b", "main"]);
        git(&main, &["commit", "-q", "--allow-empty", "-m", "one"]);
        git(&main, &["worktree", "add", "-q", "-b", "side", "../side"]);
        let info = git_info(&root.path().join("side"), &git_status_dirty).unwrap();
        assert_eq!((info.branch.as_str(), info.commit), ("side", git(&main, &["rev-parse", "side"])));
    }

    #[test]
    fn what_is_no_work_tree_gives_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(git_status_dirty(root.path()), None);
        std::fs::create_dir(root.path().join(".git")).unwrap();
        for head in ["", "garbage", "ref: ../../etc/passwd", "ref: refs/heads/none"] {
            std::fs::write(root.path().join(".git/HEAD"), head).unwrap();
            assert_eq!(git_info(root.path(), &|_| Some(true)), None, "{head}");
        }
    }
}
