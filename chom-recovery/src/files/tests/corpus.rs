//! Archives that mean harm. Each is refused, and nothing outside the target is touched.

use super::*;

/// Writes headers without any sense of decency.
#[derive(Default)]
struct Forge(Vec<u8>);

impl Forge {
    fn header(mut self, type_flag: u8, name: &[u8], link: &[u8], size: u64, data: &[u8]) -> Self {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name);
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = type_flag;
        header[157..157 + link.len()].copy_from_slice(link);
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len() + padding(data.len() as u64), 0);
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.header(b'0', name.as_bytes(), b"", data.len() as u64, data)
    }

    fn folder(self, name: &str) -> Self {
        self.header(b'5', name.as_bytes(), b"", 0, b"")
    }

    fn link(self, type_flag: u8, name: &str, target: &str) -> Self {
        self.header(type_flag, name.as_bytes(), target.as_bytes(), 0, b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut content = String::new();
        for (key, value) in records {
            let mut length = key.len() + value.len() + 4;
            while length != key.len() + value.len() + 3 + length.to_string().len() {
                length += 1;
            }
            content += &format!("{length} {key}={value}\n");
        }
        self.raw_pax(content.as_bytes())
    }

    fn raw_pax(self, content: &[u8]) -> Self {
        self.header(b'x', b"PaxHeaders/x", b"", content.len() as u64, content)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&END);
        self.0
    }
}

/// Reads all entries in both dialects; the first error of each.
fn read(tar: &[u8]) -> [Option<Error>; 2] {
    [Dialect::Ours, Dialect::Foreign].map(|dialect| {
        let mut reader = reader(tar, dialect);
        loop {
            match reader.next_entry() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(error),
            }
        }
    })
}

