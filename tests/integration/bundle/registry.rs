//! Pulling from registries that are wrong, slow of wit, or after somebody's password.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::fake_registry::{Answer, FakeRegistry, part};
use super::image::{Image, Layer, descriptor, digest};
use super::{Room, Said};

fn image() -> Image {
    Image::new([Layer::default().file("which", &"content ".repeat(1000))])
}

fn pull(room: &Room, reference: &str) -> Said {
    room.run(&["pull", reference, "--output", "out"])
}

fn log_in(room: &Room, config: &serde_json::Value) {
    fs::create_dir_all(room.path("home/.docker")).unwrap();
    fs::write(room.path("home/.docker/config.json"), config.to_string()).unwrap();
}

/// `me:secret` for a registry.
fn login(registry: &FakeRegistry) -> serde_json::Value {
    json!({ "auths": { registry.address.to_string(): { "auth": "bWU6c2VjcmV0" } } })
}

fn cached(room: &Room) -> Vec<String> {
    super::names(&room.path("home/.cache/herd/blobs/sha256"))
}

#[test]
fn blobs_come_once_and_then_from_the_cache() {
    let registry = FakeRegistry::of(&image(), |_| None);
    let room = Room::new();
    let said = pull(&room, &registry.reference());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.stderr, "", "no progress bar without a terminal");
    assert!(room.text("which").starts_with("content"));
    assert_eq!(registry.count("/blobs/"), 2);
    let said = room.run(&["pull", &registry.reference(), "--output", "again"]);
    assert_eq!((said.code, registry.count("/blobs/")), (Some(0), 2), "{said:?}");
    // What the tag meant is on record.
    let said = room.run(&["inspect", "again", "-o", "json"]);
    let source = format!("{}@{}", registry.reference(), digest(&image().manifest()));
    assert!(said.stdout.contains(&source), "{said:?}");
    // A blob that rotted in the cache is fetched anew.
    let layer = digest(&image().blobs()[0]).replace("sha256:", "");
    fs::write(room.path("home/.cache/herd/blobs/sha256").join(layer), "rot").unwrap();
    let said = room.run(&["pull", &registry.reference(), "--output", "third"]);
    assert_eq!((said.code, registry.count("/blobs/")), (Some(0), 3), "{said:?}");
}

#[test]
fn a_blob_with_another_digest_is_refused_and_not_kept() {
    let layer = digest(&image().blobs()[0]);
    let wanted = layer.clone();
    let registry = FakeRegistry::of(&image(), move |request| {
        let size = image().blobs()[0].len();
        request
            .target
            .ends_with(&wanted)
            .then(|| Answer::ok(vec![b'x'; size]))
    });
    let room = Room::new();
    let said = pull(&room, &registry.reference());
    let message = format!("blobs/{layer} announced itself as {layer} and is sha256:");
    assert!(said.stderr.contains(&message), "{said:?}");
    room.nothing_left();
    assert!(
        !cached(&room)
            .iter()
            .any(|name| layer.contains(name.trim_end_matches(".partial"))),
        "{:?}",
        cached(&room)
    );
}

#[test]
fn a_blob_without_an_end_is_refused_at_its_announced_size() {
    let layer = digest(&image().blobs()[0]);
    let wanted = layer.clone();
    let registry = FakeRegistry::of(&image(), move |request| {
        request.target.ends_with(&wanted).then(|| Answer {
            length: None,
            ..Answer::ok(vec![b'x'; 10 << 20])
        })
    });
    let room = Room::new();
    let said = pull(&room, &registry.reference());
    assert!(
        said.stderr
            .contains(&format!("{layer}: the registry gives more than the")),
        "{said:?}"
    );
    room.nothing_left();
}

#[test]
fn a_manifest_without_an_end_is_refused() {
    let registry = FakeRegistry::new(|_| Answer {
        length: None,
        ..Answer::ok(vec![b' '; 8 << 20])
    });
    let room = Room::new();
    let said = pull(&room, &registry.reference());
    assert!(
        said.stderr
            .contains("gives more than 4194304 bytes for manifests/latest"),
        "{said:?}"
    );
    room.nothing_left();
}

