//! Files that others packed, unpacked as they are read, and hashed as they are on disk.
//!
//! Invariant: the end is reported only when the packer's own checks hold to the last byte of the file and nothing
//! follows them. Members that were put one behind the other are one stream, as the packers' own tools have it.

use aws_lc_rs::digest::{Context, SHA256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::id::Digest;

/// Bytes read from the file at a time.
const READ_BYTES: usize = 256 << 10;
/// Memory that a file may ask its unpacker for, bytes: more than `xz -9` and `zstd -19 --long=27` need.
const MEMORY_MAX: u64 = 160 << 20;
/// The largest window of a zstd frame, as a power of two; that of `zstd` itself.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// `gzip`, one member or many.
    Gzip,
    /// `zstd`, one frame or many.
    Zstd,
    /// `xz`, one stream or many.
    Xz,
    /// `bzip2`, one member or many.
    Bzip2,
}

impl Packing {
    /// What the first bytes show.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => Self::None,
        }
    }

    /// The word in records; empty for [`Self::None`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        }
    }
}

/// Hash and length of what was read of a file.
#[derive(Clone)]
pub(super) struct Read256 {
    inner: Arc<Mutex<(Context, u64)>>,
}

impl Read256 {
    fn new() -> Self {
        Self { inner: Arc::new(Mutex::new((Context::new(&SHA256), 0))) }
    }

    fn update(&self, bytes: &[u8]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0.update(bytes);
        inner.1 += bytes.len() as u64;
    }

    /// SHA-256 and number of the bytes so far.
    pub(super) fn get(&self) -> (Digest, u64) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut digest = Digest::default();
        digest.0.copy_from_slice(inner.0.clone().finish().as_ref());
        (digest, inner.1)
    }
}

/// A reader whose bytes are hashed as they pass.
struct Hashed<R> {
    inner: R,
    seen: Read256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.seen.update(buffer.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// The bytes in a file, unpacked.
pub(super) struct Unpacked {
    inner: Box<dyn Read + Send>,
    /// How it was packed.
    pub(super) packing: Packing,
    /// What was read of the file itself.
    pub(super) seen: Read256,
}

impl Unpacked {
    /// Looks at the first bytes and chooses how to unpack.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let seen = Read256::new();
        let hashed = Hashed { inner: file, seen: seen.clone() };
        let (inner, packing) = open(BufReader::with_capacity(READ_BYTES, hashed))?;
        Ok(Self { inner, packing, seen })
    }
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

/// The unpacked bytes of a reader, and how they were packed.
///
/// # Errors
/// What the reader says.
pub fn open<R: BufRead + Send + 'static>(mut reader: R) -> io::Result<(Box<dyn Read + Send>, Packing)> {
    let packing = Packing::of(reader.fill_buf()?);
    let inner: Box<dyn Read + Send> = match packing {
        Packing::None => Box::new(reader),
        Packing::Gzip => Box::new(Members::new(reader, 0x1f, flate2::bufread::GzDecoder::new, |d| d.into_inner())),
        Packing::Bzip2 => Box::new(Members::new(reader, b'B', bzip2::bufread::BzDecoder::new, |d| d.into_inner())),
        Packing::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MEMORY_MAX, liblzma::stream::CONCATENATED)
                .map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
        }
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    };
    Ok((inner, packing))
}

enum Member<R, D> {
    Inside(D),
    Between(R),
    /// Something failed; nothing more comes.
    Lost,
}

/// Members one behind the other. Zero bytes may fill up the end, as tapes want it; nothing else may follow.
struct Members<R, D> {
    state: Member<R, D>,
    first_byte: u8,
    begin: fn(R) -> D,
    end: fn(D) -> R,
    padded: bool,
}

impl<R: BufRead, D: Read> Members<R, D> {
    fn new(reader: R, first_byte: u8, begin: fn(R) -> D, end: fn(D) -> R) -> Self {
        Self { state: Member::Between(reader), first_byte, begin, end, padded: false }
    }
}

impl<R: BufRead, D: Read> Read for Members<R, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, Member::Lost) {
                Member::Inside(mut decoder) => {
                    let n = decoder.read(buffer)?;
                    if n > 0 {
                        self.state = Member::Inside(decoder);
                        return Ok(n);
                    }
                    self.state = Member::Between((self.end)(decoder));
                }
                Member::Between(mut reader) => {
                    let (first, waiting) = match reader.fill_buf()? {
                        [] => {
                            self.state = Member::Between(reader);
                            return Ok(0);
                        }
                        bytes => (bytes.first().copied(), bytes.iter().take_while(|b| **b == 0).count()),
                    };
                    if waiting > 0 {
                        self.padded = true;
                        reader.consume(waiting);
                        self.state = Member::Between(reader);
                    } else if first == Some(self.first_byte) && !self.padded {
                        self.state = Member::Inside((self.begin)(reader));
                    } else {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes follow its end"));
                    }
                }
                Member::Lost => return Err(io::Error::new(io::ErrorKind::InvalidData, "it could not be read before")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zst(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (mut reader, _) = open(BufReader::with_capacity(61, io::Cursor::new(bytes.to_vec())))?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_packing_is_read_to_its_last_byte_and_no_further() {
        let text: Vec<u8> = (0..3000u32).flat_map(|n| format!("INSERT {n};\n").into_bytes()).collect();
        for (pack, packing) in
            [(gz as fn(&[u8]) -> Vec<u8>, Packing::Gzip), (bz, Packing::Bzip2), (xz, Packing::Xz), (zst, Packing::Zstd)]
        {
            let packed = pack(&text);
            assert_eq!(Packing::of(&packed), packing);
            assert_eq!(unpack(&packed).unwrap(), text, "{packing:?}");
            let twice = [packed.clone(), pack(b"end")].concat();
            assert_eq!(unpack(&twice).unwrap(), [&*text, b"end"].concat(), "{packing:?}: two members");
            for cut in [packed.len() - 1, packed.len() - 9, packed.len() / 2, 12] {
                assert!(unpack(&packed[..cut]).is_err(), "{packing:?} cut at {cut}");
            }
            for rubbish in [&b"rubbish"[..], b"\0\0x", b"\x1f"] {
                assert!(unpack(&[&*packed, rubbish].concat()).is_err(), "{packing:?} and {rubbish:?}");
            }
            for at in (packed.len() / 3..packed.len()).step_by(packed.len() / 17 + 1) {
                let mut damaged = packed.clone();
                damaged[at] ^= 0x10;
                assert!(unpack(&damaged).ok().is_none_or(|out| out == text), "{packing:?} damaged at {at}");
            }
        }
        assert_eq!(unpack(&[gz(&text), vec![0; 700]].concat()).unwrap(), text, "filled up with zeros");
        assert_eq!(unpack(b"plain").unwrap(), b"plain");
        assert_eq!(unpack(b"").unwrap(), b"");
    }
}
