//! The one integration binary.

mod standin;
mod support;
