//! Connections over real sockets, with certificates made here.

mod connections;
mod failover;
mod support;
mod tls;
mod tokens;
