//! Recipes as their authors meet them.

use std::fs;
use std::path::{Path, PathBuf};

use super::read::parse;
use super::*;
use crate::bundle::{Existing, Finished, Limits, Staging, open};

fn good(text: &str) -> Recipe {
    parse(text, "bundle.yaml", Path::new("/recipe")).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Every mistake, without the source lines.
fn bad(text: &str) -> Vec<String> {
    let problems = parse(text, "bundle.yaml", Path::new("/recipe")).expect_err("should be refused");
    let shown = problems.to_string();
    let lines = shown.lines().filter_map(|line| line.strip_prefix("bundle.yaml:"));
    lines.map(str::to_owned).collect()
}

#[test]
fn every_key_has_its_place_in_the_recipe() {
    let recipe = good(
        "description: an app\n\
         base: {bundle: ../base}\n\
         programs: [app, /opt/tool]\n\
         packages: [fonts-dejavu-core, 'libx:amd64']\n\
         with: [/etc/ssl/certs]\n\
         files: [{source: ./app.py, target: /app/app.py, mode: 0755}, {source: data, target: /data}]\n\
         links: [{to: /bin/app, at: [/bin/a, /bin/b]}]\n\
         without: [/opt/tool/doc]\n\
         env: {VERSION: 1.10}\n\
         entry: [app, 8080]\n\
         cwd: /app\n\
         user: 33:34\n\
         labels: {org.example.team: web}\n\
         permits: {profile: browser, network: none}\n",
    );
    let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
    assert_eq!(recipe.source, "an app");
    assert_eq!(recipe.base, Some("/recipe/../base".into()));
    assert_eq!(recipe.programs, ["app", "/opt/tool"]);
    assert_eq!(recipe.packages, ["fonts-dejavu-core", "libx:amd64"]);
    assert_eq!(recipe.with, paths(&["/etc/ssl/certs"]));
    assert_eq!(
        recipe.files[0],
        Copied {
            source: "/recipe/./app.py".into(),
            target: "/app/app.py".into(),
            mode: Some(0o755),
        }
    );
    assert_eq!(recipe.files[1].mode, None);
    assert_eq!(recipe.links[Path::new("/bin/b")], Path::new("/bin/app"));
    assert_eq!(recipe.without, paths(&["/opt/tool/doc"]));
    assert_eq!(recipe.env["VERSION"], "1.10");
    assert_eq!(recipe.entry, ["app", "8080"]);
    assert_eq!(recipe.cwd, Some("/app".into()));
    assert_eq!(recipe.user, Some(User { uid: 33, gid: 34 }));
    let labels: Vec<_> = recipe.labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(
        labels,
        [
            "dev.herd.permits.network=none",
            "dev.herd.permits.profile=browser",
            "org.example.team=web"
        ]
    );
}

#[test]
fn every_mistake_is_reported_at_its_place() {
    let mistakes = bad("description: an app\n\
         programs: [app]\n\
         package: [x]\n\
         packages: [--config, libx]\n\
         with: [relative]\n\
         files:\n\
         \x20 - {source: a, target: ../a, mode: 4755}\n\
         links: [{to: app, at: [/bin/a, /bin/a]}]\n\
         user: me\n\
         permits: {profile: lax}\n");
    let in_bundle = "is no path in the bundle; write one that starts with / and has no ..";
    let expected = [
        "3:1: package: is not a key herd knows; did you mean `packages`?".to_owned(),
        "4:12: packages[0]: is no name of a Debian package".to_owned(),
        format!("5:8: with[0]: {in_bundle}"),
        format!("7:25: files[0].target: {in_bundle}"),
        "7:37: files[0].mode: is no set of permissions; write e.g. \"0755\"".to_owned(),
        "8:32: links[0].at[1]: is written twice; keep one of the two".to_owned(),
        "9:7: user: is no identity; write a number, or \"UID:GID\"".to_owned(),
        "10:20: permits.profile: is \"lax\"; write strict or browser".to_owned(),
    ];
    assert_eq!(mistakes, expected);
}

#[test]
fn a_recipe_for_nothing_is_refused() {
    assert_eq!(
        bad("description: nothing\n"),
        [
            "1:1: nothing goes into this bundle; name programs:, packages: or files:",
            "1:1: nothing runs in this bundle; write entry: [PROGRAM, ARGUMENT…]",
        ]
    );
    assert_eq!(
        bad(""),
        ["1:1: the file is empty; write e.g. description: a shell, and programs: [/bin/sh]"]
    );
    assert_eq!(
        bad("programs: [sh]\n"),
        ["1:1: nothing says what this is; write description: TEXT"]
    );
    let error = read(Path::new("/no/such/recipe")).unwrap_err().to_string();
    assert_eq!(error, "/no/such/recipe is no recipe: it has no bundle.yaml");
}

#[test]
fn every_shipped_recipe_reads_and_says_what_it_permits() {
    let mut seen = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles")).unwrap() {
        let directory = entry.unwrap().path();
        let recipe = read(&directory).unwrap_or_else(|error| panic!("{error}"));
        seen += 1;
        for permits in ["profile", "network"] {
            let label = format!("dev.herd.permits.{permits}");
            assert!(recipe.labels.contains_key(&label), "{}", directory.display());
        }
        let readme = fs::read_to_string(directory.join("README.md")).unwrap();
        for part in ["**Needs**", "**Contains**", "**Permits**"] {
            assert!(readme.contains(part), "{}: no {part}", directory.display());
        }
    }
    assert!(
        seen >= 4,
        "only {seen} recipes: this test looks in the wrong place"
    );
}

