//! Subordinate ids: what /etc/subuid and /etc/subgid let this user give away (subuid(5)), and the two setuid
//! programs that do it (newuidmap(1)).

use std::fs;
use std::process::{Command, Stdio};

use nix::unistd::{User, geteuid};

use super::sandbox::{Owner, SubRange};

/// The larger ranges of a user are of no use here: each sandbox takes one id.
const MOST: u32 = 65_536;

/// The first usable range of this user; `None` where there is none for both uids and gids.
pub(super) fn range() -> Option<SubRange> {
    let uid = geteuid();
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let first = |file: &str| {
        let text = fs::read_to_string(file).ok()?;
        first_range(&text, name.as_deref(), uid.as_raw())
    };
    let (first_uid, uids) = first("/etc/subuid")?;
    let (first_gid, gids) = first("/etc/subgid")?;
    Some(SubRange {
        first_uid,
        first_gid,
        count: uids.min(gids).min(MOST),
    })
}

/// The first line `name:first:count` or `uid:first:count` of this user.
fn first_range(text: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut parts = line.trim().split(':');
        let (who, first, count) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = Some(who) == name || who.parse() == Ok(uid);
        let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
        (ours && count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    })
}

/// Maps this user's own ids and the range into the user namespace of `pid`, each to itself. `false`: the programs
/// are not there, or refuse; nothing is mapped then, or only the uids, which the caller notices.
pub(super) fn map(pid: i32, own: Owner, range: SubRange) -> bool {
    // The gids first: if they fail, the caller can still write both maps itself.
    one("newgidmap", pid, own.gid, range.first_gid, range.count)
        && one("newuidmap", pid, own.uid, range.first_uid, range.count)
}

fn one(program: &str, pid: i32, own: u32, first: u32, count: u32) -> bool {
    let numbers = [pid as u32, own, own, 1, first, first, count].map(|n| n.to_string());
    // herd has no threads yet.
    let status = Command::new(program)
        .args(numbers)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_of_the_user_counts_by_name_or_number() {
        let text = "root:1:2\n# a comment\nada:100000:65536\n1001:300000:10\nada:500000:1\n";
        assert_eq!(first_range(text, Some("ada"), 1000), Some((100_000, 65_536)));
        assert_eq!(first_range(text, Some("bob"), 1001), Some((300_000, 10)));
        assert_eq!(first_range(text, Some("eve"), 1002), None);
        assert_eq!(first_range("ada:x:1\nada:4294967295:2\n", Some("ada"), 1), None);
    }
}
