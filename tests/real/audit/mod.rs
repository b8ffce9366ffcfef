//! What the engine does by itself, in the audit devices of a real server: nobody asks for it, and
//! nothing but a request reaches a device.

mod automatic;
mod device;
mod emitter;
mod forged;
mod handover;
mod killed;
mod own_server;
mod refused;
mod verifier;
mod wire;

/// The tests of all of them.
pub(super) fn tests() -> Vec<crate::harness::Test> {
    let tests = [
        automatic::tests(),
        device::tests(),
        forged::tests(),
        handover::tests(),
        killed::tests(),
        own_server::tests(),
        refused::tests(),
    ];
    tests.into_iter().flatten().collect()
}
