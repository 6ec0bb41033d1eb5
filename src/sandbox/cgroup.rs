//! Limits on a tree of processes, by control groups (cgroups(7)), version 1, hybrid or 2.
