//! `herd start`: everything that serves, from the fork of the launcher to the exit code.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use http::HeaderMap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::reloader::{self, Means, Reloader, Reloading, Source, Watch};
use super::service;
use super::signals::Signals;
use super::surroundings::{self, Surroundings, Taker, judge};
use super::traces;
use crate::access::{Access, InForce, Lasting, Secrets};
use crate::config::paths::User;
use crate::config::{
    self, Config, ConfigFile, Finding, Kind, MemoryAdmission, Overrides, Problems, SandboxChoice,
};
use crate::control;
use crate::driver::{Burials, Crew, Driver};
use crate::history::History;
use crate::launcher::{self, Client, Forked, Guard, Sandboxes, sandbox};
use crate::proxy::{self, Tls};
use crate::sandbox::cgroup::{Hierarchies, Host, Unavailable};
use crate::sys::{activation, kernel};
use crate::telemetry::access_log::{AccessLog, Target};
use crate::telemetry::{self, LogArgs};
use crate::worker::{DEFAULT_PORTS, Plans, StateDir, Workers, most_memory};

/// Workers' reports that may wait for the driver.
const EVENTS: usize = 256;
/// After the last worker is gone: for answers that are still being written.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serve: bind sessions to workers until SIGINT or SIGTERM
///
/// The first SIGINT (Ctrl-C) or SIGTERM drains: new sessions are refused, bound ones go on until
/// `drain_timeout`. A second one ends everything at once.
///
/// SIGHUP has herd read its file again, as `herd reload` does: bound sessions keep their workers, and a file that is
/// wrong changes nothing. SIGUSR1 has it open the file of `access_log` anew, after that was renamed.
///
/// A flag is stronger than its HERD_* variable, that than herd.yaml, that than the default.
///
/// Under systemd, herd tells that it is ready and that it lives (Type=notify, WatchdogSec=), and takes its data socket from
/// a socket unit if there is one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  herd start --config herd.yaml
  curl -H 'X-Session-ID: user-42' http://127.0.0.1:8080/

Exit codes: 0 after a clean end, 1 if herd could not start or go on, 2 for
wrong usage.")]
pub struct Start {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    overrides: Overrides,
    /// Reload whenever the configuration file changes
    #[arg(long)]
    watch: bool,
}

impl Start {
    pub fn run(self, log: &LogArgs) -> anyhow::Result<ExitCode> {
        kernel::require_5_11()?;
        // Before it is understood: what is saved meanwhile is a change.
        let watch = match self.watch {
            true => Watch::File(std::fs::read(&self.config.path).ok()),
            false => Watch::Nothing,
        };
        let mut config = config::load(&self.config.path)?;
        self.overrides.clone().apply(&mut config);
        telemetry::init(log)?;
        let config = Arc::new(config);
        let (sandboxes, missing) = sandboxes(&config, &User::current(), &self.config.path)?;
        // From here to the end of this process this thread lives: the launcher dies with it.
        let mut forked = launcher::fork(launcher::Options {
            lifetime: config.lifetime,
            sandboxes,
        })?;
        // No sooner: the launcher has to be forked before there is a thread.
        telemetry::write_behind().context("cannot start the thread that writes the log")?;
        let reloading = Reloading {
            means: Means::of(&forked, missing),
            source: Source {
                file: self.config.path,
                overrides: self.overrides,
            },
            watch,
        };
        let groups = Arc::new(std::mem::take(&mut forked.sandboxes.hierarchies));
        let launcher = Arc::clone(&forked.pidfd);
        let served = serve(config, (forked, Arc::clone(&groups)), reloading);
        // Its socket is closed, so it ends, and with it the sandboxes that nobody has used.
        launcher.wait()?;
        if let Some(Err(e)) = Arc::into_inner(groups).map(Hierarchies::close) {
            warn!(
                "cannot remove herd's own control groups; the next herd with this state directory will: {e}"
            );
        }
        served
    }
}