/// A recipe with files of its own, and where its bundles go.
struct Kitchen {
    dir: tempfile::TempDir,
}

impl Kitchen {
    fn new(recipe: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), recipe).unwrap();
        fs::write(dir.path().join("app.sh"), "#!/bin/sh\necho app\n").unwrap();
        Self { dir }
    }

    fn output(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    fn build(&self, name: &str) -> Result<Finished, String> {
        let recipe = read(self.dir.path()).map_err(|error| error.to_string())?;
        let mut staging = Staging::new(&self.output(name), Existing::Refuse, Limits::default()).unwrap();
        let (config, _) =
            build(&recipe, &mut staging, Network::Offline, &|_| {}).map_err(|error| error.to_string())?;
        staging.finish(&config).map_err(|error| error.to_string())
    }
}

#[test]
fn the_same_recipe_has_the_same_digest_and_another_one_has_not() {
    let kitchen = Kitchen::new(
        "description: app\nprograms: [/bin/sh]\nfiles: [{source: app.sh, target: /bin/app, mode: 0755}]\nentry: [app]\n",
    );
    let first = kitchen.build("first").unwrap();
    let second = kitchen.build("second").unwrap();
    assert_eq!(first.digest, second.digest);
    fs::write(kitchen.dir.path().join("app.sh"), "#!/bin/sh\necho other\n").unwrap();
    assert_ne!(kitchen.build("third").unwrap().digest, first.digest);
    let bundle = open(&kitchen.output("first")).unwrap();
    bundle.check_program("app").unwrap();
    bundle.check_program("/bin/sh").unwrap();
    assert_eq!(
        (bundle.args.clone(), bundle.variable("HOME").is_some()),
        (vec!["app".to_owned()], true)
    );
}

#[test]
fn a_bundle_can_stand_on_another_one() {
    let kitchen = Kitchen::new("description: shell\nprograms: [/bin/sh]\nenv: {A: base, B: base}\n");
    kitchen.build("base").unwrap();
    let recipe = "description: app\nbase: {bundle: out/base}\nenv: {B: mine}\n\
                  files: [{source: app.sh, target: /bin/app, mode: 0755}]\n";
    fs::write(kitchen.dir.path().join(FILE), recipe).unwrap();
    kitchen.build("app").unwrap();
    let bundle = open(&kitchen.output("app")).unwrap();
    bundle.check_program("app").unwrap();
    assert_eq!(bundle.args, open(&kitchen.output("base")).unwrap().args);
    assert_eq!(
        (bundle.variable("A"), bundle.variable("B")),
        (Some("base"), Some("mine"))
    );
}

#[test]
fn a_directory_goes_where_links_of_the_bundle_lead() {
    let kitchen = Kitchen::new(
        "description: app\nprograms: [/bin/sh]\nlinks: [{to: usr/tools, at: [/tools]}, {to: ../data, at: [/usr/data]}]\n",
    );
    kitchen.build("base").unwrap();
    let dir = kitchen.dir.path();
    fs::create_dir_all(dir.join("files/data")).unwrap();
    for file in ["files/hello", "files/data/inner"] {
        fs::write(dir.join(file), "hello").unwrap();
    }
    let recipe = "description: app\nbase: {bundle: out/base}\n\
                  files: [{source: ./files, target: /tools}, {source: ./files, target: /usr}]\n";
    fs::write(dir.join(FILE), recipe).unwrap();
    kitchen.build("app").unwrap();
    let rootfs = kitchen.output("app").join("rootfs");
    assert!(fs::symlink_metadata(rootfs.join("tools")).unwrap().is_symlink());
    for file in [
        "usr/tools/hello",
        "usr/tools/data/inner",
        "usr/hello",
        "data/inner",
    ] {
        assert_eq!(fs::read_to_string(rootfs.join(file)).unwrap(), "hello", "{file}");
    }
}

#[test]
fn what_fails_leaves_nothing_behind() {
    for (recipe, expected) in [
        (
            "description: x\nprograms: [/bin/sh]\nentry: [no-such-program]\n",
            "entry: no-such-program is not in the bundle; name it under programs:, packages: or files:",
        ),
        (
            "description: x\nprograms: [/bin/sh]\nwithout: [/no/such/path]\n",
            "without: /no/such/path is not in the bundle; remove the line",
        ),
        (
            "description: x\nprograms: [/bin/sh]\npackages: [no-such-package]\n",
            "there is no package no-such-package on this machine; install it, or build with --fetch",
        ),
    ] {
        let kitchen = Kitchen::new(recipe);
        assert_eq!(kitchen.build("x").unwrap_err(), expected);
        assert_eq!(
            fs::read_dir(kitchen.dir.path().join("out")).unwrap().count(),
            0,
            "{recipe}"
        );
    }
}
