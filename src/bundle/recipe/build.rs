//! Making what a recipe describes.

use std::path::{Path, PathBuf};

use super::Recipe;
use crate::bundle::closure::packages::{Database, PackageError, Unpacked};
use crate::bundle::closure::{Entry, Gatherer, Machine, Missing, Tree, WriteError, write};
use crate::bundle::{Bundle, Config, OpenError, PATH, Staging, StagingError, User, host_architecture, open};
use crate::sys::interrupt::{self, Interrupted};

/// Whether packages that are not installed may be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Offline,
    Fetch,
}

/// What a build is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    Fetching(&'a str),
    /// So many bytes are going to be written.
    Writing(u64),
    Wrote(u64),
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Missing(#[from] Missing),
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error("the base of the recipe cannot be used")]
    Base(#[source] OpenError),
    #[error("without: {} is not in the bundle; remove the line", .0.display())]
    NotThere(PathBuf),
    #[error("entry: {program} is not in the bundle; name it under programs:, packages: or files:")]
    NoEntry { program: String },
    #[error("cannot write the bundle")]
    Write(#[from] WriteError),
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The identity of programs in a bundle that says nothing of one.
const WORKER: User = User { uid: 1000, gid: 1000 };

/// Writes what `recipe` describes; what is to run in it, and notes on what is incomplete and probably not
/// needed. The bundle exists once `staging` is finished with that.
pub fn build(
    recipe: &Recipe,
    staging: &mut Staging,
    network: Network,
    progress: &dyn Fn(Progress<'_>),
) -> Result<(Config, Vec<String>), BuildError> {
    let (tree, config, notes) = plan(recipe, staging, network, progress)?;
    progress(Progress::Writing(size(&tree)));
    write(&tree, staging.root(), &|bytes| progress(Progress::Wrote(bytes)))?;
    Ok((config, notes))
}

/// All that will be in the bundle. Nothing is written but packages that are fetched, beside the bundle.
fn plan(
    recipe: &Recipe,
    staging: &Staging,
    network: Network,
    progress: &dyn Fn(Progress<'_>),
) -> Result<(Tree, Config, Vec<String>), BuildError> {
    let mut machine = Machine::default();
    let mut database = None;
    let mut unpacked = None;
    for name in &recipe.packages {
        interrupt::check()?;
        let database = match &mut database {
            Some(database) => database,
            none => none.insert(Database::read(&machine)?),
        };
        if network == Network::Fetch {
            let unpacked = match &mut unpacked {
                Some(unpacked) => unpacked,
                none => none.insert(Unpacked::new(staging.scratch()?)),
            };
            unpacked.fetch(name, &mut machine, database, &|name| {
                progress(Progress::Fetching(name))
            })?;
        }
    }
    let mut gatherer = Gatherer::new(&machine, recipe.search_path.clone());
    let base = recipe
        .base
        .as_deref()
        .map(open)
        .transpose()
        .map_err(BuildError::Base)?;
    if let Some(base) = &base {
        gatherer.root(&base.rootfs)?;
    }
    let mut programs = Vec::new();
    for name in &recipe.programs {
        interrupt::check()?;
        programs.push(gatherer.program(name)?);
    }
    for path in &recipe.with {
        interrupt::check()?;
        gatherer.path(path)?;
    }
    for name in &recipe.packages {
        interrupt::check()?;
        if let Some(database) = &database {
            gatherer.package(database, name)?;
        }
    }
    for file in &recipe.files {
        gatherer.file(&file.source, &file.target, file.mode)?;
    }
    for (path, to) in &recipe.links {
        gatherer.link(path, to);
    }
    for path in &recipe.without {
        if !gatherer.without(path) {
            return Err(BuildError::NotThere(path.clone()));
        }
    }
    let config = config(recipe, base.as_ref(), &programs, gatherer.looked_up_in());
    let (tree, notes) = gatherer.finish(config.user);
    if let Some(program) = config.args.first()
        && !is_there(&tree, program, &config)
    {
        return Err(BuildError::NoEntry {
            program: program.clone(),
        });
    }
    Ok((tree, config, notes))
}

fn config(recipe: &Recipe, base: Option<&Bundle>, programs: &[PathBuf], looked_up_in: &[PathBuf]) -> Config {
    let mut env: Vec<String> = base.map(|base| base.env.clone()).unwrap_or_default();
    let mut set = |name: &str, value: &str, overwrite: bool| {
        let is_it = |entry: &String| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        match env.iter().position(is_it) {
            Some(at) if overwrite => env[at] = format!("{name}={value}"),
            Some(_) => {}
            None => env.push(format!("{name}={value}")),
        }
    };
    let elsewhere = programs.iter().filter_map(|program| program.parent());
    let elsewhere = elsewhere.chain(looked_up_in.iter().map(PathBuf::as_path));
    set("PATH", &search_path(elsewhere), false);
    set("HOME", "/tmp", false);
    set("LANG", "C.UTF-8", false);
    for (name, value) in &recipe.env {
        set(name, value, true);
    }
    let entry = match (&recipe.entry[..], base, programs.first()) {
        ([], Some(base), _) => base.args.clone(),
        ([], None, Some(program)) => vec![program.display().to_string()],
        (entry, ..) => entry.to_vec(),
    };
    let cwd = recipe.cwd.clone().or_else(|| base.map(|base| base.cwd.clone()));
    Config {
        args: entry,
        env,
        cwd: cwd.unwrap_or_else(|| "/".into()).display().to_string(),
        user: recipe.user.or(base.map(|base| base.user)).unwrap_or(WORKER),
        labels: recipe.labels.clone(),
        architecture: host_architecture().to_owned(),
        source: recipe.source.clone(),
    }
}

/// The usual PATH, and after it where programs from elsewhere are.
fn search_path<'a>(elsewhere: impl Iterator<Item = &'a Path>) -> String {
    let mut directories: Vec<String> = PATH.split(':').map(str::to_owned).collect();
    for directory in elsewhere.map(|directory| directory.display().to_string()) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories.join(":")
}

/// Whether `program` would be found in the bundle: by path, or on the bundle's PATH.
fn is_there(tree: &Tree, program: &str, config: &Config) -> bool {
    let is_file = |path: &Path| {
        let entry = tree.resolve(path).and_then(|path| tree.entry(&path));
        matches!(entry, Some(Entry::Copy { .. } | Entry::Made { .. }))
    };
    if program.contains('/') {
        return is_file(&Path::new(&config.cwd()).join(program));
    }
    let path = config.env.iter().find_map(|entry| entry.strip_prefix("PATH="));
    path.unwrap_or(PATH)
        .split(':')
        .any(|directory| is_file(&Path::new(directory).join(program)))
}

fn size(tree: &Tree) -> u64 {
    tree.iter()
        .filter_map(|(_, entry)| match entry {
            Entry::Copy { from, .. } => Some(std::fs::metadata(from).ok()?.len()),
            _ => None,
        })
        .sum()
}
