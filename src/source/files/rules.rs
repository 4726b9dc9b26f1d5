//! Which entries are left out: patterns in gitignore syntax and the two default rules. Decisions only; [`super::walk`]
//! reads the files and asks.
//!
//! - Patterns of the configuration and of `--exclude` hold relative to each root and come first. A pattern that starts
//!   with a slash and leads through a root's own path (`/srv/app/tmp/` for the root `/srv/app`) means that place in
//!   the file system; any other is anchored at every root, as gitignore has it.
//! - Then `.holdfastignore` files, from the entry's own directory upwards to the root; the nearest that says anything
//!   decides. `.gitignore` is never read.
//! - Then the default rules: `.git`, and directories that hold a valid CACHEDIR.TAG.
//!
//! Invariant: a root, and whatever lies on the way to a root, is never left out.

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Name of the files that hold rules.
pub const IGNORE_FILE: &[u8] = b".holdfastignore";
/// Name of the file that marks a directory as a cache.
pub const CACHE_TAG_FILE: &[u8] = b"CACHEDIR.TAG";
/// First bytes of a valid CACHEDIR.TAG (<https://bford.info/cachedir/>).
pub const CACHE_TAG_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Exclude pattern '{pattern}' cannot be used: {reason}")]
pub struct RuleError {
    /// The pattern as it was written.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Patterns of the configuration and of the command line, checked.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    patterns: Vec<String>,
    default_excludes: bool,
}

/// Why an entry is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// By a pattern.
    Rule,
    /// By a default rule.
    Default,
}

impl Rules {
    /// Takes patterns in the order in which they count: of two that fit, the later decides.
    ///
    /// # Errors
    /// [`RuleError`] for the first pattern that is not in gitignore syntax.
    pub fn new(patterns: impl IntoIterator<Item = String>, default_excludes: bool) -> Result<Self, RuleError> {
        let patterns: Vec<String> = patterns.into_iter().collect();
        for pattern in &patterns {
            let fault = |reason: String| RuleError { pattern: pattern.clone(), reason };
            if pattern.contains(['\n', '\0']) {
                return Err(fault("it holds a line break or a NUL character".into()));
            }
            let mut builder = GitignoreBuilder::new("/");
            builder.add_line(None, pattern).map_err(|error| fault(error.to_string()))?;
            builder.build().map_err(|error| fault(error.to_string()))?;
        }
        Ok(Self { patterns, default_excludes })
    }

    /// True when `.git` and tagged caches are left out.
    pub fn default_excludes(&self) -> bool {
        self.default_excludes
    }

    /// The rules of one root, known under one or more absolute paths (its own, and a link that was named instead).
    ///
    /// # Errors
    /// [`RuleError`] when the patterns together are too large to be compiled.
    pub fn for_root(&self, known_as: &[&[u8]]) -> Result<RootRules, RuleError> {
        let mut builder = GitignoreBuilder::new("/");
        for pattern in &self.patterns {
            let fault = |error: ignore::Error| RuleError { pattern: pattern.clone(), reason: error.to_string() };
            for line in anchored_at(pattern, known_as) {
                builder.add_line(None, &line).map_err(fault)?;
            }
        }
        let patterns = builder
            .build()
            .map_err(|error| RuleError { pattern: self.patterns.join(" "), reason: error.to_string() })?;
        Ok(RootRules { patterns: Arc::new(patterns), nearest: None, default_excludes: self.default_excludes })
    }
}

/// The lines that mean, below one root, what the user's pattern means.
fn anchored_at(pattern: &str, known_as: &[&[u8]]) -> Vec<String> {
    let (sign, body) = match pattern.strip_prefix('!') {
        Some(body) => ("!", body),
        None => ("", pattern),
    };
    let Some(absolute) = body.strip_prefix('/') else { return vec![pattern.to_owned()] };
    let mut lines = Vec::new();
    let mut keep = true;
    for root in known_as {
        if let Some((rest, literal)) = below_root(absolute, root) {
            lines.push(format!("{sign}/{rest}"));
            keep &= !literal;
        }
    }
    if keep {
        // `/*/cache` leads through the root `/srv` by its wildcard only; it may as well mean a place below the root.
        lines.push(pattern.to_owned());
    }
    lines.dedup();
    lines
}

