//! Plain scripts of `pg_dump` on their way to `psql`, which is not to do more than a dump needs.
//!
//! `psql` obeys commands that stand in a script: `\!` runs a program of this machine. A script that was imported comes from
//! wherever its file came from. So `psql` is told first to take no commands any more (`\restrict KEY`, with a key that nobody could know when
//! the file was made); a script that has some then fails. Newer versions of `pg_dump` do the same with a key of their own, which
//! would be a second restriction, so their two lines are left out. A `psql` that does not know the command fails at once.

/// Longest line that can be one of the two.
const LINE_BYTES_MAX: usize = 256;

/// Rewrites a script.
#[derive(Debug)]
pub struct ScriptFilter {
    key: String,
    /// The script's own key.
    own: Option<Vec<u8>>,
    /// Something other than comments was seen.
    begun: bool,
    /// A line that may be one of the two, as far as it is known.
    held: Vec<u8>,
    /// In the middle of a line that is none.
    inside: bool,
}

impl ScriptFilter {
    /// A filter with a key of letters and digits that is new.
    pub fn new(key: &str) -> Self {
        let key = key.chars().filter(char::is_ascii_alphanumeric).collect();
        Self { key, own: None, begun: false, held: Vec::new(), inside: false }
    }

    /// What goes before the script.
    pub fn begin(&self) -> Vec<u8> {
        format!("\\restrict {}\n", self.key).into_bytes()
    }

    /// Takes the next bytes of the script and adds what goes on to `out`.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        for part in input.split_inclusive(|byte| *byte == b'\n') {
            let ends = part.ends_with(b"\n");
            if self.inside {
                out.extend_from_slice(part);
                self.inside = !ends;
                continue;
            }
            self.held.extend_from_slice(part);
            let may_be = self.held.starts_with(b"\\") && self.held.len() <= LINE_BYTES_MAX;
            // two bytes tell a comment from a statement
            let is_short = self.held.trim_ascii_start().len() < 2 && self.held.len() <= LINE_BYTES_MAX;
            if !ends && (may_be || is_short) {
                continue;
            }
            let line = std::mem::take(&mut self.held);
            if !(ends && may_be && self.is_own(&line)) {
                let text = line.trim_ascii();
                self.begun |= !text.is_empty() && !text.starts_with(b"--");
                out.extend_from_slice(&line);
            }
            self.inside = !ends;
        }
    }

    /// What is left at the end.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.held);
        if !self.is_own(&line) {
            out.extend_from_slice(&line);
        }
    }

    /// True for the script's own restriction, which stands before everything else, and for the end of it.
    fn is_own(&mut self, line: &[u8]) -> bool {
        let line = line.trim_ascii_end();
        if let Some(key) = line.strip_prefix(b"\\restrict ") {
            let is_first = !self.begun && self.own.is_none();
            if is_first && !key.is_empty() && key.iter().all(u8::is_ascii_alphanumeric) {
                self.own = Some(key.to_vec());
                return true;
            }
        }
        line.strip_prefix(b"\\unrestrict ").is_some_and(|key| self.own.as_deref() == Some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(script: &str, piece: usize) -> String {
        let mut filter = ScriptFilter::new("k-1");
        let mut out = filter.begin();
        script.as_bytes().chunks(piece).for_each(|part| filter.push(part, &mut out));
        filter.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_the_restriction_of_the_script_itself_is_left_out() {
        let long = "x".repeat(1000);
        for (script, wanted) in [
            ("--\n-- dump\n--\n\n\\restrict Ab1\n\nSET x;\n\\unrestrict Ab1\n", "--\n-- dump\n--\n\n\nSET x;\n"),
            ("SELECT 1;\n\\restrict Ab1\n", "SELECT 1;\n\\restrict Ab1\n"),
            ("\\restrict Ab1\n\\restrict Cd2\n", "\\restrict Cd2\n"),
            ("\\restrict Ab1\n\\unrestrict k1\n\\! id\n", "\\unrestrict k1\n\\! id\n"),
            ("COPY t FROM stdin;\n1\n\\.\n\\! id", "COPY t FROM stdin;\n1\n\\.\n\\! id"),
            (&format!("\\{long}\nx\n"), &*format!("\\{long}\nx\n")),
            ("", ""),
        ] {
            for piece in [1, 2, 7, 4096] {
                assert_eq!(filtered(script, piece), format!("\\restrict k1\n{wanted}"), "{script} by {piece}");
            }
        }
    }
}
