//! The house's rules, checked on the tree: `cargo xtask tidy`, and as a test.

mod functions;
mod layers;
mod text;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// A rule that is broken somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// File, relative to the root.
    pub(crate) path: PathBuf,
    /// Line, from 1; 0 for the whole file.
    pub(crate) line: usize,
    /// What is wrong, and what would be right.
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// All findings in the tree at `root`.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = layers::check(root)?;
    for path in tracked(root)? {
        // A file that is deleted but not committed yet is still listed.
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        findings.extend(text::check(&path, &text));
        if path.extension().is_some_and(|extension| extension == "rs") {
            findings.extend(functions::check(&path, &text));
        }
    }
    Ok(findings)
}

/// Files that git knows or would add.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()
        .context("cannot run git: tidy looks at the files that git knows")?;
    ensure!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    Ok(names.split_terminator('\0').map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        let findings = super::check(&crate::root().expect("within the repository")).expect("the tree can be read");
        let report: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert!(report.is_empty(), "\n{}", report.join("\n"));
    }
}
