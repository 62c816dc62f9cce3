//! Automation of the repository: tidy, bench, lint.

fn main() {}
