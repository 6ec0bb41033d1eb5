//! Maps the command line to an exit code.

use std::process::ExitCode;

use clap::Parser;
use herd::cli::Cli;

/// Things of one size stand together, so that what idles does not keep the pages of buffers that are gone: see
/// docs/decisions.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
