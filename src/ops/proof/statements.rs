//! Statements of a dump, as far as they must be told apart: who is granted something, what belongs to the database.

/// The statements of a text, without what is cut off at its end.
pub(super) fn statements(text: &str) -> impl Iterator<Item = &str> {
    let mut quote = None;
    let end = move |c: char| {
        match quote {
            Some(open) => quote = (c != open).then_some(open),
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None => return c == ';',
        }
        false
    };
    text.split_inclusive(end)
        .filter_map(|statement| statement.strip_suffix(';'))
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
}

/// The role to which a `GRANT` grants something; none for everybody, and for other statements.
pub(super) fn grantee(statement: &str) -> Option<String> {
    let grants = statement.starts_with("GRANT ")
        || (statement.starts_with("ALTER DEFAULT PRIVILEGES ") && statement.contains(" GRANT "));
    let (_, to) = grants.then(|| statement.rsplit_once(" TO "))??;
    let to = to.strip_suffix(" WITH GRANT OPTION").unwrap_or(to).trim();
    match to.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(name) => Some(name.replace("\"\"", "\"")),
        None if matches!(to, "PUBLIC" | "") || to.contains(char::is_whitespace) => None,
        None => Some(to.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_outside_of_quotes() {
        let text = "COMMENT ON DATABASE a IS 'x;''y';\n\nALTER DATABASE \"b;c\" SET z TO '1';\n GRANT cut";
        let found: Vec<&str> = statements(text).collect();
        assert_eq!(found, ["COMMENT ON DATABASE a IS 'x;''y'", "ALTER DATABASE \"b;c\" SET z TO '1'"]);
    }

    #[test]
    fn who_is_granted_something() {
        for (statement, role) in [
            ("GRANT SELECT ON TABLE public.t TO reader", Some("reader")),
            ("GRANT SELECT(a),UPDATE(b) ON TABLE t TO \"a \"\"TO\"\" b\" WITH GRANT OPTION", Some("a \"TO\" b")),
            ("GRANT USAGE ON SCHEMA public TO PUBLIC", None),
            ("REVOKE ALL ON TABLE t FROM reader", None),
            ("ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT SELECT ON TABLES TO reader", Some("reader")),
            ("SET SESSION AUTHORIZATION app", None),
        ] {
            assert_eq!(grantee(statement).as_deref(), role, "{statement}");
        }
    }
}
