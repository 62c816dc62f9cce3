//! Sizes of files and functions, and what cores must not contain.

use std::path::Path;

use proc_macro2::Span;
use syn::{
    Attribute, ImplItemFn, ItemFn, ItemMod,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::Finding;

/// Longest file, in lines outside test modules.
const FILE_LINES_MAX: usize = 560;
/// Longest function, in lines.
const FUNCTION_LINES_MAX: usize = 75;

/// Checks one Rust file.
pub(super) fn check(path: &Path, text: &str) -> Vec<Finding> {
    let file = match syn::parse_file(text) {
        Ok(file) => file,
        Err(error) => return vec![finding(path, 0, format!("is not Rust: {error}"))],
    };
    let is_test_file = path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
    let mut visitor = Visitor { path, findings: Vec::new(), test_lines: 0, in_tests: is_test_file };
    visitor.visit_file(&file);
    let lines = text.lines().count();
    if !is_test_file && lines - visitor.test_lines > FILE_LINES_MAX {
        let what = format!(
            "has {} lines without its tests, the house's bound is {FILE_LINES_MAX}: split it by what it does",
            lines - visitor.test_lines
        );
        visitor.findings.push(finding(path, 0, what));
    }
    visitor.findings
}

struct Visitor<'a> {
    path: &'a Path,
    findings: Vec<Finding>,
    test_lines: usize,
    in_tests: bool,
}

impl Visitor<'_> {
    fn function(&mut self, name: &syn::Ident, attributes: &[Attribute], body: Span) {
        let lines = lines_of(body);
        if !self.in_tests && lines > FUNCTION_LINES_MAX {
            let what = format!("function {name} has {lines} lines, the bound is {FUNCTION_LINES_MAX}: split it");
            self.findings.push(finding(self.path, name.span().start().line, what));
        }
        if attributes.iter().any(|attribute| attribute.path().is_ident("ignore")) {
            let what = format!("test {name} is ignored: a test runs, or it goes");
            self.findings.push(finding(self.path, name.span().start().line, what));
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        let is_tests = is_for_tests(&module.attrs);
        if is_tests && !self.in_tests {
            self.test_lines += lines_of(module.span());
            self.in_tests = true;
            visit::visit_item_mod(self, module);
            self.in_tests = false;
        } else {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.function(&function.sig.ident, &function.attrs, function.span());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.function(&function.sig.ident, &function.attrs, function.span());
        visit::visit_impl_item_fn(self, function);
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

fn lines_of(span: Span) -> usize {
    span.end().line - span.start().line + 1
}

fn finding(path: &Path, line: usize, what: String) -> Finding {
    Finding { path: path.to_owned(), line, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(text: &str) -> Vec<String> {
        check(Path::new("a.rs"), text).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn long_functions_are_found_but_not_in_tests() {
        let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(80));
        assert!(whats(&long)[0].contains("function f has 82 lines"));
        assert_eq!(whats(&format!("#[cfg(test)]\nmod tests {{\n{long}}}\n")), Vec::<String>::new());
    }

    #[test]
    fn long_files_are_measured_without_their_tests() {
        let many = "fn f() {}\n".repeat(FILE_LINES_MAX + 1);
        assert!(whats(&many)[0].contains("split it by what it does"));
        assert_eq!(whats(&format!("#[cfg(test)]\nmod tests {{\n{many}}}\n")), Vec::<String>::new());
    }

    #[test]
    fn ignored_tests_are_found() {
        assert!(whats("#[cfg(test)]\nmod tests {\n#[test]\n#[ignore]\nfn t() {}\n}")[0].contains("ignored"));
    }
}
