//! What the engine does by itself, in the audit devices of a real server: nobody asks for it, and
//! nothing but a request reaches a device.

mod automatic;
mod device;
mod emitter;
mod forged;
mod handover;
mod killed;
mod refused;
mod verifier;
mod wire;
