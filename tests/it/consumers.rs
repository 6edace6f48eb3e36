//! The programs of `deploy/consumers`, each run as a reader runs it: against a real broker, stopped, started again, and
//! failing. All end with the same tables.

mod programs;
mod tables;
mod world;

use std::time::Duration;

use tables::{Locked, Tables};
use world::World;

/// For all that [`World::deliver_everything`] delivers, on a busy machine.
const WITHIN: Duration = Duration::from_secs(90);

/// One test for each program: what it reads from, and how it is started.
macro_rules! each_ends_with_the_expected_tables {
    ($($program:ident: $bus:ident,)*) => {$(
        #[test]
        fn $program() {
            if let Some(world) = World::$bus(programs::$program) {
                super::ends_with_the_expected_tables(world);
            }
        }
    )*};
}

mod ends_with_the_expected_tables {
    use super::*;

    each_ends_with_the_expected_tables! {
        python_from_kafka: kafka,
        python_from_kafka_asyncio: kafka,
        python_from_nats: nats,
        node_from_kafka: kafka,
        node_from_kafka_confluent: kafka,
        node_from_nats: nats,
        java_from_kafka: kafka,
        java_from_nats: nats,
        go_from_kafka: kafka,
        go_from_nats: nats,
        rust_from_kafka: kafka,
        rust_from_nats: nats,
    }
}

fn ends_with_the_expected_tables(mut world: World) {
    let mut everything = Tables::default();
    world.deliver_everything(&mut everything);
    let mut program = world.start("first.db");
    program.reaches(&everything, WITHIN);
    program.stop();

    // A new database shows what a second start does again.
    let mut one_more = Tables::default();
    world.deliver_one_more(&mut one_more);
    let mut program = world.start("second.db");
    program.reaches(&one_more, WITHIN);
    match world.is_kafka() {
        true => goes_on_after_a_failure(&world, program, one_more),
        false => acknowledges_no_claim_check_that_differs(&mut world, program, &one_more),
    }
}

fn goes_on_after_a_failure(world: &World, program: world::Program, mut expected: Tables) {
    let locked = Locked::lock(&world.database("second.db"));
    world.deliver_one_more(&mut expected);
    program.fails(WITHIN);
    drop(locked);
    let mut program = world.start("second.db");
    program.reaches(&expected, WITHIN);
    program.stop();
}

fn acknowledges_no_claim_check_that_differs(world: &mut World, program: world::Program, expected: &Tables) {
    program.stop();
    world.deliver_a_claim_check_whose_object_differs();
    world.start("second.db").fails(WITHIN);
    assert_eq!(world.unacknowledged(), 1);
    world.expect("second.db", expected);
}

/// Killed while its transaction waits for the database: NATS sends the message again.
#[test]
fn a_kill_in_the_middle_of_the_work_loses_nothing() {
    let Some(world) = World::nats(programs::python_from_nats) else { return };
    let mut expected = Tables::default();
    world.deliver_one_more(&mut expected);
    let mut program = world.start("events.db");
    program.reaches(&expected, WITHIN);
    let locked = Locked::lock(&world.database("events.db"));
    world.deliver_one_more(&mut expected);
    world.until_unacknowledged(1);
    program.kill();
    drop(locked);
    let mut program = world.start("events.db");
    program.reaches(&expected, WITHIN);
    program.stop();
}

/// A reader pastes one file: each has the text of `events.sql`.
#[test]
fn every_program_has_the_same_sql() {
    let squeezed = |text: &str| {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("--"));
        lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
    };
    let sql = std::fs::read_to_string(programs::folder().join("events.sql")).expect("the SQL");
    let sql = squeezed(&sql);
    let statements: Vec<_> = sql.split(';').map(str::trim).filter(|statement| !statement.is_empty()).collect();
    assert_eq!(statements.len(), 6);
    let files = programs::files();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let text = squeezed(&std::fs::read_to_string(&file).expect("a program"));
        for statement in &statements {
            assert!(text.contains(statement), "{} lacks {statement}", file.display());
        }
    }
}
