//! Tests of the tree stream: round trips, locality of changes, hostile bytes.

use super::*;
use proptest::prelude::*;

fn entry(path: &[u8], kind: EntryKind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        user: Some("alice".into()),
        group: Some("staff".into()),
        mtime_ns: 1_790_000_000_123_456_789,
        xattrs: Vec::new(),
    }
}

fn file(path: &[u8]) -> Entry {
    let hash = Digest(*blake3::hash(path).as_bytes());
    entry(path, EntryKind::File(FileContent { size: 12_345, hash, ..FileContent::default() }))
}

fn encode(entries: &[Entry]) -> Result<Vec<u8>, TreeError> {
    let mut writer = TreeWriter::new();
    for entry in entries {
        writer.push(entry)?;
    }
    Ok(writer.finish())
}

fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Entry>, TreeError> {
    let mut reader = TreeReader::new();
    let mut entries = Vec::new();
    for piece in bytes.chunks(piece) {
        reader.feed(piece);
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
    }
    assert_eq!(reader.finish()?, entries.len() as u64);
    Ok(entries)
}

fn every_kind() -> Vec<Entry> {
    let sparse = FileContent {
        size: 1 << 40,
        extents: vec![(0, 1), (4096, 4096), ((1 << 40) - 1, 1)],
        sparse: true,
        hash: Digest([7; 32]),
        torn: true,
    };
    let mut with_xattrs = file(b"/srv/xattrs");
    with_xattrs.xattrs = vec![(b"user.a".to_vec(), vec![]), (b"user.b".to_vec(), vec![0, 255, 10])];
    with_xattrs.user = None;
    with_xattrs.group = Some(String::new());
    vec![
        entry(b"/", EntryKind::Directory),
        entry(b"/srv", EntryKind::Directory),
        entry(b"/srv/app", EntryKind::Directory),
        entry(b"/srv/app/block", EntryKind::BlockDevice { major: 8, minor: u32::MAX }),
        entry(b"/srv/app/char", EntryKind::CharDevice { major: 1, minor: 3 }),
        entry(b"/srv/app/empty", EntryKind::Directory),
        entry(b"/srv/app/fifo", EntryKind::Fifo),
        file(b"/srv/app.conf"),
        entry(b"/srv/hard", EntryKind::HardLink(b"/srv/app.conf".to_vec())),
        entry(b"/srv/link", EntryKind::Symlink(b"../\xff\n".to_vec())),
        entry(b"/srv/socket", EntryKind::Socket),
        entry(b"/srv/sparse", EntryKind::File(sparse)),
        with_xattrs,
        file(b"/srv/\xff\xfe"),
        file(b"/top"),
    ]
}

#[test]
fn every_kind_survives_in_pieces_of_any_size() {
    let entries = every_kind();
    let bytes = encode(&entries).expect("in order");
    for piece in [1, 2, 3, 7, 64, bytes.len()] {
        assert_eq!(decode(&bytes, piece), Ok(entries.clone()), "{piece}");
    }
}

#[test]
fn the_bytes_are_as_the_format_says() {
    let mut one = entry(b"/a", EntryKind::Symlink(b"b".to_vec()));
    one.user = None;
    one.mtime_ns = -1;
    one.xattrs = vec![(b"x".to_vec(), b"y".to_vec())];
    let link = "03 01 61 a401 e807 e807 00 06 7374616666 01 01 78 01 79 01 ff93ebdc03 01 62";
    let content = FileContent { size: 300, hash: Digest([0x77; 32]), ..FileContent::default() };
    let mut two = entry(b"/b", EntryKind::File(content));
    (two.user, two.group, two.mtime_ns) = (None, None, 1_000_000_000);
    let file = format!("01 01 62 a401 e807 e807 00 00 00 02 00 00 ac02 {}", "77".repeat(32));
    let mut expected = vec![1];
    for body in [link, &file] {
        let body = data_encoding::HEXLOWER.decode(body.replace(' ', "").as_bytes()).expect("hex");
        expected.push(body.len() as u8);
        expected.extend(body);
    }
    expected.push(0);
    assert_eq!(encode(&[one, two]), Ok(expected));
    assert_eq!(encode(&[]), Ok(vec![1, 0]));
}

