//! The pocket model family: generates its data, trains its base and its alignment vectors, and
//! measures what they do.
//!
//! ```text
//! corpus ─► vocabulary ─► batch ─► base ─► align ─► products ─► probe ─► measure ─► card
//!                                     └ model, optimizer ┘        (the engine)
//! ```

pub mod align;
pub mod base;
pub mod batch;
pub mod card;
pub mod corpus;
pub mod error;
pub mod measure;
pub mod model;
pub mod optimizer;
pub mod probe;
pub mod products;
pub mod record;
pub mod vocabulary;
