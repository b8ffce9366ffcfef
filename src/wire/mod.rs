//! The gRPC services a host calls, joining goplugin and logical.
