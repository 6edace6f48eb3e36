//! The adapter against real brokers and librdkafka's own pretend ones.

mod batches;
mod before_delivery;
mod configured;
mod live;
mod mocked;
mod replaced;
pub(super) mod support;
