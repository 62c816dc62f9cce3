//! Which counters were already seen: the sliding bitmap of RFC 6479.

const WORDS: usize = 32;
const WORD_BITS: u64 = 64;
/// Counters this far behind the newest are refused. One word is always in transit, hence one less.
pub(crate) const WINDOW: u64 = (WORDS as u64 - 1) * WORD_BITS;

/// A replay window over 64-bit counters.
#[derive(Debug, Clone)]
pub(crate) struct ReplayWindow {
    /// One past the highest counter accepted so far.
    next: u64,
    words: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) const fn new() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }

    /// Whether `counter` is new. Call [`Self::accept`] only after the message proved authentic.
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        if self.next - counter > WINDOW {
            return false;
        }
        self.words[Self::word(counter)] & Self::bit(counter) == 0
    }

    /// Marks `counter` as seen; false if it was not fresh.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            let newest = self.next.saturating_sub(1) / WORD_BITS;
            let steps = (counter / WORD_BITS - newest).min(WORDS as u64);
            for step in 1..=steps {
                self.words[((newest + step) % WORDS as u64) as usize] = 0;
            }
            self.next = counter + 1;
        }
        self.words[Self::word(counter)] |= Self::bit(counter);
        true
    }

    const fn word(counter: u64) -> usize {
        ((counter / WORD_BITS) % WORDS as u64) as usize
    }

    const fn bit(counter: u64) -> u64 {
        1 << (counter % WORD_BITS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_counter_is_accepted_once_and_old_ones_never() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(0) && !window.accept(0));
        assert!(window.accept(5) && window.accept(3) && !window.accept(5));
        assert!(window.accept(5 + WINDOW) && !window.accept(5));
        assert!(window.accept(6) && !window.accept(6));
        assert!(!window.accept(u64::MAX));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(counters in prop::collection::vec(0u64..6000, 0..400)) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            for counter in counters {
                let next = seen.last().map_or(0, |c| c + 1);
                let expected = !seen.contains(&counter) && (counter >= next || next - counter <= WINDOW);
                prop_assert_eq!(window.accept(counter), expected);
                if expected {
                    seen.insert(counter);
                }
            }
        }
    }
}
