//! Elastic addresses in a region of records.
