//! What layers mean, what becomes of an image's configuration, and what a bundle is afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use tar::EntryType;

use super::Room;
use super::image::{Image, Layer, descriptor, gzip, write_layout, zstd};

#[test]
fn whiteouts_remove_what_lower_layers_had() {
    let room = Room::new();
    room.imported(&Image::new([
        Layer::default()
            .file("d/a", "1")
            .file("d/b", "1")
            .file("e/deep/x", "1")
            .file("f", "1"),
        // The whiteout stands after what it must not remove.
        Layer::default()
            .file("d/b", "2")
            .file("d/.wh.b", "")
            .file("d/.wh.a", "")
            .file(".wh.e", "")
            .file(".wh.never-there", "")
            .file(".wh..wh.plnk", ""),
    ]));
    assert_eq!(super::names(&room.rootfs("d")), ["b"]);
    assert_eq!(room.text("d/b"), "2");
    assert!(!room.rootfs("e").exists());
    assert_eq!(room.text("f"), "1");
}

#[test]
fn opaque_directories_hide_only_lower_layers() {
    let room = Room::new();
    room.imported(&Image::new([
        Layer::default()
            .file("d/old", "1")
            .file("d/sub/old", "1")
            .file("keep", "1"),
        Layer::default()
            .file("d/sub/new", "2")
            .file("d/.wh..wh..opq", "")
            .file("d/new", "2"),
    ]));
    assert_eq!(super::names(&room.rootfs("d")), ["new", "sub"]);
    assert_eq!(super::names(&room.rootfs("d/sub")), ["new"]);
    assert_eq!(room.text("keep"), "1");
}

#[test]
fn later_entries_replace_earlier_ones_of_any_type() {
    let room = Room::new();
    room.imported(&Image::new([Layer::default()
        .file("twice", "1")
        .file("twice", "2")
        .file("tree/a/b", "x")
        .file("tree", "now a file")
        .file("file", "x")
        .file(".wh.file", "")
        .symlink("link", "tree")
        .directory("link")
        .directory("kept/")
        .file("kept/x", "x")
        .entry(EntryType::Directory, "kept", "", 0o700, b"")]));
    assert_eq!(
        (room.text("twice"), room.text("tree")),
        ("2".into(), "now a file".into())
    );
    assert!(room.rootfs("link").symlink_metadata().unwrap().is_dir());
    assert_eq!(room.text("kept/x"), "x");
    assert_eq!(
        room.rootfs("kept").metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
    // A whiteout is about lower layers: this file is of the same one.
    assert_eq!(room.text("file"), "x");
}

#[test]
fn closed_directories_are_filled_and_stay_readable_for_their_owner() {
    let room = Room::new();
    room.imported(&Image::new([Layer::default()
        .entry(EntryType::Directory, "closed", "", 0o000, b"")
        .entry(EntryType::Regular, "closed/x", "", 0o001, b"x")
        .entry(EntryType::Directory, "read-only", "", 0o555, b"")
        .file("read-only/x", "x")]));
    let mode = |name: &str| room.rootfs(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode("closed"), mode("closed/x"), mode("read-only")),
        (0o500, 0o501, 0o555)
    );
    assert_eq!(room.run(&["rm", "out"]).code, Some(0));
    room.nothing_left();
}