#[test]
fn a_manifest_with_another_digest_is_refused() {
    let registry = FakeRegistry::new(|_| Answer::ok(image().manifest()));
    let room = Room::new();
    let other = digest(b"other");
    let said = pull(&room, &format!("{}/x@{other}", registry.address));
    let is = digest(&image().manifest());
    assert!(
        said.stderr.contains(&format!(
            "manifests/{other} announced itself as {other} and is {is}"
        )),
        "{said:?}"
    );
}

#[test]
fn layers_too_large_together_are_refused_before_one_is_fetched() {
    let mut large = descriptor(b"large");
    large["size"] = json!(16_u64 << 30);
    let layers = [large, descriptor(b"small")];
    let manifest = json!({ "config": descriptor(b"config"), "layers": layers }).to_string();
    let registry = FakeRegistry::new(move |_| Answer::ok(manifest.clone()));
    let room = Room::new();
    let said = pull(&room, &registry.reference());
    assert!(
        said.stderr.contains(
            "its layers are announced with 17179869189 bytes together, more than the 17179869184 allowed"
        ),
        "{said:?}"
    );
    assert_eq!(registry.count("/blobs/"), 0);
}

#[test]
fn a_download_that_breaks_goes_on_where_it_was() {
    let blob = image().blobs()[0].clone();
    let wanted = digest(&blob);
    let times = AtomicUsize::new(0);
    let registry = FakeRegistry::of(&image(), move |request| {
        if !request.target.ends_with(&wanted) {
            return None;
        }
        Some(match times.fetch_add(1, Ordering::SeqCst) {
            0 => Answer {
                length: Some(blob.len()),
                ..Answer::ok(&blob[..5000])
            },
            1 => Answer::status(503, &[]),
            _ => Answer {
                status: 206,
                headers: vec![format!(
                    "content-range: bytes 5000-{}/{}",
                    blob.len() - 1,
                    blob.len()
                )],
                ..Answer::ok(&blob[5000..])
            },
        })
    });
    let room = Room::new();
    let said = pull(&room, &registry.reference());
    assert_eq!(said.code, Some(0), "{said:?}");
    let ranges: Vec<_> = registry
        .requests()
        .into_iter()
        .filter_map(|request| request.range)
        .collect();
    assert_eq!(ranges, ["bytes=5000-", "bytes=5000-"]);
}

#[test]
fn a_wrong_beginning_in_the_cache_heals() {
    let room = Room::new();
    let layer = digest(&image().blobs()[0]).replace("sha256:", "");
    let place = room.path("home/.cache/herd/blobs/sha256");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join(format!("{layer}.partial")), "not its beginning").unwrap();
    // This registry does not know ranges: it gives all of it.
    let registry = FakeRegistry::of(&image(), |_| None);
    let said = pull(&room, &registry.reference());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(
        cached(&room)
            .iter()
            .filter(|name| name.ends_with("partial"))
            .count(),
        0
    );
}

#[test]
fn failures_are_retried_a_few_times_and_no_more() {
    let registry = FakeRegistry::new(|_| Answer {
        status: 500,
        ..Answer::ok("out of order\x1b[2J")
    });
    let room = Room::new();
    let said = pull(&room, &registry.reference());
    assert_eq!((said.code, registry.requests().len()), (Some(1), 5));
    assert!(
        said.stderr
            .contains("answered 500 Internal Server Error for manifests/latest"),
        "{said:?}"
    );
    assert!(!said.stderr.contains('\x1b'), "{said:?}");
    let registry = FakeRegistry::new(|_| Answer::status(404, &[]));
    let said = pull(&room, &registry.reference());
    assert_eq!(registry.requests().len(), 1, "what is missing stays missing");
    assert!(said.stderr.contains("has no manifests/latest in x"), "{said:?}");
}

