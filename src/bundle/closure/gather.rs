//! From the names of programs and files to everything that has to come along.
//!
//! ```text
//!  program, path, package ─▶ queue ─▶ follow the path: its links and directories
//!                              ▲       └▶ a file: ELF? its loader and libraries ──┐
//!                              │                  #!?  its interpreter            │
//!                              └──────────── companions of what was found ◀───────┘
//! ```
//!
//! Two kinds of file, two kinds of care. What was *named* has to run: anything it lacks is an error. What
//! was *found* (in a directory, in a package) may never be run: a plug-in for a library that is not
//! installed, a script for a shell nobody has. There, what is missing is noted and the work goes on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Missing;
use super::companions;
use super::elf::{Abi, Elf};
use super::libraries::{Libc, Libraries};
use super::loader_cache;
use super::machine::{Machine, Step, Walk};
use super::script;
use super::tree::{Entry, Tree};

/// Directories whose content is the kernel's, not the machine's.
const NOT_FILES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What needs a file that was asked for by name.
pub(super) const THE_BUNDLE: &str = "this bundle";

/// How much a file is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Care {
    /// It came with a directory or a package.
    Found,
    /// Somebody asked for it, or something that was asked for cannot run without it.
    Named,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) path: PathBuf,
    pub(super) care: Care,
    /// For messages: what needs it.
    pub(super) needed_by: String,
}

/// Gathers a [`Tree`] from a [`Machine`].
#[derive(Debug)]
pub struct Gatherer<'m> {
    pub(super) machine: &'m Machine,
    pub(super) libraries: Libraries,
    pub(super) tree: Tree,
    queue: VecDeque<Task>,
    /// The greatest care with which each file was looked at, by its canonical path.
    pub(super) looked_at: HashMap<PathBuf, Care>,
    companions_of: HashSet<PathBuf>,
    /// Objects all of whose libraries are in the tree.
    pub(super) complete: HashSet<PathBuf>,
    pub(super) elves: HashMap<PathBuf, Option<Elf>>,
    /// Library names and the paths under which the loader opens them.
    pub(super) opened: loader_cache::Opened,
    search_path: Vec<PathBuf>,
    /// Directories in which `env` has to find programs.
    looked_up_in: Vec<PathBuf>,
    pub(super) notes: Vec<String>,
}

