//! The store from outside: one conformance suite on every backend, and what only a backend on a
//! disk has to stand.

mod backend;
mod conformance;
mod crash;
mod full_disk;
mod leases;
mod linearizability;
mod persistence;
mod properties;
mod register;
mod watches;