/// What is left of an absolute pattern behind a root's path, and whether it names that path without wildcards.
fn below_root(absolute: &str, root: &[u8]) -> Option<(String, bool)> {
    let mut parts = absolute.split('/');
    let mut literal = true;
    for name in root.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        let part = parts.next()?;
        if part == "**" {
            let rest: Vec<&str> = parts.collect();
            return Some((format!("**/{}", rest.join("/")), false));
        }
        if part.as_bytes() != name {
            let glob = ignore::gitignore::GitignoreBuilder::new("/").add_line(None, &format!("/{part}")).ok()?.build();
            if !glob.ok()?.matched(Path::new(OsStr::from_bytes(name)), true).is_ignore() {
                return None;
            }
            literal = false;
        }
    }
    let rest: Vec<&str> = parts.collect();
    // A pattern that names the root itself leaves nothing: a root is never left out.
    if rest.iter().all(|part| part.is_empty()) { None } else { Some((rest.join("/"), literal)) }
}

/// The rules that hold in one directory.
#[derive(Debug, Clone)]
pub struct RootRules {
    patterns: Arc<Gitignore>,
    nearest: Option<Arc<IgnoreFile>>,
    default_excludes: bool,
}

#[derive(Debug)]
struct IgnoreFile {
    /// Bytes of the directory's path relative to its root, with a slash at the end unless it is the root.
    prefix_bytes: usize,
    rules: Gitignore,
    outer: Option<Arc<IgnoreFile>>,
}

