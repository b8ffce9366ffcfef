//! The SMTP secrets engine.