impl<'m> Gatherer<'m> {
    /// Programs are looked up in `search_path`.
    pub fn new(machine: &'m Machine, search_path: Vec<PathBuf>) -> Self {
        Self {
            machine,
            libraries: Libraries::of(machine),
            tree: Tree::default(),
            queue: VecDeque::new(),
            looked_at: HashMap::new(),
            companions_of: HashSet::new(),
            complete: HashSet::new(),
            elves: HashMap::new(),
            opened: loader_cache::Opened::default(),
            search_path,
            looked_up_in: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a program, by name or path, with all it needs to start. The path it has in the bundle.
    pub fn program(&mut self, name: &str) -> Result<PathBuf, Missing> {
        let path = self.look_up(name).ok_or_else(|| Missing::Program {
            name: name.to_owned(),
            searched: self.search_path.clone(),
        })?;
        let walk = self
            .machine
            .walk(&path)
            .map_err(|source| self.unreadable(&path, THE_BUNDLE, source))?;
        let is_program = walk.metadata.is_file() && walk.metadata.permissions().mode() & 0o111 != 0;
        if !is_program {
            return Err(Missing::NotAProgram { path });
        }
        self.want(&path, Care::Named, THE_BUNDLE);
        self.drain()?;
        Ok(path)
    }

    /// Adds a file with all it needs, or a directory with all that is in it.
    pub fn path(&mut self, path: &Path) -> Result<(), Missing> {
        let walk = self
            .machine
            .walk(path)
            .map_err(|source| self.unreadable(path, THE_BUNDLE, source))?;
        if NOT_FILES.iter().any(|kernel| walk.path.starts_with(kernel)) || walk.path == Path::new("/") {
            return Err(Missing::NotFiles {
                path: path.to_owned(),
            });
        }
        if walk.metadata.is_dir() {
            self.pass(&walk);
            self.directory(&walk.path, &|_| true, THE_BUNDLE)?;
        } else {
            self.want(path, Care::Named, THE_BUNDLE);
        }
        self.drain()
    }

    /// Directories that have to be on the bundle's PATH for the scripts gathered so far.
    pub fn looked_up_in(&self) -> &[PathBuf] {
        &self.looked_up_in
    }

    fn look_up(&self, name: &str) -> Option<PathBuf> {
        if name.contains('/') {
            return std::path::absolute(name).ok();
        }
        self.search_path
            .iter()
            .map(|directory| directory.join(name))
            .find(|path| {
                let found = self.machine.walk(path);
                found.is_ok_and(|f| f.metadata.is_file() && f.metadata.permissions().mode() & 0o111 != 0)
            })
    }

    pub(super) fn want(&mut self, path: &Path, care: Care, needed_by: &str) {
        self.queue.push_back(Task {
            path: path.to_owned(),
            care,
            needed_by: needed_by.to_owned(),
        });
    }

    /// Works until nothing more is wanted.
    pub(super) fn drain(&mut self) -> Result<(), Missing> {
        while let Some(task) = self.queue.pop_front() {
            self.take(&task)?;
        }
        Ok(())
    }

    fn take(&mut self, task: &Task) -> Result<(), Missing> {
        let walk = match self.machine.walk(&task.path) {
            Ok(walk) => walk,
            Err(error) if task.care == Care::Found && error.kind() == io::ErrorKind::NotFound => {
                self.dangling(&task.path);
                return Ok(());
            }
            Err(error) => return Err(self.unreadable(&task.path, &task.needed_by, error)),
        };
        self.pass(&walk);
        if walk.metadata.is_dir() {
            let mode = walk.metadata.permissions().mode();
            self.tree.add(&walk.path, directory(mode));
            return Ok(());
        }
        if !walk.metadata.is_file() {
            if task.care == Care::Named {
                return Err(Missing::Special {
                    path: task.path.clone(),
                    kind: special(&walk.metadata),
                });
            }
            return Ok(());
        }
        let before = self.looked_at.get(&walk.path).copied();
        if before.is_some_and(|care| care >= task.care) {
            return Ok(());
        }
        self.looked_at.insert(walk.path.clone(), task.care);
        let head = match self.copy(&walk, task)? {
            Some(head) => head,
            None => return Ok(()),
        };
        if head.starts_with(b"\x7fELF") {
            self.elf(&walk, task)?;
        } else if task.care == Care::Named {
            self.script(&walk, &head, task)?;
        }
        self.companions(&task.path, &walk, task.care)
    }

    /// Puts the way to a file into the tree: the links on it, and the directories.
    pub(super) fn pass(&mut self, walk: &Walk) {
        for step in &walk.steps {
            match step {
                Step::Directory { path, mode } => self.tree.add(path, directory(*mode)),
                Step::Link { path, to } => self.tree.add(path, Entry::Link { to: to.clone() }),
            }
        }
    }

    /// A link that leads nowhere on this machine is kept as it is.
    fn dangling(&mut self, path: &Path) {
        let Some(parent) = path.parent().and_then(|parent| self.machine.walk(parent).ok()) else {
            return;
        };
        self.pass(&parent);
        let path = parent.path.join(path.file_name().unwrap_or_default());
        if let Ok((on_disk, metadata)) = self.machine.look(&path)
            && metadata.is_symlink()
            && let Ok(to) = fs::read_link(on_disk)
        {
            self.tree.add(&path, Entry::Link { to });
        }
    }

    /// Puts a regular file into the tree; the first bytes of it, or `None` if it stays out.
    fn copy(&mut self, walk: &Walk, task: &Task) -> Result<Option<Vec<u8>>, Missing> {
        let mode = walk.metadata.permissions().mode();
        let mut head = Vec::new();
        let read = fs::File::open(&walk.on_disk).and_then(|f| f.take(4096).read_to_end(&mut head));
        match read {
            Ok(_) => {}
            // Only its owner may read it, and what makes it useful (the bit) is not copied anyway.
            Err(error)
                if task.care == Care::Found
                    && mode & 0o6000 != 0
                    && error.kind() == io::ErrorKind::PermissionDenied =>
            {
                self.notes.push(format!(
                    "{} is left out: it is a set-id program that this user may not read",
                    walk.path.display()
                ));
                return Ok(None);
            }
            Err(error) => return Err(self.unreadable(&task.path, &task.needed_by, error)),
        }
        let entry = Entry::Copy {
            from: walk.on_disk.clone(),
            mode: file_mode(mode),
        };
        self.tree.add(&walk.path, entry);
        Ok(Some(head))
    }

    fn script(&mut self, walk: &Walk, head: &[u8], task: &Task) -> Result<(), Missing> {
        let Some(interpreter) = script::interpreter(head) else {
            return Ok(());
        };
        if let Some(manager) = script::shim(head) {
            return Err(Missing::Shim {
                path: task.path.clone(),
                manager,
                program: walk
                    .path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            });
        }
        let script = task.path.display().to_string();
        self.want(&interpreter.path, Care::Named, &script);
        if let Some(name) = interpreter.looked_up {
            let program = self.look_up(&name).ok_or_else(|| Missing::Interpreter {
                name,
                script: task.path.clone(),
            })?;
            self.looked_up_in.extend(program.parent().map(Path::to_owned));
            self.want(&program, Care::Named, &script);
        }
        Ok(())
    }

    /// What a file needs though nothing in it says so.
    fn companions(&mut self, asked: &Path, walk: &Walk, care: Care) -> Result<(), Missing> {
        if !self.companions_of.insert(walk.path.clone()) {
            return Ok(());
        }
        let why = walk.path.display().to_string();
        for companion in companions::of(self.machine, asked, walk, care) {
            match companion {
                companions::Companion::Library(name) => {
                    let found = self
                        .libraries
                        .find(self.machine, &name, Abi::NATIVE, Libc::Gnu, &[]);
                    if let Some(path) = found {
                        self.opened.insert(&name, &path);
                        self.want(&path, Care::Found, &why);
                    }
                }
                companions::Companion::File(path) => self.want(&path, Care::Found, &why),
                companions::Companion::Directory { path, without } => {
                    let Ok(walk) = self.machine.walk(&path) else {
                        continue;
                    };
                    self.pass(&walk);
                    self.directory(&walk.path, &|name| !companions::excludes(without, name), &why)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a directory, whose path is free of links, with all that is in it and passes `filter`.
    pub(super) fn directory(
        &mut self,
        path: &Path,
        filter: &dyn Fn(&str) -> bool,
        needed_by: &str,
    ) -> Result<(), Missing> {
        let (_, metadata) = self
            .machine
            .look(path)
            .map_err(|source| self.unreadable(path, needed_by, source))?;
        self.tree.add(path, directory(metadata.permissions().mode()));
        let names = self
            .machine
            .list(path)
            .map_err(|source| self.unreadable(path, needed_by, source))?;
        for name in names {
            if name == companions::CACHE || !filter(&name.to_string_lossy()) {
                continue;
            }
            let inside = path.join(name);
            // A file that goes while its directory is read was never there.
            let Ok((_, metadata)) = self.machine.look(&inside) else {
                continue;
            };
            if metadata.is_dir() {
                if !NOT_FILES.iter().any(|kernel| inside == Path::new(kernel)) {
                    self.directory(&inside, filter, needed_by)?;
                }
            } else {
                self.want(&inside, Care::Found, needed_by);
            }
        }
        Ok(())
    }

    pub(super) fn unreadable(&self, path: &Path, needed_by: &str, source: io::Error) -> Missing {
        Missing::Unreadable {
            path: path.to_owned(),
            needed_by: needed_by.to_owned(),
            source,
        }
    }
}

/// Nobody's privileges come along, and nobody but the owner may write; what its owner alone may read stays so.
pub(super) fn file_mode(mode: u32) -> u32 {
    mode & 0o755 | 0o400
}

pub(super) fn directory(mode: u32) -> Entry {
    Entry::Directory {
        mode: mode & 0o755 | 0o700 | if mode & 0o1000 != 0 { 0o1777 } else { 0 },
    }
}

pub(super) fn special(metadata: &fs::Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    }
}
