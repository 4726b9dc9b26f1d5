//! Random secrets as text that people can print, type and keep in a file.
//!
//! The 32 bytes are cut into eight groups of four. Each group gets a fifth byte, a CRC-8 (polynomial 0x07, started with
//! the group's number, 1 to 8) of the four, and the 40 bits are written as eight characters of Crockford's base 32
//! (`0-9A-Z` without I, L, O, U), shown as `XXXX-XXXX`. On reading, case, spaces, line ends and hyphens do not matter,
//! I and L are read as 1 and O as 0, and numbers with a colon (`3:`) are passed over. A mistyped character is always
//! noticed, and so are two groups in each other's place; the message says which group is wrong.
//!
//! In files the groups stand between a `-----BEGIN ...-----` and an `-----END ...-----` line, which say what the
//! secret is; text around them is passed over, so that a whole printed recovery kit can be used as it is.

use zeroize::Zeroizing;

/// A random 256-bit secret; wiped from memory when dropped.
pub type SecretKey = Zeroizing<[u8; 32]>;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const GROUPS: usize = 8;
const GROUP_CHARACTERS: usize = 8;
/// Nothing that is typed or kept by hand is longer; a larger file is not one of ours.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// What a text says that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// A key file.
    KeyFile,
    /// A recovery key; also what bare groups are.
    Recovery,
}

impl TextKind {
    fn marker(self) -> &'static str {
        match self {
            Self::KeyFile => "HOLDFAST KEY FILE",
            Self::Recovery => "HOLDFAST RECOVERY KEY",
        }
    }
}

/// A text that holds no secret of ours, or a mistyped one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Too many or too few characters.
    #[error("The key has {found} characters instead of 64")]
    Length {
        /// Characters found, hyphens and spaces not counted.
        found: usize,
    },
    /// A character that no key has.
    #[error("The key has the character '{found}' in group {group}, which no key has")]
    Character {
        /// The group, from 1.
        group: usize,
        /// The character.
        found: char,
    },
    /// The check of a group fails.
    #[error("Group {group} of the key is mistyped")]
    Mistyped {
        /// The group, from 1.
        group: usize,
    },
    /// Not a text of this kind at all.
    #[error("The file is not a holdfast key file or recovery key")]
    NotAKey,
}

/// The eight groups as text.
pub fn groups(secret: &SecretKey) -> [Zeroizing<String>; GROUPS] {
    let mut out = std::array::from_fn(|_| Zeroizing::new(String::with_capacity(GROUP_CHARACTERS + 1)));
    for (index, (text, bytes)) in out.iter_mut().zip(secret.as_chunks::<4>().0).enumerate() {
        let mut bits = u64::from(u32::from_be_bytes(*bytes)) << 8 | u64::from(check_byte(index, bytes));
        bits <<= 24;
        for position in 0..GROUP_CHARACTERS {
            if position == GROUP_CHARACTERS / 2 {
                text.push('-');
            }
            // The top five bits each time.
            text.push(char::from(ALPHABET[usize::from((bits >> 59) as u8)]));
            bits <<= 5;
        }
    }
    out
}

/// The block of lines that stands in a key file and in a recovery kit.
pub fn block(secret: &SecretKey, kind: TextKind) -> Zeroizing<String> {
    let mut out = Zeroizing::new(format!("-----BEGIN {}-----\n", kind.marker()));
    let groups = groups(secret);
    for (row, pair) in groups.as_chunks::<2>().0.iter().enumerate() {
        let (left, right) = (2 * row + 1, 2 * row + 2);
        out.push_str(&format!("  {left}: {}   {right}: {}\n", *pair[0], *pair[1]));
    }
    out.push_str(&format!("-----END {}-----\n", kind.marker()));
    out
}

/// Reads groups that were typed, or the first block of a text that has one.
///
/// # Errors
/// [`TextError`], with the group that is wrong.
pub fn parse(text: &str) -> Result<(TextKind, SecretKey), TextError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TextError::NotAKey);
    }
    for kind in [TextKind::KeyFile, TextKind::Recovery] {
        let begin = format!("-----BEGIN {}-----", kind.marker());
        if let Some((_, rest)) = text.split_once(begin.as_str()) {
            let (inner, _) = rest.split_once("-----END").ok_or(TextError::NotAKey)?;
            return Ok((kind, parse_groups(inner)?));
        }
    }
    if text.contains("-----BEGIN") {
        return Err(TextError::NotAKey);
    }
    Ok((TextKind::Recovery, parse_groups(text)?))
}

