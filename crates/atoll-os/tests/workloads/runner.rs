//! As much of the standard test runner as `cargo test` and `cargo nextest` ask for.

use std::{ffi::OsString, panic::catch_unwind, process::ExitCode};

/// Runs the tests that the arguments ask for, one after another.
pub(crate) fn run(tests: &[(&str, fn())], arguments: &[OsString]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let has = |flag: &str| arguments.contains(&flag);
    if has("--list") {
        // There are no ignored tests.
        for (name, _) in tests.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut filters = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--format" | "--test-threads" | "--color" => drop(rest.next()),
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter),
        }
    }
    let wanted = |name: &str| match has("--exact") {
        true => filters.contains(&name),
        false => filters.is_empty() || filters.iter().any(|filter| name.contains(filter)),
    };
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        let succeeded = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if succeeded { "ok" } else { "FAILED" });
        if succeeded { passed += 1 } else { failed += 1 }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished",
        tests.len() - passed - failed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