#[test]
fn a_login_is_not_shown_to_where_a_redirect_leads() {
    let other = FakeRegistry::of(&image(), |_| None);
    let elsewhere = other.address;
    let registry = FakeRegistry::of(&image(), move |request| match request.authorization.as_deref() {
        None => Some(Answer::status(
            401,
            &["www-authenticate: Basic realm=\"x\"".to_owned()],
        )),
        Some("Basic bWU6c2VjcmV0") if request.target.contains("/blobs/") => Some(Answer::status(
            307,
            &[format!("location: http://{elsewhere}{}", request.target)],
        )),
        Some(_) => None,
    });
    let room = Room::new();
    log_in(&room, &login(&registry));
    let said = pull(&room, &registry.reference());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(other.count("/blobs/"), 2);
    assert!(
        other
            .requests()
            .iter()
            .all(|request| request.authorization.is_none())
    );
}

#[test]
fn redirects_end() {
    let registry =
        FakeRegistry::new(|request| Answer::status(302, &[format!("location: {}x", request.target)]));
    let room = Room::new();
    let said = pull(&room, &registry.reference());
    assert!(said.stderr.contains("one redirect too many"), "{said:?}");
    let registry = FakeRegistry::new(|_| Answer::status(302, &["location: file:///etc/passwd".to_owned()]));
    let said = pull(&room, &registry.reference());
    assert!(
        said.stderr
            .contains("redirects to file:///etc/passwd, which herd does not follow"),
        "{said:?}"
    );
}

