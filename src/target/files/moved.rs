//! A part of a snapshot's paths that is restored under another path.

/// Everything at or below one path of the snapshot gets another path in the target.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Moved {
    /// Both begin with a slash; `/` for `to` is the target itself.
    pub(super) fn new(from: &[u8], to: &[u8]) -> Self {
        let to = if to == b"/" { b"" } else { to };
        Self { from: from.to_vec(), to: to.to_vec() }
    }

    /// The path in the target; none for what is not at or below the path.
    pub(super) fn place(&self, path: &[u8]) -> Option<Vec<u8>> {
        let rest = if self.from == b"/" { path } else { path.strip_prefix(self.from.as_slice())? };
        match rest.first() {
            None | Some(b'/') => {}
            Some(_) => return None,
        }
        let rest = if rest == b"/" { b"" } else { rest };
        let place = [self.to.as_slice(), rest].concat();
        Some(if place.is_empty() { b"/".to_vec() } else { place })
    }

    /// True when the top of the target is what is restored.
    pub(super) fn is_to_top(&self) -> bool {
        self.to.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_move_with_what_is_below_them() {
        let place = |from: &str, to: &str, path: &str| {
            Moved::new(from.as_bytes(), to.as_bytes()).place(path.as_bytes()).map(|p| String::from_utf8(p).unwrap())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(place("/srv/app", "/new", "/srv/app"), some("/new"));
        assert_eq!(place("/srv/app", "/new", "/srv/app/x/y"), some("/new/x/y"));
        assert_eq!(place("/srv/app", "/", "/srv/app"), some("/"));
        assert_eq!(place("/srv/app", "/", "/srv/app/x"), some("/x"));
        assert_eq!(place("/", "/new", "/x"), some("/new/x"));
        assert_eq!(place("/", "/", "/"), some("/"));
        for path in ["/srv", "/srv/apple", "/", "/other"] {
            assert_eq!(place("/srv/app", "/new", path), None, "{path}");
        }
    }
}
