//! Amazon Data Lifecycle Manager.

#![forbid(unsafe_code)]