fn parse_groups(text: &str) -> Result<SecretKey, TextError> {
    let words = text.split_whitespace().filter(|word| !is_label(word));
    let characters: Zeroizing<Vec<char>> = Zeroizing::new(words.flat_map(str::chars).filter(|c| *c != '-').collect());
    if characters.len() != GROUPS * GROUP_CHARACTERS {
        return Err(TextError::Length { found: characters.len() });
    }
    let mut secret = SecretKey::default();
    for (index, (out, group)) in
        secret.as_chunks_mut::<4>().0.iter_mut().zip(characters.as_chunks::<GROUP_CHARACTERS>().0).enumerate()
    {
        let mut bits = 0u64;
        for &character in group {
            let value = value_of(character).ok_or(TextError::Character { group: index + 1, found: character })?;
            bits = bits << 5 | u64::from(value);
        }
        let [.., a, b, c, d, check] = bits.to_be_bytes();
        *out = [a, b, c, d];
        if check_byte(index, out) != check {
            return Err(TextError::Mistyped { group: index + 1 });
        }
    }
    Ok(secret)
}

fn is_label(word: &str) -> bool {
    word.strip_suffix(':').is_some_and(|number| number.len() <= 2 && number.bytes().all(|b| b.is_ascii_digit()))
}

fn value_of(character: char) -> Option<u8> {
    let upper = match character.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        other => other,
    };
    let at = ALPHABET.iter().position(|known| char::from(*known) == upper)?;
    u8::try_from(at).ok()
}

/// CRC-8 of a group. It notices every change inside eight neighbouring bits, so every wrong character.
fn check_byte(index: usize, bytes: &[u8; 4]) -> u8 {
    let mut crc = u8::try_from(index + 1).unwrap_or(u8::MAX);
    for byte in bytes {
        crc ^= byte;
        for _ in 0..8 {
            crc = if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 0x07 };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret() -> SecretKey {
        Zeroizing::new(std::array::from_fn(|n| (n * 37 % 256) as u8))
    }

    fn typed(secret: &SecretKey) -> String {
        groups(secret).iter().map(|g| g.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn known_text() {
        // Computed from the description by another program.
        assert_eq!(groups(&Zeroizing::new([0; 32]))[0].as_str(), "0000-000P");
        let mut secret_of_ends = SecretKey::default();
        secret_of_ends[28..].copy_from_slice(&[252, 253, 254, 255]);
        assert_eq!(groups(&secret_of_ends)[7].as_str(), "ZKYZ-XZWQ");
        let text = block(&secret(), TextKind::Recovery);
        assert_eq!(parse(&text), Ok((TextKind::Recovery, secret())));
        assert!(text.starts_with("-----BEGIN HOLDFAST RECOVERY KEY-----\n  1: "), "{}", *text);
        let file = block(&secret(), TextKind::KeyFile);
        assert_eq!(parse(&format!("words before\n{}words after", *file)), Ok((TextKind::KeyFile, secret())));
    }

    #[test]
    fn people_type_as_they_like() {
        let text = typed(&secret());
        for typed in [
            text.to_lowercase(),
            text.replace('-', ""),
            text.replace([' ', '-'], ""),
            text.replace('1', "l").replace('0', "o"),
            text.replace(' ', "\n\n  "),
            format!("  1: {text}\n"),
        ] {
            assert_eq!(parse(&typed), Ok((TextKind::Recovery, secret())), "{typed}");
        }
    }

    #[test]
    fn every_wrong_character_is_noticed_with_its_group() {
        let text = typed(&secret());
        for (at, character) in text.char_indices().filter(|(_, c)| *c != '-' && *c != ' ') {
            for wrong in ALPHABET.iter().map(|b| char::from(*b)).filter(|w| *w != character) {
                let mut bad = text.clone();
                bad.replace_range(at..=at, &wrong.to_string());
                let group = at / (GROUP_CHARACTERS + 2) + 1;
                assert_eq!(parse(&bad), Err(TextError::Mistyped { group }), "{bad}");
            }
        }
    }

    #[test]
    fn groups_in_the_wrong_place_are_noticed() {
        let text = typed(&secret());
        let words: Vec<&str> = text.split(' ').collect();
        for a in 0..GROUPS {
            for b in a + 1..GROUPS {
                let mut swapped = words.clone();
                swapped.swap(a, b);
                assert!(parse(&swapped.join(" ")).is_err(), "{a} and {b}");
            }
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let text = typed(&secret());
        assert!(matches!(parse(&text[1..]), Err(TextError::Length { found: 63 })));
        assert!(matches!(parse(&text.replacen(|c: char| c != '-', "U", 1)), Err(TextError::Character { .. })));
        for bad in ["", "my password", "-----BEGIN PGP MESSAGE-----", "-----BEGIN HOLDFAST KEY FILE-----\n"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse(&"0".repeat(TEXT_BYTES_MAX + 1)), Err(TextError::NotAKey));
    }

    proptest! {
        #[test]
        fn every_secret_round_trips(bytes: [u8; 32]) {
            let secret = Zeroizing::new(bytes);
            prop_assert_eq!(parse(&block(&secret, TextKind::KeyFile)), Ok((TextKind::KeyFile, secret)));
        }

        #[test]
        fn any_text_is_judged(text in any::<String>()) {
            prop_assert!(parse(&text).is_err());
        }
    }
}
