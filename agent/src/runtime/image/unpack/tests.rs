//! Layers as they should not be, and as overlayfs wants them. Needs root, as the agent does.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

/// A layer being made, with names that the tar crate would refuse to write.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &str, link: &str, content: &[u8], change: impl Fn(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str) -> Self {
        self.entry(EntryType::Regular, name, "", b"content", |_| {})
    }

    fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"", |_| {})
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"", |_| {})
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"", |_| {})
    }

    fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(format!("{XATTR_RECORD}{name}").as_str(), value)]).unwrap();
        self
    }

    fn unpack(self) -> Result<tempfile::TempDir, ImageError> {
        self.unpack_within(Limits::default())
    }

    fn unpack_within(self, limits: Limits) -> Result<tempfile::TempDir, ImageError> {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        fs::create_dir(&root).unwrap();
        let result = unpack(self.0.into_inner().unwrap().as_slice(), &root, limits);
        let names: Vec<_> = fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["root"], "something was written beside the root");
        result.map(|()| outer)
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn is_opaque(path: &Path) -> bool {
    xattr::get(path, OVERLAY_OPAQUE).unwrap().as_deref() == Some(b"y")
}

#[test]
fn nothing_reaches_out_of_the_root() {
    let cases = [
        Layer::new().file("../evil"),
        Layer::new().file("a/../../evil"),
        Layer::new().file("a/../b"),
        Layer::new().file("/evil"),
        Layer::new().dir("../evil"),
        Layer::new().dir(".."),
        Layer::new().symlink("../evil", "x"),
        Layer::new().symlink("up", "..").file("up/evil"),
        Layer::new().symlink("up", "..").dir("up/evil/"),
        Layer::new().dir("d").symlink("d/up", "../..").file("d/up/evil"),
        Layer::new().symlink("a", "b/..").symlink("b", "..").file("a/evil"),
        Layer::new().symlink("a", "/../..").file("a/evil"),
        Layer::new().symlink("a", "b").symlink("b", "a").file("a/x"),
        Layer::new().hard_link("evil", "../../../etc/passwd"),
        Layer::new().hard_link("evil", "/etc/passwd"),
        Layer::new().symlink("up", "..").hard_link("evil", "up/root"),
        Layer::new().hard_link("evil", "nothing"),
        Layer::new().dir("d").hard_link("evil", "d"),
        Layer::new().symlink("up", "..").file("up/.wh.x"),
        Layer::new().file(".wh..."),
        Layer::new().file(".wh..wh./.wh."),
        Layer::new().file("f").file("f/x"),
        Layer::new().symlink("dangling", ""),
        Layer::new().entry(EntryType::Regular, "f", "", b"", |header| header.set_uid(1 << 40)),
    ];
    for (number, layer) in cases.into_iter().enumerate() {
        let result = layer.unpack();
        assert!(matches!(result, Err(ImageError::Invalid(_))), "case {number}: {result:?}");
    }
}

#[test]
fn links_inside_the_root_are_followed_as_the_container_will() {
    let layer = Layer::new()
        .dir("usr/")
        .symlink("lib", "usr/lib")
        .dir("usr/lib")
        .file("lib/a")
        .symlink("run", "/usr/run")
        .dir("usr/run")
        .file("run/b")
        .symlink("last", "/etc/passwd")
        .file("last")
        .dir("deep/er")
        .symlink("deep/er/up", "../../usr")
        .file("deep/er/up/c");
    let outer = layer.unpack().unwrap();
    let root = outer.path().join("root");
    for path in ["usr/lib/a", "usr/run/b", "last", "usr/c"] {
        assert!(fs::symlink_metadata(root.join(path)).unwrap().is_file(), "{path}");
    }
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let layer = Layer::new()
        .file("d/.wh.gone")
        .dir("o")
        .file("o/.wh..wh..opq")
        .file("o/new")
        .file(".wh.again")
        .file("again/in")
        .dir("kept")
        .file(".wh.kept")
        .file("file")
        .file(".wh.file")
        .file(".wh.later")
        .file("later")
        .file(".wh..wh.plnk")
        .entry(EntryType::Char, "device", "", b"", |_| {})
        .xattr(OVERLAY_OPAQUE, b"y")
        .dir("honest");
    let outer = layer.unpack().unwrap();
    let root = outer.path().join("root");
    assert!(is_whiteout(&fs::symlink_metadata(root.join("d/gone")).unwrap()));
    assert!(is_opaque(&root.join("o")));
    assert!(is_opaque(&root.join("again")), "a directory in the place of a hidden one shows nothing of it");
    assert!(is_opaque(&root.join("kept")));
    assert!(root.join("file").is_file() && root.join("later").is_file());
    assert!(!is_opaque(&root.join("honest")), "a layer says so by whiteouts, not by attributes of its own");
    for path in [".wh..wh.plnk", "device", "o/.wh..wh..opq", "d/.wh.gone"] {
        assert!(!exists(&root.join(path)), "{path}");
    }
}

