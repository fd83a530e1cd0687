//! The server's life, told in order.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use jiff::Timestamp;
use longshore_server::config::{Command, CommandLine, Config, InitArgs, LogArgs, LogFormat, RunArgs};
use longshore_server::identity::pki;
use longshore_server::serve::{Listeners, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::EnvFilter;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let done = match line.log.filter() {
        Ok(filter) => {
            start_logging(&line.log, filter);
            match &line.command {
                Command::Init(args) => init(args),
                Command::Run(args) => serve(args),
            }
        }
        Err(mut mistakes) => {
            // They still have to be told somehow.
            start_logging(&line.log, EnvFilter::new("info"));
            if let Command::Run(args) = &line.command {
                mistakes.0.extend(Config::check(args, Timestamp::now()).err().into_iter().flat_map(|more| more.0));
            }
            Err(mistakes.into())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(args: &LogArgs, filter: EnvFilter) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    pki::init(&args.data_dir, &args.into(), Timestamp::now())?;
    let admin = args.data_dir.join("admin");
    tracing::info!(credentials = %admin.display(), "made a certificate authority and the first admin's credentials");
    Ok(())
}

fn serve(args: &RunArgs) -> anyhow::Result<()> {
    // Everything that can be wrong is found before anything binds.
    let config = Config::check(args, Timestamp::now())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Signals count from here on: one that comes while the store opens is not lost.
        let shutdown = CancellationToken::new();
        cancel_on_signal(shutdown.clone())?;
        let listeners = Listeners::bind(&config).await?;
        run(config, listeners, shutdown).await?;
        anyhow::Ok(())
    })?;
    // Connections that did not end in time are cut off here.
    runtime.shutdown_background();
    Ok(())
}

/// Cancels on SIGTERM and SIGINT.
fn cancel_on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
        }
        shutdown.cancel();
    });
    Ok(())
}
