//! `herd start`: everything that serves, from the fork of the launcher to the exit code.

mod at_work;

use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::LocalSet;
use tracing::{error, info, warn};

use self::at_work::Outfit;
use super::reloader::{Means, Reloading, Source, Watch};
use super::surroundings::{self, Surroundings, Taker, judge};
use crate::access::{Access, Lasting};
use crate::config::paths::User;
use crate::config::{self, Config, ConfigFile, Kind, MemoryAdmission, Overrides, Problems, SandboxChoice};
use crate::control;
use crate::history::History;
use crate::launcher::{self, Forked, Guard, Sandboxes, sandbox};
use crate::proxy::{self, Tls};
use crate::sandbox::cgroup::{Hierarchies, Host, Unavailable};
use crate::sys::{activation, kernel};
use crate::telemetry::access_log::Target;
use crate::telemetry::{self, LogArgs};
use crate::worker::{Plans, StateDir, most_memory};

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
        let served = serve(config, forked, Arc::clone(&groups), reloading);
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

/// The access log's file, if there is one to be.
pub(super) fn access_log(config: &Config, file: &Path) -> Result<Option<Target>, Problems> {
    let target = config.access_log.as_ref().map(|log| Target::open(&log.to));
    let of = |error| config::point_out(file, vec![surroundings::of_access_log(error)]);
    target.transpose().map_err(of)
}

/// Everything has its place before anything is at work.
fn serve(
    config: Arc<Config>,
    forked: Forked,
    groups: Arc<Hierarchies>,
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
    let outfit = Outfit {
        config,
        secrets,
        headers,
        forked,
        groups,
        reloading,
        state,
        history,
        access_log,
        control,
        data,
    };
    LocalSet::new().block_on(&runtime, async { outfit.put_to_work().await?.serve().await })
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