impl RootRules {
    /// The rules within a directory that has a `.holdfastignore`, and the lines that could not be used.
    /// `relative` is the directory's path below its root, without slashes at the ends.
    pub fn with_ignore_file(&self, relative: &[u8], contents: &[u8]) -> (Self, Vec<RuleError>) {
        let mut builder = GitignoreBuilder::new("/");
        let mut errors = Vec::new();
        let contents = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents);
        for line in contents.split(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let shown = || String::from_utf8_lossy(line).into_owned();
            match std::str::from_utf8(line) {
                Ok(text) => {
                    if let Err(error) = builder.add_line(None, text) {
                        errors.push(RuleError { pattern: shown(), reason: error.to_string() });
                    }
                }
                Err(_) => errors.push(RuleError { pattern: shown(), reason: "it is not UTF-8".into() }),
            }
        }
        match builder.build() {
            Ok(rules) if rules.is_empty() => (self.clone(), errors),
            Ok(rules) => {
                let prefix_bytes = if relative.is_empty() { 0 } else { relative.len() + 1 };
                let file = IgnoreFile { prefix_bytes, rules, outer: self.nearest.clone() };
                (Self { nearest: Some(Arc::new(file)), ..self.clone() }, errors)
            }
            Err(error) => {
                errors.push(RuleError { pattern: "all lines together".into(), reason: error.to_string() });
                (self.clone(), errors)
            }
        }
    }

    /// True when no pattern can fit anything, so that only names need a look.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.nearest.is_none()
    }

    /// True when `.git` and tagged caches are left out.
    pub fn default_excludes(&self) -> bool {
        self.default_excludes
    }

    /// Decides about one entry. `relative` is its path below its root, without a slash in front; the directories
    /// above it are known not to be left out.
    pub fn exclusion(&self, relative: &[u8], is_directory: bool) -> Option<Exclusion> {
        match self.by_pattern(relative, is_directory) {
            Some(true) => return Some(Exclusion::Rule),
            Some(false) => return None,
            None => {}
        }
        let name = relative.rsplit(|b| *b == b'/').next().unwrap_or(relative);
        (self.default_excludes && name == b".git").then_some(Exclusion::Default)
    }

    fn by_pattern(&self, relative: &[u8], is_directory: bool) -> Option<bool> {
        let decide =
            |rules: &Gitignore, path: &[u8]| match rules.matched(Path::new(OsStr::from_bytes(path)), is_directory) {
                Match::Ignore(_) => Some(true),
                Match::Whitelist(_) => Some(false),
                Match::None => None,
            };
        if let Some(decision) = decide(&self.patterns, relative) {
            return Some(decision);
        }
        let mut file = self.nearest.as_deref();
        while let Some(here) = file {
            if let Some(decision) = decide(&here.rules, relative.get(here.prefix_bytes..).unwrap_or_default()) {
                return Some(decision);
            }
            file = here.outer.as_deref();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(patterns: &[&str], root: &str) -> RootRules {
        let rules = Rules::new(patterns.iter().map(|p| (*p).to_owned()), true).expect("patterns");
        rules.for_root(&[root.as_bytes()]).expect("patterns")
    }

    #[track_caller]
    fn check(rules: &RootRules, left_out: &[&str], kept: &[&str]) {
        for path in left_out {
            let (bare, dir) = path.strip_suffix('/').map_or((*path, false), |p| (p, true));
            assert_eq!(rules.exclusion(bare.as_bytes(), dir), Some(Exclusion::Rule), "{path}");
        }
        for path in kept {
            let (bare, dir) = path.strip_suffix('/').map_or((*path, false), |p| (p, true));
            assert_eq!(rules.exclusion(bare.as_bytes(), dir), None, "{path}");
        }
    }

    #[test]
    fn the_patterns_of_the_example_configuration() {
        let rules = rules(&["*.log", "/srv/app/tmp/"], "/srv/app");
        check(&rules, &["a.log", "x/y/b.log", "tmp/"], &["tmp", "x/tmp/", "log", "a.log.1", ".env", ".gitignore"]);
    }

    #[test]
    fn a_leading_slash_means_the_root_or_the_file_system() {
        check(&rules(&["/tmp/"], "/srv/app"), &["tmp/"], &["x/tmp/"]);
        check(&rules(&["/tmp/"], "/"), &["tmp/"], &["x/tmp/"]);
        check(&rules(&["/srv/app/a*/x"], "/srv/app"), &["abc/x"], &["srv/app/abc/x", "x"]);
        check(&rules(&["/srv/*/cache"], "/srv/app"), &["cache", "srv/x/cache"], &["x/cache"]);
        check(&rules(&["/**/cache"], "/srv/app"), &["cache", "x/cache"], &["caches"]);
        check(&rules(&["/srv/app", "/srv/app/"], "/srv/app"), &[], &["x", "app/", "srv/"]);
        check(&rules(&["*.log", "!/srv/app/keep.log"], "/srv/app"), &["a.log", "x/keep.log"], &["keep.log"]);
        let linked = Rules::new(["/srv/current/tmp/".to_owned()], true).expect("pattern");
        let linked = linked.for_root(&[b"/srv/releases/42", b"/srv/current"]).expect("pattern");
        check(&linked, &["tmp/"], &["x/tmp/"]);
    }

    #[test]
    fn nested_files_decide_before_outer_ones_and_patterns_before_all() {
        let root = rules(&["*.bak"], "/srv/app");
        let (outer, errors) = root.with_ignore_file(b"", b"# comment\r\n*.tmp\r\n/media/\n");
        assert!(errors.is_empty());
        let (inner, errors) = outer.with_ignore_file(b"a/b", b"!keep.tmp\n/only-here\n!*.bak\n[z-a]\n\xff\n");
        assert_eq!(errors.len(), 2, "{errors:?}");
        check(&outer, &["x.tmp", "media/", "a.bak"], &["a/media/", "keep"]);
        check(&inner, &["a/b/x.tmp", "a/b/only-here", "a/b/x.bak"], &["a/b/keep.tmp", "a/b/c/only-here"]);
    }

    #[test]
    fn git_directories_are_a_default_that_patterns_can_overrule() {
        let plain = rules(&[], "/srv/app");
        assert_eq!(plain.exclusion(b".git", true), Some(Exclusion::Default));
        assert_eq!(plain.exclusion(b"x/.git", false), Some(Exclusion::Default));
        assert_eq!(plain.exclusion(b".github", true), None);
        assert_eq!(rules(&["!.git"], "/srv/app").exclusion(b".git", true), None);
        assert_eq!(rules(&[".git"], "/srv/app").exclusion(b".git", true), Some(Exclusion::Rule));
        let off = Rules::new([], false).expect("none").for_root(&[b"/srv/app"]).expect("none");
        assert_eq!(off.exclusion(b".git", true), None);
    }

    #[test]
    fn a_broken_pattern_is_named() {
        let error =
            Rules::new(["ok".to_owned(), "[z-a]".to_owned()], true).expect_err("a range that ends before it begins");
        assert_eq!(error.pattern, "[z-a]");
        assert!(Rules::new(["a\nb".to_owned()], true).is_err());
    }

    #[test]
    fn names_that_are_not_utf8_are_matched_as_bytes() {
        check(&rules(&["*.log"], "/srv/app"), &[], &["x"]);
        assert_eq!(rules(&["*.log"], "/srv/app").exclusion(b"\xff.log", false), Some(Exclusion::Rule));
    }
}