#[test]
fn an_ordinary_file_takes_at_most_84_bytes_and_one_more_file_is_one_run() {
    let mut entries = vec![entry(b"/srv", EntryKind::Directory)];
    entries.extend((0..100).map(|n| file(format!("/srv/module_{n:04}.py").as_bytes())));
    let without = encode(&entries).expect("in order");
    assert!(without.len() / 101 <= 84, "{}", without.len() / 101);
    entries.insert(50, file(b"/srv/module_0048x.py"));
    let with = encode(&entries).expect("in order");
    let prefix = with.iter().zip(&without).take_while(|(a, b)| a == b).count();
    let suffix = with.iter().rev().zip(without.iter().rev()).take_while(|(a, b)| a == b).count();
    assert!(prefix + suffix >= without.len(), "one run was inserted");
}

#[test]
fn a_writer_refuses_what_a_reader_would_refuse() {
    let dir = |path: &[u8]| entry(path, EntryKind::Directory);
    let mut mode = file(b"/a");
    mode.mode = 0o10000;
    let mut twice = file(b"/a");
    twice.xattrs = vec![(b"x".to_vec(), vec![]), (b"x".to_vec(), vec![])];
    let overlap = FileContent { size: 10, extents: vec![(0, 5), (5, 5)], sparse: true, ..FileContent::default() };
    let beyond = FileContent { size: 10, extents: vec![(8, 3)], sparse: true, ..FileContent::default() };
    let wrong: Vec<Vec<Entry>> = vec![
        vec![file(b"a")],
        vec![file(b"")],
        vec![file(b"/a/b")],
        vec![file(b"/a"), file(b"/a/b")],
        vec![file(b"/a"), file(b"/a")],
        vec![file(b"/b"), file(b"/a")],
        vec![dir(b"/a"), file(b"/ab/c")],
        vec![dir(b"/a"), file(b"/a/..")],
        vec![dir(b"/a"), file(b"/a/.")],
        vec![dir(b"/a"), file(b"/a/")],
        vec![dir(b"/a"), file(b"//x")],
        vec![dir(b"/a"), file(b"/a/x\0")],
        vec![dir(b"/a"), dir(b"/b"), file(b"/a/x")],
        vec![file(b"/a"), dir(b"/")],
        vec![file(b"/")],
        vec![file(&[b"/".as_slice(), &[b'x'; 4096]].concat())],
        vec![entry(b"/l", EntryKind::Symlink(vec![]))],
        vec![entry(b"/l", EntryKind::HardLink(b"/a/../b".to_vec()))],
        vec![mode],
        vec![twice],
        vec![entry(b"/a", EntryKind::File(overlap))],
        vec![entry(b"/a", EntryKind::File(beyond))],
    ];
    for entries in wrong {
        let mut writer = TreeWriter::new();
        let (last, good) = entries.split_last().expect("not empty");
        for entry in good {
            writer.push(entry).expect("in order");
        }
        let before = writer.pending_bytes();
        assert!(writer.push(last).is_err(), "{entries:?}");
        assert_eq!(writer.pending_bytes(), before, "a refused entry leaves no bytes");
    }
}

#[test]
fn cut_extended_and_foreign_trees_are_refused() {
    let bytes = encode(&every_kind()).expect("in order");
    for cut in 0..bytes.len() {
        assert!(decode(&bytes[..cut], 4096).is_err(), "{cut}");
    }
    assert!(decode(&[bytes.as_slice(), &[0]].concat(), 4096).is_err());
    assert_eq!(decode(&[2, 0], 1), Err(TreeError::Version { found: 2 }));
    // A node of 2^63 bytes, an overlong number, a number of more than 64 bits.
    for head in [&[0xff; 9][..], &[0x80, 0x00], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
        assert!(matches!(decode(&[&[1], head, &[1; 64]].concat(), 4096), Err(TreeError::Damaged { .. })), "{head:?}");
    }
}

#[test]
fn times_have_one_encoding_and_fit_64_bits() {
    for mtime_ns in [i64::MIN, -1_000_000_001, -1_000_000_000, -1, 0, 1, 999_999_999, 1_000_000_000, i64::MAX] {
        let entries = vec![Entry { mtime_ns, ..file(b"/a") }];
        assert_eq!(decode(&encode(&entries).expect("in order"), 64), Ok(entries));
    }
    let tree = |time: &str| {
        let body = format!("05 01 61 a401 00 00 00 00 00 {time}").replace(' ', "");
        let body = data_encoding::HEXLOWER.decode(body.as_bytes()).expect("hex");
        decode(&[&[1, body.len() as u8], body.as_slice(), &[0]].concat(), 64)
    };
    assert_eq!(tree("02 ff93ebdc03").expect("a time")[0].mtime_ns, 1_999_999_999);
    let wrong = [
        "02 8094ebdc03",                   // 10^9 nanoseconds
        "8200 00",                         // a number longer than it needs to be
        "88f48bdc44 80b0cb9703",           // 2^63 nanoseconds
        "ffffffffffffffffff01 00",         // the most negative number of seconds
        "feffffffffffffffff01 ff93ebdc03", // the largest
    ];
    for time in wrong {
        assert!(matches!(tree(time), Err(TreeError::Damaged { .. })), "{time}");
    }
}

