//! Which entries of a dump make single tables, and what they need that may be missing where they go. Decisions only.
//!
//! With a table come its rows, defaults, own sequences with their values, constraints, indexes, triggers, rules,
//! policies, statistics, comments and privileges, and the partitions of a partitioned table. Schemas, types, domains,
//! collations and sequences that it needs are made with it where they are missing. A foreign key, trigger, rule, policy
//! or attachment that needs something else that is missing is left out and named; a table that does cannot be restored.

use super::contents::{Contents, Entry};
use crate::target::listed::{Made, Present};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Kinds that are made with a table that needs them.
const MADE_ALONG: [&str; 6] = ["SCHEMA", "TYPE", "SHELL TYPE", "DOMAIN", "SEQUENCE", "COLLATION"];
/// Kinds whose name begins with that of their table.
const OF_TABLE: [&str; 8] =
    ["DEFAULT", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "TRIGGER", "RULE", "POLICY", "ROW SECURITY"];
/// Kinds that a table can do without.
const OPTIONAL: [&str; 7] =
    ["FK CONSTRAINT", "TRIGGER", "RULE", "POLICY", "STATISTICS", "TABLE ATTACH", "INDEX ATTACH"];

/// A name that stands for no table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoTable {
    /// The name as it was given.
    pub name: String,
    /// What has that name: other kinds, or tables of several schemas.
    pub found: Vec<String>,
}

/// What is restored for some tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Numbers of entries, in the order of the archive.
    pub(super) entries: Vec<i64>,
    /// The tables: schema and name.
    pub(super) tables: Vec<(String, String)>,
    /// Sequences that come with them: schema and name.
    pub(super) sequences: Vec<(String, String)>,
    /// What is made along.
    pub(super) made: Vec<Made>,
    /// What they need and nobody makes: `function public.f()`.
    pub(super) missing: BTreeSet<String>,
    /// What was left out, one sentence each.
    pub(super) notes: Vec<String>,
}

/// `orders`, `shop.orders` or `"Shop"."Orders"` as the numbers of tables.
pub(super) fn resolve(contents: &Contents, names: &[String]) -> Result<BTreeSet<i64>, Vec<NoTable>> {
    let (mut tables, mut wrong) = (BTreeSet::new(), Vec::new());
    for name in names {
        let plain = name.replace('"', "");
        let named = |entry: &&Entry| {
            let full = format!("{}.{}", entry.schema, entry.name);
            full == *name || full == plain || entry.name == *name || entry.name == plain
        };
        let of_name: Vec<&Entry> = contents.entries.iter().filter(named).filter(|entry| is_relation(entry)).collect();
        let exact = of_name.iter().filter(|entry| is_table(entry));
        let full: Vec<&&Entry> = exact
            .clone()
            .filter(|entry| [name, &plain].contains(&&format!("{}.{}", entry.schema, entry.name)))
            .collect();
        let meant: Vec<&&Entry> = if full.is_empty() { exact.collect() } else { full };
        match meant.as_slice() {
            [one] => drop(tables.insert(one.number)),
            _ => {
                let found = of_name.iter().map(|entry| shown(entry)).collect();
                wrong.push(NoTable { name: name.clone(), found });
            }
        }
    }
    if wrong.is_empty() { Ok(tables) } else { Err(wrong) }
}

/// All tables, as users name them.
pub(super) fn table_names(contents: &Contents) -> Vec<String> {
    contents.entries.iter().filter(|entry| is_table(entry)).map(|e| format!("{}.{}", e.schema, e.name)).collect()
}

fn is_table(entry: &Entry) -> bool {
    matches!(entry.kind.as_str(), "TABLE" | "FOREIGN TABLE")
}

fn is_relation(entry: &Entry) -> bool {
    is_table(entry) || matches!(entry.kind.as_str(), "VIEW" | "MATERIALIZED VIEW" | "SEQUENCE")
}

fn shown(entry: &Entry) -> String {
    let kind = entry.kind.to_lowercase();
    match entry.schema.as_str() {
        "" | "-" => format!("{kind} {}", entry.name),
        schema => format!("{kind} {schema}.{}", entry.name),
    }
}

