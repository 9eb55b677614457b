//! Our own processes as an outside thing: start one, hand it fds and a boot message, talk to it,
//! watch it, end it. It knows nothing of what the processes do.
//!
//! Order of calls: [`boot::spawn`] in the parent, [`boot::receive`] in the child; links are
//! [`link::Link`]s. Spawn from a thread that lives as long as the child may (PDEATHSIG follows the
//! spawning thread).
pub mod boot;
pub mod child;
pub mod flight;
pub mod histogram;
pub mod link;
pub mod page;
pub mod plain;
pub mod priority;
pub mod sheet;
pub(crate) mod signals;
pub mod stack;
