//! What stands between a stranger's paths and the file system, and what a bundle has to be to be opened.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use caps::{CapSet, Capability};

use super::*;

fn message(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

fn root(directory: &Path) -> Root {
    let path = directory.join("root");
    fs::create_dir(&path).unwrap();
    Root::new(
        OwnedFd::from(File::open(&path).unwrap()),
        &path,
        Limits::default(),
    )
}

#[test]
fn the_kernel_refuses_links_that_the_index_does_not_know() {
    let directory = tempfile::tempdir().unwrap();
    let mut root = root(directory.path());
    root.directory(Path::new("d"), &Attributes::new(0o755)).unwrap();
    // Somebody else swaps the directory for a link out of the root, as only the directory's owner could.
    let d = directory.path().join("root/d");
    fs::remove_dir(&d).unwrap();
    symlink(directory.path(), &d).unwrap();
    for result in [
        root.file(Path::new("d/x"), &Attributes::new(0o644), &mut &b"x"[..])
            .map(drop),
        root.directory(Path::new("d/y"), &Attributes::new(0o755)),
        root.symlink(Path::new("d/z"), Path::new("t"), &Attributes::new(0o777)),
    ] {
        let error = message(result.unwrap_err());
        assert!(error.starts_with("cannot open a directory: "), "{error}");
    }
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "something was written outside"
    );
}

#[test]
fn limits_hold_over_all_entries_together() {
    let directory = tempfile::tempdir().unwrap();
    let mut root = root(directory.path());
    let path = directory.path().join("root");
    let mut small = Root::new(
        OwnedFd::from(File::open(&path).unwrap()),
        &path,
        Limits {
            bytes: 10,
            entries: 3,
        },
    );
    let attributes = Attributes::new(0o644);
    small
        .file(Path::new("a"), &attributes, &mut &b"12345"[..])
        .unwrap();
    small
        .file(Path::new("a"), &attributes, &mut &b"12345"[..])
        .unwrap();
    let error = small
        .file(Path::new("a"), &attributes, &mut &b"1"[..])
        .unwrap_err();
    assert_eq!(error.to_string(), "the files together have more than 10 bytes");
    let error = small.directory(Path::new("b"), &attributes).unwrap_err();
    assert_eq!(error.to_string(), "there are more than 3 entries");
    // A file does not end by itself.
    let error = root
        .file(
            Path::new("endless"),
            &attributes,
            &mut std::io::repeat(0).take_with_error(),
        )
        .unwrap_err();
    assert_eq!(message(error), "cannot read its content: enough");
}

/// A reader that fails after a while.
trait TakeWithError: std::io::Read + Sized {
    fn take_with_error(self) -> FailsLater<Self> {
        FailsLater(self, 3)
    }
}

impl<R: std::io::Read> TakeWithError for R {}

struct FailsLater<R>(R, u32);

impl<R: std::io::Read> std::io::Read for FailsLater<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.1.checked_sub(1) {
            None => Err(std::io::Error::other("enough")),
            Some(left) => {
                self.1 = left;
                self.0.read(buffer)
            }
        }
    }
}

#[test]
fn hard_links_are_one_file_and_owners_are_kept_where_they_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let mut root = root(directory.path());
    let theirs = Attributes {
        uid: 1234,
        gid: 4321,
        mtime: 1_000_000_000,
        ..Attributes::new(0o4751)
    };
    root.file(Path::new("a"), &theirs, &mut &b"x"[..]).unwrap();
    root.hardlink(Path::new("deep/b"), Path::new("/a")).unwrap();
    let entries = root.seal().unwrap();
    let (a, b) = (
        directory.path().join("root/a").metadata().unwrap(),
        directory.path().join("root/deep/b").metadata().unwrap(),
    );
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    assert_eq!(
        (a.permissions().mode() & 0o7777, a.mtime()),
        (0o751, 1_000_000_000)
    );
    let expected = match nix::unistd::geteuid().is_root() {
        true => (1234, 4321),
        false => (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
    };
    assert_eq!((a.uid(), a.gid()), expected);
    assert_eq!(entries.len(), 4, "{entries:?}");
    assert_eq!(entries[Path::new("a")], entries[Path::new("deep/b")]);
}

/// A bundle with this config.json.
fn bundle(config: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("rootfs")).unwrap();
    fs::write(directory.path().join("config.json"), config).unwrap();
    directory
}

const GOOD: &str = r#"{"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "process":
    {"user": {"uid": 5, "gid": 6, "additionalGids": [7]}, "args": ["/bin/x", "y"], "env": ["A=1", "A=2", "AB=3"], "cwd": "/w"}}"#;

#[test]
fn a_bundle_of_anybody_is_read() {
    let directory = bundle(GOOD);
    let bundle = open(directory.path()).unwrap();
    assert_eq!(bundle.rootfs, directory.path().join("rootfs"));
    assert_eq!(bundle.args, ["/bin/x", "y"]);
    assert_eq!(
        (bundle.user, bundle.additional_gids.as_slice()),
        (User { uid: 5, gid: 6 }, &[7][..])
    );
    assert_eq!((bundle.variable("A"), bundle.variable("B")), (Some("2"), None));
    assert_eq!((bundle.cwd.to_str(), bundle.digest()), (Some("/w"), None));
}

