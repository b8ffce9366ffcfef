//! `<tenant>/admin`.

mod create;
mod import;
mod read;
mod update;
