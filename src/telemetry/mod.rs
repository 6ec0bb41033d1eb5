//! herd's own log, on stderr: text for people, JSON lines for machines.
//!
//! Fields may carry what clients sent and workers wrote, so in text every field is escaped: nothing
//! logged can drive the terminal or forge a line. JSON escapes by itself. Nobody waits for a line to
//! be read: see `lines`. Deliberately not here: files for it, rotation and metrics; stderr belongs to
//! whoever started herd. What clients ask of the data plane has a log of its own, `access_log`.

pub mod access_log;
mod lines;
pub mod trace_context;
pub mod traces;

use std::fmt::Debug;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{self, Writer};

use self::lines::{Event, Lines, write_all};
use crate::worker::escape;

/// This process's.
static LINES: Lines = Lines::new();

/// What a reader that has fallen behind may take to catch up before herd ends without it.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How and how much herd logs.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or per module, e.g. info,herd::proxy=debug
    #[arg(
        long,
        value_name = "FILTER",
        env = "HERD_LOG",
        default_value = "info",
        global = true
    )]
    pub log_level: String,
    /// auto: text if stderr is a terminal, else JSON
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Auto,
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("--log-level (or HERD_LOG) {filter:?}: {source}; write e.g. info or info,herd::proxy=debug")]
    Filter { filter: String, source: ParseError },
    #[error("logging is set up already")]
    Installed(#[from] tracing::dispatcher::SetGlobalDefaultError),
}

/// Sends every event of this process to stderr. Once per process, before the first event.
pub fn init(args: &LogArgs) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&args.log_level).map_err(|source| TelemetryError::Filter {
        filter: args.log_level.clone(),
        source,
    })?;
    let terminal = io::stderr().is_terminal();
    let json = match args.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    if json {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(|| Event(&LINES))
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .finish();
        return Ok(tracing::dispatcher::set_global_default(subscriber.into())?);
    }
    // https://no-color.org: set and not empty.
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Ok(tracing::dispatcher::set_global_default(text(
        filter,
        colour.into(),
        || Event(&LINES),
    ))?)
}

/// From now on a thread writes the log, and nobody waits for whoever reads it. Also before a panic's message what was
/// logged before it is written.
pub fn write_behind() -> io::Result<()> {
    let stderr = io::stderr();
    Lines::write_behind(&LINES, "log", move |bytes, lost| {
        if lost > 0 {
            tracing::warn!(
                lines = lost,
                "the log was not read fast enough: lines are missing here"
            );
        }
        // There is nobody to tell of an error.
        let _ = write_all(&stderr, bytes);
    })?;
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush();
        tell(panic);
    }));
    Ok(())
}

/// A last word on stderr, after all that was logged before.
pub fn say(text: &str) {
    LINES.put(format!("{text}\n").as_bytes());
}

/// What was logged is written, unless nobody reads it.
pub fn flush() {
    LINES.flush(LAST_LINES);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Plain,
    Ansi,
}

impl From<bool> for Colour {
    fn from(colour: bool) -> Self {
        if colour { Self::Ansi } else { Self::Plain }
    }
}

fn text<W>(filter: EnvFilter, colour: Colour, writer: W) -> tracing::Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let fields = format::debug_fn(|writer: &mut Writer<'_>, field, value: &dyn Debug| {
        let value = format!("{value:?}");
        let value = escape(value.as_bytes());
        match field.name() {
            "message" => write!(writer, "{value}"),
            name => write!(writer, "{name}={value}"),
        }
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colour == Colour::Ansi)
        .with_target(false)
        .fmt_fields(fields.delimited(" "))
        .finish()
        .into()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(event: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let dispatch = text(EnvFilter::new("info"), Colour::Plain, move || writer.clone());
        tracing::dispatcher::with_default(&dispatch, event);
        String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_has_the_message_and_its_fields_and_no_module_noise() {
        let line = logged(|| tracing::info!(session = %"user-42", pid = 7, "bound"));
        assert!(
            line.trim_end().ends_with("INFO bound session=user-42 pid=7"),
            "{line:?}"
        );
        assert!(!line.contains("herd::"), "{line:?}");
    }

    #[test]
    fn no_field_can_forge_a_line_or_drive_the_terminal() {
        let line = logged(|| tracing::warn!(path = %"/a\nFAKE \x1b[2J", "bad \x1b[31m request"));
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.contains('\x1b'), "{line:?}");
        assert!(line.contains("path=/a\\nFAKE \\x1b[2J"), "{line:?}");
    }

    #[test]
    fn a_wrong_filter_says_what_to_write() {
        let args = LogArgs {
            log_level: "herd=loud".to_owned(),
            log_format: LogFormat::Text,
        };
        let error = init(&args).unwrap_err().to_string();
        assert!(
            error.contains("herd=loud") && error.contains("write e.g. info"),
            "{error}"
        );
    }
}
