//! Bundles: worker root filesystems as OCI bundle directories (config.json + rootfs).

pub mod closure;
