use super::*;
use crate::domain::id::RepositoryId;
use crate::domain::system::{Random, SeededRandom};
use proptest::prelude::*;

const ID: PackId = PackId([7; 16]);

fn header() -> Header {
    Header::new(ObjectTag::Pack, RepositoryId([1; 16]), ID.0, 1)
}

/// An object that stands for a pack: its envelope is what counts.
fn pack(body_bytes: usize, seed: u64) -> Vec<u8> {
    let random = SeededRandom::new(seed);
    let random: &dyn Random = &random;
    let body: Vec<u8> = std::iter::repeat_with(|| random.bytes::<32>()).flatten().take(body_bytes).collect();
    envelope::encode_object(&header(), &body)
}

fn with_parity(body_bytes: usize, percent: u8) -> (Vec<u8>, Vec<u8>, Shape) {
    let pack = pack(body_bytes, body_bytes as u64);
    let shape = Shape::choose(pack.len() as u64, ParityShare::new(percent).unwrap());
    let parity = encode(&header(), shape, &pack).unwrap();
    assert_eq!(parity.len() as u64, shape.object_bytes());
    (pack, parity, shape)
}

fn heal(parity: &[u8], pack: &[u8]) -> Option<Vec<u8>> {
    Parity::find(parity, ID)?.heal(pack).ok()
}

#[test]
fn sizes_are_what_was_asked_for() {
    for (pack_bytes, percent, shards, rows, object) in [
        (1000, 5, 4, 2, 880),
        (100 << 10, 5, 40, 2, 6_640),
        (512 << 10, 5, 128, 7, 32_816),
        (2 << 20, 5, 512, 26, 124_912),
        (16 << 20, 5, 1900, 95, 906_032),
        (16 << 20, 100, 1900, 1900, 17_024_112),
        (128 << 20, 5, 1900, 95, 6_779_312),
    ] {
        let shape = Shape::choose(pack_bytes, ParityShare::new(percent).unwrap());
        assert_eq!((shape.shards(), shape.rows, shape.object_bytes()), (shards, rows, object), "{pack_bytes}");
        assert!(shape.is_sane());
    }
    assert_eq!((ParityShare::new(0), ParityShare::new(101)), (None, None));
    assert_eq!(ParityShare::new(100).unwrap().percent(), 100);
}

/// The code as docs/format.md defines it, word by word, without the library.
#[test]
fn the_code_is_the_documented_one() {
    const BASIS: [u16; 16] = [
        0x0001, 0xacca, 0x3c0e, 0x163e, 0xc582, 0xed2e, 0x914c, 0x4012, 0x6c98, 0x10d8, 0x6a72, 0xb900, 0xfdb8, 0xfb34,
        0xff38, 0x991e,
    ];
    let element = |word: u16| (0..16).filter(|bit| word >> bit & 1 == 1).fold(0, |sum, bit| sum ^ BASIS[bit]);
    let times = |a: u16, b: u16| {
        let (mut a, mut product) = (u32::from(a), 0u32);
        for bit in 0..16 {
            if b >> bit & 1 == 1 {
                product ^= a;
            }
            a <<= 1;
            if a & 0x1_0000 != 0 {
                a ^= 0x1_002d;
            }
        }
        product as u16
    };
    for (count, rows) in [(1usize, 2usize), (5, 3), (19, 4), (40, 6), (3, 5)] {
        let random = SeededRandom::new(count as u64);
        let random: &dyn Random = &random;
        let shards: Vec<[u8; 64]> = (0..count).map(|_| random.bytes::<64>()).collect();
        let slices: Vec<&[u8]> = shards.iter().map(|s| &s[..]).collect();
        let all = code::rows_of(&slices, rows.next_power_of_two(), 64).unwrap();
        let made = code::rows_of(&slices, rows, 64).unwrap();
        assert_eq!(made, all[..rows], "rows that are not stored exist all the same");
        for word in 0..32 {
            let places = all.iter().map(Vec::as_slice).chain(slices.iter().copied());
            let value = |bytes: &[u8]| element(u16::from_le_bytes([bytes[word], bytes[word + 32]]));
            let mut powers = vec![1u16; all.len() + count];
            for power in 0..all.len() {
                let sum = places.clone().zip(&powers).fold(0, |sum, (bytes, x)| sum ^ times(value(bytes), *x));
                assert_eq!(sum, 0, "{count} shards, {rows} rows, power {power}");
                powers.iter_mut().zip(0u16..).for_each(|(x, place)| *x = times(*x, element(place)));
            }
        }
    }
}

