//! The way of the user's verbs to sweeps: a coordinator elsewhere, or one in this process over a store.
//!
//! Verbs do not know which: they ask the same gRPC services either way.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use avsweep_domain::SweepDefinition;
use avsweep_proto::v1;
use avsweep_proto::v1::sweep_service_client::SweepServiceClient;
use avsweep_transport::Transport;
use clap::parser::ValueSource;

use crate::arguments::{ConnectionArguments, StoreLocation};
use crate::embedded::{Access, Embedded};
use crate::output;
use crate::remote;
use crate::sweep_file;

/// Where sweeps are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In a store of this machine.
    Store {
        /// Where.
        location: StoreLocation,
        /// Somebody has named it.
        named: bool,
    },
    /// With a coordinator.
    Coordinator(ConnectionArguments),
}

impl Place {
    /// The coordinator if one is named, else the store. A `--store` on the command line goes before a coordinator
    /// that only the environment names.
    pub(crate) fn new(
        store: StoreLocation,
        source: Option<ValueSource>,
        connection: ConnectionArguments,
    ) -> Self {
        if connection.urls().is_empty() || source == Some(ValueSource::CommandLine) {
            Self::Store { location: store, named: source != Some(ValueSource::DefaultValue) }
        } else {
            Self::Coordinator(connection)
        }
    }

    /// The flag that names it again, with a space before; nothing where the default finds it.
    pub(crate) fn flag(&self) -> String {
        match self {
            Self::Store { location, .. } if location.file() == Some(std::path::Path::new("avsweep.db")) => {
                String::new()
            }
            Self::Store { location: store, .. } => format!(" --store {}", output::shell(store)),
            Self::Coordinator(_) if std::env::var_os("AVSWEEP_COORDINATOR").is_some() => String::new(),
            Self::Coordinator(connection) => format!(" --coordinator {}", connection.urls().join(",")),
        }
    }

    /// Whether it is a store only because nothing else was said.
    pub(crate) fn is_default(&self) -> bool {
        matches!(self, Self::Store { named: false, .. })
    }

    /// Whether it is a coordinator elsewhere.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, Self::Coordinator(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store { location, .. } => write!(f, "store {location}"),
            Self::Coordinator(connection) => write!(f, "coordinator {}", connection.urls().join(", ")),
        }
    }
}

/// A way to the sweeps of one place.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Transport,
    embedded: Option<Embedded>,
}

impl Connection {
    /// Opens the way. A coordinator is not spoken to yet.
    ///
    /// # Errors
    /// When the store cannot be opened, or the coordinator's address, token or certificates are no good.
    pub(crate) async fn open(place: &Place, access: Access) -> Result<Self> {
        match place {
            Place::Store { location, .. } => {
                let embedded = Embedded::open(location, access).await?;
                Ok(Self { transport: embedded.transport(), embedded: Some(embedded) })
            }
            Place::Coordinator(connection) => {
                Ok(Self { transport: remote::connect(connection)?, embedded: None })
            }
        }
    }

    /// The connection, for workers and judges.
    pub(crate) fn transport(&self) -> Transport {
        self.transport.clone()
    }

    /// The user's verbs.
    pub(crate) fn sweeps(&self) -> SweepServiceClient<Transport> {
        SweepServiceClient::new(self.transport.clone())
            .max_decoding_message_size(avsweep_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(avsweep_proto::MAX_MESSAGE_BYTES)
    }

    /// A sweep by name, number or sweep file.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn sweep(&self, reference: &str) -> Result<(v1::SweepProgress, SweepDefinition)> {
        let sweep = sweep_name(reference)?;
        let response =
            self.sweeps().get_sweep(v1::GetSweepRequest { sweep }).await.map_err(explain)?.into_inner();
        let progress = response.progress.context("a sweep without progress")?;
        let definition = response.definition.context("a sweep without definition")?.try_into()?;
        Ok((progress, definition))
    }

    /// Stops what runs in this process for it, and waits for what is being written.
    pub(crate) async fn close(self) {
        drop(self.transport);
        if let Some(embedded) = self.embedded {
            embedded.close().await;
        }
    }
}

/// What services call a sweep: its name or number. A sweep file stands for the name in it.
///
/// # Errors
/// When the file cannot be read, or the reference is empty.
pub(crate) fn sweep_name(reference: &str) -> Result<String> {
    let path = PathBuf::from(reference);
    if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
        return sweep_file::name_in(&path);
    }
    if reference.is_empty() {
        bail!("an empty text names no sweep");
    }
    Ok(reference.to_owned())
}

/// A refusal of the coordinator as an error for people: its message, without gRPC's words around it.
#[expect(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
pub(crate) fn explain(status: tonic::Status) -> anyhow::Error {
    match status.code() {
        tonic::Code::Unimplemented => {
            anyhow::anyhow!(
                "the coordinator does not know this request (is its version older?): {}",
                status.message()
            )
        }
        _ => anyhow::anyhow!("{}", status.message()),
    }
}

/// Whether asking again later can help: the coordinator is away or on its way out.
pub(crate) fn is_away(status: &tonic::Status) -> bool {
    use tonic::Code::{
        Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown,
    };
    match status.code() {
        Unavailable | DeadlineExceeded | Aborted | Cancelled | ResourceExhausted => true,
        // A connection that breaks in the middle of a stream.
        Internal | Unknown => std::error::Error::source(status).is_some(),
        _ => false,
    }
}
