//! Images that attack whoever unpacks them: each is refused as a whole, by name, and leaves nothing.

use std::fs;

use serde_json::json;
use tar::EntryType;

use super::Room;
use super::image::{Image, Layer, descriptor, digest, entry, gzip, write_layout, zstd};

/// A room with a file outside of every bundle that attacks aim at.
fn room_with_victim() -> Room {
    let room = Room::new();
    fs::create_dir(room.path("victim")).unwrap();
    fs::write(room.path("victim/file"), "untouched").unwrap();
    room
}

fn refused(layers: impl IntoIterator<Item = Layer>, message: &str) {
    let room = room_with_victim();
    room.refused(&Image::new(layers), message);
    assert_eq!(fs::read_to_string(room.path("victim/file")).unwrap(), "untouched");
    assert_eq!(super::names(&room.path("victim")), ["file"]);
}

#[test]
fn paths_that_climb_are_refused() {
    for name in [
        "../victim/file",
        "a/../../victim/file",
        "/../../../victim/x",
        "..",
        "a/..",
    ] {
        let message = format!("): {name}: its path climbs out with `..`");
        refused([Layer::default().file("ok", "x").file(name, "owned")], &message);
    }
    // The same in an extended header.
    let layer = Layer::default()
        .pax("path", "../../../victim/file")
        .file("innocent", "owned");
    refused([layer], "../../../victim/file: its path climbs out with `..`");
    let long = [entry(
        EntryType::GNULongName,
        "././@LongLink",
        "",
        0o644,
        b"../../victim/file\0",
    )]
    .concat();
    refused(
        [Layer::default().raw(&long).file("innocent", "owned")],
        "../../victim/file: its path climbs out with `..`",
    );
}

#[test]
fn the_layer_of_a_hostile_entry_is_named() {
    let good = Layer::default().file("ok", "x");
    refused(
        [good.clone(), good, Layer::default().file("../x", "y")],
        ": layer 3 (sha256:",
    );
}

