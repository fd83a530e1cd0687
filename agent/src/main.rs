//! `longshore-agent`: this file is the program's life, told in order.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _};
use jiff::Timestamp;
use longshore_agent::accelerators::{self, AcceleratorTable};
use longshore_agent::bandwidth::Bandwidth;
use longshore_agent::capacity::CapacityTable;
use longshore_agent::clock::Clock;
use longshore_agent::config::{self, Cli, Command, Doctor, Enroll, FindingsFormat, LogFormat, Reset, Run, RuntimeKind};
use longshore_agent::configuration::ServerSource;
use longshore_agent::data_dir::{DataDir, Enrolment};
use longshore_agent::identity::Identity;
use longshore_agent::keyring::ServerKeyring;
use longshore_agent::ledger::Ledger;
use longshore_agent::ports::PortTable;
use longshore_agent::reporter::Reporter;
use longshore_agent::runtime::docker::{self, DockerRuntime};
use longshore_agent::runtime::embedded::{self, EmbeddedRuntime, Settings, shim};
use longshore_agent::runtime::fake::{FakeRuntime, Machine};
use longshore_agent::runtime::image::RegistryConfig;
use longshore_agent::runtime::measured::{Measured, RuntimeMetrics};
use longshore_agent::runtime::{Rotation, Runtime};
use longshore_agent::session::{self, Link};
use longshore_agent::supervisor::{Context, MAX_PROBES_AT_ONCE, Supervisor};
use longshore_agent::usage::Sampling;
use longshore_agent::{addresses, collection, doctor, enroll, metrics, node, renewal};
use longshore_doctor::Report;
use longshore_model::capability;
use longshore_model::name::NodeName;
use longshore_settings::{Mistakes, Origins};
use longshore_tls::KeepAlive;
use longshore_traces::{Traces, TracesError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

fn main() -> ExitCode {
    // Before anything that could start a thread: a shim must have one only.
    let mut words = std::env::args_os().skip(1);
    if let (Some(word), Some(container), None) = (words.next(), words.next(), words.next())
        && let Some(main) = shim::main_of(&word)
    {
        return main(Path::new(&container));
    }
    let reading = match config::program().read(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(reading) => reading,
        Err(usage) => usage.exit(),
    };
    let cli = reading.matches.as_ref().and_then(|matches| Cli::from_arg_matches(matches).ok());
    let started = start_logging(cli.as_ref());
    let done = match started {
        Ok(traces) => {
            let done = begin(cli.map(|cli| cli.command), &reading.origins, reading.mistakes);
            if let Some(traces) = traces {
                traces.finish();
            }
            done
        }
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(cli: Option<&Cli>) -> Result<Option<Traces>, TracesError> {
    // Mistakes have to be told even where the settings of the log are among them.
    let filter = EnvFilter::new(cli.map_or("info", |cli| &cli.log));
    // Colours are for eyes, not for files.
    let log = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let log = match cli.map_or(LogFormat::Text, |cli| cli.log_format) {
        LogFormat::Text => log.boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    let collector = cli.and_then(|cli| cli.otlp_endpoint.as_ref());
    longshore_traces::install(log.with_filter(filter), collector, "longshore-agent", env!("CARGO_PKG_VERSION"))
}

/// Does what is asked for, unless there are mistakes.
fn begin(command: Option<Command>, origins: &Origins, mut mistakes: Mistakes) -> anyhow::Result<ExitCode> {
    if let Some(Command::Run(run) | Command::Config(run) | Command::Doctor(Doctor { run, .. })) = &command {
        mistakes.0.extend(run.contradictions(origins));
    }
    // Mistakes are what a doctor looks for; everybody else has to be without.
    let is_ready = |command: &Command| mistakes.0.is_empty() || matches!(command, Command::Doctor(_));
    let Some(command) = command.filter(is_ready) else { return Err(mistakes.into()) };
    let threads = tokio::runtime::Runtime::new().context("cannot start threads")?;
    let done = threads.block_on(async {
        let done = match command {
            Command::Enroll(arguments) => enrol(arguments).await,
            Command::Run(arguments) => run(arguments).await,
            Command::Reset(arguments) => reset(&arguments).await,
            Command::Completion(arguments) => Ok(std::io::stdout().write_all(&arguments.script(Cli::command()))?),
            Command::Man(arguments) => Ok(arguments.write(Cli::command())?),
            Command::Config(_) => Ok(write!(std::io::stdout(), "{origins}")?),
            Command::Doctor(arguments) => return diagnose(&arguments, &mistakes).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    });
    // A name that is still being looked up must not hold up the end.
    threads.shutdown_background();
    done
}

async fn enrol(arguments: Enroll) -> anyhow::Result<()> {
    let data = DataDir::new(arguments.data.data_dir);
    let enrolling = async {
        match &arguments.server {
            server if arguments.renew => Ok(enroll::renew(&data, server.as_deref(), &arguments.token).await?),
            Some(server) => {
                let name = arguments.name.map_or_else(host_name, Ok)?;
                Ok(enroll::enroll(&data, server, &arguments.token, &name, arguments.force).await?)
            }
            None => anyhow::bail!("--server is missing"),
        }
    };
    let Ok(enrolment) = tokio::time::timeout(arguments.wait, enrolling).await else {
        anyhow::bail!("nobody has approved of this machine in time; the same command goes on waiting");
    };
    let enrolment = enrolment?;
    tracing::info!(node = %enrolment.node_name, server = enrolment.server, "enrolled");
    Ok(())
}

/// Shows what the doctor finds; the exit code says the worst of it.
async fn diagnose(arguments: &Doctor, mistakes: &Mistakes) -> anyhow::Result<ExitCode> {
    let findings = doctor::examine(&arguments.run, mistakes).await;
    let text = match arguments.output {
        FindingsFormat::Table => longshore_doctor::table(&findings),
        FindingsFormat::Json => serde_json::to_string_pretty(&Report::of(&findings))?,
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(ExitCode::from(longshore_doctor::worst(&findings).exit_code()))
}

async fn run(arguments: Run) -> anyhow::Result<()> {
    let data = DataDir::new(arguments.data.data_dir.clone());
    let enrolment = data.enrolment()?;
    raise_open_files();
    let _lock = data.lock()?;
    let identity = Arc::new(Identity::load(&data)?);
    let shutdown = on_signal()?;
    let metrics_listener = listen_for_scrapes(arguments.metrics_listen).await?;

    let (reporter, measures) = (Reporter::default(), RuntimeMetrics::default());
    let server: Arc<str> = enrolment.server.as_str().into();
    let Some(runtime) = runtime(&arguments, &data, &enrolment, &shutdown).await? else { return Ok(()) };
    let (live, measured) = (watch::Sender::new(None), watch::Sender::new(None));
    let context = Arc::new(Context {
        keyring: Arc::new(ServerKeyring::new(live.subscribe())),
        configurations: Arc::new(ServerSource::new(live.subscribe())),
        kept: data.configurations(),
        runtime: Arc::new(Measured::new(runtime, measures.clone())),
        ledger: Ledger::open(data.ledger())?,
        reporter: reporter.clone(),
        host_paths: arguments.host_paths(),
        allowances: arguments.allowances(),
        accelerators: AcceleratorTable::new(arguments.accelerator_sources().map_err(anyhow::Error::msg)?),
        collection: arguments.collection(),
        capacity: CapacityTable::new(node::capacity()?.less(arguments.reserve())),
        ports: PortTable::default(),
        probes: Semaphore::new(MAX_PROBES_AT_ONCE),
        clock: Clock::starting_at(Timestamp::now()),
        node: enrolment.node_name.clone(),
        host_ip: watch::Sender::new(None),
        addresses: watch::Sender::new(()),
    });
    if let Err(error) = addresses::tell_changes(context.addresses.clone()) {
        tracing::warn!(%error, "changes of the node's addresses are not seen");
    }
    let mut supervisor = Supervisor::start(Arc::clone(&context)).await?;
    tracing::info!(node = %enrolment.node_name, runtime = context.runtime.name(), "running");

    let (address, dialling) = (Arc::clone(&server), Arc::clone(&identity));
    let link = Link {
        connect: Arc::new(move || {
            let (server, credentials) = (Arc::clone(&server), dialling.credentials());
            Box::pin(async move { longshore_tls::connect_patiently(&server, &credentials, KeepAlive::default()).await })
        }),
        host_ip: Arc::new(move || node::address_towards(&address)),
        live,
        log_bandwidth: Arc::new(Bandwidth::per_second(arguments.log_bandwidth)),
        usage: measured.subscribe(),
        openness: arguments.openness(),
        context,
    };
    let sampling = Sampling {
        context: Arc::clone(&link.context),
        data_dir: data.path().to_owned(),
        interval: arguments.usage_interval,
        live: link.live.subscribe(),
        scraped: metrics_listener.is_some(),
        newest: measured,
    };
    if let Some(listener) = metrics_listener {
        let (live, identity) = (link.live.subscribe(), Arc::clone(&identity));
        let usage = link.usage.clone();
        let sources = metrics::Sources { reporter, runtime: measures, usage, live, identity };
        tokio::spawn(longshore_metrics::serve(listener, sources.into_scrape(), shutdown.clone()));
    }
    let collecting = Arc::clone(&link.context);
    let collecting = collection::run(&collecting);
    let renewing = renewal::run(&identity, link.live.subscribe());
    let telling = accelerators::report::run(link.context.accelerators.changes(), link.live.subscribe());
    tokio::select! {
        () = session::run(&link, &mut supervisor, &shutdown) => {}
        never = renewing => match never {},
        never = telling => match never {},
        never = collecting => match never {},
        never = sampling.run() => match never {},
    }
    tracing::info!("ending; apps keep running");
    supervisor.shutdown().await;
    Ok(())
}

/// Binds where metrics are served, if they are to be.
async fn listen_for_scrapes(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(metrics = %listener.local_addr()?, "listening");
    Ok(Some(listener))
}

/// Asks for all descriptors that the agent may have: it holds one for each container that runs, and the usual soft limit
/// of 1024 is less than an agent with many apps needs.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn reset(arguments: &Reset) -> anyhow::Result<()> {
    let data = DataDir::new(arguments.data.data_dir.clone());
    if !data.path().exists() {
        return Ok(());
    }
    let _lock = data.lock()?;
    docker::reset(data.path()).await.context("cannot remove the containers of the engine")?;
    embedded::reset(data.path()).context("cannot remove the containers")?;
    remove(&data.ledger())?;
    data.configurations().retain_apps(&std::collections::BTreeSet::new())?;
    remove(&data.runtime())
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The runtime that was asked for; `None` if the agent was asked to end before there was one.
async fn runtime(
    arguments: &Run,
    data: &DataDir,
    enrolment: &Enrolment,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Arc<dyn Runtime>>> {
    let (mirrors, stall_timeout) = (arguments.registry_mirror.clone(), arguments.pull_stall_timeout);
    let bandwidth = arguments.pull_bandwidth;
    let mut registry = RegistryConfig { ca_pems: Vec::new(), mirrors, stall_timeout, bandwidth };
    if let Some(file) = &arguments.registry_ca {
        let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        registry.ca_pems.push(pem);
    }
    Ok(Some(match arguments.runtime {
        RuntimeKind::Fake => {
            let allowances = arguments.allowances();
            let can: Vec<&str> = capability::ALL.into_iter().filter(|word| allowances.allow(word)).collect();
            Arc::new(FakeRuntime::able_to(Machine::new(Timestamp::now()), &can))
        }
        RuntimeKind::Embedded => {
            let settings = Settings {
                egress: arguments.egress,
                host_paths: arguments.host_paths(),
                allowances: arguments.allowances(),
                ..Settings::of_this_program(data.path(), &enrolment.node_uid)
            };
            Arc::new(EmbeddedRuntime::open(settings, &registry)?)
        }
        RuntimeKind::Docker => {
            let settings = docker::Settings {
                data_dir: data.path().to_owned(),
                node_uid: enrolment.node_uid.clone(),
                address: arguments.docker_socket.clone(),
                rotation: Rotation::default(),
                host_paths: arguments.host_paths(),
                allowances: arguments.allowances(),
            };
            let runtime = DockerRuntime::open(settings, &registry)?;
            let Some(version) = shutdown.run_until_cancelled(runtime.await_engine()).await else { return Ok(None) };
            tracing::info!(version, address = %arguments.docker_socket, "the container engine is there");
            Arc::new(runtime)
        }
    }))
}

fn host_name() -> anyhow::Result<NodeName> {
    let name = nix::unistd::gethostname().context("the machine has no host name; give one with --name")?;
    let name = name.to_string_lossy().to_lowercase();
    let label = name.split('.').next().unwrap_or_default();
    NodeName::parse(label).with_context(|| format!("the host name {label:?} cannot be a node's; give one with --name"))
}

/// A token that SIGTERM and SIGINT cancel.
fn on_signal() -> anyhow::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(shutdown)
}