/// Plans. `present` is what stands where the tables go; none: they become a script, whose reader sees to what it needs.
pub(super) fn plan(contents: &Contents, wanted: &BTreeSet<i64>, present: Option<&Present>) -> Plan {
    let mut planner = Planner::new(contents, present);
    planner.chosen.clone_from(wanted);
    planner.add_partitions();
    planner.add_belongings();
    planner.settle_needs();
    planner.add_about();
    planner.finish()
}

struct Planner<'a> {
    contents: &'a Contents,
    present: Option<&'a Present>,
    by_number: HashMap<i64, &'a Entry>,
    chosen: BTreeSet<i64>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(contents: &'a Contents, present: Option<&'a Present>) -> Self {
        let by_number = contents.entries.iter().map(|entry| (entry.number, entry)).collect();
        Self { contents, present, by_number, chosen: BTreeSet::new(), plan: Plan::default() }
    }

    fn table(&self, schema: &str, name: &str) -> Option<i64> {
        let is = |entry: &&Entry| is_table(entry) && entry.schema == schema && entry.name == name;
        self.contents.entries.iter().find(is).map(|entry| entry.number)
    }

    /// The partitions of chosen tables, and theirs.
    fn add_partitions(&mut self) {
        let attached: Vec<(&Entry, i64)> = self
            .contents
            .entries
            .iter()
            .filter(|entry| entry.kind == "TABLE ATTACH")
            .filter_map(|entry| Some((entry, self.table(&entry.schema, &entry.name)?)))
            .collect();
        loop {
            let before = self.chosen.len();
            for (entry, child) in &attached {
                if entry.needs.iter().any(|need| need != child && self.chosen.contains(need)) {
                    self.chosen.insert(*child);
                }
            }
            if self.chosen.len() == before {
                return;
            }
        }
    }

    /// What belongs to the chosen tables.
    fn add_belongings(&mut self) {
        let tables: BTreeMap<i64, &Entry> =
            self.chosen.iter().filter_map(|n| Some((*n, *self.by_number.get(n)?))).collect();
        let needs_one = |entry: &Entry| entry.needs.iter().any(|need| tables.contains_key(need));
        let of_one = |entry: &Entry| {
            entry.needs.iter().filter_map(|need| tables.get(need)).any(|table| {
                let rest = entry.name.strip_prefix(&table.name);
                table.schema == entry.schema && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            })
        };
        let mut added = BTreeSet::new();
        for entry in &self.contents.entries {
            let belongs = match entry.kind.as_str() {
                "TABLE DATA" => tables.values().any(|t| t.schema == entry.schema && t.name == entry.name),
                "TABLE ATTACH" => tables.values().any(|table| table.schema == entry.schema && table.name == entry.name),
                // An identity column's sequence needs its table; one of a serial column is tied to it afterwards.
                "SEQUENCE" => needs_one(entry),
                "SEQUENCE OWNED BY" => {
                    let owned = tables.values().any(|table| ties_to(&entry.statement, table));
                    if owned {
                        added.extend(entry.needs.iter().filter(|n| self.kind(**n) == "SEQUENCE"));
                    }
                    owned
                }
                "INDEX" | "STATISTICS" => needs_one(entry),
                kind if OF_TABLE.contains(&kind) => of_one(entry),
                _ => false,
            };
            if belongs {
                added.insert(entry.number);
            }
        }
        self.chosen.append(&mut added);
        // Indexes of partitions are tied to those of their parents.
        for entry in self.contents.entries.iter().filter(|entry| entry.kind == "INDEX ATTACH") {
            if entry.needs.iter().any(|need| self.chosen.contains(need) && self.is_index_of_child(entry, *need)) {
                self.chosen.insert(entry.number);
            }
        }
        self.add_values();
    }

    fn is_index_of_child(&self, attach: &Entry, index: i64) -> bool {
        self.by_number.get(&index).is_some_and(|entry| {
            entry.schema == attach.schema
                && (entry.name == attach.name || entry.name.ends_with(&format!(" {}", attach.name)))
        })
    }

    /// The values of chosen sequences.
    fn add_values(&mut self) {
        let sequences: BTreeSet<(&str, &str)> = self
            .contents
            .entries
            .iter()
            .filter(|entry| entry.kind == "SEQUENCE" && self.chosen.contains(&entry.number))
            .map(|entry| (entry.schema.as_str(), entry.name.as_str()))
            .collect();
        for entry in self.contents.entries.iter().filter(|entry| entry.kind == "SEQUENCE SET") {
            if sequences.contains(&(entry.schema.as_str(), entry.name.as_str())) {
                self.chosen.insert(entry.number);
            }
        }
    }

    fn kind(&self, number: i64) -> &str {
        self.by_number.get(&number).map_or("", |entry| entry.kind.as_str())
    }

    /// What the chosen entries need, and does not come with them: made along, missing, or a reason to leave them out.
    fn settle_needs(&mut self) {
        loop {
            let mut along = BTreeSet::new();
            let mut dropped = BTreeSet::new();
            self.plan.missing.clear();
            let chosen: Vec<&Entry> = self.chosen.iter().filter_map(|n| self.by_number.get(n).copied()).collect();
            for entry in chosen {
                for need in self.needs_of(entry) {
                    if MADE_ALONG.contains(&need.kind.as_str()) && self.present.is_some() {
                        along.insert(need.number);
                    } else if OPTIONAL.contains(&entry.kind.as_str()) {
                        dropped.insert(entry.number);
                        let note = match self.present {
                            Some(_) => format!("{} was left out: there is no {}", shown(entry), shown(need)),
                            None => format!("{} needs {}, which is not in the script", shown(entry), shown(need)),
                        };
                        if !self.plan.notes.contains(&note) {
                            self.plan.notes.push(note);
                        }
                    } else {
                        self.plan.missing.insert(shown(need));
                    }
                }
                self.need_schema(entry, &mut along);
            }
            let settled = along.is_empty() && (dropped.is_empty() || self.present.is_none());
            if self.present.is_some() {
                self.chosen.retain(|number| !dropped.contains(number));
            }
            for number in &along {
                if let Some(entry) = self.by_number.get(number) {
                    self.plan.made.push((entry.kind.clone(), entry.schema.clone(), entry.name.clone()));
                }
            }
            self.chosen.append(&mut along);
            self.add_values();
            if settled {
                return;
            }
        }
    }

    /// Entries that this one needs, that do not come along and are not there.
    fn needs_of(&self, entry: &Entry) -> Vec<&'a Entry> {
        let outside = entry.needs.iter().filter(|need| !self.chosen.contains(need));
        let mut missing: Vec<&Entry> = outside
            .filter_map(|need| self.by_number.get(need).copied())
            .filter(|need| !self.is_present(need))
            .collect();
        // A key that is missing with its table need not be told apart.
        if missing.iter().any(|need| is_table(need)) {
            missing.retain(|need| need.kind != "CONSTRAINT");
        }
        missing
    }

    /// The dump need not say that something needs its schema.
    fn need_schema(&mut self, entry: &Entry, along: &mut BTreeSet<i64>) {
        let Some(present) = self.present else { return };
        let schema = entry.schema.as_str();
        if schema.is_empty() || schema == "-" || present.schemas.contains(schema) {
            return;
        }
        let made = self.contents.entries.iter().find(|other| other.kind == "SCHEMA" && other.name == schema);
        match made {
            Some(made) if !self.chosen.contains(&made.number) => drop(along.insert(made.number)),
            Some(_) => {}
            None => drop(self.plan.missing.insert(format!("schema {schema}"))),
        }
    }

    fn is_present(&self, need: &Entry) -> bool {
        let Some(present) = self.present else { return false };
        let full = (need.schema.clone(), need.name.clone());
        match need.kind.as_str() {
            "SCHEMA" => present.schemas.contains(&need.name),
            "EXTENSION" => present.extensions.contains(&need.name),
            "TYPE" | "SHELL TYPE" | "DOMAIN" => present.types.contains(&full),
            "COLLATION" => present.collations.contains(&full),
            "TABLE" | "FOREIGN TABLE" | "VIEW" | "MATERIALIZED VIEW" | "SEQUENCE" | "INDEX" => {
                present.relations.contains(&full)
            }
            "FUNCTION" | "PROCEDURE" | "AGGREGATE" => present.functions.contains(&full),
            "CONSTRAINT" => {
                let suffixes = need.name.match_indices(' ').filter_map(|(at, _)| need.name.get(at + 1..));
                suffixes.into_iter().any(|name| present.relations.contains(&(need.schema.clone(), name.to_owned())))
            }
            // The server knows better.
            _ => true,
        }
    }

    /// Comments and privileges of what was chosen.
    fn add_about(&mut self) {
        let mut added = BTreeSet::new();
        for entry in &self.contents.entries {
            if !matches!(entry.kind.as_str(), "COMMENT" | "ACL" | "SECURITY LABEL")
                || !entry.needs.iter().any(|need| self.chosen.contains(need))
            {
                continue;
            }
            if entry.kind == "ACL"
                && let Some(present) = self.present
                && let Some(role) = missing_role(&entry.statement, &present.roles)
            {
                self.plan.notes.push(format!("privileges of {} were left out: {role}", entry.name.to_lowercase()));
                continue;
            }
            added.insert(entry.number);
        }
        self.chosen.append(&mut added);
    }

    fn finish(mut self) -> Plan {
        for entry in self.contents.entries.iter().filter(|entry| self.chosen.contains(&entry.number)) {
            self.plan.entries.push(entry.number);
            let name = (entry.schema.clone(), entry.name.clone());
            match entry.kind.as_str() {
                "TABLE" | "FOREIGN TABLE" => self.plan.tables.push(name),
                "SEQUENCE" => self.plan.sequences.push(name),
                _ => {}
            }
        }
        self.plan
    }
}

