//! Who a sandbox's worker is, inside and on the host.

use crate::sys::user_namespace::MapLine;

/// Ids that this herd may give to sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// As root: a range of 65,536 ids per sandbox, so that no two sandboxes share one with each other or the host.
    Ranges,
    /// Not root, with a range in /etc/subuid and /etc/subgid (subuid(5)): one id of it per sandbox.
    Subordinate { uid: Owner, range: SubRange },
    /// Not root and without such a range: the worker is, on the host, the user that runs herd.
    Own(Owner),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubRange {
    pub first_uid: u32,
    pub first_gid: u32,
    pub count: u32,
}

/// Where root's ranges begin: in what systemd sets aside for containers (524288 to 1879048191), far from what
/// distributions hand out as subordinate ids.
const FIRST_RANGE: u32 = 0x4000_0000;
const LAST_RANGE: u32 = 0x6fff_0000;
const RANGE: u32 = 0x1_0000;

/// One sandbox's share of the ids, for the life of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Slot(pub u32);

impl Ids {
    /// How many sandboxes can exist at a time.
    pub fn slots(&self) -> u32 {
        match self {
            Self::Ranges => (LAST_RANGE - FIRST_RANGE) / RANGE,
            Self::Subordinate { range, .. } => range.count,
            Self::Own(_) => u32::MAX,
        }
    }

    pub(super) fn identity(&self, slot: Slot, user: u32) -> Identity {
        let line = |inside, outside, count| MapLine {
            inside,
            outside,
            count,
        };
        match *self {
            Self::Ranges => {
                let first = FIRST_RANGE + slot.0 * RANGE;
                let map = vec![line(0, first, RANGE)];
                Identity {
                    root: Owner {
                        uid: first,
                        gid: first,
                    },
                    worker: Owner {
                        uid: first + user,
                        gid: first + user,
                    },
                    uids: map.clone(),
                    gids: map,
                    user,
                    rename: None,
                }
            }
            Self::Subordinate { uid: own, range } if user != 0 => {
                let worker = Owner {
                    uid: range.first_uid + slot.0,
                    gid: range.first_gid + slot.0,
                };
                Identity {
                    root: own,
                    worker,
                    uids: vec![line(0, own.uid, 1), line(user, worker.uid, 1)],
                    gids: vec![line(0, own.gid, 1), line(user, worker.gid, 1)],
                    user,
                    rename: None,
                }
            }
            Self::Subordinate { uid: own, .. } | Self::Own(own) => Identity {
                root: own,
                worker: own,
                uids: vec![line(0, own.uid, 1)],
                gids: vec![line(0, own.gid, 1)],
                user: 0,
                rename: (user != 0).then_some(user),
            },
        }
    }
}

/// One sandbox's ids, as its keeper sees those outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Whom root inside is outside; owns the sandbox's own files.
    pub(super) root: Owner,
    pub(super) worker: Owner,
    pub(super) uids: Vec<MapLine>,
    pub(super) gids: Vec<MapLine>,
    /// The worker's id in the container's user namespace.
    pub(super) user: u32,
    /// There is only one id, and the container's set-up needs it to be 0: a second user namespace gives it the
    /// name that the worker is to have.
    pub(super) rename: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Owner = Owner { uid: 1001, gid: 100 };

    #[test]
    fn no_two_sandboxes_of_root_share_an_id() {
        let (a, b) = (
            Ids::Ranges.identity(Slot(0), 1000),
            Ids::Ranges.identity(Slot(1), 1000),
        );
        assert_eq!(a.uids[0].outside + a.uids[0].count, b.uids[0].outside);
        assert_eq!(b.worker.uid, b.root.uid + 1000);
        let last = Ids::Ranges.identity(Slot(Ids::Ranges.slots() - 1), 65_533);
        assert!(
            last.uids[0].outside + 65_535 < 1_879_048_191,
            "within systemd's range"
        );
    }

    #[test]
    fn a_subordinate_id_is_the_worker_s_alone() {
        let range = SubRange {
            first_uid: 100_000,
            first_gid: 200_000,
            count: 2,
        };
        let ids = Ids::Subordinate { uid: OWN, range };
        assert_eq!(ids.slots(), 2);
        let identity = ids.identity(Slot(1), 33);
        assert_eq!(
            identity.worker,
            Owner {
                uid: 100_001,
                gid: 200_001
            }
        );
        assert_eq!((identity.root, identity.user, identity.rename), (OWN, 33, None));
    }

    #[test]
    fn the_only_id_there_is_gets_the_name_that_is_asked_for() {
        let identity = Ids::Own(OWN).identity(Slot(7), 1000);
        assert_eq!((identity.user, identity.rename), (0, Some(1000)));
        assert_eq!(Ids::Own(OWN).identity(Slot(7), 0).rename, None);
    }
}
