//! Tar archives, judged while they pass: every header by its checksum, every member by its length, the end by its mark.
//!
//! Nothing is unpacked here, so what a hostile archive wants to write, and where, stays text. What would reach outside
//! of the folder that it is unpacked in is named as a finding.

use crate::domain::snapshot::SourceWarning;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 512;
/// Bytes of a long name or of extended fields that are kept.
const LONG_BYTES_MAX: usize = 64 << 10;
/// Findings that are named one by one.
const NAMED_MAX: usize = 20;

/// True for a block that is the header of a member.
pub fn is_header(block: &[u8]) -> bool {
    block.len() >= BLOCK_BYTES && block.iter().take(BLOCK_BYTES).any(|b| *b != 0) && checksum_fits(block)
}

/// The sum of all bytes, those of the sum itself taken as spaces. Old writers took bytes as signed numbers.
fn checksum_fits(block: &[u8]) -> bool {
    let Some(wanted) = block.get(148..156).and_then(octal) else { return false };
    let bytes =
        || block.iter().take(BLOCK_BYTES).enumerate().map(|(n, b)| if (148..156).contains(&n) { 32 } else { *b });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
    u64::try_from(unsigned) == Ok(wanted) || u64::try_from(signed) == Ok(wanted)
}

/// Octal digits between spaces and zero bytes.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(|c| c == ' ' || c == '\0');
    if text.is_empty() {
        return Some(0);
    }
    if text.bytes().all(|b| (b'0'..=b'7').contains(&b)) { u64::from_str_radix(text, 8).ok() } else { None }
}

/// A number: octal digits, or binary where the first bit is set.
fn numeric(field: &[u8]) -> Option<u64> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            let mut value = u64::from(first & 0x7f);
            if first & 0x40 != 0 {
                return None;
            }
            for byte in rest {
                value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
            }
            Some(value)
        }
        _ => octal(field),
    }
}

/// A text up to its zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Records of `length key=value\n`.
fn pax_records(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while bytes.first().is_some_and(|b| *b != 0) {
        let space = bytes.iter().take(20).position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        found.push((record.get(..equals)?, record.get(equals + 1..)?));
        bytes = bytes.get(length..)?;
    }
    Some(found)
}

/// True for a name that leads out of the folder it is put into.
fn leads_out(name: &[u8]) -> bool {
    name.starts_with(b"/") || name.split(|b| *b == b'/').any(|part| part == b"..")
}

