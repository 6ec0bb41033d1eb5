//! Real tools: images made with umoci and skopeo, a real registry, and bundles run with runc and crun.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::{Room, Said, said};
use crate::running::{poll, spawn};
use crate::skip::skipped;

fn installed(tool: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(tool).is_file()))
}

/// Whether all of them are there; says loudly if not.
fn have(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| !installed(tool)).copied().collect();
    if !missing.is_empty() {
        skipped(&format!("not installed: {}", missing.join(", ")));
    }
    missing.is_empty()
}

fn run(room: &Room, command: &str) {
    let said = said(
        Command::new("sh")
            .args(["-ec", command])
            .current_dir(room.directory.path()),
    );
    assert_eq!(said.code, Some(0), "{command}: {said:?}");
}

/// `layout:base`, with a busybox that says who and where it is, in three layers of which one takes back.
fn umoci(room: &Room) {
    run(
        room,
        "mkdir -p base/bin base/etc base/old upper/etc
         cp \"$(command -v busybox)\" base/bin/busybox
         for applet in sh echo id pwd; do ln -s busybox base/bin/$applet; done
         echo 'app:x:1000:1000::/:/bin/sh' > base/etc/passwd
         echo lower > base/etc/which; echo upper > upper/etc/which; touch base/old/file
         umoci init --layout layout
         umoci new --image layout:base
         umoci insert --rootless --image layout:base base /
         umoci insert --rootless --image layout:base upper/etc/which /etc/which
         umoci insert --rootless --image layout:base --whiteout /old
         umoci config --image layout:base --config.user app --config.workingdir /work \
           --config.cmd /bin/sh --config.cmd -c --config.cmd 'pwd; id -u; echo $GREETING' --config.env GREETING=hello",
    );
}

fn digest(said: &Said) -> &str {
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout.trim().rsplit(' ').next().unwrap()
}

#[test]
fn images_of_real_tools_give_one_and_the_same_bundle() {
    if !have(&["umoci", "skopeo", "busybox", "zstd"]) {
        return;
    }
    let room = Room::new();
    umoci(&room);
    run(
        &room,
        "skopeo copy -q oci:layout:base docker-archive:docker.tar:me/base:1
         skopeo copy -q oci:layout:base oci-archive:oci.tar:base
         skopeo copy -q --dest-compress-format zstd oci:layout:base oci:zstd:base
         gzip -k docker.tar; zstd -q docker.tar",
    );
    let mut digests = Vec::new();
    for image in [
        "layout",
        "docker.tar",
        "oci.tar",
        "zstd",
        "docker.tar.gz",
        "docker.tar.zst",
    ] {
        let said = room.run(&["import", image, "--output", &format!("out-{image}")]);
        digests.push(digest(&said).to_owned());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
    let rootfs = room.path("out-layout/rootfs");
    assert_eq!(fs::read_to_string(rootfs.join("etc/which")).unwrap(), "upper\n");
    assert!(!rootfs.join("old").exists());
    // The rightful unpacker agrees about every file.
    run(
        &room,
        "umoci unpack --rootless --image layout:base theirs
         rmdir out-layout/rootfs/proc out-layout/rootfs/dev out-layout/rootfs/sys out-layout/rootfs/tmp out-layout/rootfs/work
         diff -r --no-dereference theirs/rootfs out-layout/rootfs",
    );
}

/// Runs `bundle` with an OCI runtime; as somebody else if `user` says so.
fn with_runtime(room: &Room, runtime: &str, bundle: &str, user: Option<&str>) -> Said {
    let state = room.path("home/run");
    fs::create_dir_all(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    // crun knows no hybrid hierarchies, wherever their second half is mounted; nothing here needs it.
    let mut script = String::from("umount /sys/fs/cgroup/unified 2> /dev/null; ");
    script += &user.map_or_else(String::new, |user| {
        format!("exec setpriv --reuid {user} --regid {user} --clear-groups ")
    });
    let name = format!("herd-test-{}-{}", std::process::id(), bundle.replace('/', "-"));
    script += &match runtime {
        "crun" => format!(
            "crun --root {} --cgroup-manager=disabled run {name}",
            state.display()
        ),
        _ => format!("runc --root {} run {name}", state.display()),
    };
    said(
        Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .env("XDG_RUNTIME_DIR", &state)
            .current_dir(room.path(bundle)),
    )
}

#[test]
fn runc_and_crun_run_bundles_of_root_and_of_others() {
    if !have(&["umoci", "busybox", "runc", "crun", "setpriv", "unshare"]) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root may run these runtimes with cgroups, and as another user");
    }
    let room = Room::new();
    umoci(&room);
    digest(&room.run(&["import", "layout", "--output", "out"]));
    for runtime in ["runc", "crun"] {
        let said = with_runtime(&room, runtime, "out", None);
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(0), "/work\n1000\nhello\n"),
            "{runtime}: {said:?}"
        );
    }
    let said = room.run(&["verify", "out"]);
    assert_eq!(said.code, Some(0), "running changed it: {said:?}");

    // Another user needs a binary and directories that it may reach.
    let user = "65534";
    let herd = room.path("herd");
    fs::copy(env!("CARGO_BIN_EXE_herd"), &herd).unwrap();
    fs::set_permissions(room.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    run(
        &room,
        "mkdir theirs; chown 65534:65534 theirs home; chmod -R a+rX layout",
    );
    let said = super::said(
        Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .arg(&herd)
            .args(["bundle", "import", "layout", "--output", "theirs/out"])
            .env("HOME", room.path("home"))
            .current_dir(room.directory.path()),
    );
    let ours = room.run(&["inspect", "out", "-o", "json"]);
    assert!(
        ours.stdout.contains(digest(&said)),
        "the digest depends on who makes it: {said:?}"
    );
    for runtime in ["crun", "runc"] {
        let said = with_runtime(&room, runtime, "theirs/out", Some(user));
        // The only identity a rootless runtime has; herd's own sandbox takes the one in the annotation.
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(0), "/work\n0\nhello\n"),
            "{runtime}: {said:?}"
        );
    }
}

