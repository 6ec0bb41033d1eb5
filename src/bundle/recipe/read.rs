//! The way from `DIR/bundle.yaml` to a [`Recipe`].

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use super::raw;
use super::{Copied, Recipe};
use crate::bundle::User;
use crate::bundle::content::shown;
use crate::yaml::problem::{Collector, Problems};
use crate::yaml::{self, Node, Position, Step};

/// The name of a recipe in its directory.
pub const FILE: &str = "bundle.yaml";

/// Labels of what a recipe permits begin with this.
const PERMITS: &str = "dev.herd.permits.";

const MAX_FILE_SIZE: u64 = 1 << 20;

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("{} is no recipe: it has no {FILE}", .0.display())]
    Missing(PathBuf),
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is no text of at most 1 MiB", .0.display())]
    NotText(PathBuf),
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Reads the recipe in `directory`; relative paths in it start there.
pub fn read(directory: &Path) -> Result<Recipe, RecipeError> {
    let path = directory.join(FILE);
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => RecipeError::Missing(directory.to_owned()),
        _ => RecipeError::Unreadable {
            path: path.clone(),
            source,
        },
    };
    let file = std::fs::File::open(&path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let text = String::from_utf8(bytes)
        .ok()
        .filter(|text| text.len() as u64 <= MAX_FILE_SIZE)
        .ok_or_else(|| RecipeError::NotText(path.clone()))?;
    Ok(parse(&text, &shown(&path), directory)?)
}

/// Validates `text`; `file` only appears in messages, relative paths start in `directory`.
pub(in crate::bundle) fn parse(text: &str, file: &str, directory: &Path) -> Result<Recipe, Problems> {
    let mut problems = Collector::default();
    let (tree, mistakes) = yaml::read(text);
    let in_yaml = !mistakes.is_empty();
    for mistake in mistakes {
        problems.add(mistake.at, mistake.path, mistake.message);
    }
    let tree = tree.filter(|tree| !matches!(tree.value, yaml::Value::Null));
    let Some(mut tree) = tree else {
        if !in_yaml {
            let message = "the file is empty; write e.g. description: a shell, and programs: [/bin/sh]";
            problems.add(Position { line: 1, column: 1 }, "", message);
        }
        return Err(problems.finish(text, file));
    };
    let Some(raw) = yaml::read_as::<raw::File>(&mut tree, &mut problems) else {
        return Err(problems.finish(text, file));
    };
    let mut reader = Reader {
        tree: &tree,
        problems: &mut problems,
        directory,
    };
    let recipe = reader.recipe(raw);
    match problems.is_empty() {
        true => Ok(recipe),
        false => Err(problems.finish(text, file)),
    }
}

struct Reader<'a> {
    tree: &'a Node,
    problems: &'a mut Collector,
    directory: &'a Path,
}