#[test]
fn every_compression_and_form_gives_the_same_bundle() {
    let layers = || {
        [
            Layer::default().file("a", "x").finish(),
            Layer::default().symlink("b", "a").finish(),
        ]
    };
    let mut digests = Vec::new();
    for how in [gzip, zstd, |bytes: &[u8]| bytes.to_vec()] {
        let room = Room::new();
        let said = room.import(&Image::stored(layers(), how));
        assert_eq!(said.code, Some(0), "{said:?}");
        digests.push(said.stdout);
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    assert!(
        digests[0].starts_with("out: 7 entries, 1 B, sha256:"),
        "{}",
        digests[0]
    );
}

#[test]
fn the_images_configuration_becomes_config_json() {
    let room = Room::new();
    let image = Image::new([Layer::default()
        .file("etc/passwd", "root:x:0:0::/:\napp:x:33:34:::\n")
        .file("etc/group", "staff:x:50:\n")])
    .with("User", json!("app:staff"))
    .with("Env", json!(["A=b"]))
    .with("Entrypoint", json!(["/e"]))
    .with("Cmd", json!(["c"]))
    .with("WorkingDir", json!("/new/work"))
    .with("Labels", json!({ "l": "v", "dev.herd.bundle.digest": "forged" }));
    room.imported(&image);
    let said = room.run(&["inspect", "out", "-o", "json"]);
    let mut facts: Value = serde_json::from_str(&said.stdout).unwrap();
    let digest = facts["digest"].take();
    assert!(digest.as_str().unwrap().starts_with("sha256:"));
    facts["architecture"].take();
    assert_eq!(
        facts,
        json!({
            "path": "out", "digest": null, "args": ["/e", "c"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=b"],
            "cwd": "/new/work", "user": { "uid": 33, "gid": 50 }, "labels": { "l": "v" },
            "size": 42, "entries": 10, "architecture": null, "source": "image",
        })
    );
    assert!(room.rootfs("new/work").is_dir());
    for (user, message) in [
        (
            "nobody-there",
            "the image's user: \"nobody-there\" is neither a number nor in the image's etc/passwd",
        ),
        ("1:nogroup", "the image's user: its group \"nogroup\" is neither"),
    ] {
        Room::new().refused(&image.clone().with("User", json!(user)), message);
    }
}

#[test]
fn the_passwd_of_the_image_is_not_the_hosts() {
    let room = Room::new();
    fs::write(room.path("passwd"), "app:x:7:7:::\n").unwrap();
    let host = room.path("passwd").display().to_string();
    let image = Image::new([Layer::default().symlink("etc/passwd", &host)]).with("User", json!("app"));
    room.refused(
        &image,
        "\"app\" is neither a number nor in the image's etc/passwd",
    );
}

#[test]
fn several_images_and_platforms_are_told_apart() {
    let room = Room::new();
    let of = |content: &str, architecture: &str| {
        let mut image = Image::new([Layer::default().file("which", content)]);
        image.config["architecture"] = architecture.into();
        image
    };
    let images = [of("one", "amd64"), of("two", "arm64")];
    let described = |at: usize, name: &str, architecture: &str| {
        let mut value = descriptor(&images[at].manifest());
        value["platform"] = json!({ "os": "linux", "architecture": architecture });
        value["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        value
    };
    let blobs: Vec<_> = images.iter().flat_map(Image::blobs).collect();
    let index = json!({ "manifests": [described(0, "x", "amd64"), described(1, "x", "arm64"), described(0, "y", "amd64")] });
    write_layout(&room.path("image"), &blobs, &index);
    let import =
        |more: &[&str]| room.run(&[&["import", "image", "--output", "out", "--force"], more].concat());
    let said = import(&[]);
    assert!(
        said.stderr
            .contains("the archive has several images: x, y; choose one with --image"),
        "{said:?}"
    );
    for (platform, which) in [("linux/arm64", "two"), ("linux/amd64", "one")] {
        let said = import(&["--image", "x", "--platform", platform]);
        assert_eq!(
            (said.code, room.text("which")),
            (Some(0), which.to_owned()),
            "{}",
            said.stderr
        );
    }
    let said = import(&["--tag", "y", "--platform", "linux/arm64"]);
    assert!(
        said.stderr
            .contains("no image for linux/arm64 here, only for linux/amd64"),
        "{said:?}"
    );
    let said = import(&["--image", "z"]);
    assert!(
        said.stderr
            .contains("the archive has no image named \"z\"; it has x, y"),
        "{said:?}"
    );
    // What an index says about an image does not count more than the image.
    let index = json!({ "manifests": [described(1, "x", "amd64")] });
    write_layout(&room.path("image"), &blobs, &index);
    let said = import(&["--platform", "linux/amd64"]);
    assert!(
        said.stderr
            .contains("the image is for linux/arm64, not for linux/amd64"),
        "{said:?}"
    );
    assert_eq!(import(&["--platform", "amd64"]).code, Some(2));
}

#[test]
fn names_in_images_cannot_drive_a_terminal() {
    let room = Room::new();
    let image = Image::new([Layer::default().file("x", "")]);
    let described = |name: &str| {
        let mut value = descriptor(&image.manifest());
        value["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        value
    };
    let index = json!({ "manifests": [described("\x1b[2J"), described("b")] });
    write_layout(&room.path("image"), &image.blobs(), &index);
    let said = room.run(&["import", "image", "--output", "out"]);
    assert!(said.stderr.contains("several images: \\x1b[2J, b;"), "{said:?}");
}

#[test]
fn verify_names_every_drift() {
    let room = Room::new();
    room.imported(&Image::new([Layer::default()
        .file("same", "x")
        .file("content", "abc")
        .file("size", "x")
        .file("mode", "x")
        .file("type", "x")
        .file("gone/x", "x")
        .symlink("link", "same")]));
    let said = room.run(&["verify", "out"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.starts_with("out: as written, sha256:"));
    fs::write(room.rootfs("content"), "abd").unwrap();
    fs::write(room.rootfs("size"), "xx").unwrap();
    fs::set_permissions(room.rootfs("mode"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::remove_file(room.rootfs("type")).unwrap();
    fs::create_dir(room.rootfs("type")).unwrap();
    fs::remove_dir_all(room.rootfs("gone")).unwrap();
    fs::remove_file(room.rootfs("link")).unwrap();
    std::os::unix::fs::symlink("content", room.rootfs("link")).unwrap();
    fs::write(room.rootfs("new\n"), "x").unwrap();
    fs::write(room.path("out/more"), "x").unwrap();
    let said = room.run(&["verify", "out"]);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (
            Some(1),
            "added    more\n\
             changed  rootfs/content: content\n\
             removed  rootfs/gone\n\
             removed  rootfs/gone/x\n\
             changed  rootfs/link: leads to content instead of same\n\
             changed  rootfs/mode: mode 4755 instead of 0644\n\
             added    rootfs/new\\x0a\n\
             changed  rootfs/size: 2 bytes instead of 1\n\
             changed  rootfs/type: is no file any more\n\
             out: 9 differences\n"
        )
    );
    let said = room.run(&["verify", "out", "-o", "json"]);
    let drift: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, drift["ok"].as_bool()), (Some(1), Some(false)));
    assert_eq!(
        drift["drift"][1],
        json!({ "path": "rootfs/content", "kind": "changed", "what": "content" })
    );
}

#[test]
fn verify_notices_changes_to_what_it_compares_with() {
    let room = Room::new();
    room.imported(&Image::new([Layer::default().file("a", "x")]));
    let config = fs::read_to_string(room.path("out/config.json")).unwrap();
    fs::write(room.path("out/config.json"), config.replace("/bin/sh", "/bin/su")).unwrap();
    assert!(
        room.run(&["verify", "out"])
            .stdout
            .starts_with("changed  config.json: content\n")
    );
    let manifest = fs::read_to_string(room.path("out/herd-bundle.json")).unwrap();
    fs::write(
        room.path("out/herd-bundle.json"),
        manifest.replace("0644", "0666").replace("420", "438"),
    )
    .unwrap();
    let said = room.run(&["verify", "out"]);
    assert!(
        said.stderr.contains("herd-bundle.json contradicts itself"),
        "{said:?}"
    );
    fs::remove_file(room.path("out/herd-bundle.json")).unwrap();
    let said = room.run(&["verify", "out"]);
    assert!(said.stderr.contains("out was not made by herd"), "{said:?}");
}