fn refused(what: &str, tar: &[u8], because: &str) {
    for error in read(tar) {
        let error = error.unwrap_or_else(|| panic!("{what} was read"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.message().contains(because), "{what}: {error}");
    }
}

#[test]
fn paths_that_lead_elsewhere() {
    for name in ["../x", "a/../../x", "..", "a/..", "/etc/cron.d/x", "//x", "a//b", ".", "a/./b", ""] {
        refused(name, &Forge::default().file(name, b"x").end(), "");
        refused(name, &Forge::default().pax(&[("path", name)]).file("innocent", b"x").end(), "");
    }
    refused("nul", &Forge::default().pax(&[("path", "a\0b")]).file("a", b"x").end(), "NUL");
    refused("long", &Forge::default().pax(&[("path", &"d/".repeat(200))]).folder("a").end(), "deeply");
    refused("root file", &Forge::default().file("./", b"x").end(), "");
    refused(
        "prefix up",
        &{
            let mut tar = Forge::default().file("x", b"x").end();
            tar[345..347].copy_from_slice(b"..");
            tar
        },
        "checksum",
    );
}

#[test]
fn things_that_are_neither_files_nor_folders_nor_links() {
    for (type_flag, because) in [
        (b'3', "device"),
        (b'4', "device"),
        (b'S', "type"),
        (b'M', "type"),
        (b'V', "type"),
        (b'D', "type"),
        (b'N', "type"),
        (b'g', "type"),
        (b'A', "type"),
        (b'X', "type"),
    ] {
        refused("type", &Forge::default().header(type_flag, b"x", b"", 0, b"").end(), because);
    }
    for type_flag in [b'L', b'K', b'7', 0] {
        let tar = Forge::default().header(type_flag, b"x", b"", 0, b"").end();
        assert!(read(&tar)[0].is_some(), "ours has no type {type_flag}");
    }
}

#[test]
fn readers_that_count_differently_are_no_way_in() {
    // Each of these was read differently by two archivers of the field, so that one saw an entry that the other did not.
    let inner = Forge::default().file("smuggled", b"x").end();
    let size = inner.len().to_string();
    refused(
        "two sizes",
        &Forge::default().pax(&[("size", &size)]).header(b'0', b"a", b"", 512, &inner).end(),
        "two sizes",
    );
    refused(
        "size zero",
        &Forge::default().pax(&[("size", "0")]).header(b'0', b"a", b"", size.parse().unwrap(), &inner).end(),
        "two sizes",
    );
    refused("size of a folder", &Forge::default().header(b'5', b"a", b"", 512, &inner).end(), "has data");
    refused("size of a link", &Forge::default().header(b'1', b"a", b"b", 512, &inner).end(), "has data");
    refused(
        "pax on pax",
        &Forge::default().pax(&[("path", "a")]).pax(&[("path", "b")]).file("c", b"").end(),
        "another",
    );
    refused(
        "pax on a long name",
        &Forge::default().pax(&[("size", "1024")]).header(b'L', b"././@LongLink", b"", 2, b"a\0").file("c", b"").end(),
        "",
    );
    refused("twice the same key", &Forge::default().pax(&[("path", "a"), ("path", "b")]).file("c", b"").end(), "twice");
    refused("unknown key", &Forge::default().pax(&[("GNU.volume.offset", "1")]).file("c", b"").end(), "nobody knows");
    refused("old sparse key", &Forge::default().pax(&[("GNU.sparse.size", "1")]).file("c", b"").end(), "nobody knows");
    refused("half sparse", &Forge::default().pax(&[("GNU.sparse.major", "1")]).file("c", b"").end(), "holes");
    refused("nothing follows", &Forge::default().pax(&[("path", "a")]).end(), "followed by nothing");
    for records in
        [&b"9 path=a"[..], b"11 path=a\n", b"8 path=a\n", b"x path=a\n", b" path=a\n", b"3 \n", b"9 path a\n"]
    {
        refused("malformed", &Forge::default().raw_pax(records).file("c", b"").end(), "malformed");
    }
    refused("-1", &Forge::default().pax(&[("size", "-1")]).file("c", b"").end(), "cannot be read");
    refused("2^64", &Forge::default().pax(&[("size", "18446744073709551616")]).file("c", b"").end(), "cannot be read");
    refused("uid of no change", &Forge::default().pax(&[("uid", "4294967295")]).file("c", b"").end(), "owner");
    let mut tail = Forge::default().file("a", b"x").end();
    tail.extend(Forge::default().file("smuggled", b"x").end());
    refused("behind the end", &tail, "follows its end");
    let mut lone = Forge::default().file("a", b"x").0;
    lone.extend_from_slice(&[0; 512]);
    lone.extend(Forge::default().file("smuggled", b"x").end());
    refused("behind a lone empty block", &lone, "empty block");
}

#[test]
fn data_that_hides_in_padding_is_refused_in_ours() {
    let mut tar = Forge::default().file("a", b"x").end();
    tar[1000] = 1;
    let [ours, _] = read(&tar);
    assert!(ours.unwrap().message().contains("hides"));
}

#[test]
fn promises_of_sizes_are_kept() {
    let tar = Forge::default().file("a", &[1; 100]).file("b", &[1; 100]).end();
    let read = |limits| {
        let mut reader = TarReader::new(std::iter::once(Bytes::from(tar.clone())), Dialect::Ours, limits);
        while reader.next_entry()?.is_some() {}
        Ok::<_, Error>(())
    };
    read(Limits { entries: 2, bytes: 200 }).unwrap();
    assert!(read(Limits { entries: 1, bytes: 200 }).unwrap_err().message().contains("too many"));
    assert!(read(Limits { entries: 2, bytes: 199 }).unwrap_err().message().contains("larger"));
    // A few bytes that say they are a terabyte.
    let bomb = Forge::default().header(b'0', b"a", b"", 0o77_777_777_777, b"").end();
    refused("cut", &bomb, "cut");
    let map = format!("1\n{}\n1\n", 1_u64 << 50);
    let mut data = map.into_bytes();
    data.resize(512, 0);
    data.push(7);
    let name = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "a")];
    let records = [&name[..], &[("GNU.sparse.realsize", "2251799813685248")]].concat();
    let hole = Forge::default().pax(&records).file("x", &data).end();
    let limits = Limits { entries: 10, bytes: 1 << 30 };
    let mut reader = TarReader::new(std::iter::once(Bytes::from(hole)), Dialect::Ours, limits);
    assert!(reader.next_entry().unwrap_err().message().contains("larger"));
}

