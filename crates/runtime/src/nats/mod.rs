//! One connection to NATS for the whole process: made in the background, kept for ever, watched by whoever uses it.
//!
//! Only NATS core is used: no stream, consumer or bucket (docs/decisions/0004-nats.md). The connection is made when
//! something asks for it, and made again with a jittered pause for as long as the process lives; a server that is
//! away, refuses our credentials or shows the wrong certificate is told in the log with the remedy, and never ends
//! the process. Whoever has subscriptions makes them again in each new [`Session`].
//!
//! Source: Dynamo 1.6.1 on the wire, §5.2 and §6.

mod config;
mod connection;
mod failure;
mod tls;

pub use config::{DEFAULT_SERVER, NatsAuth, NatsConfig, NatsConfigError, NatsTls};
pub(crate) use connection::next_session;
pub use connection::{Nats, NatsCounts, Session};
pub use failure::NatsFailure;
