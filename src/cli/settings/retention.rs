//! `[retention.CLASS]` and the variables `HOLDFAST_KEEP_*`.
//!
//! Without any such table the built-in numbers hold. With one, the tables are all there is: a class without a table
//! falls under `[retention.default]`, and that has the built-in numbers until it is configured.

use super::document::Problem;
use super::origin::{Origin, Valued};
use super::reader::{Findings, Setting, TableReader};
use super::sections::nowhere;
use super::variables::{first_of, parse_list};
use crate::cli::failure::Failure;
use crate::domain::retention::{Policies, Policy, Window, defaults};

const DEFAULT: &str = "default";

type Count = fn(&mut Policy) -> &mut Option<u32>;

/// Key in a table, our variable, and the name that an old system gave it.
const COUNTS: [(&str, &str, Option<&str>, Count); 6] = [
    ("keep_last", "HOLDFAST_KEEP_LAST", None, |policy| &mut policy.keep_last),
    ("keep_hourly", "HOLDFAST_KEEP_HOURLY", None, |policy| &mut policy.keep_hourly),
    ("keep_daily", "HOLDFAST_KEEP_DAILY", Some("BACKUP_RETENTION_DAYS"), |policy| &mut policy.keep_daily),
    ("keep_weekly", "HOLDFAST_KEEP_WEEKLY", Some("BACKUP_WEEKLY_RETENTION"), |policy| &mut policy.keep_weekly),
    ("keep_monthly", "HOLDFAST_KEEP_MONTHLY", Some("BACKUP_MONTHLY_RETENTION"), |policy| &mut policy.keep_monthly),
    ("keep_yearly", "HOLDFAST_KEEP_YEARLY", None, |policy| &mut policy.keep_yearly),
];

/// Reads the tables.
pub(super) fn read_retention(root: &mut TableReader<'_, '_>) -> Policies {
    let mut policies = Policies::default();
    let mut default = None;
    for (class, mut table) in root.named_tables("retention") {
        let mut policy = Policy::default();
        for (key, _, _, field) in COUNTS {
            *field(&mut policy) = table.get(key);
        }
        policy.keep_within = table.get::<Window>("keep_within");
        policy.keep_tags = table.get("keep_tags").unwrap_or_default();
        let title = table.title().to_owned();
        let mut keys = COUNTS.iter().map(|count| count.0).chain(["keep_within"]);
        let place = keys.find_map(|key| table.place(key));
        table.finish(nowhere);
        // A value that could not be read is a problem of its own.
        if policy.is_empty() && root.findings.problems.borrow().is_empty() {
            let problem = Problem::new(place, format!("{title} keeps nothing"));
            root.findings.problem(problem.hint("give it a number, a window or tags, or leave the table out"));
        }
        match class.as_str() {
            DEFAULT => default = Some(policy),
            _ => _ = policies.classes.insert(class, policy),
        }
    }
    if default.is_none() && policies.classes.is_empty() {
        policies = defaults();
        for (class, policy) in &policies.classes {
            show(root.findings, class, policy);
        }
    }
    policies.default = default.unwrap_or_else(|| {
        let built_in = defaults().default;
        show(root.findings, DEFAULT, &built_in);
        built_in
    });
    policies
}

/// Shows built-in numbers as defaults.
fn show(findings: &Findings<'_>, class: &str, policy: &Policy) {
    let mut policy = policy.clone();
    for (key, _, _, field) in COUNTS {
        if let Some(count) = *field(&mut policy) {
            findings.show(format!("retention.{class}.{key}"), count.to_string(), Origin::Default);
        }
    }
    if let Some(window) = policy.keep_within {
        findings.show(format!("retention.{class}.keep_within"), window.shown(), Origin::Default);
    }
}

/// `HOLDFAST_KEEP_*` take the place of `[retention.default]`, all of it but the tags, which only `HOLDFAST_KEEP_TAGS`
/// changes: a pin is a promise. The old systems' names replace single numbers, and only where none of ours is set.
///
/// # Errors
/// Exit code 2 for a value that is no number or no duration, and when nothing would be kept.
pub(super) fn overlay_variables(policies: &mut Policies, findings: &Findings<'_>) -> Result<(), Failure> {
    let environment = findings.environment;
    let policy = &mut policies.default;
    let ours: Vec<&'static str> = COUNTS.iter().map(|count| count.1).chain(["HOLDFAST_KEEP_WITHIN"]).collect();
    let is_ours = ours.iter().any(|name| environment.raw(name).is_some());
    if is_ours {
        let keep_tags = std::mem::take(&mut policy.keep_tags);
        *policy = Policy { keep_tags, ..Policy::default() };
        let tags_key = format!("retention.{DEFAULT}.keep_tags");
        let prefix = format!("retention.{DEFAULT}.");
        findings.shown.borrow_mut().retain(|shown| !shown.key.starts_with(&prefix) || shown.key == tags_key);
    }
    for (key, name, old, field) in COUNTS {
        let name = if is_ours { Some(name) } else { old };
        let Some(valued) = name.map(|name| first_of(environment, &[name])).transpose()?.flatten() else { continue };
        let count = parse_count(&valued)?;
        *field(policy) = Some(count);
        findings.show(format!("retention.{DEFAULT}.{key}"), count.to_string(), valued.origin);
    }
    if let Some(valued) = first_of(environment, &["HOLDFAST_KEEP_WITHIN"])? {
        let window = Window::parse(&valued.value).map_err(|error| {
            Failure::usage(
                "variable.duration",
                format!("The time to keep everything within cannot be read ({})", valued.origin),
            )
            .caused_by(&error)
        })?;
        policy.keep_within = Some(window);
        findings.show(format!("retention.{DEFAULT}.keep_within"), window.shown(), valued.origin);
    }
    if let Some(valued) = first_of(environment, &["HOLDFAST_KEEP_TAGS"])? {
        policy.keep_tags = parse_list(&valued.value);
        findings.show(format!("retention.{DEFAULT}.keep_tags"), policy.keep_tags.shown(), valued.origin);
    }
    if policy.is_empty() {
        let message = "The retention that the variables HOLDFAST_KEEP_* or BACKUP_*RETENTION* ask for keeps nothing";
        return Err(Failure::usage("retention.keeps_nothing", message).hint("give one of them a number above 0"));
    }
    Ok(())
}

fn parse_count(valued: &Valued<String>) -> Result<u32, Failure> {
    valued.value.trim().parse().map_err(|_| {
        let message = format!("'{}' is not a whole number of 0 or more ({})", valued.value.trim(), valued.origin);
        Failure::usage("variable.number", message).hint("write how many to keep, for example 30")
    })
}
