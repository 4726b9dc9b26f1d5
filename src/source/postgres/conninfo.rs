//! The two spellings of a libpq connection: `postgres://...` and `key=value ...`; and the form that libpq reads back.
//!
//! Only text becomes pairs here. Which pair wins over which, and what is added from the environment, is decided in
//! [`super::connect`].

use std::collections::BTreeMap;

use super::connect::ConnectError;

/// Keywords that libpq knows (PostgreSQL 18). Others are refused, as libpq does.
const KEYWORDS: &[&str] = &[
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "options",
    "passfile",
    "password",
    "port",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Keywords whose values are secrets.
pub const SECRETS: &[&str] = &["password", "sslpassword", "scram_client_key", "scram_server_key"];

/// Pairs of a connection, sorted by keyword.
pub type Pairs = BTreeMap<String, String>;

/// Reads a URI, `key=value` pairs, or a bare database name.
/// # Errors
/// [`ConnectError::Syntax`] and [`ConnectError::Keyword`].
pub fn parse(text: &str) -> Result<Pairs, ConnectError> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => parse_uri(rest),
        None if text.contains('=') => parse_pairs(text),
        None if text.is_empty() => Ok(Pairs::new()),
        None => Ok(Pairs::from([("dbname".to_owned(), text.to_owned())])),
    }
}

/// True when the text itself holds a password, as a command line must not.
pub fn names_password(text: &str) -> bool {
    parse(text).is_ok_and(|pairs| SECRETS.iter().any(|key| pairs.contains_key(*key)))
}

fn syntax(reason: impl Into<String>) -> ConnectError {
    ConnectError::Syntax { reason: reason.into() }
}

/// Adds a pair whose keyword must be known.
/// # Errors
/// [`ConnectError::Keyword`].
pub fn insert(pairs: &mut Pairs, key: &str, value: String) -> Result<(), ConnectError> {
    if key == "ssl" && value == "true" {
        // What JDBC writes; libpq takes it too.
        pairs.insert("sslmode".to_owned(), "require".to_owned());
    } else if KEYWORDS.contains(&key) {
        pairs.insert(key.to_owned(), value);
    } else {
        return Err(ConnectError::Keyword { keyword: key.to_owned() });
    }
    Ok(())
}

fn parse_uri(rest: &str) -> Result<Pairs, ConnectError> {
    let mut pairs = Pairs::new();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, database) = rest.split_once('/').map_or((rest, ""), |(authority, database)| (authority, database));
    let (userinfo, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    if let Some(userinfo) = userinfo {
        let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(u, p)| (u, Some(p)));
        for (key, value) in [("user", Some(user)), ("password", password)] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                pairs.insert(key.to_owned(), decode(value)?);
            }
        }
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(inner) => {
                let (address, tail) =
                    inner.split_once(']').ok_or_else(|| syntax("an IPv6 address without closing bracket"))?;
                (address, tail.strip_prefix(':').unwrap_or_default())
            }
            None => host.rsplit_once(':').unwrap_or((host, "")),
        };
        names.push(decode(name)?);
        ports.push(decode(port)?);
    }
    if names.iter().any(|name| !name.is_empty()) {
        pairs.insert("host".to_owned(), names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.insert("port".to_owned(), ports.join(","));
    }
    if !database.is_empty() {
        pairs.insert("dbname".to_owned(), decode(database)?);
    }
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| syntax(format!("parameter '{pair}' has no value")))?;
        insert(&mut pairs, &decode(key)?, decode(value)?)?;
    }
    Ok(pairs)
}

fn decode(text: &str) -> Result<String, ConnectError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next(), bytes.next()].map(|digit| digit.and_then(|d| char::from(d).to_digit(16)));
            let [Some(high), Some(low)] = digits else { return Err(syntax("a percent sign without two hex digits")) };
            match u8::try_from(high * 16 + low) {
                Ok(byte) if byte != 0 => out.push(byte),
                _ => return Err(syntax("a zero byte")),
            }
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).map_err(|_| syntax("text that is not UTF-8"))
}

fn parse_pairs(text: &str) -> Result<Pairs, ConnectError> {
    let mut pairs = Pairs::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(syntax(format!("'{key}' is followed by no equals sign")));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err(syntax("a quoted value without closing quote")),
                None => break,
            }
        }
        insert(&mut pairs, &key, value)?;
    }
}

/// The pairs as one text that libpq reads back, each value quoted.
pub fn write(pairs: &Pairs) -> String {
    let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    pairs.iter().map(|(key, value)| format!("{key}='{}'", quote(value))).collect::<Vec<_>>().join(" ")
}

/// A text that may stand within a URI.
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(items: &[(&str, &str)]) -> Pairs {
        items.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn uris_of_every_form() {
        for (uri, wanted) in [
            ("postgresql://", pairs(&[])),
            ("postgres://h", pairs(&[("host", "h")])),
            ("postgres://h:5433/db", pairs(&[("host", "h"), ("port", "5433"), ("dbname", "db")])),
            ("postgres://u:p%40x@h/db", pairs(&[("user", "u"), ("password", "p@x"), ("host", "h"), ("dbname", "db")])),
            ("postgres://h1:1,h2:2/db", pairs(&[("host", "h1,h2"), ("port", "1,2"), ("dbname", "db")])),
            ("postgres://[::1]:5/db", pairs(&[("host", "::1"), ("port", "5"), ("dbname", "db")])),
            ("postgres://%2Frun%2Fpg/db", pairs(&[("host", "/run/pg"), ("dbname", "db")])),
            ("postgres:///db?host=/run/pg&sslmode=require", {
                pairs(&[("dbname", "db"), ("host", "/run/pg"), ("sslmode", "require")])
            }),
            ("postgres:///?ssl=true", pairs(&[("sslmode", "require")])),
        ] {
            assert_eq!(parse(uri).unwrap(), wanted, "{uri}");
        }
        for bad in ["postgres://h/db?bogus=1", "postgres://h/%zz", "postgres://[::1/db", "postgres://h/db?sslmode"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(names_password("postgres://u:p@h/db") && names_password("password=x") && !names_password("dbname=x"));
    }

    #[test]
    fn pairs_with_quotes_and_spaces() {
        let parsed = parse(r"host = 'a b'  dbname=x\ y password='it\'s' port=5").unwrap();
        assert_eq!(parsed, pairs(&[("host", "a b"), ("dbname", "x y"), ("password", "it's"), ("port", "5")]));
        for bad in ["host x=1", "host='x", "= x", "bogus=1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("app").unwrap(), pairs(&[("dbname", "app")]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(values in proptest::collection::vec("[^\0]{0,12}", KEYWORDS.len())) {
            let wanted: Pairs = KEYWORDS.iter().map(|k| (*k).to_owned()).zip(values).collect();
            prop_assert_eq!(parse(&write(&wanted)).unwrap(), wanted);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = parse(&text);
            let _ = parse(&format!("postgres://{text}"));
            prop_assert_eq!(decode(&encode(&text)).unwrap(), text);
        }
    }
}