#[test]
fn owners_modes_times_links_and_attributes_are_kept() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::new()
        .entry(EntryType::Directory, "./", "", b"", |header| header.set_mode(0o711))
        .dir("d")
        .xattr("security.capability", &capability)
        .entry(EntryType::Regular, "d/suid", "", b"x", |header| {
            header.set_mode(0o4751);
            header.set_uid(7);
            header.set_gid(8);
        })
        .hard_link("same", "d/suid")
        .hard_link("same", "same")
        .entry(EntryType::Symlink, "link", "nowhere", b"", |header| header.set_uid(9))
        .entry(EntryType::Fifo, "fifo", "", b"", |_| {})
        .entry(EntryType::Block, "block", "", b"", |header| header.set_device_major(7).unwrap())
        .file("d/twice")
        .dir("d/twice")
        .file("d/twice");
    let outer = layer.unpack().unwrap();
    let root = outer.path().join("root");
    let metadata = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    assert_eq!(metadata("").mode() & 0o7777, 0o711);
    let suid = metadata("d/suid");
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.gid(), suid.mtime()), (0o4751, 7, 8, 1_000_000));
    assert_eq!(xattr::get(root.join("d/suid"), "security.capability").unwrap().unwrap(), capability);
    assert_eq!((metadata("same").ino(), suid.nlink()), (suid.ino(), 2));
    assert_eq!((metadata("link").uid(), metadata("link").mtime()), (9, 1_000_000));
    assert_eq!(metadata("d").mtime(), 1_000_000);
    assert!(metadata("fifo").file_type().is_fifo());
    assert!(metadata("d/twice").is_file());
}

#[test]
fn bombs_and_broken_ends_are_refused() {
    let two = || Layer::new().file("a").file("b");
    let bytes = two().0.into_inner().unwrap().len() as u64;
    assert!(two().unpack_within(Limits { bytes, entries: 2 }).is_ok());
    for limits in [Limits { bytes, entries: 1 }, Limits { bytes: bytes - 1, entries: 2 }] {
        let result = two().unpack_within(limits);
        assert!(matches!(result, Err(ImageError::Invalid(_))), "{result:?}");
    }

    let great = vec![b'n'; usize::try_from(MAX_HEADERS).unwrap() + 1];
    let result = Layer::new().xattr("user.great", &great).file("a").unpack();
    assert!(matches!(result, Err(ImageError::Invalid(_))), "{result:?}");

    let root = tempfile::tempdir().unwrap();
    let whole = two().0.into_inner().unwrap();
    let result = unpack(&whole[..515], root.path(), Limits::default());
    assert!(matches!(result, Err(ImageError::Invalid(_))), "{result:?}");
}

#[test]
fn a_full_disk_is_called_so() {
    let layer = Layer::new().entry(EntryType::Regular, "f", "", &[7; 300_000], |_| {}).0.into_inner().unwrap();
    let place = tempfile::tempdir().unwrap();
    let small = Some("size=64k");
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), place.path(), Some("tmpfs"), flags, small).unwrap();
    let result = unpack(layer.as_slice(), place.path(), Limits::default());
    nix::mount::umount(place.path()).unwrap();
    assert!(matches!(result, Err(ImageError::DiskFull { .. })), "{result:?}");
}

fn any_name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "..", ".", "", ".wh.a", ".wh..wh..opq"]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a layer holds, nothing beside the root changes, and a link out of it is never written through.
    #[test]
    fn no_layer_writes_beside_its_root(entries in prop::collection::vec((0..5_u8, any_name(), any_name()), 1..12)) {
        let outer = tempfile::tempdir().unwrap();
        let (root, beside) = (outer.path().join("root"), outer.path().join("a"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&beside).unwrap();
        symlink("../a", root.join("c")).unwrap();
        let mut layer = Layer::new();
        for (kind, name, link) in &entries {
            layer = match kind {
                0 => layer.file(name),
                1 => layer.dir(name),
                2 => layer.symlink(name, link),
                3 => layer.hard_link(name, link),
                _ => layer.file(&format!("{name}/.wh.b")),
            };
        }
        let _ = unpack(layer.0.into_inner().unwrap().as_slice(), &root, Limits::default());
        prop_assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
        prop_assert_eq!(fs::read_dir(&beside).unwrap().count(), 0);
        prop_assert!(!is_opaque(&beside) && !is_opaque(outer.path()));
    }
}