#[test]
fn order_of_paths_is_the_order_of_the_tree() {
    let entries = every_kind();
    for pair in entries.windows(2) {
        assert_eq!(path_order(&pair[0].path, &pair[1].path), Ordering::Less, "{pair:?}");
        assert_eq!(path_order(&pair[1].path, &pair[0].path), Ordering::Greater);
    }
    assert_eq!(path_order(b"/", b"/"), Ordering::Equal);
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let free = proptest::collection::vec(any::<u8>().prop_filter("a name", |b| *b != b'/' && *b != 0), 1..12);
    free.prop_filter("a name", |name| name_fault(name).is_none())
}

fn kinds() -> impl Strategy<Value = EntryKind> {
    let bytes = proptest::collection::vec(1u8.., 1..20);
    let ordinary = (any::<u64>(), any::<[u8; 32]>(), any::<bool>());
    let ordinary = ordinary.prop_map(|(size, hash, torn)| {
        EntryKind::File(FileContent { size, hash: Digest(hash), torn, ..FileContent::default() })
    });
    let sparse = proptest::collection::vec((1u64..1 << 40, 1u64..1 << 40), 0..6).prop_map(|spans| {
        let (mut end, mut extents) = (0, Vec::new());
        for (gap, length) in spans {
            extents.push((end + gap, length));
            end += gap + length;
        }
        EntryKind::File(FileContent { size: end + 5, extents, sparse: true, ..FileContent::default() })
    });
    prop_oneof![
        4 => Just(EntryKind::Directory),
        4 => ordinary,
        1 => sparse,
        1 => bytes.prop_map(EntryKind::Symlink),
        1 => names().prop_map(|n| EntryKind::HardLink([b"/".as_slice(), &n].concat())),
        1 => Just(EntryKind::Fifo),
        1 => Just(EntryKind::Socket),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| EntryKind::CharDevice { major, minor }),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| EntryKind::BlockDevice { major, minor }),
    ]
}

fn xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let value = proptest::collection::vec(any::<u8>(), 0..30);
    proptest::collection::btree_map(names(), value, 0..3).prop_map(|map| map.into_iter().collect())
}

/// Random trees: each element names its place by an index into the directories made before it.
fn trees() -> impl Strategy<Value = Vec<Entry>> {
    let owner = (any::<u32>(), proptest::option::of("[a-zé]{0,6}"), 0u32..0o10000, any::<i64>());
    let element = (any::<prop::sample::Index>(), names(), kinds(), owner, xattrs());
    proptest::collection::vec(element, 0..40).prop_map(|elements| {
        let mut directories = vec![Vec::new()];
        let mut found = std::collections::BTreeMap::new();
        for (place, name, kind, (id, user, mode, mtime_ns), xattrs) in elements {
            let path = [place.get(&directories).as_slice(), b"/", &name].concat();
            let entry = Entry { mode, user, mtime_ns, xattrs, uid: id, gid: !id, ..entry(&path, kind) };
            if let std::collections::btree_map::Entry::Vacant(free) = found.entry(path) {
                if entry.kind == EntryKind::Directory {
                    directories.push(free.key().clone());
                }
                free.insert(entry);
            }
        }
        let mut entries: Vec<Entry> = found.into_values().collect();
        entries.sort_by(|a, b| path_order(&a.path, &b.path));
        entries
    })
}

proptest! {
    #[test]
    fn random_trees_survive(entries in trees(), piece in 1usize..200) {
        let bytes = encode(&entries).expect("in order");
        prop_assert_eq!(decode(&bytes, piece), Ok(entries));
    }

    #[test]
    fn mutated_trees_never_panic_and_have_one_encoding(
        entries in trees(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(&entries).expect("in order");
        for (place, value) in changes {
            *place.get_mut(&mut bytes) = value;
        }
        if let Ok(entries) = decode(&bytes, 64) {
            prop_assert_eq!(encode(&entries), Ok(bytes), "what can be read is what would be written");
        }
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
        let _ = decode(&bytes, piece);
        if let Some(first) = bytes.first_mut() {
            *first = TREE_VERSION;
        }
        let _ = decode(&bytes, piece);
    }
}
