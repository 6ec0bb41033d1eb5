//! A tar archive as a stream of members, for archives that want to be misunderstood.
//!
//! `tar::Header` decodes the 512-byte blocks; what stands between them is read here, because the extended headers
//! are where archives lie. Each override (PAX `path`, `linkpath`, `size`, `uid`, `gid`, `mtime`; GNU long names) is
//! interpreted once, in this file, and before the member's data: tools that disagree about a size disagree about
//! where the next member begins. Extended headers are limited before they are read into memory.
//!
//! Formats: pax(1) of POSIX.1-2017, "ustar Interchange Format" and "pax Extended Header"; GNU tar's long names.

use std::io::{self, Read};

use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// No real path or attribute comes near this, in bytes.
const EXTENSION_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("the archive is cut off")]
    CutOff,
    #[error("is no tar archive here: a header's checksum is wrong")]
    Checksum,
    #[error("{name}: {what}")]
    Member { name: String, what: &'static str },
    #[error("an extended header is larger than 1 MiB")]
    ExtensionSize,
    #[error("an extended header is malformed: {0}")]
    Extension(&'static str),
}

/// One member; its content is what the stream yields next.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) kind: MemberKind,
    /// Target of a link.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) mtime: i64,
    /// Bytes of content.
    pub(super) size: u64,
    /// Whether extended attributes came with it.
    pub(super) has_xattrs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberKind {
    File,
    Directory,
    Symlink,
    Hardlink,
    /// Device node or FIFO.
    Special,
}

/// What extended headers said about the next member.
#[derive(Debug, Clone, Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    has_xattrs: bool,
}

#[derive(Debug)]
pub(super) struct Stream<R> {
    source: R,
    /// Bytes of the current member's content that nobody has read.
    left: u64,
    /// Bytes after it, up to the next block.
    padding: u64,
    global: Overrides,
    position: u64,
}

