//! Looks at a stream while it passes: what it is, whether it is whole, what can be counted in it.
//!
//! The first bytes decide which reader watches the rest. A stream of no known kind is stored as it is and never judged.

use super::dump_format::{self, CustomArchive};
use super::plain_format::{PlainDump, PlainKind};
use crate::domain::snapshot::{SourceWarning, TableRows, VolatileSpan};
use crate::source::StreamProof;

/// Bytes that are enough to tell every known kind.
const SNIFF: usize = 512;

/// What a reader learned about a good stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Rows of each table, in any order.
    pub tables: Vec<TableRows>,
    /// Spans that change although the data does not.
    pub volatile: Vec<VolatileSpan>,
    /// Findings that did not fail the stream.
    pub warnings: Vec<SourceWarning>,
}

/// A reader's verdict.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whole, as far as the kind can tell.
    Good(Findings),
    /// Truncated or damaged: the predicate of a sentence about the stream.
    Bad(String),
}

/// What a source promises its stream to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Promise {
    /// Anything.
    #[default]
    Anything,
    /// An archive in pg_dump's custom format.
    Archive,
    /// The SQL script of `pg_dumpall`.
    ClusterScript,
}

enum Reader {
    Undecided(Vec<u8>),
    Archive(Box<CustomArchive>),
    Plain(Box<PlainDump>),
    Opaque(Option<SourceWarning>),
}

/// Watches one stream.
pub struct Inspector {
    promise: Promise,
    reader: Reader,
    bytes: u64,
}

impl Inspector {
    /// An inspector of a stream that promises to be something.
    pub fn new(promise: Promise) -> Self {
        Self { promise, reader: Reader::Undecided(Vec::new()), bytes: 0 }
    }

    /// Bytes seen so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True when no byte came and none was promised.
    pub fn may_be_empty(&self) -> bool {
        self.bytes == 0 && self.promise == Promise::Anything
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, input: &[u8]) {
        self.bytes += input.len() as u64;
        match &mut self.reader {
            Reader::Undecided(held) => {
                held.extend_from_slice(input);
                if held.len() >= SNIFF {
                    self.decide();
                }
            }
            Reader::Archive(archive) => archive.feed(input),
            Reader::Plain(plain) => plain.feed(input),
            Reader::Opaque(_) => {}
        }
    }

    fn decide(&mut self) {
        let Reader::Undecided(held) = &mut self.reader else { return };
        let held = std::mem::take(held);
        self.reader = if held.starts_with(dump_format::MAGIC) {
            let mut archive = Box::<CustomArchive>::default();
            archive.feed(&held);
            Reader::Archive(archive)
        } else if let Some(kind) = PlainKind::of(&held) {
            let mut plain = Box::new(PlainDump::new(kind));
            plain.feed(&held);
            Reader::Plain(plain)
        } else {
            Reader::Opaque(unfit_for_deduplication(&held))
        };
    }

    /// The proof of the whole stream, or the predicate of the sentence that says what is wrong.
    /// # Errors
    /// A text: empty, truncated, damaged, or not what was promised.
    pub fn finish(mut self) -> Result<StreamProof, String> {
        if self.bytes == 0 {
            return Err("gave no bytes".into());
        }
        self.decide();
        let promise = self.promise;
        let verdict = match self.reader {
            Reader::Archive(archive) if promise != Promise::ClusterScript => archive.finish(),
            Reader::Plain(plain) if plain.kind() == PlainKind::PgDumpAll || promise == Promise::Anything => {
                if promise == Promise::Archive {
                    Verdict::Bad("gave an SQL script instead of an archive in the custom format".into())
                } else {
                    plain.finish()
                }
            }
            Reader::Opaque(warning) if promise == Promise::Anything => {
                Verdict::Good(Findings { warnings: warning.into_iter().collect(), ..Findings::default() })
            }
            _ => Verdict::Bad(match promise {
                Promise::Archive => "gave something that is not an archive in the custom format of pg_dump".into(),
                _ => "gave something that is not the SQL script of pg_dumpall".into(),
            }),
        };
        match verdict {
            Verdict::Bad(reason) => Err(reason),
            Verdict::Good(findings) => Ok(findings.into_proof()),
        }
    }
}