/// A registry that wants a token, for more than is asked of it, and the realm that gives it.
fn with_realm(realm: impl Fn(&FakeRegistry) -> String) -> (FakeRegistry, FakeRegistry) {
    let tokens = FakeRegistry::new(|_| Answer::ok(r#"{"token": "t0k3n"}"#));
    let realm = realm(&tokens);
    let registry = FakeRegistry::new(move |request| match request.authorization.as_deref() {
        Some("Bearer t0k3n") => part(&image(), &request.target),
        _ => Answer::status(
            401,
            &[format!(
                "www-authenticate: Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:a:push,pull repository:x:pull\""
            )],
        ),
    });
    (registry, tokens)
}

#[test]
fn tokens_are_fetched_with_and_without_a_login() {
    for known in [false, true] {
        let (registry, tokens) = with_realm(|tokens| format!("http://{}/token?a=b", tokens.address));
        let room = Room::new();
        if known {
            log_in(&room, &login(&registry));
        }
        let said = pull(&room, &registry.reference());
        assert_eq!(said.code, Some(0), "{said:?}");
        let asked = tokens.requests();
        assert_eq!(asked.len(), 1, "one token for all parts");
        let account = if known { "&account=me" } else { "" };
        let account = format!("/token?a=b{account}&scope=repository%3Ax%3Apull&service=s")
            .replace("b&account", "b&account");
        assert_eq!(asked[0].target, account);
        assert_eq!(
            asked[0].authorization.as_deref(),
            known.then_some("Basic bWU6c2VjcmV0")
        );
        // The registry itself never sees the password then.
        let shown: Vec<_> = registry
            .requests()
            .into_iter()
            .filter_map(|request| request.authorization)
            .collect();
        assert!(shown.iter().all(|shown| shown == "Bearer t0k3n"), "{shown:?}");
    }
}

#[test]
fn a_refresh_token_is_exchanged_by_oauth() {
    let (registry, tokens) = with_realm(|tokens| format!("http://{}/token", tokens.address));
    let room = Room::new();
    log_in(
        &room,
        &json!({ "auths": { registry.address.to_string(): { "identitytoken": "r/t" } } }),
    );
    let said = pull(&room, &registry.reference());
    assert_eq!(said.code, Some(0), "{said:?}");
    let asked = &tokens.requests()[0];
    assert_eq!(
        (asked.method.as_str(), asked.authorization.as_deref()),
        ("POST", None)
    );
    assert_eq!(
        asked.body,
        "client_id=herd&grant_type=refresh_token&refresh_token=r%2Ft&scope=repository%3Ax%3Apull&service=s"
    );
}

#[test]
fn a_login_is_not_sent_over_plain_http_to_another_machine() {
    // An address that is reserved for documentation: nobody is there.
    let (registry, _) = with_realm(|_| "http://192.0.2.1/token".to_owned());
    let room = Room::new();
    log_in(&room, &login(&registry));
    let said = pull(&room, &registry.reference());
    assert!(
        said.stderr
            .contains("wants the login shown to http://192.0.2.1/token over plain http"),
        "{said:?}"
    );
}

#[test]
fn helpers_are_asked_as_docker_asks_them() {
    let registry = FakeRegistry::of(&image(), |request| match request.authorization.as_deref() {
        Some("Basic aGVscGVyOnBhc3M=") => None,
        _ => Some(Answer::status(
            401,
            &["www-authenticate: Basic realm=\"x\"".to_owned()],
        )),
    });
    let room = Room::new();
    fs::create_dir(room.path("bin")).unwrap();
    let helper = room.path("bin/docker-credential-test");
    let script = "#!/bin/sh\n[ \"$1\" = get ] || exit 1\nread -r server || [ \"$server\" ]\necho \"$server\" > asked\n\
        echo '{\"ServerURL\": \"x\", \"Username\": \"helper\", \"Secret\": \"pass\"}'\n";
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    log_in(&room, &json!({ "credsStore": "test" }));
    let path = format!("{}:/usr/bin:/bin", room.path("bin").display());
    let said = super::said(
        room.herd(&["pull", &registry.reference(), "--output", "out"])
            .env("PATH", path),
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(
        fs::read_to_string(room.path("asked")).unwrap().trim(),
        registry.address.to_string()
    );
    // Gone, and the registry shows nothing to nobody: both are told.
    let said = room.run(&["pull", &registry.reference(), "--output", "other"]);
    assert!(
        said.stderr.contains("does not show it without a login")
            && said
                .stderr
                .contains("cannot run docker-credential-test, which Docker's configuration names"),
        "{said:?}"
    );
}

#[test]
fn a_helper_that_fails_does_not_stop_what_everybody_may_pull() {
    let (registry, tokens) = with_realm(|tokens| format!("http://{}/token", tokens.address));
    let room = Room::new();
    fs::create_dir(room.path("bin")).unwrap();
    let helper = room.path("bin/docker-credential-locked");
    fs::write(&helper, "#!/bin/sh\necho the keychain is locked >&2\nexit 1\n").unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", room.path("bin").display());
    for (helper, told) in [
        ("absent", "cannot run docker-credential-absent"),
        (
            "locked",
            "docker-credential-locked failed: the keychain is locked",
        ),
    ] {
        log_in(&room, &json!({ "credsStore": helper }));
        let said = super::said(
            room.herd(&["pull", &registry.reference(), "--output", helper])
                .env("PATH", &path),
        );
        assert_eq!(said.code, Some(0), "{said:?}");
        let note = format!("note: pulled without a login: {told}");
        assert!(said.stderr.contains(&note), "{said:?}");
    }
    assert!(
        tokens
            .requests()
            .iter()
            .all(|asked| asked.authorization.is_none())
    );
    // What is in the file is a login, too.
    let mut config = login(&registry);
    config["credsStore"] = json!("absent");
    log_in(&room, &config);
    let said = room.run(&["pull", &registry.reference(), "--output", "file"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    assert_eq!(
        tokens.requests().last().unwrap().authorization.as_deref(),
        Some("Basic bWU6c2VjcmV0")
    );
}

#[test]
fn without_a_login_the_message_says_what_to_do() {
    let registry =
        FakeRegistry::new(|_| Answer::status(401, &["www-authenticate: Basic realm=\"x\"".to_owned()]));
    let room = Room::new();
    let said = pull(&room, &registry.reference());
    let host = registry.address;
    assert!(
        said.stderr.contains(&format!("(`docker login {host}`)")),
        "{said:?}"
    );
    log_in(&room, &login(&registry));
    let said = pull(&room, &registry.reference());
    assert!(said.stderr.contains("does not accept the login"), "{said:?}");
    room.nothing_left();
}

#[test]
fn a_reference_that_is_none_is_wrong_usage() {
    let said = pull(&Room::new(), "Not/A/Reference");
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("is not an image reference"), "{said:?}");
}
