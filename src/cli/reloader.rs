//! Reading herd.yaml again while herd runs: who wants it, what has to be right, and who is told.
//!
//! ```text
//! SIGHUP, POST /v1/reload, --watch ─▶ Wish ─▶ load, compare, plan sandboxes ─▶ driver ─▶ in force
//!                                                └── anything wrong ───────────────▶ the old one stays
//! ```
//!
//! It is the same file, from the same directory, under the same flags and variables as at the start, judged by the same
//! code as `herd start` and `herd check` use. Wishes that come while one is being fulfilled are fulfilled together, by
//! one more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::{error, warn};

use super::check::complaint;
use super::surroundings::{self, Surroundings, Taker};
use super::{service, start};
use crate::access::{InForce, Lasting};
use crate::config::{self, Config, Finding, LoadError, Overrides, Problems, Step};
use crate::control::Door;
use crate::driver::{Cause, Handle, JournalEvent, Next, NotReloaded, Reloaded, Reloads, Wish};
use crate::launcher::{Forked, Guard, sandbox};
use crate::proxy::Tls;
use crate::sandbox::cgroup::{Controllers, Unavailable};
use crate::sys::watch::FileWatch;
use crate::telemetry::access_log::{AccessLog, Target};
use crate::worker::Plans;

/// An editor has done with the file when nothing has happened to it for this long; but it is not waited for longer
/// than that.
const QUIET: Duration = Duration::from_millis(100);
const IMPATIENCE: Duration = Duration::from_secs(2);

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) overrides: Overrides,
}

/// Whether somebody looks after the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Watch {
    Nothing,
    /// For another text than this, which it had when herd began to read it.
    File(Option<Vec<u8>>),
}

/// What a herd has to know from its start to reload later.
#[derive(Debug)]
pub(super) struct Reloading {
    pub(super) source: Source,
    pub(super) means: Means,
    pub(super) watch: Watch,
}

/// What sandboxes this herd can make until its end; settled at its start.
#[derive(Debug, Clone)]
pub(super) struct Means {
    /// Why none can be added; `None`: they can.
    no_sandboxes: Option<&'static str>,
    available: Controllers,
    missing: Vec<Unavailable>,
}

