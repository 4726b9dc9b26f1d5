//! Tests of sealing: fixed vectors, every flipped byte, moved blobs, and no key used twice.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

const CONTEXT: BlobContext = BlobContext { object: [3; 16], ordinal: 7, kind: 2, raw_len: 100 };

fn keys(suite: Suite) -> Keys {
    Keys::derive(&[0x42; 32], RepositoryId([0x11; 16]), suite)
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// The construction once more, from its description and with other calls of the libraries.
fn by_hand(suite: u16, purpose: &str, bytes: &[u8]) -> Vec<u8> {
    let context = [
        &1u16.to_le_bytes()[..],
        &[0x11; 16],
        &CONTEXT.object,
        &7u32.to_le_bytes(),
        &[2],
        &100u32.to_le_bytes(),
        &suite.to_le_bytes(),
    ]
    .concat();
    let siv_key = blake3::derive_key("holdfast v1 siv", &[0x42; 32]);
    let hash = blake3::keyed_hash(&siv_key, &[context.as_slice(), bytes].concat());
    let (siv, rest) = hash.as_bytes().split_at(16);
    if suite == 0 {
        return [siv, bytes, rest].concat();
    }
    let purpose_key = blake3::derive_key(&format!("holdfast v1 {purpose}"), &[0x42; 32]);
    let key = blake3::keyed_hash(&purpose_key, &[&CONTEXT.object[..], &7u32.to_le_bytes(), &[2], siv].concat());
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes()).unwrap());
    let mut sealed = bytes.to_vec();
    cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(&context), &mut sealed).unwrap();
    [siv, &sealed].concat()
}

#[test]
fn blobs_are_made_as_described() {
    for suite in [Suite::None, Suite::Aes256Gcm] {
        let keys = keys(suite);
        for bytes in [b"".as_slice(), b"x", b"a longer text that fills more than one block of the cipher"] {
            for (purpose, sealer) in [("data", keys.data()), ("meta", keys.meta()), ("index", keys.index())] {
                let blob = sealer.seal(&CONTEXT, bytes);
                assert_eq!(blob, by_hand(suite.number(), purpose, bytes));
                assert_eq!(blob.len(), bytes.len() + OVERHEAD);
                assert_eq!(sealer.open(&CONTEXT, &blob).unwrap(), bytes);
            }
        }
    }
}

/// What the libraries must give, by their authors: BLAKE3's test vectors, and the AES-256-GCM cases 13, 14 and 16 of McGrew and Viega.
#[test]
fn published_vectors_of_the_primitives() {
    let friend = b"whats the Elvish word for friend";
    let context = "BLAKE3 2019-12-27 16:29:52 test vectors context";
    for (input, plain, keyed, derived) in PUBLISHED_BLAKE3 {
        assert_eq!(blake3::hash(input).to_hex().as_str(), plain);
        assert_eq!(blake3::keyed_hash(friend, input).to_hex().as_str(), keyed);
        assert_eq!(hex(&blake3::derive_key(context, input)), derived);
    }
    let bytes = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
    for (key, nonce, additional, text, sealed) in PUBLISHED_AES_256_GCM {
        let cipher = aes_key(&bytes(key).try_into().unwrap());
        let nonce = || Nonce::try_assume_unique_for_key(&bytes(nonce)).unwrap();
        let mut both = bytes(text);
        cipher.seal_in_place_append_tag(nonce(), Aad::from(bytes(additional)), &mut both).unwrap();
        assert_eq!(hex(&both), sealed);
        assert_eq!(cipher.open_in_place(nonce(), Aad::from(bytes(additional)), &mut both).unwrap(), bytes(text));
    }
}

/// `tests/format/vectors.py` computes the same from docs/format.md with other libraries.
#[test]
fn known_answers() {
    let keys = keys(Suite::Aes256Gcm);
    assert_eq!(hex(&keys.chunk_id(b"holdfast").0), KNOWN_CHUNK_ID);
    assert_eq!(hex(&keys.data().seal(&CONTEXT, b"holdfast")), KNOWN_BLOB);
    assert_eq!(hex(&Keys::public(RepositoryId([0x11; 16])).data().seal(&CONTEXT, b"holdfast")), KNOWN_PUBLIC_BLOB);
    assert_eq!(hex(&keys.mac(b"holdfast")), KNOWN_MAC);
    assert_eq!(hex(&keys.sketch_key()), KNOWN_SKETCH_KEY);
    let gear = keys.gear_table();
    assert_eq!((gear[0], gear[255]), KNOWN_GEAR);
    assert_eq!(gear.iter().collect::<std::collections::HashSet<_>>().len(), 256);
}

#[test]
fn every_flipped_byte_and_every_length_is_noticed() {
    for suite in [Suite::None, Suite::Aes256Gcm] {
        let keys = keys(suite);
        let blob = keys.data().seal(&CONTEXT, b"some bytes");
        for at in 0..blob.len() {
            for xor in [0x01, 0x80, 0xff] {
                let mut bad = blob.clone();
                bad[at] ^= xor;
                assert!(keys.data().open(&CONTEXT, &bad).is_err(), "{suite:?} byte {at}");
            }
            assert!(keys.data().open(&CONTEXT, &blob[..at]).is_err(), "{suite:?} cut at {at}");
        }
    }
}

