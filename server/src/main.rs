//! The server's life, told in order.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, FromArgMatches};
use jiff::Timestamp;
use longshore_server::config::{
    self, AdminCommand, BackupArgs, Command, CommandLine, Config, InitArgs, LogArgs, LogFormat, NewAdminArgs,
    RestoreArgs, RevokeArgs, RotateKeyArgs,
};
use longshore_server::identity::pki::{self, Holder};
use longshore_server::rotation::Rotation;
use longshore_server::serve::{Listeners, run};
use longshore_server::{admin, backup};
use longshore_settings::{Mistakes, Origins};
use longshore_traces::{Traces, TracesError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

fn main() -> ExitCode {
    let reading = match config::program().read(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(reading) => reading,
        Err(usage) => usage.exit(),
    };
    let line = reading.matches.as_ref().and_then(|matches| CommandLine::from_arg_matches(matches).ok());
    let started = start_logging(line.as_ref().map(|line| &line.log));
    let done = match started {
        Ok(traces) => {
            let done = begin(line.as_ref().map(|line| &line.command), &reading.origins, reading.mistakes);
            if let Some(traces) = traces {
                traces.finish();
            }
            done
        }
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked for, unless there are mistakes; then adds those that only show together.
fn begin(command: Option<&Command>, origins: &Origins, mut mistakes: Mistakes) -> anyhow::Result<()> {
    let more = match command {
        // Everything that can be wrong is found before anything binds.
        Some(Command::Run(args)) => match Config::check(args, origins, Timestamp::now()) {
            Ok(config) if mistakes.0.is_empty() => return serve(config),
            checked => checked.err().map_or_else(Vec::new, |more| more.0),
        },
        Some(Command::Config(args)) => args.contradictions(origins),
        _ => Vec::new(),
    };
    mistakes.0.extend(more);
    match command {
        Some(command) if mistakes.0.is_empty() => match command {
            Command::Init(args) => init(args),
            Command::Completion(args) => Ok(std::io::stdout().write_all(&args.script(CommandLine::command()))?),
            Command::Man(args) => Ok(args.write(CommandLine::command())?),
            Command::Admin(command) => administer(command),
            Command::Backup(args) => back_up(args),
            Command::Restore(args) => restore(args),
            Command::RotateKey(args) => rotate_key(args),
            Command::Run(_) | Command::Config(_) => Ok(write!(std::io::stdout(), "{origins}")?),
        },
        _ => Err(mistakes.into()),
    }
}

fn start_logging(args: Option<&LogArgs>) -> Result<Option<Traces>, TracesError> {
    // Mistakes have to be told even where the settings of the log are among them.
    let filter = EnvFilter::new(args.map_or("info", |args| &args.log));
    let log = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let log = match args.map_or(LogFormat::Text, |args| args.log_format) {
        LogFormat::Text => log.boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    let collector = args.and_then(|args| args.otlp_endpoint.as_ref());
    longshore_traces::install(log.with_filter(filter), collector, "longshore-server", env!("CARGO_PKG_VERSION"))
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    match &args.install {
        _ if args.csr => {
            let (request, holder) = pki::request(&args.data_dir, &args.into())?;
            let made = match holder {
                Holder::New => "made a key and a certificate request",
                Holder::Existing => "made a request for the next certificate of the authority's key",
            };
            let next = "have it certified, and give the answer to `longshore-server init --install FILE`";
            tracing::info!(request = %request.display(), "{made}; {next}");
            return Ok(());
        }
        Some(answer) if pki::install(&args.data_dir, answer, Timestamp::now())? == Holder::Existing => {
            let until = pki::load_authority(&args.data_dir)?.0.end();
            tracing::info!(%until, "the authority has its next certificate, and stays who it is; restart the server so that it knows");
            return Ok(());
        }
        Some(_) => {}
        None => pki::init(&args.data_dir, &args.into(), Timestamp::now())?,
    }
    let admin = args.data_dir.join("admin");
    tracing::info!(credentials = %admin.display(), "made a certificate authority and the first admin's credentials");
    Ok(())
}

fn administer(command: &AdminCommand) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let now = Timestamp::now();
    match command {
        AdminCommand::Create(NewAdminArgs { data_dir, name, ttl, out }) => {
            let out = out.clone().unwrap_or_else(|| name.into());
            let made = runtime.block_on(admin::create(&data_dir.data_dir, name, *ttl, &out, now))?;
            tracing::info!(name, until = %made.certificate_end, credentials = %out.display(), "added an admin");
        }
        AdminCommand::List(args) => {
            let users = runtime.block_on(admin::list(&args.data_dir))?;
            write!(std::io::stdout(), "{}", admin::table(&users, now))?;
        }
        AdminCommand::Revoke(RevokeArgs { data_dir, name }) => {
            runtime.block_on(admin::revoke(&data_dir.data_dir, name, now))?;
            tracing::info!(name, "revoked; no certificate of theirs works again");
        }
    }
    Ok(())
}

fn back_up(args: &BackupArgs) -> anyhow::Result<()> {
    backup::back_up(&args.data_dir, &args.to, args.with_authority, Timestamp::now())?;
    tracing::info!(file = %args.to.display(), authority = args.with_authority, "backed up, and found whole");
    Ok(())
}

fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    match &args.from {
        Some(from) => {
            let restored = backup::restore(from, &args.data_dir, args.force, Timestamp::now())?;
            tracing::info!(taken = %restored.time, "restored; nodes keep what it does not know until `restore --accept`");
            if !restored.has_authority {
                tracing::warn!("the backup has no authority: bring `pki` and `admin` from where they are kept");
            }
        }
        None if backup::accept(&args.data_dir)? => tracing::info!("accepted: nodes follow it from the next start on"),
        None => tracing::info!("there was nothing to accept"),
    }
    Ok(())
}

fn rotate_key(args: &RotateKeyArgs) -> anyhow::Result<()> {
    let mut rotation = Rotation::begin(&args.data_dir.data_dir)?;
    if let Some(path) = &args.keep_old {
        rotation.keep_old_keys(path)?;
        tracing::info!(file = %path.display(), "kept the old keys, for backups from before");
    }
    let key = rotation.add_key()?;
    tracing::info!(%key, "made a key; everything opens with the old ones still");
    let count = rotation.seal_anew()?;
    tracing::info!(count, "sealed anew");
    rotation.purge()?;
    let dropped = rotation.drop_old_keys()?;
    tracing::info!(%key, dropped, "dropped the old keys; back up the key file and the database, each apart from the other");
    Ok(())
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Signals count from here on: one that comes while the store opens is not lost.
        let shutdown = CancellationToken::new();
        cancel_on_signal(shutdown.clone())?;
        reload_on_signal(Arc::clone(&config.reload))?;
        let listeners = Listeners::bind(&config).await?;
        run(config, listeners, shutdown).await?;
        anyhow::Ok(())
    })?;
    // Connections that did not end in time are cut off here.
    runtime.shutdown_background();
    Ok(())
}

/// Tells of SIGHUP.
fn reload_on_signal(reload: Arc<Notify>) -> std::io::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            reload.notify_one();
        }
    });
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
