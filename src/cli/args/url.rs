//! Database URIs on the command line and in the configuration: none may hold a password, because arguments are visible
//! to every user of the machine and configurations are shown, copied and stored.

/// A URI or connection string that holds a password. The text shows neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The database URL holds a password")]
pub struct PasswordInUrl;

/// Accepts a URI or a `key=value` connection string only without a password.
///
/// # Errors
/// [`PasswordInUrl`] when there is one, in the user part, in the query or among the keys.
pub fn refuse_password(text: &str) -> Result<(), PasswordInUrl> {
    let found = match text.split_once("://") {
        Some((_, rest)) => uri_has_password(rest),
        None => conninfo_has_password(text),
    };
    if found { Err(PasswordInUrl) } else { Ok(()) }
}

/// True for what libpq takes, false for a path.
pub fn is_connection(to: &str) -> bool {
    to.starts_with("postgres://")
        || to.starts_with("postgresql://")
        || (to.contains('=') && !to.contains('/'))
        || to.split_whitespace().any(|word| word.starts_with("dbname=") || word.starts_with("service="))
}

/// The text with every password in the user part of a URI replaced by `***`, for command lines that are shown or stored.
pub fn mask_passwords(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(char::is_whitespace).unwrap_or(after.len());
        let (uri, tail) = after.split_at(end);
        match uri.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
            Some((user, host)) => {
                out.push_str(&format!("{user}:***@{host}"));
                rest = tail;
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}

fn is_password_key(key: &str) -> bool {
    let key = percent_decode(key.trim()).to_ascii_lowercase();
    matches!(key.as_str(), "password" | "sslpassword" | "passwd" | "pwd" | "scram_client_key" | "scram_server_key")
}

/// The part after `scheme://`.
fn uri_has_password(rest: &str) -> bool {
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    // A password may hold a raw slash or question mark; looking at everything before the last @ misses none of them.
    let has_user_part = |part: &str| {
        part.rsplit_once('@')
            .is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, password)| !password.is_empty()))
    };
    has_user_part(before_query)
        || (query.contains('@') && has_user_part(rest) && !query.contains('='))
        || query
            .split('&')
            .any(|pair| pair.split_once('=').is_some_and(|(key, value)| is_password_key(key) && !value.is_empty()))
}

fn conninfo_has_password(text: &str) -> bool {
    // Quoted values may hold anything, so a key only counts outside of quotes.
    let mut rest = text;
    while let Some((key, tail)) = rest.split_once('=') {
        let (value, after) = conninfo_value(tail.trim_start());
        if is_password_key(key) && !value.is_empty() && value != "''" {
            return true;
        }
        rest = after;
    }
    false
}

/// Splits off one value, with its quotes if it has them.
fn conninfo_value(text: &str) -> (&str, &str) {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(usize::from(quoted)) {
        let ends = if quoted { c == '\'' } else { c.is_whitespace() };
        if ends && !escaped {
            return text.split_at(index + if quoted { c.len_utf8() } else { 0 });
        }
        escaped = c == '\\' && !escaped;
    }
    (text, "")
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let decoded = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok()));
        match decoded {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn passwords_are_found_wherever_libpq_takes_them() {
        for text in [
            "postgres://u:pw@host/db",
            "postgresql://u:p%40w@h1:1,h2:2/db?sslmode=require",
            "postgres://:pw@host/db",
            "postgres://u:p/w@host/db",
            "postgres://u:p?w@host/db",
            "postgres://host/db?password=pw",
            "postgres://host/db?user=u&password=pw&x=y",
            "postgres://host/db?%70assword=pw",
            "postgres:///db?sslpassword=pw",
            "host=h password=pw",
            "host=h password = 'p w' dbname=d",
            "host='it\\'s' PASSWORD=pw",
        ] {
            assert_eq!(refuse_password(text), Err(PasswordInUrl), "{text}");
        }
    }

    #[test]
    fn what_holds_none_is_accepted() {
        for text in [
            "postgres://backup@127.0.0.1:5432/app",
            "postgres://127.0.0.1:5432/app",
            "postgres:///app?host=/run/postgresql",
            "postgres://u@[::1]:5432/app?sslmode=verify-full",
            "postgres://u:@host/db",
            "postgres://host/db?passfile=/home/u/.pgpass",
            "host=h dbname=d user=u",
            "host=h dbname='password=x'",
            "service=app",
            "app",
            "",
        ] {
            assert_eq!(refuse_password(text), Ok(()), "{text}");
        }
        assert!(!PasswordInUrl.to_string().contains("pw"));
    }

    #[test]
    fn passwords_in_command_lines_are_masked() {
        for (text, masked) in [
            ("fetch https://u:p@h/x -o -", "fetch https://u:***@h/x -o -"),
            ("a b://u:p/q@h c://x:y@z", "a b://u:***@h c://x:***@z"),
            ("redis-cli --rdb -", "redis-cli --rdb -"),
            ("x postgres://u@h:5432/d", "x postgres://u@h:5432/d"),
        ] {
            assert_eq!(mask_passwords(text), masked);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", uri in "postgres://[a-z:@/?=&%']{0,30}") {
            let _ = refuse_password(&text);
            let _ = refuse_password(&uri);
        }

        #[test]
        fn any_password_in_the_user_part_is_found(password in "[a-zA-Z0-9!$/?#-]{1,12}") {
            let url = format!("postgres://u:{password}@h/db");
            prop_assert!(refuse_password(&url).is_err());
        }
    }
}
