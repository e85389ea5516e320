//! `keytide serve`: the process around an [`App`].

use std::{io::IsTerminal, sync::Arc};

use anyhow::{Context, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use super::App;
use crate::{
    config::{ConfigError, Loaded, LogFormat, LogOptions},
    demo::tour,
    model::Clock,
};

/// Reads the configuration again, for a reload.
pub type Reload = Arc<dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync>;

/// Threads of the operator's side: the data plane has its own.
const CONTROL_THREADS: usize = 2;

/// Blocks up to this size have their memory kept for what comes next.
const KEPT_BLOCK: usize = 4 * 1024 * 1024;

/// Serves until SIGTERM or SIGINT; SIGHUP reloads. A second signal to stop ends the process at once.
///
/// # Errors
/// One sentence that says what to do.
pub fn run_serve(loaded: Loaded, reload: Reload) -> anyhow::Result<()> {
    keep_freed_memory();
    let log = start_log(&loaded.config.log)?;
    for notice in &loaded.notices {
        warn!("{notice}");
    }
    let runtime = runtime()?;
    let served = runtime.block_on(serve(loaded, reload, log));
    // A store that hangs must not keep a stopped process.
    runtime.shutdown_background();
    served
}

/// `keytide demo`: the tour, then requests. SIGTERM or SIGINT ends either.
///
/// # Errors
/// One sentence that says what to do.
pub fn run_demo(options: tour::Options) -> anyhow::Result<()> {
    // The tour tells its own story; only what goes wrong unexpectedly belongs between its lines.
    let _fixed = start_log(&LogOptions { filter: "error".to_owned(), ..LogOptions::default() })?;
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tour::run(options, stop).await
    });
    runtime.shutdown_background();
    done
}

/// Has glibc keep of what is freed at the end of a thread's heap twice [`KEPT_BLOCK`]. By itself it begins with 128 KiB, and
/// a question of 100 kB with its answer may then give back to the system all of their memory, and get it anew page by page,
/// each time: a third of all that such a request takes. It learns what to keep from the largest block that was ever freed
/// (mallopt(3), dynamic mmap threshold), so that a larger body still teaches it to keep more, as without this; other
/// allocators have their own ways.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT_BLOCK)));
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // reqwest, which the operator's side uses, asks for the process's choice.
    let _chosen_before = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("keytide-control")
        .enable_all()
        .build()
        .context("cannot start a runtime")
}

async fn serve(loaded: Loaded, reload: Reload, log: SetFilter) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let app = App::start(loaded.config.clone(), Clock::System).await?;
    app.show_settings(&loaded);
    announce(&app);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => match reload() {
                Ok(loaded) => {
                    for notice in &loaded.notices {
                        warn!("{notice}");
                    }
                    if let Err(error) = app.reload(&loaded).await {
                        error!("the configuration is not reloaded: {error:#}");
                    } else if let Err(error) = log(&loaded.config.log.filter) {
                        error!("the log's filter is not changed: {error:#}");
                    }
                }
                Err(problems) => error!("the configuration is not reloaded: {problems}"),
            },
        }
    }
    info!("stopping: open requests may end, a second signal cuts them");
    tokio::select! {
        stopped = app.stop() => stopped,
        _ = terminate.recv() => bail!("stopped at once by a second signal"),
        _ = interrupt.recv() => bail!("stopped at once by a second signal"),
    }
}

/// What a person at a terminal wants to know first. Logs never carry the token.
fn announce(app: &App) {
    let token = app.admin_token();
    let Some(file) = &token.file else { return };
    if token.is_new && std::io::stderr().is_terminal() {
        eprintln!("admin token: {} (kept in {})", token.secret.expose(), file.display());
    } else if token.is_new {
        info!("an admin token was made: it is in {}", file.display());
    }
}

/// Changes what the log shows.
type SetFilter = Box<dyn Fn(&str) -> anyhow::Result<()>>;

fn start_log(options: &LogOptions) -> anyhow::Result<SetFilter> {
    let filter = |text: &str| EnvFilter::try_new(text).context("[log] filter cannot be used");
    let log =
        tracing_subscriber::fmt().with_env_filter(filter(&options.filter)?).with_writer(std::io::stderr);
    let failed = |why| anyhow!("the log cannot be started: {why}");
    match options.format {
        LogFormat::Text => {
            let log = log.with_ansi(colour()).with_filter_reloading();
            let handle = log.reload_handle();
            log.try_init().map_err(failed)?;
            Ok(Box::new(move |text| Ok(handle.reload(filter(text)?)?)))
        }
        LogFormat::Json => {
            let log = log.json().with_filter_reloading();
            let handle = log.reload_handle();
            log.try_init().map_err(failed)?;
            Ok(Box::new(move |text| Ok(handle.reload(filter(text)?)?)))
        }
    }
}

/// Whether the log may be coloured: see https://no-color.org.
fn colour() -> bool {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stderr().is_terminal()
        && var("NO_COLOR").is_none()
        && var("TERM").is_none_or(|term| term != "dumb")
}
