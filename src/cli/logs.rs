//! `herd logs`.

use std::process::ExitCode;

use http::Method;
use http_body_util::BodyExt;

use crate::control::is_moment;
use crate::core::SessionId;

use super::client::{ClientError, Control, session_id, session_path};
use super::show;

/// Print what a session's worker wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  herd logs -f --tail 20 user-42

Prints stdout and stderr of the session's latest worker, live or ended;
control characters are escaped. With -f it goes on until the worker ends.

Exit codes: 0 printed, 1 failed (no such session, herd is not running), 2
wrong usage")]
pub struct Logs {
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Start with the last N lines [default: all that are kept]
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,
    /// Only lines since a moment (RFC 3339, e.g. 2026-01-31T12:00:00Z) or for a time (e.g. 10m)
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<String>,
    /// Begin each line with the moment at which herd read it
    #[arg(short, long)]
    timestamps: bool,
    /// Of this incarnation of the id, as `herd inspect` numbers them [default: the newest that has some output]
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// The session: its id, with `auth` in herd.yaml as PRINCIPAL/ID
    #[arg(value_parser = session_id)]
    id: SessionId,
    #[command(flatten)]
    control: Control,
}

impl Logs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = session_path(
            &self.id,
            "/logs",
            &[
                ("follow", Some(self.follow.to_string())),
                ("tail", self.tail.map(|lines| lines.to_string())),
                ("since", self.since),
                ("generation", self.generation.map(|number| number.to_string())),
                ("timestamps", self.timestamps.then(|| "true".to_owned())),
            ],
        );
        self.control.run_while_read(|mut client| async move {
            let mut output = client.stream(Method::GET, &path).await?;
            while let Some(frame) = output.frame().await {
                if let Ok(text) = frame.map_err(ClientError::Lost)?.into_data() {
                    show::print(text)?;
                }
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// For clap. herd reads it again, by its own clock.
fn moment(text: &str) -> Result<String, String> {
    match is_moment(text) {
        true => Ok(text.to_owned()),
        false => Err(
            "write a time with its unit, such as 10m, or a moment such as 2026-01-31T12:00:00Z".to_owned(),
        ),
    }
}
