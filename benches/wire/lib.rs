//! Nothing: the benchmarks of the wire, which need crates that nothing else here does, hang on it.