impl<R: Read> Stream<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            left: 0,
            padding: 0,
            global: Overrides::default(),
            position: 0,
        }
    }

    /// Where in the archive the current member's content begins, while nothing of it was read. In bytes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn into_inner(self) -> R {
        self.source
    }

    /// The next member; what is left of the current one is skipped. `None`: the archive's end.
    pub(super) fn next(&mut self) -> Result<Option<Member>, StreamError> {
        let mut overrides = self.global.clone();
        loop {
            self.skip()?;
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if block == [0; BLOCK] {
                // The end is two such blocks; archives that stop after one, or without any, are common.
                return match self.block()? {
                    None => Ok(None),
                    Some(block) if block == [0; BLOCK] => Ok(None),
                    Some(_) => Err(StreamError::Checksum),
                };
            }
            let header = Header::from_byte_slice(&block);
            let sum: u32 = block
                .iter()
                .enumerate()
                .map(|(at, byte)| {
                    if (148..156).contains(&at) {
                        32
                    } else {
                        u32::from(*byte)
                    }
                })
                .sum();
            if header.cksum().ok() != Some(sum) {
                return Err(StreamError::Checksum);
            }
            match header.entry_type() {
                EntryType::XHeader => {
                    let records = self.extension(header)?;
                    pax(&records, &mut overrides)?;
                }
                EntryType::XGlobalHeader => {
                    let records = self.extension(header)?;
                    pax(&records, &mut self.global)?;
                    if self.global.name.is_some() || self.global.link.is_some() || self.global.size.is_some()
                    {
                        return Err(StreamError::Extension("one path or size for all members"));
                    }
                    pax(&records, &mut overrides)?;
                }
                EntryType::GNULongName => overrides.name = Some(text(self.extension(header)?)),
                EntryType::GNULongLink => overrides.link = Some(text(self.extension(header)?)),
                _ => return self.member(header, overrides).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, overrides: Overrides) -> Result<Member, StreamError> {
        let name = overrides.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let wrong = |what| {
            let name = crate::bundle::escape(std::os::unix::ffi::OsStrExt::from_bytes(name.as_slice()));
            StreamError::Member { name, what }
        };
        let kind = match header.entry_type() {
            // The oldest format has no type for directories.
            EntryType::Regular if header.as_bytes()[156] == 0 && name.ends_with(b"/") => {
                MemberKind::Directory
            }
            EntryType::Regular | EntryType::Continuous => MemberKind::File,
            EntryType::Directory => MemberKind::Directory,
            EntryType::Symlink => MemberKind::Symlink,
            EntryType::Link => MemberKind::Hardlink,
            EntryType::Char | EntryType::Block | EntryType::Fifo => MemberKind::Special,
            EntryType::GNUSparse => return Err(wrong("is a sparse file, which images do not have")),
            _ => return Err(wrong("has a type that images do not have")),
        };
        let number = |value: io::Result<u64>, what| value.map_err(|_| wrong(what));
        let size = match overrides.size {
            Some(size) => size,
            None => number(raw_size(header), "has a malformed size")?,
        };
        if size > i64::MAX as u64 {
            return Err(wrong("has a negative or impossible size"));
        }
        if kind != MemberKind::File && size != 0 {
            // Some tools would take what follows for its content, others for the next member.
            return Err(wrong("is no file and yet has a size"));
        }
        let id = |value: u64, what| {
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| wrong(what))
        };
        let uid = match overrides.uid {
            Some(uid) => uid,
            None => number(header.uid(), "has a malformed owner")?,
        };
        let gid = match overrides.gid {
            Some(gid) => gid,
            None => number(header.gid(), "has a malformed group")?,
        };
        let member = Member {
            kind,
            link: match overrides.link {
                Some(link) => link,
                None => header.link_name_bytes().unwrap_or_default().into_owned(),
            },
            mode: header.mode().map_err(|_| wrong("has a malformed mode"))?,
            uid: id(uid, "has an owner beyond 32 bits")?,
            gid: id(gid, "has a group beyond 32 bits")?,
            mtime: match overrides.mtime {
                Some(mtime) => mtime,
                None => time(header.mtime().unwrap_or(0) as i64),
            },
            size,
            has_xattrs: overrides.has_xattrs,
            name,
        };
        self.left = size;
        self.padding = padding(size);
        Ok(member)
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, StreamError> {
        if header.as_ustar().is_none() && header.as_gnu().is_none() {
            // Some tools would take it for a file of its own.
            return Err(StreamError::Extension("its own header has a format without any"));
        }
        let size = raw_size(header).map_err(|_| StreamError::Extension("its size"))?;
        if size > EXTENSION_MAX {
            return Err(StreamError::ExtensionSize);
        }
        self.left = size;
        self.padding = padding(size);
        let mut content = Vec::new();
        self.read_to_end(&mut content).map_err(read_error)?;
        Ok(content)
    }

    /// A whole block; `None` at the source's end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, StreamError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(StreamError::CutOff),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    fn skip(&mut self) -> Result<(), StreamError> {
        let count = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.source).take(count), &mut io::sink()).map_err(read_error)?;
        self.position += skipped;
        // Padding after the last member's content is often missing, and nothing can hide in its absence.
        if skipped < self.left {
            return Err(StreamError::CutOff);
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

/// The current member's content. Its early end is an error, not an end.
impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.source.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut off",
            ));
        }
        self.left -= read as u64;
        self.position += read as u64;
        Ok(read)
    }
}

fn read_error(error: io::Error) -> StreamError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => StreamError::CutOff,
        _ => StreamError::Read(error),
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// Octal digits, or GNU's base-256, of which negative numbers are refused.
fn raw_size(header: &Header) -> io::Result<u64> {
    let field = &header.as_bytes()[124..136];
    if field[0] & 0x80 != 0 && (field[0] != 0x80 || field[1..4] != [0; 3]) {
        // More than 64 bits, or negative.
        return Err(io::ErrorKind::InvalidData.into());
    }
    header.entry_size()
}