#[test]
fn a_blob_opens_only_in_its_place() {
    for suite in [Suite::None, Suite::Aes256Gcm] {
        let keys = keys(suite);
        let blob = keys.data().seal(&CONTEXT, b"some bytes");
        let elsewhere = [
            BlobContext { object: [4; 16], ..CONTEXT },
            BlobContext { ordinal: 8, ..CONTEXT },
            BlobContext { kind: 3, ..CONTEXT },
            BlobContext { raw_len: 101, ..CONTEXT },
        ];
        for context in elsewhere {
            assert!(keys.data().open(&context, &blob).is_err(), "{suite:?} {context:?}");
        }
        let other = Keys::derive(&[0x42; 32], RepositoryId([0x12; 16]), suite);
        assert!(other.data().open(&CONTEXT, &blob).is_err());
    }
    // Purposes and suites do not open each other's blobs; without encryption there is but one purpose to tell.
    let blob = keys(Suite::Aes256Gcm).data().seal(&CONTEXT, b"some bytes");
    assert!(keys(Suite::Aes256Gcm).meta().open(&CONTEXT, &blob).is_err());
    assert!(keys(Suite::None).data().open(&CONTEXT, &blob).is_err());
    let plain = keys(Suite::None).data().seal(&CONTEXT, b"some bytes");
    assert!(keys(Suite::Aes256Gcm).data().open(&CONTEXT, &plain).is_err());
}

#[test]
fn a_failed_open_leaves_nothing_in_the_buffer() {
    let keys = keys(Suite::Aes256Gcm);
    let mut blob = keys.data().seal(&CONTEXT, b"some bytes");
    blob[20] ^= 1;
    let mut out = b"older".to_vec();
    assert!(keys.data().open_into(&CONTEXT, &blob, &mut out).is_err());
    assert!(out.is_empty());
}

/// The nonce is always zero, so it is enough that no key meets two texts. The same place is sealed again and again
/// with other bytes, as after a crash with a repeated object id.
#[test]
fn one_key_never_meets_two_texts() {
    let keys = keys(Suite::Aes256Gcm);
    let mut texts: HashMap<[u8; 32], (BlobContext, Vec<u8>)> = HashMap::new();
    let mut sealed = 0;
    for object in 0..4u8 {
        for ordinal in 0..50u32 {
            for kind in 0..2u8 {
                for version in 0..20u32 {
                    let context = BlobContext { object: [object; 16], ordinal, kind, raw_len: 10 + version % 2 };
                    let bytes = (version / 2).to_le_bytes().to_vec();
                    for sealer in [keys.data(), keys.meta(), keys.index()] {
                        let blob = sealer.seal(&context, &bytes);
                        let key = *sealer.blob_key_bytes(&context, &blob[..SIV_BYTES]);
                        // Additional data differs with raw_len, so that also must not share a key.
                        let before = texts.insert(key, (context, bytes.clone()));
                        assert!(before.is_none(), "{before:?} and {context:?}");
                        sealed += 1;
                    }
                }
            }
        }
    }
    assert_eq!(texts.len(), sealed);
    // The same bytes in the same place give the same blob: nothing is learned from it twice.
    assert_eq!(keys.data().seal(&CONTEXT, b"same"), keys.data().seal(&CONTEXT, b"same"));
}

#[test]
fn secrets_are_not_printed() {
    let keys = keys(Suite::Aes256Gcm);
    let text = format!("{keys:?} {:?}", keys.data());
    assert_eq!(text, "Keys { suite: Aes256Gcm, .. } Sealer { suite: Aes256Gcm, .. }");
}

proptest! {
    #[test]
    fn any_bytes_open_as_an_error(blob in proptest::collection::vec(any::<u8>(), 0..200)) {
        for suite in [Suite::None, Suite::Aes256Gcm] {
            prop_assert!(keys(suite).data().open(&CONTEXT, &blob).is_err());
        }
    }
}

const PUBLISHED_BLAKE3: [(&[u8], &str, &str, &str); 2] = [
    (
        b"",
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
        "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
    ),
    (
        &[0],
        "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
        "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
        "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c",
    ),
];
/// Key, nonce, additional data, text, ciphertext with tag.
const PUBLISHED_AES_256_GCM: [(&str, &str, &str, &str, &str); 3] = [
    (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "000000000000000000000000",
        "",
        "",
        "530f8afbc74536b9a963b4f1c4cb738b",
    ),
    (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "000000000000000000000000",
        "",
        "00000000000000000000000000000000",
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
    ),
    (
        "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
    ),
];
const KNOWN_CHUNK_ID: &str = "d101c6f29473ae93ad8455f0ba164bf37dfaaf0dc3a2654eb82cdb826218a6ff";
const KNOWN_BLOB: &str = "a3a7e315ca65065023311b4b8f62a4084a03d450bb7e73a98e5eb1d282ae81e6afe284678c24a079";
const KNOWN_PUBLIC_BLOB: &str = "ca644bb654f61ccbc9b87c40107f1273686f6c646661737474156f882491bab5478d0b5e6f7fb4f1";
const KNOWN_MAC: &str = "556f971b66b660803dedce223ea03be3d3641b7d711ce8892810a036746e718f";
const KNOWN_SKETCH_KEY: &str = "4bced279acf12de9ccee39ad91e785998dd51cba15de0cb2b3008bc949922384";
const KNOWN_GEAR: (u64, u64) = (0xa468d312929277bb, 0x497d67cd31760cc0);
