//! The machine side of a region: reads what is wanted of this node, makes it so, reports what it
//! sees.
//!
//! [`sim`] needs nothing and runs nothing; it lets a region be tried and tested anywhere.

pub mod sim;
