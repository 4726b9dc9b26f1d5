//! How well what is saved would compress, tried on samples: the beginning of a stream closely, the rest ever more
//! loosely, and the first bytes of changed files. What could be compressed for weeks and cannot be any more was
//! probably encrypted, by its owner or by somebody else.

use crate::domain::id::VersionId;
use crate::domain::suspicion::{COMPRESSIBLE_PERCENT, INCOMPRESSIBLE_PERCENT, Sample};
use crate::format::compress;
use crate::repository::error::RepoError;
use crate::repository::session::BackupSession;
use crate::repository::stream_reader::StreamReader;

/// The fastest level there is: only whether it saves anything matters.
const LEVEL: i32 = 1;
/// Bytes tried at a time.
const BLOCK_BYTES: usize = 16 << 10;
/// Blocks after which the distance between blocks doubles. A stream of n times so many blocks is tried in about
/// log2(n) times so many places: 1 MiB of 10 MiB, 3 MiB of 1 TiB.
const BLOCKS_AT_ONE_DISTANCE: u32 = 8;
/// What remains at the end of a stream is tried if it has at least so many bytes.
const TAIL_BYTES_MIN: usize = 1 << 10;
/// Bytes of a file that are tried.
const HEAD_BYTES: usize = 4 << 10;
/// Shorter files say nothing.
const HEAD_BYTES_MIN: usize = 1 << 10;
/// Changed files that are all tried; of more, every sixteenth.
const FILES_TRIED: u64 = 512;
/// Files whose former bytes are looked at: each may cost the decoding of a segment.
const FORMER_FILES_MAX: u64 = 2048;

/// Bytes that compression saves on a block.
fn saved_bytes(block: &[u8], packed: &mut Vec<u8>) -> u64 {
    compress::compress(LEVEL, block, packed);
    // one byte says how it was compressed
    (block.len() as u64).saturating_sub((packed.len() as u64).saturating_sub(1))
}

/// Tries blocks of a stream that passes by.
#[derive(Debug)]
pub(super) struct Sampler {
    at: u64,
    next_block: u64,
    distance: u64,
    blocks: u32,
    block: Vec<u8>,
    packed: Vec<u8>,
    sampled_bytes: u64,
    saved_bytes: u64,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self {
            at: 0,
            next_block: 0,
            distance: BLOCK_BYTES as u64,
            blocks: 0,
            block: Vec::new(),
            packed: Vec::new(),
            sampled_bytes: 0,
            saved_bytes: 0,
        }
    }

    /// Takes the next bytes of the stream.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = usize::try_from(self.next_block.saturating_sub(self.at)).unwrap_or(usize::MAX);
            let wanted = if skipped > 0 { skipped } else { BLOCK_BYTES - self.block.len() };
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            if skipped > 0 {
                self.at += part.len() as u64;
            } else {
                // `at` stays at the beginning of a block until the block is full
                self.block.extend_from_slice(part);
                if self.block.len() == BLOCK_BYTES {
                    self.close_block();
                }
            }
            bytes = rest;
        }
    }

    fn close_block(&mut self) {
        self.saved_bytes += saved_bytes(&self.block, &mut self.packed);
        self.sampled_bytes += self.block.len() as u64;
        self.at += self.block.len() as u64;
        self.block.clear();
        self.blocks += 1;
        if self.blocks.is_multiple_of(BLOCKS_AT_ONE_DISTANCE) {
            self.distance = self.distance.saturating_mul(2);
        }
        self.next_block = self.next_block.saturating_add(self.distance);
    }

    /// Adds what was tried to a sample.
    pub(super) fn finish(mut self, sample: &mut Sample) {
        if self.block.len() >= TAIL_BYTES_MIN {
            self.close_block();
        }
        sample.sampled_bytes += self.sampled_bytes;
        sample.saved_bytes += self.saved_bytes;
    }
}

/// What compression makes of the beginning of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Texture {
    Soft,
    Hard,
}

/// The first bytes of a file.
#[derive(Debug, Default)]
pub(super) struct Head(Vec<u8>);

impl Head {
    /// Takes the next bytes of the file.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let wanted = HEAD_BYTES.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(bytes.get(..wanted).unwrap_or_default());
    }

    /// None where it is neither, or too short to tell.
    fn texture(&self, packed: &mut Vec<u8>) -> Option<Texture> {
        if self.0.len() < HEAD_BYTES_MIN {
            return None;
        }
        match saved_bytes(&self.0, packed) * 100 / self.0.len() as u64 {
            ..=INCOMPRESSIBLE_PERCENT => Some(Texture::Hard),
            COMPRESSIBLE_PERCENT.. => Some(Texture::Soft),
            _ => None,
        }
    }
}

