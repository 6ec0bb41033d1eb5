//! `herd token`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use http::Method;

use super::client::{Control, kind_name, session_id, session_path};
use super::show::{self, Output};
use crate::control::views::{NewToken, Token as Signed};
use crate::core::SessionId;

/// Sign a token, with which a web page can use one session without holding a key
///
/// It is good for this session of this principal until it expires. A page sends it as the cookie or the query parameter
/// `herd_token` (auth.tokens in herd.yaml names others), a program as `Authorization: Bearer`. What is open when it
/// expires stays open.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  $ herd token alice/user-42
  herd1.YWxpY2UvdXNlci00MiAqIDE3NjQzMDA2MDAwMDAgODA4MA.3q2-7w…
  $ herd token alice/user-42 --ttl 1h --worker browser --url
  http://127.0.0.1:8080/?herd_token=herd1.YWxpY2UvdXNlci00MiBicm93c2Vy…

Exit codes: 0 signed, 1 failed (no such principal, no `auth` in herd.yaml,
herd is not running), 2 wrong usage")]
pub struct Token {
    /// The session, as PRINCIPAL/ID; it need not exist yet
    #[arg(value_parser = session_id)]
    session: SessionId,
    /// How long it is good for: 1s to 1day
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = ttl)]
    ttl: Duration,
    /// Only for workers of this kind
    #[arg(short, long, value_name = "KIND", value_parser = kind_name)]
    worker: Option<String>,
    /// Print the address of the data port with the token in it
    #[arg(long)]
    url: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Token {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = session_path(&self.session, "/token", &[]);
        let new = NewToken {
            ttl_ms: Some(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX)),
            worker: self.worker,
        };
        let body = serde_json::to_vec(&new).context("a token cannot be asked for")?;
        let signed: Signed = self
            .control
            .run(|mut client| async move { Ok(client.ask_with(Method::POST, &path, body.into()).await?) })?;
        match (self.output, self.url) {
            (Output::Data(format), _) => format.print(&signed)?,
            (Output::Table, true) => show::print(format!("{}\n", signed.url))?,
            (Output::Table, false) => show::print(format!("{}\n", signed.token))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// For clap.
fn ttl(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match range.contains(&ttl) {
        true => Ok(ttl),
        false => Err("a token is good for 1s to 1day".to_owned()),
    }
}
