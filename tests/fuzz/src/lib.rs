//! What several fuzz targets share.

pub mod json;
pub mod rig;