/// Counts changed files that were soft and are hard now.
#[derive(Debug, Default)]
pub(super) struct Hardening {
    /// The content stream that the files were in.
    content: Option<VersionId>,
    former: Option<StreamReader>,
    packed: Vec<u8>,
    /// Changed files, tried or not.
    changed: u64,
    tried: u64,
    hard: u64,
    looked_up: u64,
    hardened: u64,
    /// Files that are soft now.
    softened: u64,
}

impl Hardening {
    pub(super) fn new(content: Option<VersionId>) -> Self {
        Self { content, ..Self::default() }
    }

    /// Takes a changed file, which was at `offset` of the content stream with `stored_bytes`.
    ///
    /// # Errors
    /// Storage errors other than damage.
    pub(super) fn changed(
        &mut self,
        session: &BackupSession,
        head: &Head,
        offset: u64,
        stored_bytes: u64,
    ) -> Result<(), RepoError> {
        let number = self.changed;
        self.changed += 1;
        if number >= FILES_TRIED && !number.is_multiple_of(16) {
            return Ok(());
        }
        let Some(texture) = head.texture(&mut self.packed) else { return Ok(()) };
        self.tried += 1;
        if texture == Texture::Soft {
            self.softened += 1;
            return Ok(());
        }
        self.hard += 1;
        if self.looked_up < FORMER_FILES_MAX
            && let Some(former) = self.former(session, offset, stored_bytes)?
        {
            self.looked_up += 1;
            self.hardened += u64::from(former.texture(&mut self.packed) == Some(Texture::Soft));
        }
        Ok(())
    }

    /// Takes a file that was not there before: it may be one that came back.
    pub(super) fn new_file(&mut self, head: &Head) {
        self.softened += u64::from(head.texture(&mut self.packed) == Some(Texture::Soft));
    }

    /// The first bytes that a file had in the parent; None where they cannot be read.
    fn former(&mut self, session: &BackupSession, offset: u64, bytes: u64) -> Result<Option<Head>, RepoError> {
        if self.former.is_none()
            && let Some(version) = self.content.take()
        {
            self.former = session.open_parent(version)?;
        }
        let Some(reader) = &mut self.former else { return Ok(None) };
        let mut head = Vec::new();
        let end = offset.saturating_add(bytes.min(HEAD_BYTES as u64)).min(reader.plain_bytes());
        match reader.read(session.index(), session.reader(), offset.min(end), end, &mut head) {
            Ok(()) => Ok(Some(Head(head))),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds what was found to a sample; of files that were not looked up as many hardened as of the others. Returns how
    /// many are soft now.
    pub(super) fn finish(self, sample: &mut Sample) -> u64 {
        let hardened = u128::from(self.hard) * u128::from(self.hardened);
        sample.hardened_files +=
            u64::try_from(hardened.checked_div(u128::from(self.looked_up)).unwrap_or(0)).unwrap_or(0);
        sample.changed_files += self.tried;
        self.softened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn sampled(bytes: &[u8], piece: usize) -> Sample {
        let (mut sampler, mut sample) = (Sampler::new(), Sample::default());
        bytes.chunks(piece).for_each(|part| sampler.push(part));
        sampler.finish(&mut sample);
        sample
    }

    #[test]
    fn text_is_soft_and_noise_is_hard_however_it_comes() {
        let text: Vec<u8> =
            (0..40_000u32).flat_map(|n| format!("INSERT INTO orders VALUES ({n});\n").into_bytes()).collect();
        let noise = noise(1 << 20);
        for piece in [1000, 16 << 10, 100_003, 1 << 20] {
            assert!(sampled(&text, piece).saved_percent() >= Some(50), "{piece}");
            assert_eq!(sampled(&noise, piece).saved_percent(), Some(0), "{piece}");
            assert_eq!(sampled(&text, piece), sampled(&text, 7), "{piece}");
        }
        assert_eq!(sampled(&text[..4000], 512).saved_percent(), None, "too short to tell");
        assert_eq!(sampled(b"", 1), Sample::default());
    }

    #[test]
    fn a_long_stream_is_tried_here_and_there_up_to_its_end() {
        let sample = sampled(&vec![b'x'; 10 << 20], 1 << 20);
        assert!((512 << 10..2 << 20).contains(&sample.sampled_bytes), "{sample:?}");
        // Noise from the middle on is seen.
        let mixed = [vec![b'x'; 5 << 20], noise(5 << 20)].concat();
        assert!(sampled(&mixed, 1 << 20).saved_percent() < Some(95));
    }

    #[test]
    fn the_first_bytes_of_a_file_say_what_it_is() {
        let texture = |bytes: &[u8]| {
            let mut head = Head::default();
            bytes.chunks(3000).for_each(|part| head.push(part));
            head.texture(&mut Vec::new())
        };
        assert_eq!(texture(&b"a line of text and another one\n".repeat(300)), Some(Texture::Soft));
        assert_eq!(texture(&noise(100_000)), Some(Texture::Hard));
        assert_eq!(texture(&noise(100)), None);
        assert_eq!(texture(b""), None);
    }
}
