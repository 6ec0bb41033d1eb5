//! `herd doctor`: what this host can give, and what makes it give more.

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, Stdio};

use crate::sandbox::host::{self, Attempts, Check, Facts, Outcome, Probe};

use super::show::{self, Output};

/// Say what this host can give to sandboxes, and how to make it give more
///
/// Tries what herd would do, in processes and namespaces of its own that are gone afterwards; nothing on the host is
/// changed. Run it as the user who will run herd: the answers differ.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd doctor
  CHECK            OK   FOUND
  kernel           yes  Linux 6.8.0-45-generic
  user-namespaces  no   no rights in a new user namespace (uid_map: EPERM) ...
  ...

  user-namespaces: no
    means  `sandbox:` cannot be used; workers run bare
    fix    printf 'abi <abi/4.0>, ...

Exit codes: 0 sandboxes can run with all defaults, 1 they cannot, 2 wrong
usage")]
pub struct Doctor {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Try one thing in this process: how herd doctor calls itself
    #[arg(long, hide = true, value_name = "NAME")]
    probe: Option<String>,
}

impl Doctor {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(name) = &self.probe {
            let probe = Probe::named(name).ok_or_else(|| anyhow::anyhow!("there is no probe `{name}`"))?;
            return answer(probe.run(&in_a_process_of_its_own));
        }
        let attempts = Attempts::make(&in_a_process_of_its_own);
        let checks = host::checks(&Facts::here(), &attempts);
        match self.output {
            Output::Data(format) => format.print(&checks)?,
            Output::Table => show::print(report(&checks))?,
        }
        Ok(match host::is_fit(&checks) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// What a probe's process tells the one that started it.
fn answer(outcome: Outcome) -> anyhow::Result<ExitCode> {
    let (text, code) = match outcome {
        Ok(seen) => (seen, ExitCode::SUCCESS),
        Err(why) => (why, ExitCode::FAILURE),
    };
    show::print(text)?;
    Ok(code)
}

/// A namespace, once entered, cannot be left, so each probe is a new herd, which has one thread.
fn in_a_process_of_its_own(probe: Probe) -> Outcome {
    let child = Command::new("/proc/self/exe")
        .args(["doctor", "--probe", probe.name()])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("herd cannot start itself: {e}"))?;
    let text = String::from_utf8_lossy(&child.stdout).trim().to_owned();
    match (child.status.code(), child.status.signal()) {
        (Some(0), _) => Ok(text),
        (_, Some(signal)) => Err(format!("the attempt was killed by signal {signal}")),
        _ if text.is_empty() => Err(String::from_utf8_lossy(&child.stderr).trim().to_owned()),
        _ => Err(text),
    }
}

fn report(checks: &[Check]) -> String {
    let rows: Vec<_> = checks
        .iter()
        .map(|check| {
            let ok = if check.ok { "yes" } else { "no" };
            [check.name.to_owned(), ok.to_owned(), check.detail.clone()]
        })
        .collect();
    let mut text = show::table(["CHECK", "OK", "FOUND"], &rows);
    let lacking: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
    for check in &lacking {
        let fix = check.fix.as_deref().unwrap_or("-");
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n{}: no\n  means  {}\n  fix    {fix}\n",
            check.name, check.means
        );
    }
    let missing: Vec<_> = lacking
        .iter()
        .filter(|check| check.required)
        .map(|check| check.name)
        .collect();
    text.push('\n');
    text.push_str(&match missing.as_slice() {
        [] => "Sandboxes can run here with all defaults.\n".to_owned(),
        missing => format!(
            "Sandboxes cannot run here with all defaults, for lack of: {}.\n",
            missing.join(", ")
        ),
    });
    text
}
