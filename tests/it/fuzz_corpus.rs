//! Replays the fuzz targets' seeds, and what small changes make of them, without a fuzzer. `HOLDFAST_FUZZ=write` writes
//! the seeds anew; `HOLDFAST_FUZZ=full` tries a hundred times as many changes.

#[path = "../../fuzz/src/targets.rs"]
#[allow(unreachable_pub, reason = "the fuzz crate has the same file as a public module")]
mod targets;

use holdfast::domain::system::{Random, SeededRandom};
use std::path::{Path, PathBuf};
use targets::TARGETS;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

fn mode(word: &str) -> bool {
    std::env::var("HOLDFAST_FUZZ").is_ok_and(|mode| mode == word)
}

/// Stored seeds, by name.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus(name)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// One of the changes that fuzzers make: some bytes set or flipped, cut out, said twice, or taken from another seed.
fn changed(seed: &[u8], other: &[u8], random: &dyn Random) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..=random.bytes::<1>()[0] % 3 {
        let [kind, value, length, a, b, c, d, _] = random.bytes::<8>();
        let place = |n: usize| u32::from_le_bytes([a, b, c, d]) as usize % n.max(1);
        let at = place(out.len());
        let end = (at + 1 + usize::from(length) % 16).min(out.len());
        match kind % 6 {
            0 if !out.is_empty() => out[at] = value,
            1 if !out.is_empty() => out[at] ^= 1 << (value % 8),
            2 if !out.is_empty() => out[at] = [0, 1, 0x7f, 0x80, 0xfb, 0xfc, 0xfd, 0xff][usize::from(value) % 8],
            3 if !out.is_empty() => drop(out.drain(at..end)),
            4 if !out.is_empty() => {
                let part = out[at..end].to_vec();
                out.splice(at..at, part);
            }
            _ => {
                let from = place(other.len()).min(other.len());
                let until = (from + 1 + usize::from(length)).min(other.len());
                out.splice(at..at, other[from..until].iter().copied());
            }
        }
    }
    out
}

#[test]
fn no_seed_and_no_small_change_of_one_breaks_a_parser() {
    let changes = if mode("full") { 100_000 } else { 1000 };
    for target in TARGETS {
        if mode("write") {
            std::fs::create_dir_all(corpus(target.name)).unwrap();
            for (n, seed) in (target.seeds)().iter().enumerate() {
                std::fs::write(corpus(target.name).join(format!("seed-{n:02}")), seed).unwrap();
            }
        }
        let seeds = seeds(target.name);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        let random = SeededRandom::new(17);
        targets::run(target.name, b"");
        for (n, seed) in seeds.iter().enumerate() {
            assert!(targets::run(target.name, seed), "seed {n} of {} is not accepted", target.name);
        }
        for n in 0..changes {
            let (seed, other) = (&seeds[n % seeds.len()], &seeds[n / 7 % seeds.len()]);
            let input = changed(seed, other, &random);
            let broken = std::panic::catch_unwind(|| targets::run(target.name, &input)).is_err();
            assert!(!broken, "{} breaks on {}", target.name, input.escape_ascii());
        }
    }
}

#[test]
fn every_target_can_be_started_by_the_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let source = std::fs::read_to_string(folder.join(format!("fuzz_targets/{}.rs", target.name))).unwrap();
        assert!(source.contains(&format!("run(\"{}\", input)", target.name)), "{}", target.name);
        assert!(manifest.contains(&format!("name = \"{}\"\n", target.name)), "{}", target.name);
    }
    assert_eq!(std::fs::read_dir(folder.join("fuzz_targets")).unwrap().count(), TARGETS.len());
}
