//! The program: arguments in, exit code out.

use std::process::ExitCode;

use keytide::{app, cli};

fn main() -> ExitCode {
    cli::run(std::env::args_os(), cli::Hooks { serve: app::run_serve, demo: app::run_demo })
}
