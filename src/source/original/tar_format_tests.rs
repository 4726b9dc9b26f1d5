//! Archives made by the system's `tar`, and some that no `tar` would make.

use super::*;
use std::process::Command;

/// A header as `tar` writes it.
fn header(name: &[u8], kind: u8, size: u64, link: &[u8]) -> Vec<u8> {
    let mut block = vec![0u8; BLOCK_BYTES];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 2 * BLOCK_BYTES]].concat()
}

fn file(name: &[u8], contents: &[u8]) -> Vec<u8> {
    let mut out = header(name, b'0', contents.len() as u64, b"");
    out.extend_from_slice(contents);
    out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
    out
}

fn judge(bytes: &[u8], piece: usize) -> Result<Vec<String>, String> {
    let mut judge = TarJudge::default();
    bytes.chunks(piece).for_each(|part| judge.feed(part));
    judge.finish().map(|warnings| warnings.into_iter().map(|w| format!("{}: {}", w.subject, w.message)).collect())
}

#[test]
fn real_archives_of_every_format_are_whole_and_every_cut_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(130));
    std::fs::create_dir_all(folder.path().join("t").join("d".repeat(120))).unwrap();
    std::fs::write(folder.path().join("t").join(&long), "long name").unwrap();
    std::fs::write(folder.path().join("t/data"), vec![7; 5000]).unwrap();
    std::fs::write(folder.path().join("t/empty"), "").unwrap();
    std::os::unix::fs::symlink("data", folder.path().join("t/link")).unwrap();
    let holes = std::fs::File::create(folder.path().join("t/holes")).unwrap();
    for n in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(&holes, b"island", n * 300_000).unwrap();
    }
    for flags in [&["--format=gnu"][..], &["--format=pax"], &["--format=gnu", "-S"], &["--format=pax", "-S"]] {
        let out = Command::new("tar").args(flags).args(["-C"]).arg(folder.path()).args(["-cf", "-", "t"]).output();
        let bytes = out.unwrap().stdout;
        assert!(is_header(&bytes));
        for piece in [1 << 20, 512, 1000] {
            assert_eq!(judge(&bytes, piece), Ok(Vec::new()), "{flags:?}");
        }
        let end = bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count();
        for cut in [end, end - 1, end / 2, 512, 700].into_iter().filter(|cut| *cut > 0) {
            // the zeros of the last member's padding are not yet an end mark
            let reason = judge(&bytes[..cut], 4096).unwrap_err();
            assert!(reason.contains("truncated"), "{flags:?} cut at {cut}: {reason}");
        }
        let mut damaged = bytes.clone();
        damaged[30] ^= 1;
        assert!(judge(&damaged, 4096).unwrap_err().contains("no header of a member at byte 0"));
    }
}

#[test]
fn what_leads_out_is_named_and_nothing_else() {
    let members = [
        file(b"../../etc/passwd", b"x"),
        file(b"/etc/shadow", b"x"),
        file(b"fine/..hidden/...", b"x"),
        header(b"a/b/link", b'2', 0, b"../../ok"),
        header(b"a/link", b'2', 0, b"../../etc"),
        header(b"abs", b'2', 0, b"/etc"),
        header(b"hard", b'1', 0, b"../x"),
        header(b"dev/sda", b'4', 0, b""),
    ];
    let found = judge(&archive(&members), 700).unwrap();
    let subjects: Vec<&str> = found.iter().filter_map(|f| f.split(": ").next()).collect();
    assert_eq!(subjects, ["../../etc/passwd", "/etc/shadow", "a/link", "abs", "hard", "dev/sda"]);
    // a long name hides nothing
    let field = b"24 path=/absolute/../xy\n".to_vec();
    let mut long = header(b"././@PaxHeader", b'x', field.len() as u64, b"");
    long.extend_from_slice(&field);
    long.resize(2 * BLOCK_BYTES, 0);
    let found = judge(&archive(&[long, file(b"harmless", b"x")]), 512).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let many: Vec<Vec<u8>> = (0..30).map(|n| file(format!("../{n}").as_bytes(), b"")).collect();
    let found = judge(&archive(&many), 512).unwrap();
    assert!(found.len() == 21 && found[20].contains("10 more"), "{found:?}");
}

#[test]
fn what_is_no_archive_is_refused() {
    assert!(judge(&[0; 10_240], 512).unwrap_err().contains("without members"));
    let good = archive(&[file(b"a", b"1")]);
    assert!(judge(&[good.clone(), b"rubbish".repeat(100)].concat(), 512).unwrap_err().contains("after its end"));
    assert!(judge(&[good.clone(), vec![0; 100]].concat(), 512).is_ok(), "a cut last record");
    let huge = header(b"huge", b'0', 0o77777777777, b"");
    assert!(judge(&huge, 512).unwrap_err().contains("truncated"));
    let mut binary = header(b"huge", b'0', 0, b"");
    binary[124..136].copy_from_slice(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    binary[148..156].fill(b' ');
    let sum: u32 = binary.iter().map(|b| u32::from(*b)).sum();
    binary[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    assert!(judge(&binary, 512).is_err());
}
