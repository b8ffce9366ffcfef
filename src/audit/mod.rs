//! What the engine did, as events for the audit devices.
