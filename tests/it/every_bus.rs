//! Runs one test on each bus.

/// Runs tests that take a bus on each of the shared ones.
macro_rules! on_every_bus {
    ($($test:ident),* $(,)?) => {$(
        mod $test {
            use crate::support::consumers::Bus;

            #[test]
            fn on_kafka() {
                if let Some(bus) = Bus::kafka() {
                    super::$test(&bus);
                }
            }

            #[test]
            fn on_nats() {
                if let Some(bus) = Bus::nats() {
                    super::$test(&bus);
                }
            }

            #[test]
            fn on_the_embedded_log() {
                if let Some(bus) = Bus::embedded() {
                    super::$test(&bus);
                }
            }
        }
    )*};
}

/// Runs tests that also take a broker, each on one of its own.
macro_rules! on_a_broker_of_its_own {
    (kafka; $($tests:tt)*) => {
        on_a_broker_of_its_own!(@ kafka, |port| Bus::kafka_at(format!("127.0.0.1:{port}")); $($tests)*);
    };
    (nats; $($tests:tt)*) => {
        on_a_broker_of_its_own!(@ nats, |port| Bus::nats_at(format!("nats://127.0.0.1:{port}")); $($tests)*);
    };
    (@ $bus:ident, $at:expr; $($test:ident),* $(,)?) => {
        mod $bus {
            use super::*;

            $(
                #[test]
                fn $test() {
                    if let Some(broker) = Broker::$bus() {
                        let bus = $at(broker.port());
                        super::$test(broker, &bus);
                    }
                }
            )*
        }
    };
}
