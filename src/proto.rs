//! The generated protobuf types, one module per package.