#[test]
fn links_that_climb_out_cannot_be_written_through() {
    // Enough steps up to leave any temporary directory; the rest would be the victim.
    let up = "../".repeat(40);
    refused(
        [Layer::default().symlink("up", &up).file("up/victim", "owned")],
        "up/victim: its path leads through the link up, which climbs out of the root filesystem",
    );
    refused(
        [
            Layer::default().directory("a").symlink("a/up", "../../.."),
            Layer::default().file("a/up/victim/file", "owned"),
        ],
        "a/up/victim/file: its path leads through the link a/up, which climbs out",
    );
    let room = room_with_victim();
    let victim = room.path("victim").display().to_string();
    room.refused(
        &Image::new([Layer::default().symlink("x", &victim).file("x/file", "owned")]),
        &format!("x/file: its path leads through the link x, whose target {victim} does not exist"),
    );
    assert_eq!(fs::read_to_string(room.path("victim/file")).unwrap(), "untouched");
    refused(
        [Layer::default()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", "y")],
        "a/x: its path leads through",
    );
    refused(
        [Layer::default().file("f", "x").file("f/x", "y")],
        "f/x: its path leads through f, which is a file",
    );
}

#[test]
fn a_link_is_replaced_and_never_written_through() {
    let room = room_with_victim();
    let victim = room.path("victim/file").display().to_string();
    room.imported(&Image::new([
        Layer::default().symlink("l", &victim),
        Layer::default().file("l", "inside"),
    ]));
    assert_eq!(room.text("l"), "inside");
    assert!(room.rootfs("l").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
}

#[test]
fn absolute_links_are_meant_inside() {
    let room = Room::new();
    room.imported(&Image::new([Layer::default()
        .directory("run")
        .directory("var")
        .symlink("var/run", "/run")
        .file("var/run/pid", "1")
        .file("/abs/file", "2")]));
    assert_eq!(
        (room.text("run/pid"), room.text("abs/file")),
        ("1".into(), "2".into())
    );
}

#[test]
fn hard_links_lead_only_to_files_of_the_image() {
    for target in [
        "../victim/file",
        "/etc/passwd",
        "nowhere",
        "directory",
        "loop/x",
        "/proc/self/exe",
    ] {
        let layer = Layer::default()
            .directory("directory")
            .symlink("loop", "loop")
            .hardlink("h", target);
        let message = format!("h: it is a hard link to {target}, which is not a regular file");
        refused([layer], &message);
    }
    let room = room_with_victim();
    let victim = room.path("victim").display().to_string();
    let layer = Layer::default().symlink("out", &victim).hardlink("h", "out/file");
    room.refused(&Image::new([layer]), "h: it is a hard link to out/file");
}

#[test]
fn a_file_is_not_written_through_its_other_name() {
    let room = Room::new();
    room.imported(&Image::new([
        Layer::default()
            .file("a", "first")
            .hardlink("b", "a")
            .hardlink("c", "./a"),
        Layer::default().file("b", "second"),
    ]));
    assert_eq!(
        (room.text("a"), room.text("b"), room.text("c")),
        ("first".into(), "second".into(), "first".into())
    );
}

#[test]
fn the_root_itself_cannot_be_replaced() {
    refused(
        [Layer::default().symlink("./", "/tmp")],
        "./: it would replace the root directory with something else",
    );
    refused([Layer::default().hardlink("/", "x")], "/: it");
    for name in [".wh.", ".wh...", ".wh..", "a/.wh.."] {
        refused(
            [Layer::default().file(name, "")],
            &format!("{name}: is a whiteout of nothing"),
        );
    }
}

#[test]
fn whiteouts_remove_nothing_outside() {
    let room = room_with_victim();
    let up = "../".repeat(40);
    room.refused(
        &Image::new([
            Layer::default().symlink("up", &up),
            Layer::default().file("up/.wh.victim", ""),
        ]),
        "up/.wh.victim: its path leads through the link up",
    );
    room.refused(
        &Image::new([Layer::default().file("../.wh.victim", "")]),
        "its path climbs out",
    );
    room.refused(
        &Image::new([
            Layer::default().symlink("up", &up),
            Layer::default().file("up/.wh..wh..opq", ""),
        ]),
        "up/.wh..wh..opq: its path leads through the link up",
    );
    assert_eq!(fs::read_to_string(room.path("victim/file")).unwrap(), "untouched");
}

#[test]
fn names_that_no_file_can_have_are_refused() {
    let long = "n".repeat(256);
    refused(
        [Layer::default().pax("path", &long).file("x", "")],
        "nnn: its path has a NUL byte, an empty part",
    );
    let deep = "d/".repeat(2500);
    refused(
        [Layer::default().pax("path", &deep).file("x", "")],
        ": its path is too long",
    );
    refused(
        [Layer::default().pax("path", "a\0b").file("x", "")],
        "a\\x00b: its path has a NUL byte",
    );
    let target = "t".repeat(5000);
    refused(
        [Layer::default().pax("linkpath", &target).symlink("l", "x")],
        "l: the target of a symbolic link is empty, has a NUL byte or more than 4095 bytes",
    );
    refused(
        [Layer::default().symlink("l", "")],
        "l: the target of a symbolic link is empty",
    );
    // A name must not be able to drive a terminal.
    refused(
        [Layer::default().file("\x1b[2J/../x", "")],
        "\\x1b[2J/../x: its path climbs out",
    );
}

#[test]
fn sizes_that_lie_are_refused() {
    for (size, message) in [
        (
            "-1",
            "an extended header is malformed: a size that is no number, or a negative one",
        ),
        ("9223372036854775808", "f: has a negative or impossible size"),
        (
            "1099511627776",
            "f: declares 1099511627776 bytes, more than the 17179869184 allowed",
        ),
        ("4096", "the archive is cut off"),
        ("1000000000", "the archive is cut off"),
    ] {
        let bytes = Layer::default().pax("size", size).file("f", "x").unfinished();
        let room = Room::new();
        room.refused(&Image::plain([bytes]), message);
    }
    refused(
        [Layer::default().entry(EntryType::Directory, "d", "", 0o755, &[0; 512])],
        "d: is no file and yet has a size",
    );
    refused(
        [Layer::default().entry(EntryType::GNUSparse, "s", "", 0o644, b"")],
        "s: is a sparse file",
    );
    refused(
        [Layer::default()
            .pax("GNU.sparse.realsize", "99999999999")
            .file("s", "")],
        "a sparse file, which images do not have",
    );
}

#[test]
fn an_archive_that_is_cut_off_is_refused() {
    let whole = Layer::default()
        .file("a", &"x".repeat(2000))
        .file("b", "y")
        .finish();
    for cut in [100, 600, 2000, 3000 - 1] {
        let room = Room::new();
        room.refused(&Image::plain([whole[..cut].to_vec()]), "the archive is cut off");
    }
    for how in [gzip, zstd] {
        let stored = how(&whole);
        let room = Room::new();
        let mut image = Image::plain([whole.clone()]);
        image.layers[0].0 = stored[..stored.len() - 9].to_vec();
        room.refused(&image, "herd: cannot import image: ");
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    let room = Room::new();
    room.refused(&Image::plain([vec![7; 4096]]), "a header's checksum is wrong");
    let mut bzip2 = b"BZh91AY&SY".to_vec();
    bzip2.resize(600, 1);
    room.refused(&Image::plain([bzip2]), "compressed with bzip2");
    fs::write(room.path("noise"), [9; 5000]).unwrap();
    let said = room.run(&["import", "noise", "--output", "out"]);
    assert!(
        said.stderr.contains("noise: is no tar archive herd can read"),
        "{}",
        said.stderr
    );
    fs::write(room.path("empty"), "").unwrap();
    let said = room.run(&["import", "empty", "--output", "out"]);
    assert!(
        said.stderr.contains("empty is no image herd knows"),
        "{}",
        said.stderr
    );
    room.nothing_left();
}

#[test]
fn bombs_end_at_a_limit() {
    // 300 MiB of nothing in 300 kB.
    let mut layer = entry(EntryType::Regular, "bomb", "", 0o644, b"");
    let mut header = tar::Header::from_byte_slice(&layer[..512]).clone();
    header.set_size(300 << 20);
    header.set_cksum();
    layer = header.as_bytes().to_vec();
    layer.resize((300 << 20) + 512, 0);
    let room = Room::new();
    room.refused(
        &Image::stored([layer], gzip),
        "bomb: cannot read its content: it is a decompression bomb: more than 200 times",
    );
    let image = Image::new([
        Layer::default().file("a", &"x".repeat(3000)),
        Layer::default().file("b", &"x".repeat(3000)),
    ]);
    let room = Room::new();
    image.write(&room.path("image"));
    let said = room.run(&["import", "image", "--output", "out", "--max-size", "5K"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("more than 5120 bytes"), "{}", said.stderr);
    room.nothing_left();
}

#[test]
fn parts_that_are_not_what_they_claim_are_refused() {
    let image = Image::new([Layer::default().file("a", "x")]);
    let room = Room::new();
    // The right size, other bytes.
    let changed = |room: &Room, at: usize, message: &str| {
        let image_at = room.path("image");
        image.write(&image_at);
        let blob = &image.blobs()[at];
        let path = image_at.join(digest(blob).replace("sha256:", "blobs/sha256/"));
        let mut bytes = blob.clone();
        bytes[0] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let said = room.run(&["import", "image", "--output", "out"]);
        assert!(said.stderr.contains(message), "{}", said.stderr);
        fs::write(&path, [bytes, b"more".to_vec()].concat()).unwrap();
        let said = room.run(&["import", "image", "--output", "out"]);
        assert!(said.stderr.contains("bytes, not the"), "{}", said.stderr);
        fs::remove_file(&path).unwrap();
        let said = room.run(&["import", "image", "--output", "out"]);
        assert!(said.stderr.contains("is missing"), "{}", said.stderr);
        room.nothing_left();
    };
    for at in 0..3 {
        changed(&room, at, "it was changed or damaged");
    }
    let mut lying = image.clone();
    lying.layers[0].1 = digest(b"something else");
    Room::new().refused(&lying, "unpacks to sha256:");
    let mut short = image.clone();
    short.layers.push(short.layers[0].clone());
    let blobs = short.blobs();
    let manifest = json!({
        "config": descriptor(&blobs[2]), "layers": [descriptor(&blobs[0])]
    });
    let room = Room::new();
    let manifest = manifest.to_string().into_bytes();
    let all = [blobs, vec![manifest.clone()]].concat();
    write_layout(
        &room.path("image"),
        &all,
        &json!({ "manifests": [descriptor(&manifest)] }),
    );
    let said = room.run(&["import", "image", "--output", "out"]);
    assert!(
        said.stderr.contains("the image has 1 layers and 2 diff_ids"),
        "{}",
        said.stderr
    );
}

#[test]
fn indexes_that_never_end_are_refused() {
    let room = Room::new();
    // No index can name its own digest, so depth is what there is to bound.
    let mut blobs = vec![Image::new([]).manifest()];
    for _ in 0..8 {
        let last = descriptor(blobs.last().unwrap());
        blobs.push(json!({ "manifests": [last] }).to_string().into_bytes());
    }
    let last = descriptor(blobs.last().unwrap());
    write_layout(&room.path("image"), &blobs, &json!({ "manifests": [last] }));
    let said = room.run(&["import", "image", "--output", "out"]);
    assert!(
        said.stderr.contains("indexes lie in indexes more than 4 deep"),
        "{}",
        said.stderr
    );
    let many: Vec<_> = (0..2000).map(|_| descriptor(b"x")).collect();
    write_layout(&room.path("image"), &[], &json!({ "manifests": many }));
    let said = room.run(&["import", "image", "--output", "out"]);
    assert!(
        said.stderr
            .contains("lists 2000 manifests; herd reads at most 1000"),
        "{}",
        said.stderr
    );
    let huge = "x".repeat(5 << 20);
    fs::write(room.path("image/index.json"), huge).unwrap();
    let said = room.run(&["import", "image", "--output", "out"]);
    assert!(
        said.stderr.contains("larger than the 4194304 bytes"),
        "{}",
        said.stderr
    );
    room.nothing_left();
}

#[test]
fn an_archive_with_two_truths_is_refused() {
    let room = Room::new();
    let archive = Layer::default()
        .file("manifest.json", "[]")
        .file("./manifest.json", "[1]")
        .finish();
    fs::write(room.path("two.tar"), archive).unwrap();
    let said = room.run(&["import", "two.tar", "--output", "out"]);
    assert!(
        said.stderr.contains("two.tar: manifest.json is in it twice"),
        "{}",
        said.stderr
    );
    // A Docker archive cannot reach out of itself either.
    let manifest = r#"[{"Config": "../victim", "Layers": ["/etc/passwd"]}]"#;
    fs::write(
        room.path("out.tar"),
        Layer::default().file("manifest.json", manifest).finish(),
    )
    .unwrap();
    let said = room.run(&["import", "out.tar", "--output", "out"]);
    assert!(
        said.stderr.contains("the image's part ../victim is missing"),
        "{}",
        said.stderr
    );
    room.nothing_left();
}

#[test]
fn privileges_and_devices_do_not_get_in() {
    use std::os::unix::fs::PermissionsExt as _;
    let room = Room::new();
    let image = Image::new([Layer::default()
        .entry(EntryType::Regular, "su", "", 0o6755, b"x")
        .entry(EntryType::Directory, "d", "", 0o2775, b"")
        .file("gone", "x")
        .entry(EntryType::Char, "gone", "", 0o666, b"")
        .entry(EntryType::Block, "sda", "", 0o666, b"")
        .entry(EntryType::Fifo, "pipe", "", 0o666, b"")
        .pax("SCHILY.xattr.security.capability", "x")
        .file("ping", "x")]);
    let said = room.import(&image);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(
        said.stderr,
        "note: setuid and setgid bits dropped: su, d\n\
         note: device nodes and pipes left out: gone, sda, pipe\n\
         note: extended attributes left out: ping\n"
    );
    let mode = |name: &str| room.rootfs(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("su"), mode("d")), (0o755, 0o775));
    let there = super::names(&room.path("out/rootfs"));
    assert_eq!(there, ["d", "dev", "ping", "proc", "su", "sys", "tmp"]);
}
