//! SQL scripts whose writer left no mark by which they are known: text that begins with a statement and ends with one.
//!
//! Without a mark at its end, only a loss in the middle of a statement can be seen. That is said as a finding.

use crate::domain::snapshot::SourceWarning;

/// Bytes of a line that are kept at its beginning.
const LINE_HEAD_BYTES: usize = 64;
/// Longest word that is looked at.
const WORD_BYTES_MAX: usize = 16;
/// Words that statements of database dumps and scripts begin with.
const WORDS: [&str; 50] = [
    "ALTER",
    "ANALYZE",
    "ATTACH",
    "BEGIN",
    "CALL",
    "CLUSTER",
    "COMMENT",
    "COMMIT",
    "COPY",
    "CREATE",
    "DECLARE",
    "DELETE",
    "DELIMITER",
    "DETACH",
    "DISCARD",
    "DO",
    "DROP",
    "END",
    "EXEC",
    "EXECUTE",
    "EXPLAIN",
    "FLUSH",
    "GO",
    "GRANT",
    "IF",
    "IMPORT",
    "INSERT",
    "LOCK",
    "MERGE",
    "PRAGMA",
    "PREPARE",
    "REFRESH",
    "REINDEX",
    "RELEASE",
    "RENAME",
    "REPLACE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SECURITY",
    "SELECT",
    "SET",
    "SHOW",
    "START",
    "TRUNCATE",
    "UNLOCK",
    "UPDATE",
    "USE",
    "WITH",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// Before the first statement.
    Blank,
    /// After a dash that may begin a comment.
    Dash,
    /// After a slash that may begin a comment.
    Slash,
    /// In a comment up to the end of the line, or in a command of the shell.
    Line,
    /// In a comment up to `*/`.
    Block,
    /// The same, after an asterisk.
    BlockStar,
    /// In the first word.
    Word,
    /// After it.
    Done,
}

/// The incremental reader.
#[derive(Debug)]
pub struct SqlText {
    begin: Begin,
    word: Vec<u8>,
    /// First bytes of the line at hand, and the last one that is not blank.
    head: Vec<u8>,
    last: u8,
    /// The same of the last line that is not blank.
    last_head: Vec<u8>,
    last_end: u8,
    statements: u64,
    fault: Option<&'static str>,
    /// The script begins as those of SQLite's shell.
    is_sqlite: bool,
}

impl Default for SqlText {
    fn default() -> Self {
        Self {
            begin: Begin::Blank,
            word: Vec::new(),
            head: Vec::new(),
            last: 0,
            last_head: Vec::new(),
            last_end: 0,
            statements: 0,
            fault: None,
            is_sqlite: false,
        }
    }
}

