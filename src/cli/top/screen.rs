//! The terminal, taken for the time of a command: raw, on its alternate screen, without a cursor. It is given back when
//! this is dropped, and before a panic is told, which in a release ends the process without dropping anything.

use std::io::{self, Stdout};
use std::panic;

use crossterm::cursor::Show;
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};

pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            told(info);
        }));
        enable_raw_mode()?;
        // From here on dropping gives it back, whatever fails.
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout())).inspect_err(|_| give_back())?;
        let screen = Self(terminal);
        execute!(io::stdout(), EnterAlternateScreen)?;
        Ok(screen)
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
        // Ours knows of a screen that is gone; the next panic is told as any.
        drop(panic::take_hook());
    }
}

fn give_back() {
    // A terminal that is gone needs nothing back.
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[ignore = "the next test runs it, on a terminal of its own"]
    fn panics_on_its_screen() {
        let _screen = Screen::take().unwrap();
        panic!("something is told");
    }

    #[test]
    fn a_panic_is_told_on_a_terminal_that_was_given_back() {
        let this = std::env::current_exe().unwrap();
        let panics = format!(
            "{} --ignored --exact --nocapture cli::top::screen::tests::panics_on_its_screen",
            this.display()
        );
        // script(1) of util-linux makes the terminal.
        let ran = Command::new("script")
            .args(["--quiet", "--return", "--command", &panics, "/dev/null"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        let at = |part: &str| said.find(part).unwrap_or_else(|| panic!("no {part:?}: {said:?}"));
        assert!(!ran.status.success(), "{said:?}");
        assert!(at("\x1b[?1049h") < at("\x1b[?1049l"), "{said:?}");
        assert!(at("\x1b[?1049l") < at("something is told"), "{said:?}");
    }
}
