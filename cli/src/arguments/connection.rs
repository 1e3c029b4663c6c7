//! How a coordinator is reached.

use std::path::PathBuf;

use clap::Args;
use clap::builder::FalseyValueParser;

const HEADING: &str = "Coordinator";

/// Flags of everything that talks to a coordinator.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConnectionArguments {
    /// The coordinator's address, https://host:7700; several after commas: one is used, the next when it is away.
    #[arg(
        long,
        global = true,
        env = "AVSWEEP_COORDINATOR",
        value_name = "URL[,URL…]",
        value_delimiter = ',',
        help_heading = HEADING
    )]
    pub coordinator: Vec<String>,

    /// File with the bearer token; AVSWEEP_TOKEN holds the token itself instead.
    #[arg(long, global = true, env = "AVSWEEP_TOKEN_FILE", value_name = "FILE", help_heading = HEADING)]
    pub token_file: Option<PathBuf>,

    /// Certificate authority of the coordinator (PEM). Default: the system's.
    #[arg(long, global = true, env = "AVSWEEP_CA", value_name = "FILE", help_heading = HEADING)]
    pub ca: Option<PathBuf>,

    /// Certificate of this side, for mutual TLS (PEM).
    #[arg(
        long,
        global = true,
        env = "AVSWEEP_CERT",
        value_name = "FILE",
        requires = "key",
        help_heading = HEADING
    )]
    pub cert: Option<PathBuf>,

    /// Its private key (PEM).
    #[arg(long, global = true, env = "AVSWEEP_KEY", value_name = "FILE", requires = "cert", help_heading = HEADING)]
    pub key: Option<PathBuf>,

    /// Name in the coordinator's certificate, where it is not the address's.
    #[arg(long, global = true, env = "AVSWEEP_SERVER_NAME", value_name = "NAME", help_heading = HEADING)]
    pub server_name: Option<String>,

    /// Allow connections without TLS to other machines: tokens and results can be read on the way.
    #[arg(
        long,
        global = true,
        env = "AVSWEEP_INSECURE",
        value_parser = FalseyValueParser::new(),
        help_heading = HEADING
    )]
    pub insecure: bool,
}

impl ConnectionArguments {
    /// The addresses given; an empty variable is none.
    pub(crate) fn urls(&self) -> Vec<&str> {
        self.coordinator.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect()
    }
}
