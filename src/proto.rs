//! The generated protobuf types, one module per package: the only place generated code is included.
//!
//! The sources and what they mean are in `proto/`. No generated message has `Debug`, so that none
//! can reach a log. Modules follow the packages, because generated code names its siblings by
//! relative path.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unnameable_types,
    unused_qualifications,
    clippy::all,
    clippy::too_many_lines,
    clippy::clone_on_ref_ptr,
    clippy::missing_errors_doc,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    reason = "generated code; its documentation is in proto/"
)]

pub mod grpc {
    pub mod health {
        pub mod v1 {
            tonic::include_proto!("grpc.health.v1");
        }
    }
}

pub mod logical {
    tonic::include_proto!("logical");
}

pub mod pb {
    tonic::include_proto!("pb");
}

pub mod plugin {
    tonic::include_proto!("plugin");
}

pub mod pluginutil {
    pub mod multiplexing {
        tonic::include_proto!("pluginutil.multiplexing");
    }
}
