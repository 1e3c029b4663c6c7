//! Connections between the parts: where a coordinator is, how it is reached, and how it knows who asks.
//!
//! Clients hold a [`Transport`]: [`connect`] makes one over the network, [`boxed`] one out of a service of this
//! process. Servers take connections from a [`Listener`] and put [`Authorization`] around their services.
//!
//! What must hold: a secret is never printed; what is sent in plain text never leaves the machine unless that was
//! asked for in so many words ([`check_exposure`], [`ConnectOptions::allow_insecure`]); no peer, however broken, ends a
//! server or holds one of its connections without having spoken.

mod address;
mod authorization;
mod call;
mod client;
mod error;
mod pem;
mod secret;
mod server;
mod tokens;

pub use address::{CoordinatorUrl, check_exposure};
pub use authorization::{Authorization, Authorized, ERROR_CODE_HEADER, Refusal, RefusalCode};
pub use call::{CallError, Transport, boxed};
pub use client::{ConnectOptions, connect};
pub use error::TransportError;
pub use secret::Secret;
pub use server::{Connection, Counter, Incoming, ListenOptions, Listener, Protocol, ServerTls};
pub use tokens::{Role, Tokens};
