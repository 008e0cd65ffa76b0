//! The contract of the configuration: exact messages for what is wrong, the defaults of the specification, and an example
//! that runs. Only public functions are used.

use ringway::config::load;

#[test]
fn the_example_is_valid() {
    let plan = load(concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml").as_ref()).unwrap();
    assert_eq!(plan.listeners[0].name, "postgres");
}