/// GNU's long names end in a NUL.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// Records of the form `LENGTH KEY=VALUE\n`, the length counting itself. A later record replaces an earlier one,
/// an empty value takes an override back.
fn pax(mut records: &[u8], overrides: &mut Overrides) -> Result<(), StreamError> {
    let wrong = |what| move || StreamError::Extension(what);
    // Some writers fill up with zero bytes.
    while !records.is_empty() && records.iter().any(|byte| *byte != 0) {
        let space = records
            .iter()
            .take(21)
            .position(|byte| *byte == b' ')
            .ok_or_else(wrong("a record without a length"))?;
        let length = decimal(&records[..space]).ok_or_else(wrong("a record without a length"))?;
        let length = usize::try_from(length).map_err(|_| StreamError::Extension("a record's length"))?;
        let record = records
            .get(space + 1..length)
            .ok_or_else(wrong("a record's length"))?;
        records = &records[length..];
        let record = record
            .strip_suffix(b"\n")
            .ok_or_else(wrong("a record does not end where it says"))?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(wrong("a record without a value"))?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let given = !value.is_empty();
        let number = |what| match given {
            true => decimal(value).map(Some).ok_or_else(wrong(what)),
            false => Ok(None),
        };
        match key {
            b"path" => overrides.name = given.then(|| value.to_vec()),
            b"linkpath" => overrides.link = given.then(|| value.to_vec()),
            b"size" => overrides.size = number("a size that is no number, or a negative one")?,
            b"uid" => overrides.uid = number("an owner that is no number, or a negative one")?,
            b"gid" => overrides.gid = number("a group that is no number, or a negative one")?,
            b"mtime" => overrides.mtime = seconds(value).ok_or_else(wrong("a time that is no number"))?,
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(StreamError::Extension("a sparse file, which images do not have"));
            }
            _ if key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"LIBARCHIVE.xattr.") => {
                overrides.has_xattrs = true;
            }
            _ if key.starts_with(b"SCHILY.acl.") => overrides.has_xattrs = true,
            _ => {}
        }
    }
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whole seconds of a time like `1700000000.25`; `None` inside for an empty value.
fn seconds(value: &[u8]) -> Option<Option<i64>> {
    if value.is_empty() {
        return Some(None);
    }
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
    let seconds = time(i64::try_from(decimal(whole)?).ok()?);
    Some(Some(if negative { 0 } else { seconds }))
}

