//! The dynamic loader's part: which libraries an object brings into its process.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use super::Missing;
use super::elf::{Abi, Elf};
use super::gather::{Care, Gatherer, Task};
use super::libraries::Libc;
use super::machine::Walk;

impl Gatherer<'_> {
    /// Adds the loader and the libraries of an object, and theirs.
    pub(super) fn elf(&mut self, walk: &Walk, task: &Task) -> Result<(), Missing> {
        let root = match self.read_elf(&walk.path, &walk.on_disk) {
            Ok(Some(elf)) => elf,
            Ok(None) => return Ok(()),
            Err(_) if task.care == Care::Found => return Ok(()),
            Err(error) => return Err(self.unreadable(&task.path, &task.needed_by, error)),
        };
        if root.abi != Abi::NATIVE {
            if task.care == Care::Found {
                return Ok(());
            }
            return Err(Missing::Architecture {
                path: task.path.clone(),
                needed_by: task.needed_by.clone(),
                found: root.abi.name(),
                machine: Abi::NATIVE.name(),
            });
        }
        let libc = Libc::of(root.interpreter.as_deref());
        if let Some(loader) = &root.interpreter {
            self.want(loader, task.care, &task.path.display().to_string());
        }
        self.objects(&task.path, walk, root, libc, task.care)
    }

    /// Breadth first over one process's objects, as the loader loads them: a name that is loaded already
    /// is not searched for again, and run paths of those above count for those below (`DT_RPATH` only).
    fn objects(
        &mut self,
        name: &Path,
        walk: &Walk,
        root: Elf,
        libc: Libc,
        care: Care,
    ) -> Result<(), Missing> {
        let mut loaded: HashSet<String> = HashSet::new();
        let mut queue = VecDeque::from([(name.to_owned(), walk.path.clone(), root, Vec::new())]);
        while let Some((name, path, elf, above)) = queue.pop_front() {
            // `$ORIGIN` is the directory of the path a library was opened with, and of a program's real path.
            let origin = if elf.interpreter.is_some() { &path } else { &name };
            let mut rpaths = elf.rpath_at(origin);
            rpaths.extend(above.iter().cloned());
            let mut first = if elf.runpath.is_some() {
                Vec::new()
            } else {
                rpaths.clone()
            };
            first.extend(elf.runpath_at(origin));
            for needed in &elf.needed {
                if !loaded.insert(needed.clone()) {
                    continue;
                }
                let found = self
                    .libraries
                    .find(self.machine, needed, elf.abi, libc, &first)
                    .or_else(|| self.beside(&name, needed, care));
                let Some(library) = found else {
                    self.without_library(&name, needed, care)?;
                    continue;
                };
                let Ok(walk) = self.machine.walk(&library) else {
                    self.without_library(&name, needed, care)?;
                    continue;
                };
                let by_run_path = first.iter().any(|directory| library.parent() == Some(directory));
                if libc == Libc::Gnu && !by_run_path {
                    self.opened.insert(needed, &library);
                }
                let needed_by = name.display().to_string();
                self.want(&library, care, &needed_by);
                if rpaths.is_empty() && !self.complete.insert(walk.path.clone()) {
                    continue;
                }
                if let Ok(Some(elf)) = self.read_elf(&walk.path, &walk.on_disk) {
                    queue.push_back((library, walk.path, elf, rpaths.clone()));
                }
            }
        }
        Ok(())
    }

    /// Objects found in one directory are often loaded together, by a program that says where they are.
    fn beside(&self, name: &Path, needed: &str, care: Care) -> Option<PathBuf> {
        let beside = name.parent()?.join(needed);
        (care == Care::Found && self.machine.exists(&beside)).then_some(beside)
    }

    fn without_library(&mut self, name: &Path, library: &str, care: Care) -> Result<(), Missing> {
        let here = self.looked_at.keys().chain(self.complete.iter());
        if here
            .filter_map(|path| path.file_name())
            .any(|known| known.to_str() == Some(library))
        {
            // Whoever loads this object has loaded that library before.
            return Ok(());
        }
        if care == Care::Named {
            return Err(Missing::Library {
                library: library.to_owned(),
                needed_by: name.to_owned(),
            });
        }
        self.notes.push(format!(
            "{} needs {library}, which this machine does not have",
            name.display()
        ));
        Ok(())
    }

    fn read_elf(&mut self, path: &Path, on_disk: &Path) -> io::Result<Option<Elf>> {
        if let Some(known) = self.elves.get(path) {
            return Ok(known.clone());
        }
        let elf = Elf::read(on_disk)?;
        self.elves.insert(path.to_owned(), elf.clone());
        Ok(elf)
    }
}
