//! What every root filesystem has, whatever runs in it: mount points, identities, a place for temporary
//! files. Made here and not copied, so that nothing of this machine's users and network comes along.

use std::path::Path;

use super::gather::Gatherer;
use super::tree::{Entry, Tree};
use crate::bundle::User;

const NOBODY: u32 = 65_534;

/// passwd(5) with root, nobody and, if it is another one, this identity.
fn passwd(user: User) -> String {
    let mut text = "root:x:0:0:root:/root:/bin/sh\n".to_owned();
    if ![0, NOBODY].contains(&user.uid) {
        text += &format!("worker:x:{}:{}:worker:/tmp:/bin/sh\n", user.uid, user.gid);
    }
    text + "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
}

/// group(5), likewise.
fn group(user: User) -> String {
    let mut text = "root:x:0:\n".to_owned();
    if ![0, NOBODY].contains(&user.gid) {
        text += &format!("worker:x:{}:\n", user.gid);
    }
    text + "nogroup:x:65534:\n"
}

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
                        protocols: files\nservices: files\n";

impl Gatherer<'_> {
    /// Adds what every root filesystem has and hands the tree over, with notes on what is incomplete. Programs run as `user`.
    pub fn finish(mut self, user: User) -> (Tree, Vec<String>) {
        for (path, mode) in [
            ("/dev", 0o755),
            ("/etc", 0o755),
            ("/proc", 0o755),
            ("/root", 0o700),
            ("/run", 0o755),
            ("/sys", 0o755),
            ("/tmp", 0o1777),
            ("/var/tmp", 0o1777),
        ] {
            add(&mut self.tree, path, Entry::Directory { mode });
        }
        for (path, text) in [
            ("/etc/passwd", passwd(user)),
            ("/etc/group", group(user)),
            ("/etc/hosts", HOSTS.to_owned()),
            ("/etc/nsswitch.conf", NSSWITCH.to_owned()),
            // Empty: where a worker shares the host's network, the host's is mounted here.
            ("/etc/resolv.conf", String::new()),
        ] {
            let bytes = text.into_bytes();
            add(&mut self.tree, path, Entry::Made { bytes, mode: 0o644 });
        }
        if let Some(bytes) = self.opened.cache() {
            add(
                &mut self.tree,
                "/etc/ld.so.cache",
                Entry::Made { bytes, mode: 0o644 },
            );
        }
        self.merge_usr();
        self.notes.sort();
        self.notes.dedup();
        (self.tree, self.notes)
    }

    /// Where this machine's /bin is a link, so is the bundle's: scripts say /bin/sh.
    fn merge_usr(&mut self) {
        for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
            let path = Path::new("/").join(name);
            let Ok((on_disk, metadata)) = self.machine.look(&path) else {
                continue;
            };
            let inside = Path::new("/usr").join(name);
            if metadata.is_symlink()
                && self.tree.entry(&inside).is_some()
                && let Ok(to) = std::fs::read_link(on_disk)
            {
                self.tree.add(&path, Entry::Link { to });
            }
        }
    }
}

/// Adds `entry` where `path` leads to in the tree: this machine may have a link there.
fn add(tree: &mut Tree, path: &str, entry: Entry) {
    if let Some(resolved) = tree.resolve(Path::new(path)) {
        match (tree.entry(&resolved), &entry) {
            // A sticky directory that somebody's tree brought with other rights would be of no use.
            (Some(Entry::Directory { .. }), Entry::Directory { mode }) if mode & 0o1000 != 0 => {
                tree.replace(&resolved, entry);
            }
            _ => tree.add(&resolved, entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_is_known_by_a_name() {
        let passwd = |uid| passwd(User { uid, gid: uid });
        assert!(passwd(1000).contains("worker:x:1000:1000:worker:/tmp:"));
        for known in [0, 65_534] {
            assert!(!passwd(known).contains("worker"));
        }
    }

    #[test]
    fn what_a_bundle_brings_is_not_replaced() {
        let mut tree = Tree::default();
        let mine = |text: &[u8]| Entry::Made {
            bytes: text.to_vec(),
            mode: 0o644,
        };
        tree.add(Path::new("/etc/hosts"), mine(b"mine"));
        add(&mut tree, "/etc/hosts", mine(b"made"));
        assert_eq!(tree.entry(Path::new("/etc/hosts")), Some(&mine(b"mine")));
    }
}
