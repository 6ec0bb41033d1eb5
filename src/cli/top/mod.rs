//! `herd top`: a running herd, watched in a terminal.
//!
//! ```text
//! source ──news──▶ app ──▶ draw ──▶ screen
//! keyboard ─keys─▶  │
//!                   └─deeds─▶ source
//! ```
//!
//! `app` is what is known and chosen, without a terminal or a clock; `draw` puts it on a frame; `source` asks herd, and
//! goes on asking while herd is away; `screen` takes the terminal and gives it back whatever happens.

mod app;
mod draw;
mod screen;
mod source;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::app::{App, Deed};
use self::draw::Palette;
use self::screen::Screen;
use self::source::Source;
use super::client::{Control, kind_name};

/// What herd has told and is not shown yet.
const NEWS: usize = 64;

/// Watch sessions in the terminal, by what they use; stop them, read their output
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  herd top --worker browser

Keys: arrows, j and k choose, m c a sort by memory, CPU, age, r reverses,
/ filters, Enter or l shows output, x stops, space pauses, ? lists all, q quits.
Needs a terminal; elsewhere use `herd ps --usage --watch` or -o json.
NO_COLOR=1 does without colours.

Exit codes: 0 quit, 1 failed (herd is not running, no terminal), 2 wrong usage")]
pub struct Top {
    /// Only of workers of these kinds
    #[arg(short, long, value_name = "KIND", value_parser = kind_name, value_delimiter = ',')]
    worker: Vec<String>,
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    #[command(flatten)]
    control: Control,
}

impl Top {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            anyhow::bail!(
                "herd top needs a terminal; use `herd ps --usage --watch`, or `herd ps --usage -o json` for programs"
            );
        }
        let interval = Duration::from_secs(self.interval);
        let kinds = self.worker;
        self.control.run(|mut client| async move {
            // A name that is wrong is no herd that is away.
            source::check(&mut client, &kinds).await?;
            let (tell, mut news) = mpsc::channel(NEWS);
            let mut source = Source::start(client, tell, kinds, interval);
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hang_up = signal(SignalKind::hangup())?;
            let palette = Palette::of_environment();
            let mut app = App::new();
            let mut screen = Screen::take()?;
            let mut keys = EventStream::new();
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            loop {
                screen.draw(|frame| draw::draw(frame, &mut app, &palette, Instant::now()))?;
                let deed = tokio::select! {
                    event = keys.next() => match event {
                        Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => app.key(key),
                        // Another size, which the next frame has.
                        Some(Ok(_)) => None,
                        // The terminal is gone.
                        Some(Err(_)) | None => return Ok(ExitCode::SUCCESS),
                    },
                    Some(told) = news.recv() => {
                        app.hear(told, Instant::now());
                        // What came with it is shown with it: a flood of output is not a flood of frames.
                        while let Ok(told) = news.try_recv() {
                            app.hear(told, Instant::now());
                        }
                        None
                    }
                    _ = tick.tick() => None,
                    _ = interrupt.recv() => Some(Deed::Quit),
                    _ = terminate.recv() => Some(Deed::Quit),
                    _ = hang_up.recv() => Some(Deed::Quit),
                };
                match deed {
                    Some(Deed::Quit) => return Ok(ExitCode::SUCCESS),
                    Some(deed) => source.carry_out(deed),
                    None => {}
                }
            }
        })
    }
}