/// True for a link, at a place in the archive, whose target is outside of it.
fn link_leads_out(name: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let parts = |path: &[u8]| {
        path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let mut depth = parts(name).len().saturating_sub(1);
    for part in parts(target) {
        if part == b".." {
            let Some(up) = depth.checked_sub(1) else { return true };
            depth = up;
        } else {
            depth += 1;
        }
    }
    false
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Nothing,
    LongName,
    LongLink,
    Fields,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    /// Blocks that say more about the holes of a file of the old GNU kind.
    MoreHoles,
    Data,
    /// One block of zeros was seen.
    HalfEnd,
    End,
}

/// The incremental reader.
pub struct TarJudge {
    state: State,
    block: Vec<u8>,
    /// Data of the member that are to come, without what fills up its last block.
    left: u64,
    padding: u64,
    holds: Holds,
    held: Vec<u8>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    long_size: Option<u64>,
    at: u64,
    fault: Option<String>,
    members: u64,
    outside: u64,
    named: Vec<SourceWarning>,
}

impl Default for TarJudge {
    fn default() -> Self {
        Self {
            state: State::Header,
            block: Vec::with_capacity(BLOCK_BYTES),
            left: 0,
            padding: 0,
            holds: Holds::Nothing,
            held: Vec::new(),
            long_name: None,
            long_link: None,
            long_size: None,
            at: 0,
            fault: None,
            members: 0,
            outside: 0,
            named: Vec::new(),
        }
    }
}

impl TarJudge {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut input: &[u8]) {
        while !input.is_empty() && self.fault.is_none() {
            let taken = if self.state == State::Data { self.data(input) } else { self.fill(input) };
            self.at += taken as u64;
            input = input.get(taken..).unwrap_or_default();
        }
    }

    fn data(&mut self, input: &[u8]) -> usize {
        let to_come = self.left.saturating_add(self.padding);
        let taken = usize::try_from(to_come).unwrap_or(usize::MAX).min(input.len());
        let data = usize::try_from(self.left).unwrap_or(usize::MAX).min(taken);
        if self.holds != Holds::Nothing {
            let room = LONG_BYTES_MAX.saturating_sub(self.held.len());
            self.held.extend(input.iter().take(data.min(room)));
        }
        self.left -= data as u64;
        self.padding -= (taken - data) as u64;
        if self.left == 0 && self.padding == 0 {
            self.close_data();
        }
        taken
    }

    fn close_data(&mut self) {
        self.state = State::Header;
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.holds, Holds::Nothing) {
            Holds::Nothing => {}
            Holds::LongName => self.long_name = Some(text(&held).to_vec()),
            Holds::LongLink => self.long_link = Some(text(&held).to_vec()),
            Holds::Fields => {
                let Some(records) = pax_records(&held) else {
                    return self.fail("has extended fields that cannot be read".to_owned());
                };
                for (key, value) in records {
                    match key {
                        b"path" => self.long_name = Some(value.to_vec()),
                        b"linkpath" => self.long_link = Some(value.to_vec()),
                        b"size" => {
                            let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                            match size {
                                Some(size) => self.long_size = Some(size),
                                None => return self.fail("has a member whose size cannot be read".to_owned()),
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn fill(&mut self, input: &[u8]) -> usize {
        let taken = (BLOCK_BYTES - self.block.len()).min(input.len());
        self.block.extend(input.iter().take(taken));
        if self.block.len() == BLOCK_BYTES {
            let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
            self.whole_block(&block);
        }
        taken
    }

    fn whole_block(&mut self, block: &[u8]) {
        let is_zero = block.iter().all(|b| *b == 0);
        match self.state {
            State::Header if is_zero => self.state = State::HalfEnd,
            State::HalfEnd if is_zero => self.state = State::End,
            State::End if is_zero => {}
            State::HalfEnd | State::End => self.fail("has other bytes after its end".to_owned()),
            State::MoreHoles => {
                if block.get(504).is_none_or(|more| *more == 0) {
                    self.begin_data();
                }
            }
            State::Header | State::Data => self.header(block),
        }
    }

    fn begin_data(&mut self) {
        self.state = State::Data;
        if self.left == 0 && self.padding == 0 {
            self.close_data();
        }
    }

    fn header(&mut self, block: &[u8]) {
        if !checksum_fits(block) {
            let place = (self.at / BLOCK_BYTES as u64).saturating_mul(BLOCK_BYTES as u64);
            return self.fail(format!("is damaged: there is no header of a member at byte {place}"));
        }
        let kind = block.get(156).copied().unwrap_or_default();
        let Some(size) = block.get(124..136).and_then(numeric) else {
            return self.fail("is damaged: the size of a member cannot be read".to_owned());
        };
        self.holds = match kind {
            b'L' => Holds::LongName,
            b'K' => Holds::LongLink,
            b'x' => Holds::Fields,
            _ => Holds::Nothing,
        };
        let is_member = self.holds == Holds::Nothing && kind != b'g';
        let size = match self.long_size.take() {
            Some(long) if is_member => long,
            other => {
                self.long_size = other;
                size
            }
        };
        // links and devices have no data, whatever their size says
        let size = if matches!(kind, b'1'..=b'6') { 0 } else { size };
        if size > u64::MAX / 2 {
            return self.fail("is damaged: a member is longer than any file".to_owned());
        }
        if is_member {
            self.member(block, kind);
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        if kind == b'S' && block.get(482).is_some_and(|more| *more != 0) {
            self.state = State::MoreHoles;
        } else {
            self.begin_data();
        }
    }

    fn member(&mut self, block: &[u8], kind: u8) {
        self.members += 1;
        let name = self.long_name.take().unwrap_or_else(|| {
            let (prefix, name) =
                (text(block.get(345..500).unwrap_or_default()), text(block.get(..100).unwrap_or_default()));
            let is_ustar = block.get(257..263) == Some(b"ustar\0");
            if is_ustar && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
        });
        let link = self.long_link.take().unwrap_or_else(|| text(block.get(157..257).unwrap_or_default()).to_vec());
        let what = match kind {
            _ if leads_out(&name) => "its name leads out of the folder",
            b'1' if leads_out(&link) => "it is another name of a file outside of the folder",
            b'2' if link_leads_out(&name, &link) => "it is a link that leads out of the folder",
            b'3' | b'4' => "it is a device",
            _ => return,
        };
        self.outside += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(SourceWarning {
                code: "tar.outside".to_owned(),
                subject: String::from_utf8_lossy(&name).into_owned(),
                message: format!("Careful when this archive is unpacked: {what}"),
                incomplete: false,
            });
        }
    }

    fn fail(&mut self, reason: String) {
        self.fault = Some(reason);
    }

    /// Members so far.
    pub fn members(&self) -> u64 {
        self.members
    }

    /// The verdict after the last byte: findings, or the predicate of a sentence about the archive.
    ///
    /// # Errors
    /// A text: truncated, damaged, or without members.
    pub fn finish(mut self) -> Result<Vec<SourceWarning>, String> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        // what fills up the last record may be cut by tools that copy tapes, the mark of the end may not
        let is_whole = match self.state {
            State::End => self.block.iter().all(|b| *b == 0),
            State::HalfEnd => self.block.is_empty(),
            _ => false,
        };
        if !is_whole {
            return Err("is a truncated tar archive: it ends without its end mark".to_owned());
        }
        if self.members == 0 {
            return Err("is a tar archive without members".to_owned());
        }
        if self.outside > self.named.len() as u64 {
            let more = self.outside - self.named.len() as u64;
            self.named.push(SourceWarning {
                code: "tar.outside".to_owned(),
                subject: String::new(),
                message: format!("{more} more members lead out of the folder that the archive is unpacked in"),
                incomplete: false,
            });
        }
        Ok(self.named)
    }
}

#[cfg(test)]
#[path = "tar_format_tests.rs"]
mod tests;
