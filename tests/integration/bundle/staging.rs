//! A bundle is there as a whole or not at all.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Child, Stdio};

use serde_json::Value;

use super::image::{Image, Layer};
use super::{Room, names, said};
use crate::running::{poll, spawn};

fn image(content: &str) -> Image {
    Image::new([Layer::default().file("which", content)])
}

#[test]
fn an_output_that_exists_is_replaced_only_on_demand_and_only_if_it_is_a_bundle() {
    let room = Room::new();
    room.imported(&image("one"));
    let refused = room.import(&image("two"));
    assert_eq!(refused.code, Some(1));
    assert!(
        refused
            .stderr
            .contains("out exists; choose another --output, or replace it with --force")
    );
    assert_eq!(room.text("which"), "one");
    image("two").write(&room.path("image2"));
    assert_eq!(
        room.run(&["import", "image2", "--output", "out", "--force"]).code,
        Some(0)
    );
    assert_eq!(room.text("which"), "two");
    assert_eq!(names(room.directory.path()), ["home", "image", "image2", "out"]);
    for name in ["home", "image/index.json"] {
        let said = room.run(&["import", "image", "--output", name, "--force"]);
        assert!(
            said.stderr
                .contains("is not a bundle, so --force does not replace it"),
            "{said:?}"
        );
        assert!(room.path(name).exists());
    }
}

#[test]
fn what_a_killed_run_left_is_cleaned_up_by_the_next() {
    let room = Room::new();
    fs::create_dir_all(room.path(".out.herd-staging/rootfs/half")).unwrap();
    room.imported(&image("one"));
    assert_eq!(names(room.directory.path()), ["home", "image", "out"]);
}

/// A pull from somebody who accepts connections and says nothing, once its staging directory is there.
fn waiting(room: &Room) -> (Child, TcpListener) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("{}/x", silent.local_addr().unwrap());
    let child = spawn(
        room.herd(&["pull", &reference, "--output", "out"])
            .stderr(Stdio::piped()),
    );
    let staging = room.path(".out.herd-staging/rootfs");
    poll("the staging directory", || match staging.exists() {
        true => Ok(()),
        false => Err("not there".to_owned()),
    });
    (child, silent)
}

#[test]
fn an_interrupt_leaves_nothing_and_says_so() {
    let room = Room::new();
    let (mut child, _silent) = waiting(&room);
    std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    let status = child.wait().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(
        (status.code(), text.as_str()),
        (Some(130), "herd: interrupted; nothing is left behind\n")
    );
    room.nothing_left();
}

#[test]
fn a_signal_that_was_ignored_before_stays_ignored() {
    let room = Room::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("{}/x", silent.local_addr().unwrap());
    let herd = env!("CARGO_BIN_EXE_herd");
    let mut child = spawn(
        std::process::Command::new("sh")
            .args([
                "-c",
                "trap '' HUP; exec \"$0\" bundle pull \"$1\" --output out",
                herd,
                &reference,
            ])
            .env("HOME", room.path("home"))
            .current_dir(room.directory.path())
            .stderr(Stdio::null()),
    );
    // Handlers stand before the first directory does.
    poll("the staging directory", || {
        match room.path(".out.herd-staging").exists() {
            true => Ok(()),
            false => Err("not there".to_owned()),
        }
    });
    let pid = child.id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"))
        .unwrap();
    assert_eq!(
        u64::from_str_radix(ignored, 16).unwrap() & 1,
        1,
        "SIGHUP is signal 1"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn two_runs_for_one_output_do_not_meet() {
    let room = Room::new();
    let (mut child, _silent) = waiting(&room);
    let staging = room.path(".out.herd-staging/rootfs");
    let said = room.import(&image("one"));
    assert!(
        said.stderr.contains("another herd is making out; wait for it"),
        "{said:?}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(staging.exists(), "SIGKILL leaves it");
    room.imported(&image("one"));
    assert!(!staging.exists());
}

#[test]
fn a_full_disk_leaves_nothing() {
    let room = Room::new();
    Image::new([Layer::default().file("big", &"x".repeat(3 << 20))]).write(&room.path("image"));
    fs::create_dir(room.path("small")).unwrap();
    let script = "mount -t tmpfs -o size=1m none small || exit 42; \
        \"$0\" bundle import image --output small/out; code=$?; ls -A small; exit $code";
    let said = said(
        std::process::Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                env!("CARGO_BIN_EXE_herd"),
            ])
            .current_dir(room.directory.path()),
    );
    if said.code == Some(42) || said.stderr.contains("unshare failed") {
        return crate::skip::skipped("no user namespace to mount a small filesystem in");
    }
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    assert!(
        said.stderr
            .contains("big: cannot write the file: No space left on device"),
        "{said:?}"
    );
}

#[test]
fn rm_removes_bundles_and_nothing_else() {
    let room = Room::new();
    room.imported(&image("one"));
    let said = room.run(&["rm", "home", "nowhere", "image", "out"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("home is not a bundle"), "{said:?}");
    assert!(said.stderr.contains("nowhere does not exist"), "{said:?}");
    assert_eq!(names(room.directory.path()), ["home", "image"]);
}

#[test]
fn ls_shows_bundles_and_only_those() {
    let room = Room::new();
    assert_eq!(
        room.run(&["ls"]).stderr,
        "no bundles; `herd bundle --help` says how to make one\n"
    );
    image("one").write(&room.path("image"));
    for output in ["bundles/a", "b"] {
        let said = room.run(&["import", "image", "--output", output, "-o", "json"]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let said = room.run(&["ls", "-o", "json"]);
    let list: Value = serde_json::from_str(&said.stdout).unwrap();
    let paths: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|facts| facts["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["bundles/a", "b"]);
    assert!(room.run(&["ls"]).stdout.starts_with("BUNDLE     ARCH"));
    assert_eq!(room.run(&["ls", "nowhere"]).code, Some(1));
}
