//! `avsweep coordinator`: services, planner and reaper over one store, on a port.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use avsweep_coordinator::{Coordinator, CoordinatorError, Limits, ServeOptions, Settings, observability};
use avsweep_domain::FailureLimits;
use avsweep_store::{
    PostgresStore, PostgresStoreOptions, SqliteStore, SqliteStoreOptions, Store, StoreError,
};
use avsweep_transport::{
    Authorization, ListenOptions, Listener, Protocol, Role, Secret, ServerTls, Tokens, check_exposure,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::arguments::{CoordinatorArguments, StoreLocation};
use crate::commands::Outcome;
use crate::embedded::make_room;
use crate::interruption::{self, Interruption, Signal};
use crate::output;

/// How long background tasks may take to end after the services.
const CLOSING: Duration = Duration::from_secs(5);
/// Between two tries to open a store that is away.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// `avsweep coordinator`
pub(crate) async fn coordinator(store: &StoreLocation, arguments: &CoordinatorArguments) -> Result<Outcome> {
    if arguments.migrate_only {
        drop(open_store(store, true).await?);
        output::note(format!("{store}: the schema is up to date"));
        return Ok(Outcome::Done);
    }
    // What can be refused without touching anything is refused first.
    let tokens = tokens(arguments)?;
    let tls = tls(arguments);
    let ports = [Some(arguments.listen), arguments.metrics_listen.0];
    for address in ports.into_iter().flatten() {
        check_exposure(address, tls.is_some(), tokens.is_some(), arguments.insecure)?;
    }
    let listener = listen(arguments.listen, Protocol::Grpc, tls.as_ref())
        .await
        .context("--listen wants an address of its own for every coordinator")?;
    let metrics = match arguments.metrics_listen.0 {
        Some(address) => Some(
            listen(address, Protocol::Http, tls.as_ref())
                .await
                .context("--metrics-listen wants an address of its own for every coordinator, or 'off'")?,
        ),
        None => None,
    };

    let interruption = interruption::listen();
    let Some(coordinator) = open(store, arguments, &interruption.token()).await? else {
        return Ok(outcome(&interruption));
    };
    announce(store, arguments, &listener, metrics.as_ref(), tokens.as_ref());

    let stop = interruption.token();
    let background = coordinator.start_background(stop.clone());
    let closed = CancellationToken::new();
    let metrics = metrics.map(|listener| {
        tokio::spawn(serve_metrics(Arc::clone(&coordinator), listener, tokens.clone(), closed.clone()))
    });
    let options = ServeOptions {
        listener,
        tokens,
        limits: Limits { max_message: arguments.max_message as usize, ..Limits::default() },
        drain: seconds(arguments.drain),
    };
    let served = avsweep_coordinator::serve(coordinator, options, stop.clone()).await;
    // If the services failed, the rest has to be told.
    stop.cancel();
    closed.cancel();
    let ended = async {
        background.wait().await;
        if let Some(metrics) = metrics {
            let _ = metrics.await;
        }
    };
    if tokio::time::timeout(CLOSING, ended).await.is_err() {
        warn!("background tasks did not end in time");
    }
    served.context("the coordinator's services")?;
    info!("coordinator has stopped");
    // Whatever was in flight is leased still, and reported to another coordinator or to the next one.
    Ok(outcome(&interruption))
}

fn outcome(interruption: &Interruption) -> Outcome {
    match interruption.signal() {
        Some(Signal::Interrupt) => Outcome::Interrupted,
        Some(Signal::Terminate) | None => Outcome::Done,
    }
}

/// Opens the store and a coordinator over it; a database that is away is waited for. `None`: stopped meanwhile.
async fn open(
    store: &StoreLocation,
    arguments: &CoordinatorArguments,
    stop: &CancellationToken,
) -> Result<Option<Arc<Coordinator>>> {
    let deadline = Instant::now() + seconds(arguments.store_patience);
    loop {
        let opened = async {
            let opened = open_store(store, arguments.migrate).await?;
            anyhow::Ok(Coordinator::open(opened, settings(arguments)).await?)
        };
        let error = match opened.await {
            Ok(coordinator) => return Ok(Some(Arc::new(coordinator))),
            Err(error) if is_away(&error) && Instant::now() < deadline => error,
            Err(error) => return Err(error),
        };
        warn!(error = output::in_one_line(&error), "the store is away; trying again");
        tokio::select! {
            () = tokio::time::sleep(STORE_PAUSE) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

fn is_away(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<CoordinatorError>() {
        Some(CoordinatorError::Store(error)) => error.is_unavailable(),
        _ => error.downcast_ref::<StoreError>().is_some_and(StoreError::is_unavailable),
    }
}

async fn open_store(store: &StoreLocation, migrate: bool) -> Result<Arc<dyn Store>> {
    match store {
        StoreLocation::File(path) => open_file(path).await,
        StoreLocation::Postgres(url) => open_database(url, migrate).await,
    }
}

/// A file serves one coordinator; opening it for writing brings its schema up to date.
async fn open_file(path: &Path) -> Result<Arc<dyn Store>> {
    make_room(path)?;
    Ok(Arc::new(SqliteStore::open(&SqliteStoreOptions::file(path).exclusive()).await?))
}

/// A database serves any number of coordinators.
async fn open_database(url: &str, migrate: bool) -> Result<Arc<dyn Store>> {
    let options = PostgresStoreOptions::new(url);
    if migrate {
        PostgresStore::migrate(&options).await?;
        info!("the store's schema is up to date");
    }
    Ok(Arc::new(PostgresStore::open(&options).await?))
}

async fn listen(
    address: std::net::SocketAddr,
    protocol: Protocol,
    tls: Option<&ServerTls>,
) -> Result<Listener> {
    let options = ListenOptions { tls: tls.cloned(), ..ListenOptions::new(address, protocol) };
    Ok(Listener::bind(&options).await?)
}

fn tls(arguments: &CoordinatorArguments) -> Option<ServerTls> {
    let (cert, key) = arguments.tls_cert.clone().zip(arguments.tls_key.clone())?;
    Some(ServerTls { cert, key, client_ca: arguments.client_ca.clone() })
}

/// The tokens of every role; none at all leaves the ports open.
fn tokens(arguments: &CoordinatorArguments) -> Result<Option<Tokens>> {
    let sources = [
        (Role::User, &arguments.user_token_file, "AVSWEEP_USER_TOKEN"),
        (Role::Worker, &arguments.worker_token_file, "AVSWEEP_WORKER_TOKEN"),
        (Role::Judge, &arguments.judge_token_file, "AVSWEEP_JUDGE_TOKEN"),
        (Role::Metrics, &arguments.metrics_token_file, "AVSWEEP_METRICS_TOKEN"),
    ];
    let mut tokens = Vec::new();
    for (role, file, variable) in sources {
        let found = Secret::find_all(file.as_deref(), variable)?;
        tokens.extend(found.into_iter().map(|token| (role, token)));
    }
    if tokens.is_empty() {
        return Ok(None);
    }
    for role in [Role::User, Role::Worker, Role::Judge] {
        if !tokens.iter().any(|(known, _)| *known == role) {
            warn!(%role, "there is no token of this role: nobody gets in as one");
        }
    }
    Ok(Some(Tokens::new(tokens)?))
}

fn settings(arguments: &CoordinatorArguments) -> Settings {
    let usual = FailureLimits::default();
    Settings {
        lease_duration: seconds(arguments.lease),
        failure_limits: FailureLimits {
            lost: arguments.lost_limit.unwrap_or(usual.lost),
            errors: arguments.error_limit.unwrap_or(usual.errors),
        },
        ..Settings::default()
    }
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}

/// Says what is listening, how it is protected, and where everything is stored.
fn announce(
    store: &StoreLocation,
    arguments: &CoordinatorArguments,
    listener: &Listener,
    metrics: Option<&Listener>,
    tokens: Option<&Tokens>,
) {
    let transport = match (&arguments.tls_cert, &arguments.client_ca) {
        (None, _) => "plain",
        (Some(_), None) => "TLS",
        (Some(_), Some(_)) => "mutual TLS",
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %listener.local_addr(),
        metrics = %metrics.map_or_else(|| "off".to_owned(), |metrics| metrics.local_addr().to_string()),
        transport,
        tokens = if tokens.is_some() { "wanted" } else { "none: everybody gets in" },
        %store,
        lease_seconds = arguments.lease,
        "coordinator starts"
    );
}

/// `/metrics`, `/healthz` and `/readyz` until `closed`: they answer through the drain.
async fn serve_metrics(
    coordinator: Arc<Coordinator>,
    listener: Listener,
    tokens: Option<Tokens>,
    closed: CancellationToken,
) {
    let router = observability(coordinator).layer(Authorization::new(tokens));
    let served =
        axum::serve(listener.incoming(), router).with_graceful_shutdown(closed.cancelled_owned()).await;
    if let Err(error) = served {
        error!(%error, "the metrics port has failed");
    }
}
