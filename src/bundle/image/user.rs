//! An image's `User` (`name`, `uid`, `name:group`, …) as numbers, by the image's own passwd and group.

use std::path::Path;

use crate::bundle::config::User;
use crate::bundle::root::{Root, RootError};

/// Neither file of any image comes near this, in bytes.
const FILE_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("{name:?} is neither a number nor in the image's etc/passwd")]
    User { name: String },
    #[error("its group {name:?} is neither a number nor in the image's etc/group")]
    Group { name: String },
    #[error("cannot be looked up")]
    Root(#[from] RootError),
}

pub(super) fn user(text: &str, root: &mut Root) -> Result<User, UserError> {
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    if name.is_empty() && group.is_none() {
        return Ok(User::default());
    }
    let passwd = lines(root, "etc/passwd")?;
    // name:password:uid:gid:…
    let number = id(if name.is_empty() { "0" } else { name });
    let entry = passwd.iter().find(|line| match number {
        Some(uid) => line.get(2).and_then(|field| id(field)) == Some(uid),
        None => line.first().is_some_and(|first| first == name),
    });
    let field = |at: usize| entry.and_then(|line| id(line.get(at)?));
    let uid = number.or_else(|| field(2)).ok_or_else(|| UserError::User {
        name: name.to_owned(),
    })?;
    let gid = match group {
        None => field(3).unwrap_or(0),
        Some(group) => match id(group) {
            Some(gid) => gid,
            None => lines(root, "etc/group")?
                .iter()
                .find(|line| line.first().is_some_and(|first| first == group))
                .and_then(|line| id(line.get(2)?))
                .ok_or_else(|| UserError::Group {
                    name: group.to_owned(),
                })?,
        },
    };
    Ok(User { uid, gid })
}

fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|id| *id != u32::MAX)
}

fn lines(root: &mut Root, path: &str) -> Result<Vec<Vec<String>>, RootError> {
    let content = root.read(Path::new(path), FILE_MAX)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&content)
        .lines()
        .map(|line| line.split(':').map(str::to_owned).collect())
        .collect())
}
