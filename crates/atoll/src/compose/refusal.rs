//! What is wrong with a deployment file, and where.

use std::fmt;

use super::limits;

/// A place in the file, both numbers from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Place {
    /// The first character.
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

/// Something that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Where.
    pub(crate) place: Place,
    /// The key, as a path from the top; empty when it is about the file.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) why: String,
    /// What to do.
    pub(crate) cure: String,
}

/// Something that is honoured in another way than the file's author may expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// Where.
    pub(crate) place: Place,
    /// What is different.
    pub(crate) text: String,
}

/// All that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The file as the user named it.
    pub(crate) file: String,
    /// In the order of the file, at least one.
    pub(crate) refusals: Vec<Refusal>,
}

impl Refused {
    /// Sorts by place.
    pub(crate) fn new(file: &str, mut refusals: Vec<Refusal>) -> Self {
        refusals.sort_by_key(|refusal| refusal.place);
        Self { file: file.to_owned(), refusals }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.refusals.iter().take(limits::REFUSALS_MAX).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let Place { line, column } = refusal.place;
            write!(f, "{}:{line}:{column}: ", self.file)?;
            if !refusal.key.is_empty() {
                write!(f, "{}: ", printable(&refusal.key))?;
            }
            write!(f, "{}; {}", printable(&refusal.why), printable(&refusal.cure))?;
        }
        let rest = self.refusals.len().saturating_sub(limits::REFUSALS_MAX);
        if rest > 0 {
            write!(f, "\nand {rest} more")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// Text from the file may hold escape sequences that would reach the terminal, or line breaks.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
