//! Tests that talk to a NATS server.

mod objects;
