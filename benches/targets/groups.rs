//! Which rows there are, and who measures them.

use crate::lab::Lab;
use crate::table::Row;

/// Rows that are measured together, because they share what they need.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    /// The ids of its rows, in the order of the table.
    pub(crate) rows: &'static [&'static str],
    /// Measures those of its rows that [`Lab::wants`]. A peer that is absent leaves its readings empty; an error
    /// is for what should have worked.
    pub(crate) run: fn(&Lab) -> anyhow::Result<Vec<Row>>,
}

pub(crate) const GROUPS: &[Group] = &[
    crate::data::GROUP,
    crate::memory::GROUP,
    crate::life::STARTS,
    crate::life::ENDS,
    crate::life::SESSIONS,
    crate::life::SCALE,
];
