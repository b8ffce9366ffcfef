//! How the engine is built, for engineers.