/// A time every filesystem can store.
fn time(seconds: i64) -> i64 {
    seconds.clamp(0, i64::from(u32::MAX >> 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length += 1;
        }
        format!("{length}{rest}").into_bytes()
    }

    fn member(kind: EntryType, name: &[u8], content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn names(archive: &[u8]) -> Result<Vec<String>, StreamError> {
        let mut stream = Stream::new(archive);
        let mut names = Vec::new();
        while let Some(member) = stream.next()? {
            names.push(String::from_utf8(member.name).unwrap());
        }
        Ok(names)
    }

    #[test]
    fn a_size_override_decides_where_the_next_member_begins() {
        // The header says 0 bytes, so a reader that ignores the override finds a member in the content.
        let hidden = member(EntryType::Regular, b"hidden", b"");
        let mut visible = member(EntryType::Regular, b"visible", b"");
        visible.extend(&hidden);
        let mut archive = member(EntryType::XHeader, b"x", &record("size", "512"));
        archive.extend(visible);
        archive.extend(member(EntryType::Regular, b"last", b"z"));
        assert_eq!(names(&archive).unwrap(), ["visible", "last"]);
    }

    #[test]
    fn overrides_last_for_one_member() {
        let mut archive = member(EntryType::XHeader, b"x", &record("path", "long"));
        archive.extend(member(EntryType::Regular, b"a", b""));
        archive.extend(member(EntryType::GNULongName, b"x", b"gnu\0"));
        archive.extend(member(EntryType::Regular, b"b", b""));
        archive.extend(member(EntryType::Regular, b"c", b""));
        assert_eq!(names(&archive).unwrap(), ["long", "gnu", "c"]);
    }

    #[test]
    fn extended_headers_that_lie_are_refused() {
        for (records, message) in [
            (
                record("size", "-1"),
                "an extended header is malformed: a size that is no number, or a negative one",
            ),
            (
                record("size", "99999999999999999999999"),
                "an extended header is malformed: a size that is no number, or a negative one",
            ),
            (
                record("size", "18446744073709551615"),
                "f: has a negative or impossible size",
            ),
            (record("uid", "4294967296"), "f: has an owner beyond 32 bits"),
            (record("uid", "4294967295"), "f: has an owner beyond 32 bits"),
            (
                record("GNU.sparse.major", "1"),
                "an extended header is malformed: a sparse file, which images do not have",
            ),
            (
                b"999 path=x\n".to_vec(),
                "an extended header is malformed: a record's length",
            ),
            (
                b"3 path=x\n".to_vec(),
                "an extended header is malformed: a record does not end where it says",
            ),
            (
                b"0 path=x\n".to_vec(),
                "an extended header is malformed: a record's length",
            ),
            (
                b"path=x\n".to_vec(),
                "an extended header is malformed: a record without a length",
            ),
            (
                b"8 path\n".to_vec(),
                "an extended header is malformed: a record's length",
            ),
        ] {
            let mut archive = member(EntryType::XHeader, b"x", &records);
            archive.extend(member(EntryType::Regular, b"f", b""));
            assert_eq!(names(&archive).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let directory = member(EntryType::Directory, b"d/", &[0; 512]);
        assert_eq!(
            names(&directory).unwrap_err().to_string(),
            "d/: is no file and yet has a size"
        );
        let mut huge = member(EntryType::Regular, b"f", b"");
        huge[124..136].copy_from_slice(&[0xff; 12]);
        let mut header = Header::from_byte_slice(&huge[..512]).clone();
        header.set_cksum();
        assert_eq!(
            names(header.as_bytes()).unwrap_err().to_string(),
            "f: has a malformed size"
        );
        let mut extension = member(EntryType::XHeader, b"x", b"");
        let mut header = Header::from_byte_slice(&extension[..512]).clone();
        header.set_size(8 << 30);
        header.set_cksum();
        extension[..512].copy_from_slice(header.as_bytes());
        assert_eq!(
            names(&extension).unwrap_err().to_string(),
            "an extended header is larger than 1 MiB"
        );
        for kind in [
            EntryType::XHeader,
            EntryType::XGlobalHeader,
            EntryType::GNULongName,
        ] {
            let mut oldest = member(kind, b"x", &record("path", "long"));
            oldest[257..265].fill(0);
            let mut header = Header::from_byte_slice(&oldest[..512]).clone();
            header.set_cksum();
            oldest[..512].copy_from_slice(header.as_bytes());
            assert_eq!(
                names(&oldest).unwrap_err().to_string(),
                "an extended header is malformed: its own header has a format without any"
            );
        }
        let mut corrupt = member(EntryType::Regular, b"f", b"");
        corrupt[0] = b'g';
        assert!(matches!(names(&corrupt), Err(StreamError::Checksum)));
    }

    #[test]
    fn an_archive_that_ends_early_is_refused_wherever_it_is_cut() {
        let mut archive = member(EntryType::Regular, b"a", &[7; 700]);
        archive.extend(member(EntryType::Regular, b"b", b"xyz"));
        assert_eq!(names(&archive).unwrap(), ["a", "b"]);
        for cut in 1..archive.len() {
            // Only a whole member may be last; its padding may be missing.
            let whole = (512 + 700..=1536).contains(&cut) || cut >= 1536 + 512 + 3;
            assert_eq!(names(&archive[..cut]).is_ok(), whole, "cut at {cut}");
        }
    }
}
