//! Master keys and the data keys that they wrap.

#![forbid(unsafe_code)]
