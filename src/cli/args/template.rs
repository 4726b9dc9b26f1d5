//! Line templates of `--format`: text with fields in braces.

use crate::cli::settings::nearest;

/// The fields of a snapshot.
pub const FIELDS: [&str; 13] = [
    "id",
    "short_id",
    "time",
    "timestamp",
    "host",
    "user",
    "class",
    "tags",
    "sources",
    "series",
    "size",
    "added",
    "status",
];

/// A template that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(&'static str),
}

impl Template {
    /// Reads a template. `{{` and `}}` are braces, `\t`, `\n` and `\\` stand for a tab, a line feed and a backslash.
    ///
    /// # Errors
    /// One sentence on what is wrong, with the nearest field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' | '}' if chars.peek() == Some(&c) => {
                    chars.next();
                    plain.push(c);
                }
                '}' => return Err("a closing brace stands alone; write }} for a brace".to_owned()),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => return Err(format!("the brace before '{name}' is not closed")),
                        }
                    }
                    let field = FIELDS.into_iter().find(|field| *field == name).ok_or_else(|| unknown(&name))?;
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(Piece::Field(field));
                }
                '\\' => match chars.next() {
                    Some('t') => plain.push('\t'),
                    Some('n') => plain.push('\n'),
                    Some('\\') => plain.push('\\'),
                    other => {
                        return Err(format!("\\{} is not an escape; known are \\t \\n \\\\", other.unwrap_or(' ')));
                    }
                },
                c => plain.push(c),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// Fills in the fields.
    pub fn render(&self, field: impl Fn(&str) -> String) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Field(name) => field(name),
            })
            .collect()
    }
}

fn unknown(name: &str) -> String {
    match nearest(name, FIELDS) {
        Some(field) => format!("there is no field '{name}'; did you mean '{field}'?"),
        None => format!("there is no field '{name}'; fields are {}", FIELDS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled() {
        let filled = |text: &str| Template::parse(text).map(|t| t.render(|field| format!("<{field}>")));
        assert_eq!(filled("{id}|{time}\\t{{x}}\\\\").as_deref(), Ok("<id>|<time>\t{x}\\"));
        assert_eq!(filled("").as_deref(), Ok(""));
        assert_eq!(filled("{idd}"), Err("there is no field 'idd'; did you mean 'id'?".to_owned()));
        assert_eq!(filled("{tiem}"), Err("there is no field 'tiem'; did you mean 'time'?".to_owned()));
        assert_eq!(filled("{id"), Err("the brace before 'id' is not closed".to_owned()));
        assert!(filled("a}").is_err() && filled("\\x").is_err() && filled("\\").is_err());
        assert!(filled("{compression}").unwrap_err().contains("fields are id, short_id"));
    }
}
