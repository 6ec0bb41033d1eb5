//! The driver, the control API and the data plane, from their start to their end.

use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::access::{Access, InForce, Secrets};
use crate::cli::reloader::{self, Reloader, Reloading, Watch};
use crate::cli::signals::Signals;
use crate::cli::{service, traces};
use crate::config::{self, Config, Finding, Problems};
use crate::control;
use crate::driver::{Burials, Crew, Driver, Handle};
use crate::history::History;
use crate::launcher::{Client, Forked, Lost};
use crate::proxy;
use crate::sandbox::cgroup::Hierarchies;
use crate::telemetry::access_log::{AccessLog, Target};
use crate::telemetry::traces::Traces;
use crate::worker::{DEFAULT_PORTS, Event, StateDir, Workers};

/// Workers' reports that may wait for the driver.
const EVENTS: usize = 256;
/// After the last worker is gone: for answers that are still being written.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What herd goes to work with.
pub(super) struct Outfit {
    pub(super) config: Arc<Config>,
    pub(super) secrets: Option<Secrets>,
    /// For the receiver of traces.
    pub(super) headers: HeaderMap,
    pub(super) forked: Forked,
    pub(super) groups: Arc<Hierarchies>,
    pub(super) reloading: Reloading,
    pub(super) state: StateDir,
    pub(super) history: Option<History>,
    pub(super) access_log: Option<Target>,
    pub(super) control: control::Server,
    pub(super) data: proxy::Server,
}

/// herd at work. Only its driver has yet to be run.
pub(super) struct AtWork {
    driver: Driver<Workers>,
    reports: mpsc::Receiver<Event>,
    handle: Handle,
    launcher_lost: Pin<Box<dyn Future<Output = Lost>>>,
    /// Has sessions that have ended written.
    writing: Option<control::Writing>,
    log: Arc<AccessLog>,
    traces: Option<Arc<Traces>>,
    proxy: proxy::Proxy,
    reloader: Reloader,
    /// Resolves when the configuration file cannot be watched any more.
    watching: Pin<Box<dyn Future<Output = std::io::Error>>>,
    control: control::Serving,
    signals: Signals,
}

