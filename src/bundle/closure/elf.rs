//! What an ELF file asks of the dynamic loader.

use std::io;
use std::path::{Path, PathBuf};

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, read::ReadCache, read::ReadRef};

/// One ELF file: an executable or a shared object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    pub(super) abi: Abi,
    /// `PT_INTERP`: the loader that starts it. Static programs and libraries have none.
    pub(super) interpreter: Option<PathBuf>,
    pub(super) needed: Vec<String>,
    /// `DT_RPATH`; the loader ignores it where there is a `DT_RUNPATH`.
    pub(super) rpath: Vec<String>,
    pub(super) runpath: Option<Vec<String>>,
}

/// Files of one process share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Abi {
    pub(super) is_64: bool,
    pub(super) machine: u16,
}

impl Abi {
    /// Of programs for this machine.
    pub(super) const NATIVE: Self = Self {
        is_64: cfg!(target_pointer_width = "64"),
        machine: if cfg!(target_arch = "x86_64") {
            elf::EM_X86_64.0
        } else if cfg!(target_arch = "aarch64") {
            elf::EM_AARCH64.0
        } else if cfg!(target_arch = "riscv64") {
            elf::EM_RISCV.0
        } else {
            elf::EM_NONE.0
        },
    };

    /// In `$PLATFORM`, and in messages.
    pub(super) fn name(self) -> String {
        match elf::Machine(self.machine) {
            elf::EM_X86_64 if self.is_64 => "x86_64".to_owned(),
            elf::EM_X86_64 => "x32".to_owned(),
            elf::EM_386 => "i686".to_owned(),
            elf::EM_AARCH64 => "aarch64".to_owned(),
            elf::EM_ARM => "arm".to_owned(),
            elf::EM_RISCV => "riscv64".to_owned(),
            elf::EM_PPC64 => "powerpc64".to_owned(),
            elf::EM_S390 => "s390x".to_owned(),
            elf::Machine(other) => format!("ELF machine {other}"),
        }
    }

    /// The directory of its libraries in Debian and its children.
    pub(super) fn multiarch(self) -> Option<&'static str> {
        match elf::Machine(self.machine) {
            elf::EM_X86_64 if self.is_64 => Some("x86_64-linux-gnu"),
            elf::EM_386 => Some("i386-linux-gnu"),
            elf::EM_AARCH64 => Some("aarch64-linux-gnu"),
            elf::EM_RISCV if self.is_64 => Some("riscv64-linux-gnu"),
            _ => None,
        }
    }
}