/// Everything about sandboxes that can be known before there is a worker; every mistake in one run, with all else that is
/// wrong.
fn sandboxes(config: &Config, user: &User, file: &Path) -> Result<(Sandboxes, Vec<Unavailable>), Problems> {
    // Also without any: a killed herd may have left its groups, and may have had sandboxes.
    let state_dir = config.state_dir_for(user);
    let opened = Hierarchies::open(&state_dir, sandbox::needs(config), Host::current());
    let available = opened.hierarchies.controllers();
    match sandbox::prepare(config, available, &opened.missing) {
        Ok(plans) => {
            let sandboxes = Sandboxes {
                plans,
                hierarchies: opened.hierarchies,
            };
            Ok((sandboxes, opened.missing))
        }
        Err(wrong) => {
            let _ = opened.hierarchies.close();
            let Err(problems) = judge(config, file, Taker::Start(user), Err::<Infallible, _>(wrong));
            Err(problems)
        }
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

/// The access log's file, if there is one to be.
pub(super) fn access_log(config: &Config, file: &Path) -> Result<Option<Target>, Problems> {
    let target = config.access_log.as_ref().map(|log| Target::open(&log.to));
    let of = |error| config::point_out(file, vec![surroundings::of_access_log(error)]);
    target.transpose().map_err(of)
}

fn serve(
    config: Arc<Config>,
    (forked, groups): (Forked, Arc<Hierarchies>),
    reloading: Reloading,
) -> anyhow::Result<ExitCode> {
    let user = User::current();
    let file = &reloading.source.file;
    // After the fork: no process of a worker ever had these secrets in its memory.
    let (surroundings, ()) = judge(&config, file, Taker::Start(&user), Ok(()))?;
    let Surroundings {
        identity,
        secrets,
        admission,
        headers,
    } = surroundings;
    tell_guard(&forked.guard);
    tell_sandboxes(&config, &forked);
    raise_open_files();
    // The control socket first: it can tell which herd is in the way.
    let control = control::Server::bind(&config.control_socket_for(&user))?;
    let control = control.listen(&config, admission)?;
    let state = StateDir::open(&config.state_dir_for(&user))?;
    let history = history(&config, &user, file)?;
    let access_log = access_log(&config, file)?;
    let data = match activation::listener()? {
        Some(listener) => {
            info!("the service manager listens for herd; network.data_bind is not used");
            proxy::Server::on(listener)
        }
        None => proxy::Server::bind(&config)?,
    };
    let data = data.with_tls(identity.map(Tls::with).map(Arc::new));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make the main runtime")?;
    let local = LocalSet::new();
    local.block_on(
        &runtime,
        supervise(
            (config, secrets, headers),
            (forked, groups),
            reloading,
            (state, history, access_log),
            control,
            data,
        ),
    )
}

/// Runs the driver, the control API and the data plane; the one function that shows the whole shutdown.
async fn supervise(
    (config, secrets, headers): (Arc<Config>, Option<Secrets>, HeaderMap),
    (forked, groups): (Forked, Arc<Hierarchies>),
    reloading: Reloading,
    (state, history, access_log): (StateDir, Option<History>, Option<Target>),
    control: control::Server,
    data: proxy::Server,
) -> anyhow::Result<ExitCode> {
    let (events, reports) = mpsc::channel(EVENTS);
    let plans = forked.sandboxes.plans.clone();
    let secret = config.secret_variables();
    let workers = Workers::new(Client::new(forked)?, state, DEFAULT_PORTS, &secret, events);
    let workers = workers.counted_in(groups);
    try_sandboxes(&config, &workers, &reloading.source.file).await?;
    let launcher_lost = workers.launcher_lost();
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
    let Reloading { source, means, watch } = reloading;
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
    let watching = async {
        match watch {
            Watch::Nothing => std::future::pending().await,
            Watch::File(read) => reloader::watch(source.file, read, handle.reloads().clone()).await,
        }
    };
    let draining = handle.draining();
    let mut control = control
        .spawn(handle.clone(), data_port)
        .context("cannot serve the control API")?;
    let (ask, asked) = mpsc::channel(2);
    let mut signals = Signals::listen(Arc::clone(&log))?;
    info!(
        data = %data_url,
        control = %control_path.display(),
        control_url,
        kinds,
        "herd is ready"
    );

    service::ready(&data_url);
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

/// Where this host's clients reach what listens there.
fn from_here(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        named => named,
    }
}

/// Where ended sessions are kept over a restart, unless none shall be, or nowhere is a place for them.
fn history(config: &Config, user: &User, file: &Path) -> Result<Option<History>, Problems> {
    let Some(size) = config.history.size else {
        return Ok(None);
    };
    let Some(dir) = config.history_dir_for(user) else {
        info!(
            "there is no HOME, so ended sessions are forgotten with this herd; history.dir gives them a place"
        );
        return Ok(None);
    };
    match History::open(&dir, size) {
        Ok(history) => Ok(Some(history)),
        Err(error) if config.history.dir.is_some() => {
            let finding = surroundings::of(["history", "dir"], error);
            Err(config::point_out(file, vec![finding]))
        }
        Err(error) => {
            warn!("ended sessions are forgotten with this herd; history.dir gives them a place: {error}");
            Ok(None)
        }
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

/// Says which limits are asked for and not enforced.
pub(super) fn tell_weaker(config: &Config, plans: &Plans) {
    for (kind, plan) in config.kinds.iter().zip(plans) {
        for weaker in plan.iter().flat_map(|plan| plan.weaker()) {
            warn!(
                kind = kind.name,
                "WEAKER SANDBOX, as `require: best-effort` allows: {weaker}"
            );
        }
    }
}

/// Kinds whose sessions will all be refused, because no worker of theirs fits into this host.
pub(super) fn too_large(config: &Config) -> Vec<String> {
    let Some(total) = most_memory().filter(|_| config.admission.memory == MemoryAdmission::On) else {
        return Vec::new();
    };
    let total = total.saturating_sub(config.admission.reserve);
    let of = |kind: &Arc<Kind>| {
        let memory = kind
            .sandbox
            .on()?
            .limits
            .memory
            .filter(|memory| *memory > total)?;
        Some(format!(
            "workers.{}.sandbox.memory is {} MiB and this host has {} MiB for workers, so none will start; lower it, or \
             admission.reserve, or write admission: {{memory: off}}",
            kind.name,
            memory >> 20,
            total >> 20
        ))
    };
    config.kinds.iter().filter_map(of).collect()
}

/// Says for each kind what its workers are held by.
fn tell_sandboxes(config: &Config, forked: &Forked) {
    for warning in too_large(config) {
        warn!("{warning}");
    }
    tell_weaker(config, &forked.sandboxes.plans);
    let unsaid = |kind: &&Arc<Kind>| matches!(kind.sandbox, SandboxChoice::Unsaid);
    let bare: Vec<&str> = config
        .kinds
        .iter()
        .filter(unsaid)
        .map(|kind| kind.name.as_str())
        .collect();
    if !bare.is_empty() {
        info!(
            kinds = bare.join(", "),
            "these workers run without a sandbox, with all rights of this user; add `sandbox: host` to a kind to \
             isolate its workers, or `sandbox: off` to say that this is meant"
        );
    }
}

/// Says what of `auth` has to be known.
fn tell_access(config: &Config, address: SocketAddr, access: Option<&Access>) {
    let Some(access) = access else {
        return;
    };
    tell_lasting(access);
    if !address.ip().is_loopback() && config.network.tls.is_none() {
        warn!(
            %address,
            "keys and tokens cross the network in the clear unless something with TLS stands before the data port; network.tls \
             gives it a certificate"
        );
    }
}

pub(super) fn tell_lasting(access: &Access) {
    if access.lasting() == Lasting::UntilHerdEnds {
        info!(
            "session tokens are signed with a secret of this process and end with it; auth.tokens.secrets keeps them good"
        );
    }
}

fn tell_guard(guard: &Guard) {
    match guard {
        Guard::PidNamespace => info!(guard = "PID namespaces", "the kernel ends every worker with herd"),
        Guard::UserPidNamespace => info!(
            guard = "PID namespaces in a user namespace",
            "the kernel ends every worker with herd"
        ),
        Guard::Weak { why } => {
            warn!(
                "WEAKER GUARANTEE: workers run without PID namespaces, because {why}. A worker's processes are \
                 killed with their session and with herd by parent-death signals and sub-reapers, but some can \
                 survive if a keeper is killed with SIGKILL, or if they change their credentials. \
                 `lifetime: strict` refuses to start instead"
            );
        }
    }
}

/// Every connection is a descriptor. Workers keep the limit herd was started with: the launcher is
/// forked already.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    if let Err(error) = raised {
        error!(%error, "cannot raise the limit of open files");
    }
}
