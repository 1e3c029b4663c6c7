//! Connections to a coordinator elsewhere.

use anyhow::Result;
use avsweep_transport::{ConnectOptions, CoordinatorUrl, Secret, Transport};

use crate::arguments::ConnectionArguments;
use crate::usage::UsageError;

/// The variable that holds a token itself.
pub(crate) const TOKEN: &str = "AVSWEEP_TOKEN";

/// A connection, made when it is first used and again whenever it breaks.
///
/// # Errors
/// When an address, the token or a certificate is no good.
pub(crate) fn connect(arguments: &ConnectionArguments) -> Result<Transport> {
    let coordinators = coordinators(arguments)?;
    let options = ConnectOptions {
        token: Secret::find(arguments.token_file.as_deref(), TOKEN)?,
        ca: arguments.ca.clone(),
        identity: arguments.cert.clone().zip(arguments.key.clone()),
        server_name: arguments.server_name.clone(),
        allow_insecure: arguments.insecure,
        ..ConnectOptions::new(coordinators)
    };
    Ok(avsweep_transport::connect(&options)?)
}

/// The addresses given.
///
/// # Errors
/// When there is none, or one that is none.
pub(crate) fn coordinators(arguments: &ConnectionArguments) -> Result<Vec<CoordinatorUrl>> {
    let urls = arguments.urls();
    if urls.is_empty() {
        return Err(UsageError::new(
            "no coordinator is named: --coordinator URL (or AVSWEEP_COORDINATOR) is wanted, such as \
             https://coordinator:7700",
        )
        .into());
    }
    urls.into_iter().map(|url| url.parse::<CoordinatorUrl>().map_err(UsageError::from_error)).collect()
}