impl Reader<'_> {
    fn recipe(&mut self, raw: raw::File) -> Recipe {
        let mut labels = texts_by_name(raw.labels);
        if let Some(permits) = raw.permits {
            let words = [
                ("profile", permits.profile.map(raw::Profile::word)),
                ("network", permits.network.map(raw::NetworkAccess::word)),
            ];
            for (name, word) in words {
                if let Some(word) = word {
                    labels.insert(format!("{PERMITS}{name}"), word.to_owned());
                }
            }
        }
        if raw.description.is_none() {
            self.problem(&[], "nothing says what this is; write description: TEXT");
        }
        if raw.programs.is_empty() && raw.packages.is_empty() && raw.files.is_empty() && raw.base.is_none() {
            self.problem(
                &[],
                "nothing goes into this bundle; name programs:, packages: or files:",
            );
        }
        if raw.entry.is_empty() && raw.programs.is_empty() && raw.base.is_none() {
            self.problem(
                &[],
                "nothing runs in this bundle; write entry: [PROGRAM, ARGUMENT…]",
            );
        }
        let packages = texts(raw.packages);
        for (index, name) in packages.iter().enumerate() {
            if !is_package_name(name) {
                self.problem(
                    &[key("packages"), Step::Index(index)],
                    "is no name of a Debian package",
                );
            }
        }
        for name in raw.env.keys() {
            if name.is_empty() || name.contains(['=', '\0']) {
                self.problem(&[key("env"), key(name)], "is no name of a variable");
            }
        }
        let with = self.absolute_list("with", raw.with);
        let without = self.absolute_list("without", raw.without);
        let files = raw
            .files
            .into_iter()
            .enumerate()
            .map(|(index, file)| self.copied(index, file))
            .collect();
        let mut links = BTreeMap::new();
        for (index, group) in raw.links.into_iter().enumerate() {
            for (number, path) in group.at.into_iter().enumerate() {
                let at = [key("links"), Step::Index(index), key("at"), Step::Index(number)];
                let path = self.absolute(&at, &path.0);
                if links.insert(path, PathBuf::from(&group.to.0)).is_some() {
                    self.problem(&at, "is written twice; keep one of the two");
                }
            }
        }
        let cwd = raw.cwd.map(|cwd| self.absolute(&[key("cwd")], &cwd.0));
        let user = raw.user.and_then(|user| self.user(&user.0));
        Recipe {
            source: raw.description.map(|text| text.0).unwrap_or_default(),
            search_path: super::system_path().collect(),
            base: raw.base.map(|base| self.directory.join(base.bundle.0)),
            programs: texts(raw.programs),
            packages,
            with,
            files,
            links,
            without,
            env: texts_by_name(raw.env),
            entry: texts(raw.entry),
            cwd,
            user,
            labels,
        }
    }

    fn copied(&mut self, index: usize, file: raw::Copied) -> Copied {
        let at = |name: &str| [key("files"), Step::Index(index), key(name)];
        let mode = file.mode.and_then(
            |mode| match u32::from_str_radix(mode.0.trim_start_matches("0o"), 8) {
                Ok(bits) if bits <= 0o777 => Some(bits),
                _ => {
                    self.problem(&at("mode"), "is no set of permissions; write e.g. \"0755\"");
                    None
                }
            },
        );
        Copied {
            source: self.directory.join(file.source.0),
            target: self.absolute(&at("target"), &file.target.0),
            mode,
        }
    }

    fn user(&mut self, text: &str) -> Option<User> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => Some(User { uid, gid }),
            _ => {
                self.problem(&[key("user")], "is no identity; write a number, or \"UID:GID\"");
                None
            }
        }
    }

    fn absolute_list(&mut self, name: &str, paths: Vec<raw::Text>) -> Vec<PathBuf> {
        paths
            .into_iter()
            .enumerate()
            .map(|(index, path)| self.absolute(&[key(name), Step::Index(index)], &path.0))
            .collect()
    }

    /// A path in the bundle.
    fn absolute(&mut self, at: &[Step], path: &str) -> PathBuf {
        let path = PathBuf::from(path);
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if !path.is_absolute() || climbs {
            self.problem(
                at,
                "is no path in the bundle; write one that starts with / and has no ..",
            );
        }
        path
    }

    fn problem(&mut self, at: &[Step], message: &str) {
        let found = self.tree.locate(at);
        self.problems.add(found.value_at, found.name, message);
    }
}

fn texts(list: Vec<raw::Text>) -> Vec<String> {
    list.into_iter().map(|text| text.0).collect()
}

fn texts_by_name(map: BTreeMap<String, raw::Text>) -> BTreeMap<String, String> {
    map.into_iter().map(|(name, text)| (name, text.0)).collect()
}

fn key(name: &str) -> Step {
    Step::Key(name.to_owned())
}

/// Debian Policy 5.6.1, and an architecture. Also keeps options away from apt.
fn is_package_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.:".contains(c);
    name.len() >= 2 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed)
}
