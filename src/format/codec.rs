//! Records as bytes. The only file that names bincode, so that it can be replaced without touching a repository.
//!
//! The bytes are those of bincode 2 `config::standard()` through serde, and are simple enough to write by hand: fields
//! in order, no names, no padding; `u8`, `i8` and `bool` one byte; wider unsigned integers below 251 in one byte, else
//! a marker byte (251, 252, 253 or 254 for two, four, eight or sixteen bytes) and the value little-endian; signed
//! integers as zigzag of the same; sequences, strings and byte vectors as their length (`u64`) and their elements;
//! arrays without a length; `Option` as one byte and the value; enums as their variant number (`u32`) and fields.
//!
//! Invariant: decoding takes all of the input and never allocates more than a bound. There is no checksum here: every
//! record stands inside an envelope or a sealed blob that was checked first.

use super::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};

/// The bytes of a record.
///
/// # Panics
/// Only if the type's own `Serialize` fails, which no derived one does for numbers, texts, vectors and options.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    match bincode::serde::encode_to_vec(value, bincode::config::standard()) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("a derived record always has an encoding: {error}"),
    }
}

/// Reads a record that fills `bytes` exactly.
///
/// `LIMIT` bounds the input and what the record may claim in memory while it is read. Claims are counted in decoded
/// widths (a `u64` is eight bytes however short its encoding), so a record of small numbers needs a `LIMIT` of up to
/// eight times its encoded length.
///
/// # Errors
/// [`Error::Damaged`] for anything that is not the encoding of a `T` within the bound, trailing bytes included.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T> {
    if bytes.len() > LIMIT {
        return Err(Error::damaged("Record", LIMIT as u64, format!("longer than {LIMIT} bytes")));
    }
    let config = bincode::config::standard().with_limit::<LIMIT>();
    match bincode::serde::decode_from_slice::<T, _>(bytes, config) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(Error::damaged("Record", used as u64, "bytes after the end of the record")),
        Err(error) => Err(Error::damaged("Record", 0, format!("not a record of this kind ({error})"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, wincode::SchemaWrite, wincode::SchemaRead)]
    enum Kind {
        Empty,
        Number(u64),
        Pair { left: i64, right: Vec<u8> },
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, wincode::SchemaWrite, wincode::SchemaRead)]
    struct Sample {
        flag: bool,
        byte: u8,
        short: u16,
        word: u32,
        long: u64,
        signed: i64,
        id: [u8; 16],
        text: String,
        maybe: Option<String>,
        list: Vec<(String, Vec<u8>)>,
        kinds: Vec<Kind>,
    }

    fn sample() -> Sample {
        Sample {
            flag: true,
            byte: 255,
            short: 300,
            word: 70_000,
            long: u64::MAX,
            signed: -1,
            id: [7; 16],
            text: "größe".into(),
            maybe: Some(String::new()),
            list: vec![("a".into(), vec![1, 2, 3])],
            kinds: vec![Kind::Empty, Kind::Number(251), Kind::Pair { left: i64::MIN, right: vec![0; 300] }],
        }
    }

    fn wincode_bytes(value: &Sample) -> Vec<u8> {
        wincode::config::serialize(value, other_config()).unwrap()
    }

    fn other_config() -> impl wincode::config::Config {
        wincode::config::Configuration::default()
            .with_varint_encoding()
            .with_length_encoding::<wincode::len::UseIntLen<u64>>()
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(encode(&(1u8, 250u32, 251u32, 65_536u32, -1i64)), [1, 250, 251, 251, 0, 252, 0, 0, 1, 0, 1]);
        assert_eq!(encode(&("ab", Some(3u16), None::<u16>, [9u8; 2])), [2, b'a', b'b', 1, 3, 0, 9, 9]);
    }

    #[test]
    fn another_implementation_reads_and_writes_the_same_bytes() {
        let ours = encode(&sample());
        assert_eq!(wincode_bytes(&sample()), ours);
        let theirs: Sample = wincode::config::deserialize_exact(&ours, other_config()).unwrap();
        assert_eq!(theirs, sample());
        assert_eq!(decode::<Sample, 4096>(&wincode_bytes(&sample())), Ok(sample()));
    }

    #[test]
    fn trailing_and_missing_bytes_are_refused() {
        let bytes = encode(&sample());
        for cut in 0..bytes.len() {
            assert!(decode::<Sample, 4096>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(decode::<Sample, 4096>(&longer).is_err());
    }

    #[test]
    fn lengths_beyond_the_limit_are_refused() {
        let huge = [253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(decode::<Vec<u8>, 1024>(&huge).is_err());
        assert!(decode::<String, 1024>(&huge).is_err());
        assert!(decode::<Vec<u64>, 1024>(&encode(&vec![1u64; 200])).is_err());
        assert!(decode::<Vec<u8>, 16>(&encode(&vec![1u8; 16])).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            // A value that was read may have had a longer encoding than ours (long forms of small numbers are
            // accepted), but what we would write for it is always read as the same value.
            if let Ok(value) = decode::<Sample, 65536>(&bytes) {
                prop_assert_eq!(decode::<Sample, 65536>(&encode(&value)), Ok(value));
            }
        }

        #[test]
        fn both_implementations_agree(flag: bool, short: u16, word: u32, long: u64, signed: i64, text: String,
                                      maybe: Option<String>, list: Vec<(String, Vec<u8>)>) {
            let value = Sample { flag, short, word, long, signed, text, maybe, list, ..sample() };
            prop_assert_eq!(wincode_bytes(&value), encode(&value));
        }
    }
}