#[test]
fn every_cut_is_seen_by_who_reads_foreign_archives() {
    let tar = Forge::default().folder("d").pax(&[("mtime", "1.5")]).file("d/a", &[1; 700]).end();
    for cut in 0..tar.len() - 512 {
        let mut reader = reader(&tar[..cut], Dialect::Foreign);
        let error = loop {
            match reader.next_entry() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("cut at {cut} and not seen"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

/// What only shows when it is put in place. `folders` come first, as they always do.
fn put(folders: Forge, files: Forge, hard_links: Forge, symlinks: Forge) -> (Result<()>, tempfile::TempDir) {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(outside.path().join("victim"), "untouched").unwrap();
    let parts = [
        (Role::Folders, folders.end()),
        (Role::Files, files.0),
        (Role::HardLinks, hard_links.0),
        (Role::Symlinks, symlinks.0),
    ];
    let result = unpack_tree(&parts, &target, policy());
    assert_eq!(std::fs::read_to_string(outside.path().join("victim")).unwrap(), "untouched");
    let mut around: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    around.sort();
    assert_eq!(around, ["target", "victim"]);
    (result, outside)
}

fn not_put(what: &str, folders: Forge, files: Forge, hard_links: Forge, symlinks: Forge) {
    let (result, _outside) = put(folders, files, hard_links, symlinks);
    let error = result.err().unwrap_or_else(|| panic!("{what} was put in place"));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
}

#[test]
fn nothing_is_written_through_a_link_or_over_something() {
    let root = || Forge::default().folder("./");
    let none = Forge::default;
    not_put("a file twice", root(), none().file("a", b"1").file("a", b"2"), none(), none());
    not_put("a folder twice", root().folder("a").folder("a"), none(), none(), none());
    not_put("a file in the place of a folder", root().folder("a"), none().file("a", b""), none(), none());
    not_put("a file in no folder", root(), none().file("a/b", b""), none(), none());
    not_put("a link over a file", root(), none().file("a", b""), none(), none().link(b'2', "a", "../victim"));
    not_put("a link over a link", root(), none(), none(), none().link(b'2', "a", "x").link(b'2', "a", "y"));
    not_put("a link over a folder", root().folder("a"), none().file("a/b", b""), none(), none().link(b'2', "a", ".."));
    not_put("below a link", root(), none(), none(), none().link(b'2', "a", "..").link(b'2', "a/x", "y"));
    not_put("a link among files", root(), none().link(b'2', "a", ".."), none(), none());
    not_put("a file among folders", root().file("a", b""), none(), none(), none());
    not_put("a folder among files", root(), none().folder("a"), none(), none());
    not_put("a file among links", root(), none(), none(), none().file("a", b""));
}

#[test]
fn further_names_are_of_files_of_the_archive_alone() {
    let root = || Forge::default().folder("./");
    let none = Forge::default;
    for target in ["../victim", "/etc/passwd", "missing", "folder", "folder/../../victim"] {
        let links = none().link(b'1', "name", target);
        not_put(target, root().folder("folder"), none().file("a", b""), links, none());
    }
    not_put("over a file", root(), none().file("a", b"").file("b", b""), none().link(b'1', "b", "a"), none());
    let (result, _kept) = put(root(), none().file("a", b"x"), none().link(b'1', "b", "a"), none());
    result.unwrap();
}

#[test]
fn setuid_comes_back_only_where_a_policy_says_so() {
    let mut setuid = Vec::new();
    let attributes = Attributes { mode: 0o6755, ..Attributes::default() };
    let kind = Kind::File { size: 0, extents: None };
    write_header(&Entry { path: TreePath::new("su").unwrap(), kind, attributes }, &mut setuid);
    let parts = [(Role::Folders, Forge::default().folder("./").end()), (Role::Files, setuid)];
    for (keep_setid, mode) in [(false, 0o755), (true, 0o6755)] {
        let target = tempfile::tempdir().unwrap();
        unpack_tree(&parts, target.path(), Policy { keep_setid, ..policy() }).unwrap();
        let found = std::fs::metadata(target.path().join("su")).unwrap().mode() & 0o7777;
        assert_eq!(found, mode);
    }
}

#[test]
fn attributes_of_the_system_are_never_taken_from_an_archive() {
    for name in ["security.capability", "trusted.overlay.opaque", "security.selinux", "system.nfs4_acl", "user."] {
        let tar = Forge::default().pax(&[(&format!("SCHILY.xattr.{name}"), "x")]).file("a", b"").end();
        let [ours, _] = read(&tar);
        assert!(ours.unwrap().message().contains("nobody knows"), "{name}");
        let mut foreign = reader(&tar, Dialect::Foreign);
        assert!(foreign.next_entry().unwrap().unwrap().attributes.xattrs.is_empty(), "{name}");
    }
}