impl Outfit {
    pub(super) async fn put_to_work(self) -> anyhow::Result<AtWork> {
        let Self {
            config,
            secrets,
            headers,
            forked,
            groups,
            reloading: Reloading { source, means, watch },
            state,
            history,
            access_log,
            control,
            data,
        } = self;
        let (events, reports) = mpsc::channel(EVENTS);
        let plans = forked.sandboxes.plans.clone();
        let secret = config.secret_variables();
        let workers = Workers::new(Client::new(forked)?, state, DEFAULT_PORTS, &secret, events);
        let workers = workers.counted_in(groups);
        try_sandboxes(&config, &workers, &source.file).await?;
        let launcher_lost = Box::pin(workers.launcher_lost());
        let address = data.local_addr()?;
        let access = Access::new(&config, secrets, address.port());
        tell_access(&config, address, access.as_deref());
        let first = InForce {
            config: Arc::clone(&config),
            access,
        };
        let (mut driver, handle) = Driver::new(first, workers);
        let (control, writing) = match history {
            Some(history) => keep(history, control, &mut driver, handle.journal().started())?,
            None => (control, None),
        };
        let dropped = handle.metrics().access_log_dropped().clone();
        let log = Arc::new(AccessLog::new(dropped));
        log.turn_to(access_log)
            .context("cannot start the thread that writes the access log")?;
        let traces = traces::start(&config, headers, handle.metrics().traces_dropped())?.map(Arc::new);
        let scheme = match config.network.tls {
            Some(_) => "https",
            None => "http",
        };
        let data_url = format!("{scheme}://{address}");
        let data_port = control::DataPort {
            url: format!("{scheme}://{}", from_here(address)),
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let control_path = control.path().to_owned();
        let tls = data.tls();
        let data = data.logging_to(Arc::clone(&log)).tracing_to(traces.clone());
        let proxy = data.serve(handle.clone(), threads)?;
        let control_url = control.local_addr().map(|address| format!("http://{address}"));
        let kinds = config.kinds.len();
        let wishes = driver.wishes().context("the driver is new")?;
        let reloader = Reloader::new(
            source.clone(),
            means,
            (config, plans),
            (tls, Arc::clone(&log), control.door()),
            handle.clone(),
            wishes,
            data_url.clone(),
        );
        let reloads = handle.reloads().clone();
        let watching = Box::pin(async {
            match watch {
                Watch::Nothing => std::future::pending().await,
                Watch::File(read) => reloader::watch(source.file, read, reloads).await,
            }
        });
        let control = control
            .spawn(handle.clone(), data_port)
            .context("cannot serve the control API")?;
        let signals = Signals::listen(Arc::clone(&log))?;
        info!(
            data = %data_url,
            control = %control_path.display(),
            control_url,
            kinds,
            "herd is ready"
        );
        service::ready(&data_url);
        Ok(AtWork {
            driver,
            reports,
            handle,
            launcher_lost,
            writing,
            log,
            traces,
            proxy,
            reloader,
            watching,
            control,
            signals,
        })
    }
}

impl AtWork {
    /// Until herd is to end; the one function that shows the whole shutdown.
    pub(super) async fn serve(self) -> anyhow::Result<ExitCode> {
        let Self {
            mut driver,
            reports,
            handle,
            launcher_lost,
            writing,
            log,
            traces,
            proxy,
            reloader,
            watching,
            mut control,
            mut signals,
        } = self;
        let (ask, asked) = mpsc::channel(2);
        let draining = handle.draining();
        let told = Cell::new(false);
        let beside = async {
            // Their ends are no reason for herd's.
            let stopping = async {
                draining.await;
                told.set(true);
                service::stopping();
            };
            let watching = async {
                let error = watching.await;
                error!(%error, "cannot watch the configuration file any more");
            };
            tokio::join!(stopping, watching, reloader.run());
            std::future::pending::<()>().await
        };
        let serving = async {
            tokio::select! {
                () = driver.run(reports, asked) => Ok(()),
                lost = launcher_lost => Err(anyhow::Error::from(lost)),
                survived = signals.obey(ask, handle.reloads()) => Err(survived),
                () = beside => Ok(()),
                () = service::live() => Ok(()),
                failed = control.failed() => Err(anyhow::Error::from(failed).context("the control API failed")),
            }
        };
        let served = serving.await;
        if !told.get() {
            // There was nothing to wait for.
            service::stopping();
        }
        // Nothing lives any more: the data plane only has to say so to whoever still listens.
        proxy.finish(Instant::now() + LAST_ANSWERS).await;
        log.flush();
        if let Some(traces) = traces {
            traces.finish();
        }
        driver.end_history();
        if let Some(writing) = writing {
            writing.finish();
        }
        served?;
        control.finish().await.context("the control API failed")?;
        info!("herd has ended; nothing is left");
        Ok(ExitCode::SUCCESS)
    }
}

/// What a kind asks for and this host cannot give is told now, not by the failures of its sessions.
async fn try_sandboxes(config: &Config, workers: &Workers, file: &Path) -> Result<(), Problems> {
    let failed = workers.make_ahead().await;
    let finding = |(kind, why): (usize, String)| Finding {
        kind: config.kinds.get(kind).map(|kind| kind.name.clone()),
        setting: vec!["sandbox".into()],
        message: format!(
            "no such sandbox can be made here: {why}; `herd doctor` says what this host can give, and how to make it \
             give more"
        ),
    };
    match failed.is_empty() {
        true => Ok(()),
        false => Err(config::point_out(file, failed.into_iter().map(finding).collect())),
    }
}

/// Where this host's clients reach what listens there.
fn from_here(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        named => named,
    }
}

/// Has the control API tell of former herds' sessions, and the driver's be written for the next.
fn keep<C: Crew>(
    mut history: History,
    control: control::Server,
    driver: &mut Driver<C>,
    started: SystemTime,
) -> anyhow::Result<(control::Server, Option<control::Writing>)> {
    let former = control::Former::read(&mut history, started).unwrap_or_else(|error| {
        warn!(%error, "cannot read the history; sessions of former herds are not known");
        control::Former::default()
    });
    let (burials, buried) = Burials::channel();
    let lost = burials.lost();
    driver.keep_history(burials, former.last_generation());
    let writing = control::Writing::spawn(history, buried, started, Arc::clone(&lost))
        .context("cannot start the thread that writes the history")?;
    Ok((control.remembering(former.counting(lost)), Some(writing)))
}

/// Says what of `auth` has to be known.
fn tell_access(config: &Config, address: SocketAddr, access: Option<&Access>) {
    let Some(access) = access else {
        return;
    };
    super::tell_lasting(access);
    if !address.ip().is_loopback() && config.network.tls.is_none() {
        warn!(
            %address,
            "keys and tokens cross the network in the clear unless something with TLS stands before the data port; network.tls \
             gives it a certificate"
        );
    }
}
