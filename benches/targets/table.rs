//! The table of targets: what was measured, against what, within which bound.

use serde::{Deserialize, Serialize};

use crate::samples::Samples;

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Names the row in results and on the command line; never changes.
    pub(crate) id: String,
    pub(crate) what: String,
    /// Of herd's and the peers' readings, such as `µs`, `ms`, `kB`, `1/s`.
    pub(crate) unit: String,
    pub(crate) herd: Samples,
    pub(crate) peers: Vec<Peer>,
    pub(crate) bounds: Vec<Bound>,
    /// What a reader has to know to judge the numbers.
    pub(crate) note: Option<String>,
}

/// Something else that does the same work, measured in turn with herd.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) samples: Samples,
}

/// What a row has to keep to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bound {
    /// The peer whose median herd's is divided by; without one the limit has the row's unit.
    pub(crate) against: Option<String>,
    pub(crate) relation: Relation,
    pub(crate) limit: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Relation {
    AtMost,
    AtLeast,
    Exactly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Pass,
    Short,
    /// herd or the peer could not be measured on this machine.
    Unmeasured,
}

impl Row {
    pub(crate) fn new(id: &str, what: &str, unit: &str) -> Self {
        Self {
            id: id.to_owned(),
            what: what.to_owned(),
            unit: unit.to_owned(),
            herd: Samples::default(),
            peers: Vec::new(),
            bounds: Vec::new(),
            note: None,
        }
    }

    pub(crate) fn bound(mut self, against: Option<&str>, relation: Relation, limit: f64) -> Self {
        self.bounds.push(Bound {
            against: against.map(str::to_owned),
            relation,
            limit,
        });
        self
    }

    /// The peer of this name, new if there was none.
    pub(crate) fn peer(&mut self, name: &str) -> &mut Samples {
        let at = match self.peers.iter().position(|peer| peer.name == name) {
            Some(at) => at,
            None => {
                self.peers.push(Peer {
                    name: name.to_owned(),
                    samples: Samples::default(),
                });
                self.peers.len() - 1
            }
        };
        &mut self.peers[at].samples
    }

    /// What the bound is about: herd's median, or its ratio to the peer's.
    pub(crate) fn value(&self, bound: &Bound) -> Option<f64> {
        let herd = self.herd.median()?;
        let Some(against) = &bound.against else {
            return Some(herd);
        };
        let peer = self.peers.iter().find(|peer| peer.name == *against)?;
        Some(herd / peer.samples.median()?)
    }

    pub(crate) fn verdict(&self, bound: &Bound) -> Verdict {
        let Some(value) = self.value(bound) else {
            return Verdict::Unmeasured;
        };
        let kept = match bound.relation {
            Relation::AtMost => value <= bound.limit,
            Relation::AtLeast => value >= bound.limit,
            Relation::Exactly => value == bound.limit,
        };
        if kept { Verdict::Pass } else { Verdict::Short }
    }
}