#[test]
fn what_is_no_bundle_says_what_is_missing() {
    let refusal = |directory: &Path| message(open(directory).unwrap_err());
    let empty = tempfile::tempdir().unwrap();
    let at = empty.path().display();
    let missing = empty.path().join("x");
    assert!(
        refusal(&missing)
            .ends_with("/x does not exist; make the bundle with `herd bundle`, or correct the path")
    );
    assert_eq!(
        refusal(empty.path()),
        format!("{at} has no config.json, so it is not a bundle; `herd bundle build` makes one of a recipe")
    );
    for (config, expected) in [
        (
            "{\n  \"ociVersion\": }",
            "is not a valid config.json: expected value at line 2 column 17",
        ),
        (
            "{}",
            "is not a valid config.json: missing field `ociVersion` at line 1 column 2",
        ),
        (
            r#"{"ociVersion": "2.0.0", "root": 5}"#,
            "ociVersion \"2.0.0\" is not 1.x, the only one herd understands",
        ),
        (
            r#"{"ociVersion": "1.0.0", "root": 5}"#,
            "is not a valid config.json: invalid type: integer `5`",
        ),
        (
            r#"{"ociVersion": "1.0.0"}"#,
            "has no `root`, so there is no root filesystem",
        ),
        (
            r#"{"ociVersion": "1.0.0", "root": {"path": "gone"}}"#,
            "gone does not exist",
        ),
        (
            r#"{"ociVersion": "1.0.0", "root": {"path": "config.json"}}"#,
            "config.json is not a directory",
        ),
        (
            &GOOD.replace("/w", "w"),
            "process.cwd \"w\" is not an absolute path",
        ),
    ] {
        let directory = bundle(config);
        let error = refusal(directory.path());
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("/config.json"), "{error}");
    }
    let file = bundle(GOOD).keep().join("config.json");
    assert!(
        refusal(&file).ends_with("is not a directory; a bundle is a directory with config.json and rootfs")
    );
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

#[test]
fn a_bundle_without_permission_says_so() {
    let directory = bundle(GOOD);
    let config = directory.path().join("config.json");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything; a thread of its own gives that right up.
    let opened = std::thread::scope(|scope| {
        let unprivileged = || {
            for capability in [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH] {
                caps::drop(None, CapSet::Effective, capability).unwrap();
            }
            open(directory.path())
        };
        scope.spawn(unprivileged).join().unwrap()
    });
    assert_eq!(
        message(opened.unwrap_err()),
        format!("{}: no permission to read it", config.display())
    );
}

#[test]
fn without_a_path_programs_are_looked_for_where_a_worker_would() {
    let directory = bundle(GOOD);
    let place = directory.path().join("rootfs/usr/sbin");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(place.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    open(directory.path()).unwrap().check_program("tool").unwrap();
}

#[test]
fn programs_are_looked_for_inside_and_have_to_be_for_this_machine() {
    let directory = bundle(&GOOD.replace("A=1", "PATH=/bin:relative"));
    let rootfs = directory.path().join("rootfs");
    for place in ["bin", "w/relative"] {
        fs::create_dir_all(rootfs.join(place)).unwrap();
    }
    let program = |path: &str, content: &[u8], mode| {
        fs::write(rootfs.join(path), content).unwrap();
        fs::set_permissions(rootfs.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let elf = |machine: u16| {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(18, 0);
        header.extend(machine.to_le_bytes());
        header.resize(64, 0);
        header
    };
    program("bin/script", b"#!/bin/sh\n", 0o755);
    program("bin/data", b"x", 0o644);
    program("w/relative/there", b"x", 0o755);
    program("bin/foreign", &elf(0x1234), 0o755);
    program("bin/mips", &elf(8), 0o755);
    program("bin/own", &fs::read("/proc/self/exe").unwrap()[..64], 0o755);
    symlink("/bin/script", rootfs.join("bin/absolute")).unwrap();
    symlink("/proc/self/exe", rootfs.join("bin/outside")).unwrap();
    let bundle = open(directory.path()).unwrap();
    for good in [
        "script",
        "/bin/script",
        "there",
        "relative/there",
        "absolute",
        "own",
        "../bin/own",
    ] {
        bundle
            .check_program(good)
            .unwrap_or_else(|error| panic!("{good}: {}", message(error)));
    }
    let at = rootfs.display();
    for (program, expected) in [
        (
            "gone",
            format!("\"gone\" is not in {at} (PATH there is /bin:relative)"),
        ),
        ("/gone", format!("\"/gone\" is not in {at}")),
        (
            "/../../../../../../bin/sh",
            format!("\"/../../../../../../bin/sh\" is not in {at}"),
        ),
        (
            "outside",
            format!("\"outside\" is not in {at} (PATH there is /bin:relative)"),
        ),
        ("data", format!("\"data\" in {at} is not an executable file")),
        (
            "foreign",
            format!("\"foreign\" in {at} is for another architecture, and this machine is "),
        ),
        (
            "mips",
            format!("\"mips\" in {at} is for mips, and this machine is "),
        ),
    ] {
        let error = message(bundle.check_program(program).unwrap_err());
        assert!(error.starts_with(&expected), "{error}");
    }
}
