//! What a service manager is told (sd_notify(3)): that herd is ready, that it ends, that it lives. Without one, nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// All sessions can be had.
pub(super) fn ready(url: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&serving(url))]);
}

/// The configuration is being read again (systemd's `Type=notify-reload` waits for the end of that).
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell the service manager of the reload"),
    }
}

/// It was, and this is what came of it.
pub(super) fn reloaded(url: &str, outcome: &str) {
    let status = format!("{}; {outcome}", serving(url));
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

fn serving(url: &str) -> String {
    format!("serving sessions at {url}")
}

/// New sessions are refused.
pub(super) fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("draining: bound sessions go on until drain_timeout"),
    ]);
}

/// Says for as long as it is polled that whoever polls it lives; twice as often as the service manager asks for. Never
/// resolves.
pub(super) async fn live() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut interval = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    loop {
        interval.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
