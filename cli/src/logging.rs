//! Log lines on stderr, and traces to an OTLP collector where one is named.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::transport::{Certificate, ClientTlsConfig};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use crate::arguments::{Arguments, Command, LogFormat, is_https};
use crate::output;

/// Longest time for the last spans to leave at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// What has to be ended at the end of the process.
#[derive(Debug)]
pub(crate) struct Logging {
    traces: Option<SdkTracerProvider>,
}

/// Starts logging. Must be called within the runtime: the exporter's connection lives on it.
///
/// A collector that is away is warned of and otherwise not missed.
pub(crate) fn start(arguments: &Arguments) -> Logging {
    let traces = arguments
        .otlp_endpoint()
        .map(|endpoint| exporter(endpoint, arguments.otlp_ca.as_deref(), service_name(&arguments.command)));
    let (traces, problem) = match traces {
        None => (None, None),
        Some(Ok(traces)) => (Some(traces), None),
        Some(Err(error)) => (None, Some(error)),
    };
    // What carries the spans away must make none itself.
    let spans = Targets::new()
        .with_target("avsweep", Level::DEBUG)
        .with_default(tracing::level_filters::LevelFilter::OFF);
    let spans = own_targets(spans);
    let trace_layer = traces.as_ref().map(|traces| {
        tracing_opentelemetry::layer().with_tracer(traces.tracer("avsweep")).with_filter(spans)
    });
    let lines = tracing_subscriber::fmt::layer::<Registry>().with_writer(output::stderr_beside_progress);
    let filter = filter(arguments);
    let lines = match arguments.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(lines).with(trace_layer).init();
    if let Some(error) = problem {
        tracing::warn!(error, "no traces are exported: the OTLP exporter cannot be set up");
    }
    if arguments.is_otlp_ca_idle() {
        tracing::warn!("OTEL_EXPORTER_OTLP_CERTIFICATE is not used: the OTLP endpoint is not https://");
    }
    Logging { traces }
}

impl Logging {
    /// Sends what is left.
    pub(crate) async fn end(self) {
        let Some(traces) = self.traces else { return };
        let ended = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(FLUSH));
        match tokio::time::timeout(FLUSH + Duration::from_secs(1), ended).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the last traces could not be exported"),
            Ok(Err(error)) => tracing::warn!(%error, "the last traces could not be exported"),
            Err(_) => tracing::warn!("the last traces could not be exported in time"),
        }
    }
}

/// Crates of this program, as their targets are called.
fn own_targets(targets: Targets) -> Targets {
    let crates = [
        "avsweep_coordinator",
        "avsweep_worker",
        "avsweep_judge",
        "avsweep_lease",
        "avsweep_store",
        "avsweep_files",
        "avsweep_transport",
    ];
    crates.into_iter().fold(targets, |targets, name| targets.with_target(name, Level::DEBUG))
}

fn exporter(
    endpoint: &str,
    authority: Option<&Path>,
    service: &'static str,
) -> Result<SdkTracerProvider, String> {
    let mut exporter =
        opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(FLUSH);
    if is_https(endpoint) {
        // The exporter's own default trusts nobody.
        let tls = match authority {
            None => ClientTlsConfig::new().with_enabled_roots(),
            Some(path) => {
                let pem = std::fs::read(path)
                    .map_err(|error| format!("--otlp-ca {} cannot be read: {error}", path.display()))?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
        };
        exporter = exporter.with_tls_config(tls);
    }
    let exporter = exporter.build().map_err(|error| error.to_string())?;
    let mut resource = Resource::builder();
    // The variable is the operator's own name for it.
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service);
    }
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = resource.with_attribute(version).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

fn service_name(command: &Command) -> &'static str {
    match command {
        Command::Coordinator(_) => "avsweep-coordinator",
        Command::Worker(_) => "avsweep-worker",
        Command::Judge(_) => "avsweep-judge",
        _ => "avsweep",
    }
}

/// Processes that run for long say what they do; verbs are quiet.
fn filter(arguments: &Arguments) -> EnvFilter {
    let process =
        matches!(arguments.command, Command::Coordinator(_) | Command::Worker(_) | Command::Judge(_));
    let default = match arguments.verbose + u8::from(process) {
        0 => "warn",
        1 => "info,sqlx=warn",
        2 => "debug,sqlx=info,h2=info,hyper=info",
        _ => "trace",
    };
    EnvFilter::try_from_env("AVSWEEP_LOG").unwrap_or_else(|_| EnvFilter::new(default))
}
