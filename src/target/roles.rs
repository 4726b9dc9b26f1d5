//! The roles of a saved cluster, read from the script of `pg_dumpall --globals-only`. Nothing of the script is run: it
//! is taken apart into names, the few attributes that matter, and memberships.

use std::collections::BTreeMap;

/// Bytes of a script that is read; it has a few lines for each role.
pub const SCRIPT_MAX: usize = 64 << 20;

/// What is known of one role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    /// May do everything.
    pub superuser: bool,
    /// Is not subject to row security.
    pub bypasses_row_security: bool,
    /// Does not have the rights of the roles it is a member of without asking.
    pub no_inherit: bool,
    /// Roles that it is a member of.
    pub member_of: Vec<String>,
}

/// Reads a script. What it does not know it leaves out.
pub fn read_roles(script: &str) -> BTreeMap<String, Role> {
    let mut roles: BTreeMap<String, Role> = BTreeMap::new();
    for words in statements(script) {
        let plain: Vec<&str> = words.iter().map(|word| word.keyword()).collect();
        let name = |at: usize| words.get(at).map(Word::name);
        match plain.as_slice() {
            ["CREATE", "ROLE", _] => {
                if let Some(name) = name(2) {
                    roles.entry(name).or_default();
                }
            }
            ["ALTER", "ROLE", _, "WITH", attributes @ ..] => {
                let Some(role) = name(2).and_then(|name| roles.get_mut(&name)) else { continue };
                role.superuser |= attributes.contains(&"SUPERUSER");
                role.bypasses_row_security |= attributes.contains(&"BYPASSRLS");
                role.no_inherit |= attributes.contains(&"NOINHERIT");
            }
            ["GRANT", _, "TO", _, ..] => {
                if let (Some(group), Some(member)) = (name(1), name(3)) {
                    roles.entry(member).or_default().member_of.push(group);
                }
            }
            _ => {}
        }
    }
    roles
}

/// A word of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Plain(String),
    Quoted(String),
    Text,
}

impl Word {
    /// The word, for comparing with keywords; quoted names are none.
    fn keyword(&self) -> &str {
        match self {
            Self::Plain(word) => word,
            Self::Quoted(_) | Self::Text => "",
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Plain(word) | Self::Quoted(word) => word.clone(),
            Self::Text => String::new(),
        }
    }
}

/// The statements of a script as words. Comments and the lines of psql (`\restrict`) are left out.
fn statements(script: &str) -> Vec<Vec<Word>> {
    let (mut all, mut words) = (Vec::new(), Vec::new());
    let mut rest = script.chars().peekable();
    let mut line_start = true;
    while let Some(c) = rest.next() {
        let at_start = std::mem::replace(&mut line_start, c == '\n');
        match c {
            '\\' if at_start && words.is_empty() => {
                line_start = rest.by_ref().any(|c| c == '\n');
            }
            '-' if rest.peek() == Some(&'-') => {
                line_start = rest.by_ref().any(|c| c == '\n');
            }
            '"' | '\'' => {
                let mut text = String::new();
                while let Some(inner) = rest.next() {
                    if inner == c && rest.next_if_eq(&c).is_none() {
                        break;
                    }
                    text.push(inner);
                }
                words.push(if c == '"' { Word::Quoted(text) } else { Word::Text });
            }
            ';' => all.push(std::mem::take(&mut words)),
            c if c.is_whitespace() || c == ',' => {}
            c => {
                let mut word = String::from(c);
                while let Some(inner) = rest.next_if(|c| !c.is_whitespace() && !matches!(c, ';' | '"' | '\'' | ',')) {
                    word.push(inner);
                }
                words.push(Word::Plain(word));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_attributes_and_memberships_are_read() {
        let script = "--\n-- it's a comment; CREATE ROLE no;\n\\restrict a'b\n\nSET client_encoding = 'UTF8';\n\
            CREATE ROLE app;\nALTER ROLE app WITH NOSUPERUSER INHERIT NOCREATEROLE LOGIN PASSWORD 'SCRAM;\"x''y';\n\
            CREATE ROLE \"exotic \"\"reader\"\"\n;\";\nALTER ROLE \"exotic \"\"reader\"\"\n;\" WITH SUPERUSER NOINHERIT BYPASSRLS;\n\
            ALTER ROLE app SET search_path TO 'a', 'b';\nCREATE TABLESPACE fast OWNER app LOCATION '/srv/x';\n\
            GRANT app TO \"exotic \"\"reader\"\"\n;\" WITH INHERIT TRUE GRANTED BY postgres;\nGRANT pg_monitor TO app;\n\\unrestrict a'b\n";
        let roles = read_roles(script);
        let odd = "exotic \"reader\"\n;";
        assert_eq!(roles.keys().collect::<Vec<_>>(), ["app", odd]);
        assert_eq!(roles["app"], Role { member_of: vec!["pg_monitor".into()], ..Role::default() });
        let wanted =
            Role { superuser: true, bypasses_row_security: true, no_inherit: true, member_of: vec!["app".into()] };
        assert_eq!(roles[odd], wanted);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[A-Z \"';\\\\\\-\n]{0,200}") {
            let _ = read_roles(&text);
        }
    }
}