/// True when `ALTER SEQUENCE s OWNED BY schema.table.column` names this table, with or without quotes.
fn ties_to(statement: &str, table: &Entry) -> bool {
    let Some((_, column)) = statement.split_once(" OWNED BY ") else { return false };
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let after = |text: &str, name: &str| -> Option<usize> {
        let spelled = [name.to_owned(), quoted(name)];
        spelled
            .iter()
            .find(|name| text.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.')))
            .map(|name| name.len() + 1)
    };
    let rest = after(column, &table.schema).and_then(|at| column.get(at..)).unwrap_or_default();
    after(rest, &table.name).is_some()
}

/// Why a role that a GRANT or REVOKE names cannot be found among those that are there.
fn missing_role(statements: &str, roles: &BTreeSet<String>) -> Option<String> {
    for statement in statements.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        let statement = statement.trim_end_matches(';').trim_end_matches(" WITH GRANT OPTION");
        let word = if statement.starts_with("GRANT ") { " TO " } else { " FROM " };
        let known = statement.starts_with("GRANT ") || statement.starts_with("REVOKE ");
        let Some((_, role)) = statement.rsplit_once(word).filter(|_| known) else {
            return Some("they change users on the way".to_owned());
        };
        let plain =
            role.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map(|name| name.replace("\"\"", "\""));
        let role = plain.unwrap_or_else(|| role.to_owned());
        if role != "PUBLIC" && !roles.contains(&role) {
            return Some(format!("there is no role {role}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: i64, kind: &str, name: &str, needs: &[i64]) -> Entry {
        Entry {
            number,
            kind: kind.into(),
            schema: "public".into(),
            name: name.into(),
            needs: needs.to_vec(),
            ..Entry::default()
        }
    }

    fn shop() -> Contents {
        let mut entries = vec![
            entry(1, "TYPE", "mood", &[]),
            entry(2, "FUNCTION", "touch()", &[]),
            entry(3, "TABLE", "customers", &[]),
            entry(4, "TABLE", "orders", &[1]),
            entry(5, "SEQUENCE", "orders_id_seq", &[]),
            entry(6, "SEQUENCE OWNED BY", "orders_id_seq", &[5]),
            entry(7, "DEFAULT", "orders id", &[5, 4]),
            entry(8, "TABLE", "order", &[]),
            entry(9, "TABLE DATA", "orders", &[4]),
            entry(10, "SEQUENCE SET", "orders_id_seq", &[5]),
            entry(11, "CONSTRAINT", "customers customers_pkey", &[3]),
            entry(12, "FK CONSTRAINT", "orders to_customer", &[3, 4, 11]),
            entry(13, "FK CONSTRAINT", "notes to_order", &[4]),
            entry(14, "TRIGGER", "orders touched", &[2, 4]),
            entry(15, "COMMENT", "COLUMN orders.id", &[4]),
            entry(16, "VIEW", "open_orders", &[4]),
            entry(17, "INDEX", "orders_at", &[4]),
        ];
        entries[5].statement = "ALTER SEQUENCE public.orders_id_seq OWNED BY public.orders.id;\n".into();
        let mut contents = Contents::default();
        contents.entries = entries;
        contents
    }

    fn only_public() -> Present {
        Present { schemas: ["public".to_owned()].into(), ..Present::default() }
    }

    #[test]
    fn a_table_brings_what_is_its_own_and_what_it_needs_and_nothing_of_others() {
        let contents = shop();
        let wanted = resolve(&contents, &["orders".into()]).unwrap();
        let made = plan(&contents, &wanted, Some(&only_public()));
        assert_eq!(made.entries, [1, 4, 5, 6, 7, 9, 10, 15, 17]);
        assert_eq!(made.made, [("TYPE".to_owned(), "public".to_owned(), "mood".to_owned())]);
        assert_eq!(made.missing, BTreeSet::new());
        assert_eq!(made.notes.len(), 2, "{:?}", made.notes);
        assert!(made.notes.iter().any(|n| n.contains("to_customer") && n.contains("no table public.customers")));
        // Where all is there, all comes.
        let mut present = only_public();
        let relation = |name: &str| ("public".to_owned(), name.to_owned());
        present.relations = ["customers", "customers_pkey"].map(relation).into();
        present.functions = [relation("touch()")].into();
        present.types = [relation("mood")].into();
        let all = plan(&contents, &wanted, Some(&present));
        assert_eq!((all.entries, all.notes.len()), (vec![4, 5, 6, 7, 9, 10, 12, 14, 15, 17], 0));
    }

    #[test]
    fn names_that_stand_for_no_table_say_what_they_are() {
        let contents = shop();
        let wrong = resolve(&contents, &["open_orders".into(), "nothing".into(), "public.orders".into()]).unwrap_err();
        assert_eq!(wrong.len(), 2);
        assert_eq!(wrong[0].found, ["view public.open_orders"]);
        assert!(wrong[1].found.is_empty());
    }

    #[test]
    fn a_table_that_needs_a_function_is_not_restored_without_it() {
        let mut contents = shop();
        contents.entries[3].needs.push(2);
        let wanted = resolve(&contents, &["\"public\".\"orders\"".into()]).unwrap();
        let made = plan(&contents, &wanted, Some(&only_public()));
        assert_eq!(made.missing, ["function public.touch()".to_owned()].into());
    }

    #[test]
    fn privileges_of_roles_that_are_not_there_are_told() {
        let roles = ["app".to_owned(), "odd\"one".to_owned()].into();
        assert_eq!(missing_role("GRANT SELECT ON TABLE public.x TO app;\n", &roles), None);
        assert_eq!(
            missing_role(
                "GRANT ALL ON TABLE x TO \"odd\"\"one\" WITH GRANT OPTION;\nREVOKE ALL ON TABLE x FROM PUBLIC;\n",
                &roles
            ),
            None
        );
        assert_eq!(
            missing_role("GRANT SELECT ON TABLE x TO reader;\n", &roles),
            Some("there is no role reader".into())
        );
        assert!(missing_role("SET SESSION AUTHORIZATION app;\nGRANT SELECT ON TABLE x TO app;\n", &roles).is_some());
    }
}