impl Elf {
    /// Reads the file at `path`; `None` if it is something other than an ELF executable or library.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        Self::parse(std::fs::File::open(path)?)
    }

    /// As [`Elf::read`], from an open file or anything like one.
    pub(super) fn parse(file: impl io::Read + io::Seek) -> io::Result<Option<Self>> {
        let cache = ReadCache::new(file);
        let Ok(ident) = (&cache).read_bytes_at(0, 20) else {
            return Ok(None);
        };
        if !ident.starts_with(&elf::ELFMAG) {
            return Ok(None);
        }
        // Object files (*.o) and core dumps ask nothing of a loader.
        let kind = match ident[5] {
            2 => u16::from_be_bytes([ident[16], ident[17]]),
            _ => u16::from_le_bytes([ident[16], ident[17]]),
        };
        if kind != elf::ET_EXEC.0 && kind != elf::ET_DYN.0 {
            return Ok(None);
        }
        let read = match ident[4] {
            1 => parse::<elf::FileHeader32<Endianness>>(&cache),
            _ => parse::<elf::FileHeader64<Endianness>>(&cache),
        };
        read.map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("damaged ELF file: {error}")))
    }

    /// Where this object, at `path`, has its libraries looked for first: its `DT_RPATH`s, absolute.
    pub(super) fn rpath_at(&self, path: &Path) -> Vec<PathBuf> {
        match self.runpath {
            Some(_) => Vec::new(),
            None => self.expand(&self.rpath, path),
        }
    }

    /// Its `DT_RUNPATH`s, absolute.
    pub(super) fn runpath_at(&self, path: &Path) -> Vec<PathBuf> {
        self.expand(self.runpath.as_deref().unwrap_or_default(), path)
    }

    /// The tokens of ld.so(8): `$ORIGIN`, `$LIB`, `$PLATFORM`. `$LIB` has two meanings; both are tried.
    fn expand(&self, entries: &[String], path: &Path) -> Vec<PathBuf> {
        let origin = path.parent().unwrap_or(Path::new("/")).to_string_lossy();
        let mut libs = vec![if self.abi.is_64 { "lib64" } else { "lib" }.to_owned()];
        if let Some(triplet) = self.abi.multiarch() {
            libs.insert(0, format!("lib/{triplet}"));
        }
        let mut paths = Vec::new();
        for entry in entries {
            for lib in &libs {
                let path = PathBuf::from(token(
                    &token(&token(entry, "ORIGIN", &origin), "LIB", lib),
                    "PLATFORM",
                    &self.abi.name(),
                ));
                // The loader would take a relative path from wherever the program was started.
                if path.is_absolute() && !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        paths
    }
}

fn token(text: &str, name: &str, value: &str) -> String {
    text.replace(&format!("${{{name}}}"), value)
        .replace(&format!("${name}"), value)
}

fn parse<H: FileHeader<Endian = Endianness>>(
    cache: &ReadCache<impl io::Read + io::Seek>,
) -> object::read::Result<Elf> {
    let header = H::parse(cache)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, cache)?;
    let mut found = Elf {
        abi: Abi {
            is_64: header.is_type_64(),
            machine: header.e_machine(endian).0,
        },
        interpreter: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: None,
    };
    let mut dynamics: &[H::Dyn] = &[];
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, cache)? {
            found.interpreter = Some(PathBuf::from(String::from_utf8_lossy(path).into_owned()));
        }
        if let Some(table) = segment.dynamic(endian, cache)? {
            dynamics = table;
        }
    }
    let value = |tag| {
        dynamics
            .iter()
            .find(|d| d.tag(endian) == tag)
            .map(|d| d.val(endian))
    };
    let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else {
        return Ok(found);
    };
    // The table is given by its address in memory; the segment that is loaded there has its place in the file.
    let offset = segments.iter().find_map(|segment| {
        let start: u64 = segment.p_vaddr(endian).into();
        let length: u64 = segment.p_filesz(endian).into();
        let offset: u64 = segment.p_offset(endian).into();
        let inside = address.checked_sub(start).filter(|inside| *inside < length)?;
        (segment.p_type(endian) == elf::PT_LOAD).then(|| offset.checked_add(inside))?
    });
    let Some(strings) = offset.and_then(|offset| cache.read_bytes_at(offset, size).ok()) else {
        return Ok(found);
    };
    let text = |at: u64| {
        let rest = usize::try_from(at)
            .ok()
            .and_then(|at| strings.get(at..))
            .unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        String::from_utf8_lossy(&rest[..end]).into_owned()
    };
    let list = |at| {
        text(at)
            .split(':')
            .filter(|p| !p.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for entry in dynamics {
        match entry.tag(endian) {
            elf::DT_NEEDED => found.needed.push(text(entry.val(endian))),
            elf::DT_RPATH => found.rpath = list(entry.val(endian)),
            elf::DT_RUNPATH => found.runpath = Some(list(entry.val(endian))),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_paths(rpath: &[&str], runpath: Option<&[&str]>) -> Elf {
        let owned = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
        Elf {
            abi: Abi {
                is_64: true,
                machine: elf::EM_X86_64.0,
            },
            interpreter: None,
            needed: Vec::new(),
            rpath: owned(rpath),
            runpath: runpath.map(owned),
        }
    }

    #[test]
    fn tokens_are_expanded_in_both_spellings() {
        let elf = with_paths(
            &["$ORIGIN/../lib", "${ORIGIN}/x", "/opt/$LIB/$PLATFORM", "relative"],
            None,
        );
        assert_eq!(
            elf.rpath_at(Path::new("/opt/app/bin/app")),
            [
                "/opt/app/bin/../lib",
                "/opt/app/bin/x",
                "/opt/lib/x86_64-linux-gnu/x86_64",
                "/opt/lib64/x86_64",
            ]
            .map(PathBuf::from)
        );
    }

    #[test]
    fn a_runpath_silences_the_rpath() {
        let elf = with_paths(&["/rpath"], Some(&["/runpath"]));
        assert!(elf.rpath_at(Path::new("/bin/app")).is_empty());
        assert_eq!(elf.runpath_at(Path::new("/bin/app")), [PathBuf::from("/runpath")]);
    }

    #[test]
    fn this_program_asks_for_a_loader_and_libc_or_is_static() {
        let elf = Elf::read(&std::env::current_exe().unwrap()).unwrap().unwrap();
        assert_eq!(elf.abi, Abi::NATIVE);
        if cfg!(target_feature = "crt-static") {
            assert_eq!((elf.interpreter, elf.needed), (None, Vec::new()));
        } else {
            assert!(elf.interpreter.is_some());
            let libc = |name: &String| name.starts_with("libc.");
            assert!(elf.needed.iter().any(libc), "{:?}", elf.needed);
        }
    }

    #[test]
    fn what_is_no_elf_file_is_told_from_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for text in [b"".as_slice(), b"#!/bin/sh\n", b"\x7fEL"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Elf::read(&path).unwrap(), None, "{text:?}");
        }
        let mut cut = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        cut.truncate(48);
        std::fs::write(&path, cut).unwrap();
        let error = Elf::read(&path).unwrap_err().to_string();
        assert!(error.starts_with("damaged ELF file"), "{error}");
    }
}