/// `docker-registry serve`, gone with its test.
struct Registry {
    child: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// On `host`, with what else its configuration shall have under `auth` and `http`.
    fn new(directory: &Path, host: &str, auth: &str, tls: &str) -> Self {
        // Taken and given back: the registry cannot say which port it got.
        let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
        let address = format!("{host}:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n{auth}\n\
             http:\n  addr: {address}\n  secret: x\n{tls}\n",
            directory.join("store").display()
        );
        let path = directory.join("registry.yml");
        fs::write(&path, config).unwrap();
        let log = fs::File::create(directory.join("registry.log")).unwrap();
        let child = spawn(
            Command::new("docker-registry")
                .arg("serve")
                .arg(&path)
                .stdout(log.try_clone().unwrap())
                .stderr(log),
        );
        poll("the registry", || {
            TcpStream::connect(&address)
                .map(drop)
                .map_err(|error| error.to_string())
        });
        Self { child, address }
    }
}

fn docker_login(room: &Room, address: &str) {
    let auth = data_encoding::BASE64.encode(b"me:secret");
    fs::create_dir_all(room.path("home/.docker")).unwrap();
    let config = format!(r#"{{"auths": {{"{address}": {{"auth": "{auth}"}}}}}}"#);
    fs::write(room.path("home/.docker/config.json"), config).unwrap();
}

#[test]
fn a_real_registry_gives_its_images_to_whom_it_may() {
    if !have(&["umoci", "skopeo", "busybox", "docker-registry", "htpasswd"]) {
        return;
    }
    let room = Room::new();
    umoci(&room);
    run(&room, "htpasswd -Bbn me secret > htpasswd");
    let auth = format!(
        "auth: {{htpasswd: {{realm: x, path: {}}}}}",
        room.path("htpasswd").display()
    );
    let registry = Registry::new(room.directory.path(), "127.0.0.1", &auth, "");
    let address = &registry.address;
    run(
        &room,
        &format!(
            "skopeo copy -q --dest-creds me:secret --dest-tls-verify=false oci:layout:base docker://{address}/team/base:1
             skopeo copy -q --dest-creds me:secret --dest-tls-verify=false --format v2s2 oci:layout:base docker://{address}/team/base:docker"
        ),
    );
    let reference = format!("{address}/team/base:1");
    let nobody = room.run(&["pull", &reference, "--output", "out"]);
    assert!(
        nobody
            .stderr
            .contains(&format!("without a login (`docker login {address}`)")),
        "{nobody:?}"
    );
    docker_login(&room, address);
    let pulled = room.run(&["pull", &reference, "--output", "out"]);
    let imported = room.run(&["import", "layout", "--output", "imported"]);
    assert_eq!(digest(&pulled), digest(&imported));
    let docker = room.run(&[
        "pull",
        &format!("{address}/team/base:docker"),
        "--output",
        "docker",
    ]);
    assert_eq!(digest(&docker), digest(&imported));
    let missing = room.run(&["pull", &format!("{address}/team/base:2"), "--output", "missing"]);
    assert!(
        missing.stderr.contains("has no manifests/2 in team/base"),
        "{missing:?}"
    );
    // By the digest that the first pull put on record.
    let facts = room.run(&["inspect", "out", "-o", "json"]);
    let facts: serde_json::Value = serde_json::from_str(&facts.stdout).unwrap();
    let pinned = facts["source"]
        .as_str()
        .unwrap()
        .rsplit_once('@')
        .unwrap()
        .1
        .to_owned();
    let again = room.run(&[
        "pull",
        &format!("{address}/team/base@{pinned}"),
        "--output",
        "again",
    ]);
    assert_eq!(digest(&again), digest(&imported));
}

#[test]
fn other_machines_are_spoken_to_with_tls_and_only_with_the_right_certificate() {
    if !have(&["umoci", "skopeo", "busybox", "docker-registry", "openssl"]) {
        return;
    }
    let room = Room::new();
    umoci(&room);
    run(
        &room,
        "new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
         openssl req -x509 $new -keyout ca.key -out ca.pem -days 2 -subj /CN=authority 2> /dev/null
         openssl req $new -keyout key.pem -out request.pem -subj /CN=registry 2> /dev/null
         echo subjectAltName=IP:127.0.0.2 > names
         openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem \
           2> /dev/null",
    );
    let (cert, key): (PathBuf, PathBuf) = (room.path("cert.pem"), room.path("key.pem"));
    let tls = format!(
        "  tls: {{certificate: {}, key: {}}}",
        cert.display(),
        key.display()
    );
    // Not one of the names that mean this machine, so plain http is out of the question.
    let registry = Registry::new(room.directory.path(), "127.0.0.2", "", &tls);
    let address = &registry.address;
    run(
        &room,
        &format!("skopeo copy -q --dest-tls-verify=false oci:layout:base docker://{address}/base:1"),
    );
    let reference = format!("{address}/base:1");
    let untrusted = room.run(&["pull", &reference, "--output", "out"]);
    assert_eq!(untrusted.code, Some(1));
    assert!(untrusted.stderr.contains("certificate"), "{untrusted:?}");
    room.nothing_left();
    let trusted = super::said(
        room.herd(&["pull", &reference, "--output", "out"])
            .env("SSL_CERT_FILE", room.path("ca.pem")),
    );
    digest(&trusted);
}
