//! What this host can give a sandbox, and how to make it give more: `herd doctor`.