impl Means {
    pub(super) fn of(forked: &Forked, missing: Vec<Unavailable>) -> Self {
        let none_yet = forked.sandboxes.plans.iter().all(Option::is_none);
        let no_sandboxes = match (&forked.guard, none_yet) {
            (Guard::Weak { .. }, _) => {
                Some("this herd runs without the namespaces that sandboxes are made of")
            }
            // Which ids the launcher may give to sandboxes was settled when it was forked.
            (Guard::UserPidNamespace, true) => {
                Some("this herd has no user ids for sandboxes, because it had none when it started")
            }
            _ => None,
        };
        Self {
            no_sandboxes,
            available: forked.sandboxes.hierarchies.controllers(),
            missing,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Reloader {
    source: Source,
    means: Means,
    /// In force, with its plans.
    config: Arc<Config>,
    plans: Plans,
    tls: Option<Arc<Tls>>,
    access_log: Arc<AccessLog>,
    /// Of the control API.
    door: Door,
    driver: Handle,
    wishes: mpsc::Receiver<Wish>,
    /// For the service manager's status.
    url: String,
}

/// What is to be in force next.
struct Judged {
    config: Config,
    /// Those that are as they were are the same ones.
    plans: Plans,
    surroundings: Surroundings,
    access_log: Option<Target>,
}

impl Reloader {
    pub(super) fn new(
        source: Source,
        means: Means,
        (config, plans): (Arc<Config>, Plans),
        (tls, access_log, door): (Option<Arc<Tls>>, Arc<AccessLog>, Door),
        driver: Handle,
        wishes: mpsc::Receiver<Wish>,
        url: String,
    ) -> Self {
        Self {
            source,
            means,
            config,
            plans,
            tls,
            access_log,
            door,
            driver,
            wishes,
            url,
        }
    }

    /// As long as somebody may wish for something.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.wishes.recv().await {
            let cause = first.cause.clone();
            let mut wishes = vec![first];
            // The file is read after all of these have come.
            while let Ok(another) = self.wishes.try_recv() {
                wishes.push(another);
            }
            let outcome = self.reload(cause).await;
            for wish in wishes {
                let _ = wish.reply.send(outcome.clone());
            }
        }
    }

    async fn reload(&mut self, cause: Cause) -> Result<Reloaded, NotReloaded> {
        if self.driver.is_draining() {
            // The service manager has been told of that, and of nothing after it.
            return Err(NotReloaded::Draining);
        }
        service::reloading();
        let outcome = self.try_reload(cause.clone()).await;
        match &outcome {
            Ok(reloaded) => {
                let generation = reloaded.generation.0;
                service::reloaded(&self.url, &format!("configuration {generation} is in force"));
            }
            // Since this began.
            Err(NotReloaded::Draining) => {}
            Err(not) => {
                self.tell(&cause, not);
                self.driver.metrics().not_reloaded();
                self.driver.journal().push(JournalEvent::ConfigReloadFailed {
                    cause: cause.word(),
                    detail: self.without_lines(not),
                });
                service::reloaded(
                    &self.url,
                    "the latest reload failed, and the configuration before it is in force",
                );
            }
        }
        outcome
    }

    async fn try_reload(&mut self, cause: Cause) -> Result<Reloaded, NotReloaded> {
        let (source, means) = (self.source.clone(), self.means.clone());
        let (config, plans) = (Arc::clone(&self.config), self.plans.clone());
        // Reads files and compiles filters: not on the thread of the driver.
        let judging = tokio::task::spawn_blocking(move || judge(&source, &means, &config, &plans));
        let Judged {
            config,
            plans,
            surroundings,
            access_log,
        } = judging.await.unwrap_or_else(|e| {
            Err(NotReloaded::Invalid {
                text: format!("the configuration could not be judged: {e}"),
                problems: Vec::new(),
            })
        })?;
        let Surroundings {
            identity,
            secrets,
            admission,
            // Only a start takes up others.
            headers: _,
        } = surroundings;
        let next = Next {
            config: config.clone(),
            secrets,
            plans: plans.clone(),
        };
        let lasting = self.lasting();
        let reloaded = self.driver.reconfigure(next, cause).await?;
        // Also where nothing in the file has changed: a renewed certificate is in the same files.
        if let (Some(tls), Some(identity)) = (&self.tls, identity) {
            tls.renew(identity);
        }
        // Or the same one, anew.
        if let Err(error) = self.access_log.turn_to(access_log) {
            error!(%error, "cannot start the thread that writes the access log");
        }
        // Also a key that another takes the place of, in the same file.
        self.door.renew(admission);
        if let (
            _,
            InForce {
                access: Some(access), ..
            },
        ) = self.driver.config().get()
            && lasting != Some(access.lasting())
        {
            start::tell_lasting(&access);
        }
        start::tell_weaker(&config, &plans);
        (self.config, self.plans) = (Arc::new(config), plans);
        Ok(reloaded)
    }

    /// A line of the log for each problem: it has no others.
    fn tell(&self, cause: &Cause, not: &NotReloaded) {
        let file = self.source.file.display();
        let problems = not.problems();
        let what = match problems {
            [] => not.text(),
            [_] => format!("{file}: 1 problem"),
            several => format!("{file}: {} problems", several.len()),
        };
        error!(
            cause = cause.word(),
            "the configuration was not reloaded, the one before it is in force: {what}"
        );
        for problem in problems {
            error!("{file}:{problem}");
        }
    }

    /// For those who may read events, but not herd.yaml, a line of which can hold a secret.
    fn without_lines(&self, not: &NotReloaded) -> String {
        let file = self.source.file.display();
        let told: Vec<_> = not
            .problems()
            .iter()
            .map(|problem| format!("{file}:{problem}"))
            .collect();
        match told.is_empty() {
            true => not.text(),
            false => told.join("; "),
        }
    }

    /// How long tokens are good for; `None`: there are none.
    fn lasting(&self) -> Option<Lasting> {
        let (_, InForce { access, .. }) = self.driver.config().get();
        access.map(|access| access.lasting())
    }
}

fn judge(source: &Source, means: &Means, present: &Config, plans: &Plans) -> Result<Judged, NotReloaded> {
    let file = source.file.as_path();
    let shown = file.display().to_string();
    let invalid = |error: LoadError| {
        let text = complaint(&shown, &error);
        let problems = match error {
            LoadError::Invalid(problems) => problems.list,
            _ => Vec::new(),
        };
        NotReloaded::Invalid { text, problems }
    };
    let mut config = config::load(file).map_err(invalid)?;
    source.overrides.clone().apply(&mut config);
    let obstacles = obstacles(present, &config, means, file);
    if !obstacles.is_empty() {
        let problems = config::point_out(file, obstacles);
        return Err(NotReloaded::NeedsRestart {
            text: complaint(&shown, &LoadError::Invalid(problems.clone())),
            problems: problems.list,
        });
    }
    let wrong = |problems: Problems| invalid(LoadError::Invalid(problems));
    let planned = sandbox::prepare(&config, means.available, &means.missing);
    let (surroundings, mut next) =
        surroundings::judge(&config, file, Taker::Reload, planned).map_err(wrong)?;
    // Nothing is made for a file that is wrong.
    let access_log = start::access_log(&config, file).map_err(wrong)?;
    for (kind, plan) in config.kinds.iter().zip(&mut next) {
        let old = present.kinds.iter().position(|old| old.name == kind.name);
        let old = old.and_then(|at| plans.get(at)?.as_ref());
        if let (Some(new), Some(old)) = (&plan, old)
            && new.is_like(old)
        {
            *plan = Some(Arc::clone(old));
        }
    }
    Ok(Judged {
        config,
        plans: next,
        surroundings,
        access_log,
    })
}

/// What only a start can take.
fn obstacles(present: &Config, next: &Config, means: &Means, file: &Path) -> Vec<Finding> {
    let restart = |setting: Vec<&str>| {
        let setting: Vec<Step> = setting.into_iter().map(Step::from).collect();
        let what = match config::mentions(file, &setting) {
            true => "has changed",
            false => "was removed",
        };
        Finding {
            kind: None,
            setting,
            message: format!("{what}, and only a start can take that: restart herd, or undo the change"),
        }
    };
    let settings = present.needs_restart_for(next).into_iter().map(restart);
    let mut found: Vec<Finding> = settings.collect();
    let sandboxed = next.kinds.iter().filter(|kind| kind.sandbox.on().is_some());
    if let Some(why) = means.no_sandboxes {
        found.extend(sandboxed.map(|kind| Finding {
            kind: Some(kind.name.clone()),
            setting: vec![Step::from("sandbox")],
            message: format!("needs a restart: {why}"),
        }));
        return found;
    }
    for (kind, key) in sandbox::unopened(next, means.available, &means.missing) {
        found.push(Finding {
            kind: Some(kind),
            setting: ["sandbox", key].map(Step::from).to_vec(),
            message: "needs a restart: nothing was limited by it when this herd started, so it has no control groups \
                      for that"
                .to_owned(),
        });
    }
    found
}

/// Wishes for a reload whenever the file's text is another than the last one; at first, than the one that was `read` at the
/// start. Resolves only if the file cannot be watched.
pub(super) async fn watch(file: PathBuf, read: Option<Vec<u8>>, reloads: Reloads) -> std::io::Error {
    let watch = match FileWatch::on(&file) {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    let mut known = read;
    loop {
        // Away for a moment, or the same as before: nothing to do.
        let text = std::fs::read(&file)
            .ok()
            .filter(|text| known.as_ref() != Some(text));
        if text.is_some() {
            known = text;
            if reloads.ask(Cause::File).await == Err(NotReloaded::Draining) {
                warn!("herd.yaml has changed, and is not read again: herd is shutting down");
                return std::future::pending().await;
            }
        }
        if let Err(error) = watch.stirred().await {
            return error;
        }
        let impatient = Instant::now() + IMPATIENCE;
        while let Ok(stirred) = timeout_at(impatient.min(Instant::now() + QUIET), watch.stirred()).await {
            if let Err(error) = stirred {
                return error;
            }
            if Instant::now() >= impatient {
                break;
            }
        }
    }
}
