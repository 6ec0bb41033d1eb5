//! Which kernel this is.

/// The kernel is older than herd needs, or does not say what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("herd needs Linux 5.11 or newer; this kernel is {running}")]
pub struct TooOld {
    running: String,
}

/// `close_range` with `CLOSE_RANGE_CLOEXEC` came with 5.11 and is the newest call herd relies on.
pub fn require_5_11() -> Result<(), TooOld> {
    require(&release())
}

/// The release of the running kernel, like `6.1.0-18-amd64`.
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_else(|e| format!("unknown (uname: {e})"))
}

/// The first two numbers of a release; zeros if it has none.
pub fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

fn require(release: &str) -> Result<(), TooOld> {
    if version(release) >= (5, 11) {
        Ok(())
    } else {
        Err(TooOld {
            running: release.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_from_5_11_on_are_accepted() {
        for release in ["5.11.0", "5.15.0-91-generic", "6.1", "6.18.44-fc", "10.0-rc1"] {
            assert_eq!(require(release), Ok(()), "{release}");
        }
    }

    #[test]
    fn an_older_kernel_is_named() {
        for release in ["5.10.209", "4.19.0-26-amd64", "5.4", "3.10.0-1160.el7", "strange"] {
            let error = require(release).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("herd needs Linux 5.11 or newer; this kernel is {release}")
            );
        }
    }
}
