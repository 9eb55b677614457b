//! What is told about a run: numbers, goals, tables, plots. It measures nothing.
pub mod numbers;
pub mod plot;
pub mod slo;
