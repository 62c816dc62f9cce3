//! Explicit congestion notification (RFC 3168), and how it passes into and out of an outer header (RFC 6040).

/// The two bits of an IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ecn {
    /// The transport does not understand marks: congestion has to drop.
    #[default]
    NotCapable = 0,
    /// It does (ECT(1); RFC 9331 uses it for low latency).
    Capable1 = 1,
    /// It does (ECT(0)).
    Capable0 = 2,
    /// It does, and there was congestion on the way.
    Congested = 3,
}

impl Ecn {
    /// From the lower two bits.
    pub const fn of_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            _ => Self::Congested,
        }
    }

    /// Its two bits.
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// Whether congestion may mark instead of dropping.
    pub const fn is_capable(self) -> bool {
        !matches!(self, Self::NotCapable)
    }

    /// What an inner header has when it comes out of an outer one (RFC 6040 section 4.2, figure 4). Nothing: drop the
    /// packet, because congestion was marked where only a drop would have been understood.
    pub const fn out_of(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotCapable, Self::Congested) => None,
            (Self::NotCapable, _) => Some(Self::NotCapable),
            (Self::Congested, _) | (_, Self::Congested) => Some(Self::Congested),
            (_, Self::Capable1) => Some(Self::Capable1),
            (inner, _) => Some(inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ecn, Ecn::*};

    #[test]
    fn the_table_of_rfc_6040() {
        let outers = [NotCapable, Capable0, Capable1, Congested];
        for (inner, expected) in [
            (NotCapable, [Some(NotCapable), Some(NotCapable), Some(NotCapable), None]),
            (Capable0, [Some(Capable0), Some(Capable0), Some(Capable1), Some(Congested)]),
            (Capable1, [Some(Capable1), Some(Capable1), Some(Capable1), Some(Congested)]),
            (Congested, [Some(Congested); 4]),
        ] {
            assert_eq!(outers.map(|outer| inner.out_of(outer)), expected, "{inner:?}");
        }
        for bits in 0..=u8::MAX {
            assert_eq!(Ecn::of_bits(bits).bits(), bits & 3);
        }
    }
}