#[test]
fn every_damaged_byte_is_made_good() {
    let (pack, parity, shape) = with_parity(1300, 5);
    assert_eq!((shape.shards(), shape.rows), (6, 2));
    for at in 0..pack.len() {
        let mut bad = pack.clone();
        bad[at] ^= [0x01, 0x80, 0xff][at % 3];
        assert_eq!(heal(&parity, &bad).as_ref(), Some(&pack), "byte {at} of the pack");
    }
    // one of two rows may go, and then one shard
    for at in (0..parity.len()).step_by(7) {
        let (mut bad_parity, mut bad) = (parity.clone(), pack.clone());
        bad_parity[at] ^= 0x10;
        bad[at % pack.len()] ^= 0x10;
        assert_eq!(heal(&bad_parity, &bad).as_ref(), Some(&pack), "byte {at} of the parity");
    }
    for cut in (0..pack.len()).step_by(9) {
        let lost = shape.shards() - cut / shape.shard();
        assert_eq!(heal(&parity, &pack[..cut]).is_some(), lost <= 2, "cut at {cut}");
    }
    let longer = [pack.as_slice(), &[1, 2, 3]].concat();
    assert_eq!(heal(&parity, &longer).as_ref(), Some(&pack));
}

#[test]
fn parity_as_large_as_the_pack_makes_a_pack_that_is_gone() {
    for body_bytes in [0, 1, 400, 20_000] {
        let (pack, parity, _) = with_parity(body_bytes, 100);
        assert_eq!(heal(&parity, &[]).as_ref(), Some(&pack));
    }
}

#[test]
fn beyond_the_budget_nothing_is_made_up() {
    let (pack, parity, shape) = with_parity(60_000, 15);
    assert_eq!(shape.rows, 6);
    let mut bad = pack.clone();
    (0..=shape.rows as usize).for_each(|n| bad[n * shape.shard()] ^= 1);
    let found = Parity::find(&parity, ID).unwrap();
    assert!(matches!(found.heal(&bad), Err(Unhealable::BeyondBudget { damaged: 7, whole: 6, .. })));
    // more than half of the rows: their sums are not known any more
    let mut hit = parity.clone();
    (0..4).for_each(|n| hit[shape.row_at(n).start + 70] ^= 1);
    let found = Parity::find(&hit, ID).unwrap();
    assert_eq!(found.heal(&bad), Err(Unhealable::RowsDamaged { whole: 2, rows: 6, needed: 3 }));
    assert_eq!(found.heal(&pack), Ok(pack), "what is whole needs no healing");
    // the parity of another pack, and of other bytes under this name
    assert!(Parity::find(&parity, PackId([8; 16])).is_none());
    let other = self::pack(60_000, 99);
    assert!(matches!(Parity::find(&parity, ID).unwrap().heal(&other), Err(Unhealable::BeyondBudget { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever is hit: shards and rows together up to the number of rows, at most half of the rows.
    #[test]
    fn any_damage_within_the_budget_is_made_good(
        body_bytes in 1usize..200_000, percent in 1u8..30, hits in prop::collection::vec(any::<(u32, u32, u8)>(), 0..80)
    ) {
        let (pack, parity, shape) = with_parity(body_bytes, percent);
        let (mut bad, mut bad_parity) = (pack.clone(), parity.clone());
        let (mut shards, mut rows) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for (place, inside, value) in hits {
            let budget_left = shards.len() + rows.len() < shape.rows as usize;
            let place = place as usize % (shape.shards() + shape.rows as usize);
            if place < shape.shards() {
                if !budget_left && !shards.contains(&place) { continue }
                let at = shape.shard_at(place);
                bad[at.start + inside as usize % at.len()] ^= value | 1;
                shards.insert(place);
            } else {
                let row = place - shape.shards();
                let half = rows.len() < shape.rows as usize - shape.rows_for_sums();
                if !(budget_left && half || rows.contains(&row)) { continue }
                let at = shape.row_at(row);
                bad_parity[at.start + inside as usize % at.len()] ^= value | 1;
                rows.insert(row);
            }
        }
        prop_assert_eq!(heal(&bad_parity, &bad), Some(pack));
    }

    #[test]
    fn runs_of_damage_up_to_the_budget_are_made_good(
        body_bytes in 1usize..300_000, percent in 1u8..40, from in any::<u32>(), cut in any::<bool>(), parity_from in any::<u32>()
    ) {
        let (pack, parity, shape) = with_parity(body_bytes, percent);
        let lost_rows = (shape.rows as usize - shape.rows_for_sums()) / 2;
        let budget = shape.rows as usize - lost_rows;
        // a run of that many shards less one hits that many at most
        let run = ((budget - 1) * shape.shard() + 1).min(pack.len());
        let start = from as usize % (pack.len() - run + 1);
        let mut bad = pack.clone();
        if cut { bad.truncate(pack.len() - run) } else { bad[start..start + run].fill(0x55) }
        let mut bad_parity = parity.clone();
        if lost_rows > 0 {
            let run = (lost_rows - 1) * shape.row_bytes() + 1;
            let start = parity_from as usize % (parity.len() - run);
            bad_parity[start..start + run].fill(0xaa);
        }
        prop_assert_eq!(heal(&bad_parity, &bad), Some(pack));
    }

    #[test]
    fn any_bytes_are_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Parity::find(&bytes, ID).is_none());
    }
}