impl Findings {
    fn into_proof(mut self) -> StreamProof {
        self.tables.sort_by(|a, b| a.table.cmp(&b.table));
        StreamProof { tables: self.tables, volatile: self.volatile, warnings: self.warnings }
    }
}

/// The kind of compression or encryption that the first bytes show, if any.
pub fn compression_of(head: &[u8]) -> Option<&'static str> {
    const MAGICS: [(&[u8], &str); 11] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (b"BZh", "bzip2"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
        (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"age-encryption.org/", "age"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----", "age"),
        (b"-----BEGIN PGP MESSAGE-----", "gpg"),
        (b"Salted__", "openssl"),
        (b"PK\x03\x04", "zip"),
    ];
    let named = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name);
    named.or_else(|| is_openpgp(head).then_some("gpg"))
}

/// True for the packets that open a message of OpenPGP: a session key encrypted to a key (version 3 or 6) or to a
/// passphrase (version 4 to 6), with the old and the new packet head.
fn is_openpgp(head: &[u8]) -> bool {
    matches!(
        head,
        [0x84, _, 3, ..]
            | [0x85, 0..=8, _, 3, ..]
            | [0x8c, 4..=64, 4..=6, ..]
            | [0xc1, 1..=191, 3 | 6, ..]
            | [0xc1, 192..=223, _, 3 | 6, ..]
            | [0xc3, 4..=191, 4..=6, ..]
    )
}

fn unfit_for_deduplication(head: &[u8]) -> Option<SourceWarning> {
    let kind = compression_of(head)?;
    let message = format!(
        "The stream is already {} ({kind}), so each backup shares almost nothing with the one before; pipe it {} \
         instead: holdfast compresses and encrypts by itself",
        if matches!(kind, "age" | "gpg" | "openssl") { "encrypted" } else { "compressed" },
        if matches!(kind, "age" | "gpg" | "openssl") { "plain" } else { "uncompressed" },
    );
    Some(SourceWarning { code: "stream.compressed".into(), subject: String::new(), message, incomplete: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(promise: Promise, bytes: &[u8]) -> Result<StreamProof, String> {
        let mut inspector = Inspector::new(promise);
        for part in bytes.chunks(5) {
            inspector.feed(part);
        }
        inspector.finish()
    }

    #[test]
    fn compressed_and_encrypted_streams_get_advice() {
        for (head, kind) in [
            (&[0x1f, 0x8b, 8, 0][..], "gzip"),
            (&[0x28, 0xb5, 0x2f, 0xfd, 1], "zstd"),
            (b"BZh91AY&SY", "bzip2"),
            (b"\xfd7zXZ\0\0", "xz"),
            (b"age-encryption.org/v1\n", "age"),
            (&[0x85, 0x02, 0x0c, 3, 1, 2], "gpg"),
            (&[0x8c, 0x0d, 4, 9, 3, 2], "gpg"),
        ] {
            let proof = finish(Promise::Anything, head).unwrap();
            assert_eq!(proof.warnings.len(), 1, "{kind}");
            let warning = &proof.warnings[0];
            assert!(warning.code == "stream.compressed" && warning.message.contains(kind) && !warning.incomplete);
        }
        for plain in [&b"REDIS0009"[..], b"INSERT INTO", b"\x85", b"BZ"] {
            assert_eq!(finish(Promise::Anything, plain).unwrap(), StreamProof::default());
        }
    }

    #[test]
    fn empty_and_broken_promises_are_errors() {
        assert_eq!(finish(Promise::Anything, b"").unwrap_err(), "gave no bytes");
        for promise in [Promise::Archive, Promise::ClusterScript] {
            assert!(finish(promise, b"--\n-- PostgreSQL database dump\n--\n").is_err());
            assert!(finish(promise, b"error: something").is_err());
        }
        assert!(finish(Promise::Archive, b"--\n-- PostgreSQL database cluster dump\n--\n").is_err());
    }
}
