//! Why an address of herd.yaml cannot be listened on, as far as there is something to do about it.

use std::io;

/// Follows the error's own words; `key` is where the address stands.
pub fn advice(error: &io::Error, key: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; another program (or another herd) listens there: stop it or choose another {key}")
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned(),
        _ => String::new(),
    }
}