impl SqlText {
    /// A reader of a text that begins with these bytes (they are to be fed as well).
    pub fn new(head: &[u8]) -> Self {
        let fault = if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            Some("is text in UTF-16, as PowerShell writes it with '>'; convert it to UTF-8")
        } else {
            None
        };
        Self { fault, is_sqlite: head.starts_with(b"PRAGMA foreign_keys=OFF;"), ..Self::default() }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, input: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        // what comes first is said, however the text is cut
        let zero = input.iter().position(|byte| *byte == 0);
        let mut rest = input.get(..zero.unwrap_or(input.len())).unwrap_or_default();
        while self.begin != Begin::Done && self.fault.is_none() {
            let Some((byte, after)) = rest.split_first() else { break };
            self.beginning(*byte);
            self.line(&[*byte]);
            rest = after;
        }
        if self.fault.is_none() {
            self.line(rest);
            self.fault = zero.map(|_| "is no dump: it holds zero bytes, and is no archive of a known kind");
        }
    }

    /// Follows comments up to the first word.
    fn beginning(&mut self, byte: u8) {
        self.begin = match (self.begin, byte) {
            (Begin::Line, b'\n') => Begin::Blank,
            (Begin::Line, _) => Begin::Line,
            (Begin::Block, b'*') | (Begin::BlockStar, b'*') => Begin::BlockStar,
            (Begin::BlockStar, b'/') => Begin::Blank,
            (Begin::Block | Begin::BlockStar, _) => Begin::Block,
            (Begin::Dash, b'-') => Begin::Line,
            (Begin::Slash, b'*') => Begin::Block,
            (Begin::Blank, b'-') => Begin::Dash,
            (Begin::Blank, b'/') => Begin::Slash,
            (Begin::Blank, b'\\' | b'#') => Begin::Line,
            // the mark of UTF-8, and statements that begin with a bracket or are empty
            (Begin::Blank, 0xef | 0xbb | 0xbf | b'(' | b';') => Begin::Blank,
            (Begin::Blank, byte) if byte.is_ascii_whitespace() => Begin::Blank,
            (Begin::Blank, byte) if byte.is_ascii_alphabetic() => {
                self.word.push(byte.to_ascii_uppercase());
                Begin::Word
            }
            (Begin::Word, byte) if byte.is_ascii_alphanumeric() || byte == b'_' => {
                if self.word.len() <= WORD_BYTES_MAX {
                    self.word.push(byte.to_ascii_uppercase());
                }
                Begin::Word
            }
            (Begin::Word, _) => {
                self.judge_word();
                Begin::Done
            }
            _ => {
                self.fault = Some("is no dump: it does not begin with a statement of SQL");
                Begin::Done
            }
        };
    }

    fn judge_word(&mut self) {
        if !WORDS.iter().any(|word| word.as_bytes() == self.word) {
            self.fault = Some("is no dump: it does not begin with a statement of SQL");
        }
    }

    /// Keeps the beginning and the end of lines.
    fn line(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'\n');
            let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
            let room = LINE_HEAD_BYTES.saturating_sub(self.head.len());
            self.head.extend(part.iter().take(room));
            if let Some(last) = part.iter().rev().find(|b| !b.is_ascii_whitespace()) {
                self.last = *last;
            }
            if end.is_none() {
                break;
            }
            self.close_line();
            rest = after.get(1..).unwrap_or_default();
        }
    }

    fn close_line(&mut self) {
        if self.last != 0 {
            self.statements += u64::from(self.last == b';');
            std::mem::swap(&mut self.last_head, &mut self.head);
            self.last_end = self.last;
        }
        self.head.clear();
        self.last = 0;
    }

    /// The verdict after the last byte: findings, or the predicate of a sentence about the script.
    ///
    /// # Errors
    /// A text: no SQL, or cut off.
    pub fn finish(mut self) -> Result<Vec<SourceWarning>, String> {
        if let Some(fault) = self.fault {
            return Err(fault.to_owned());
        }
        self.close_line();
        if self.begin == Begin::Word {
            self.judge_word();
        }
        let head = self.last_head.trim_ascii_start();
        if self.fault.is_some() || self.begin != Begin::Done || self.statements == 0 {
            return Err("is no dump: it holds no statement of SQL".to_owned());
        }
        if self.is_sqlite {
            if head.starts_with(b"ROLLBACK;") {
                return Err("is a dump of sqlite3 that failed: it ends with ROLLBACK".to_owned());
            }
            if !head.starts_with(b"COMMIT;") {
                return Err("is a truncated dump of sqlite3: it does not end with COMMIT".to_owned());
            }
            return Ok(Vec::new());
        }
        let is_closed = self.last_end == b';'
            || [&b"--"[..], b"#", b"/*", b"\\"].iter().any(|begin| head.starts_with(begin))
            || head.eq_ignore_ascii_case(b"GO")
            || head == b"/";
        if !is_closed {
            return Err("is truncated: it ends in the middle of a statement".to_owned());
        }
        let message = "Nothing in this script says where it ends, so it cannot be told whether its end is there";
        let code = "original.no_end_mark".to_owned();
        Ok(vec![SourceWarning { code, subject: String::new(), message: message.to_owned(), incomplete: false }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &[u8]) -> Result<usize, String> {
        let of = |piece: usize| {
            let mut judge = SqlText::new(text);
            text.chunks(piece).for_each(|part| judge.feed(part));
            judge.finish().map(|warnings| warnings.len())
        };
        let whole = of(1 << 20);
        assert_eq!(whole, of(3), "{}", text.escape_ascii());
        whole
    }

    #[test]
    fn scripts_are_told_from_what_only_looks_like_one() {
        for good in [
            &b"CREATE TABLE t (x);\nINSERT INTO t VALUES (1);\n"[..],
            b"\xef\xbb\xbf-- made by hand\n/* and * more */ set names utf8;\r\n\r\n",
            b"\\connect app\nINSERT INTO t VALUES (1);\n-- done",
            b"USE shop;\nGO\n",
            b"BEGIN;\nCOPY t FROM stdin;\n1\n\\.\n",
        ] {
            assert_eq!(judge(good), Ok(1), "{}", good.escape_ascii());
        }
        for (bad, reason) in [
            (&b"<!DOCTYPE html>\n<p>502 Bad Gateway;\n"[..], "is no dump"),
            (b"pg_dump: error: connection failed;\n", "is no dump"),
            (b"INSERTED rows;\n", "is no dump"),
            (b"-- nothing but words\n", "holds no statement"),
            (b"CREATE TABLE t (x)", "holds no statement"),
            (b"CREATE TABLE t (x);\nINSERT INTO t VALU", "middle of a statement"),
            (b"CREATE\0", "zero bytes"),
            (b"\xff\xfeC\0R\0", "UTF-16"),
            (b"hello", "is no dump"),
        ] {
            let error = judge(bad).unwrap_err();
            assert!(error.contains(reason), "{}: {error}", bad.escape_ascii());
        }
    }

    #[test]
    fn dumps_of_sqlite_say_how_they_ended() {
        let begin = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t(x);\n";
        assert_eq!(judge(format!("{begin}COMMIT;\n").as_bytes()), Ok(0));
        assert!(judge(begin.as_bytes()).unwrap_err().contains("truncated"));
        let failed = format!("{begin}ROLLBACK; -- due to errors\n");
        assert!(judge(failed.as_bytes()).unwrap_err().contains("failed"));
    }
}
