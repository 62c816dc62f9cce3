//! Amounts of the region's currency: exact, 18 decimals, never a float.

use alloy_primitives::U256;

/// Decimals of every region's currency, as every Ethereum wallet expects.
const DECIMALS: usize = 18;
/// Most digits in front of the point: below 2^128 smallest units with room to spare.
const WHOLE_DIGITS_MAX: usize = 21;

/// A text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AmountError {
    /// Not digits with at most one point.
    #[error("'{0}' is not an amount: write digits, with at most one point, such as 12 or 0.25")]
    Form(String),
    /// More decimals than the currency has.
    #[error("'{0}' has more than {DECIMALS} digits after the point, and the currency has no smaller unit")]
    Decimals(String),
    /// More than there can be.
    #[error("'{0}' is more than there can be of any currency")]
    Large(String),
}

/// Reads an amount in whole coins, such as `12`, `0.25` or `1_000`.
pub(crate) fn parse(text: &str) -> Result<U256, AmountError> {
    let digits = text.trim().replace('_', "");
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let only_digits = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !only_digits(whole) || !only_digits(fraction) {
        return Err(AmountError::Form(text.to_owned()));
    }
    if fraction.trim_end_matches('0').len() > DECIMALS {
        return Err(AmountError::Decimals(text.to_owned()));
    }
    if whole.trim_start_matches('0').len() > WHOLE_DIGITS_MAX {
        return Err(AmountError::Large(text.to_owned()));
    }
    let fraction = &fraction[..fraction.len().min(DECIMALS)];
    let all = format!("{whole}{fraction:0<DECIMALS$}");
    U256::from_str_radix(&all, 10).map_err(|_| AmountError::Form(text.to_owned()))
}

/// All digits that matter: `1.5`, `0.000000000000000001`, `12`.
pub(crate) fn exact(amount: U256) -> String {
    let digits = format!("{amount:0>width$}", width = DECIMALS + 1);
    let (whole, fraction) = digits.split_at(digits.len() - DECIMALS);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

/// For people: about four digits that matter, thousands separated by thin spaces, never rounded up.
/// `1 234 567`, `12.34`, `0.0123`, and `<0.000001` for dust.
pub(crate) fn short(amount: U256) -> String {
    let text = exact(amount);
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let kept = if whole == "0" {
        let zeros = fraction.len() - fraction.trim_start_matches('0').len();
        if zeros >= 6 {
            return "<0.000001".to_owned();
        }
        &fraction[..fraction.len().min(zeros + 4)]
    } else {
        &fraction[..fraction.len().min(4_usize.saturating_sub(whole.len()).max(2))]
    };
    let kept = kept.trim_end_matches('0');
    let whole = group(whole);
    if kept.is_empty() { whole } else { format!("{whole}.{kept}") }
}

/// For people, with the currency's symbol.
pub(crate) fn with_symbol(amount: U256, symbol: &str) -> String {
    format!("{} {symbol}", short(amount))
}

fn group(whole: &str) -> String {
    let mut text = String::with_capacity(whole.len() * 2);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expect: Result<u128, &str>) {
        let got = parse(text).map_err(|error| error.to_string());
        assert_eq!(got, expect.map(U256::from).map_err(str::to_owned), "{text}");
    }

    #[test]
    fn amounts_are_read_exactly() {
        check("12", Ok(12_000_000_000_000_000_000));
        check("0.1", Ok(100_000_000_000_000_000));
        check(".5", Ok(500_000_000_000_000_000));
        check("1_000.", Ok(1_000_000_000_000_000_000_000));
        check("0.000000000000000001", Ok(1));
        check("0.0000000000000000010", Ok(1));
        check("", Err("'' is not an amount: write digits, with at most one point, such as 12 or 0.25"));
        check("-1", Err("'-1' is not an amount: write digits, with at most one point, such as 12 or 0.25"));
        check("1e3", Err("'1e3' is not an amount: write digits, with at most one point, such as 12 or 0.25"));
        check("1.2.3", Err("'1.2.3' is not an amount: write digits, with at most one point, such as 12 or 0.25"));
        check(
            "0.0000000000000000001",
            Err(
                "'0.0000000000000000001' has more than 18 digits after the point, and the currency has no smaller unit",
            ),
        );
        check("100000000000000000000000", Err("'100000000000000000000000' is more than there can be of any currency"));
    }

    #[test]
    fn amounts_are_shown_with_sensible_digits() {
        for (text, expect) in [
            ("0", "0"),
            ("1", "1"),
            ("1234567.891", "1\u{202f}234\u{202f}567.89"),
            ("12.3456", "12.34"),
            ("1.23456", "1.234"),
            ("0.0123456", "0.01234"),
            ("0.99999999", "0.9999"),
            ("0.000000000000000001", "<0.000001"),
            ("1000", "1\u{202f}000"),
            ("5.00001", "5"),
        ] {
            assert_eq!(short(parse(text).expect("an amount")), expect, "{text}");
        }
    }

    proptest! {
        #[test]
        fn exact_text_reads_back(units in 0..u128::MAX) {
            let amount = U256::from(units);
            prop_assert_eq!(parse(&exact(amount)), Ok(amount));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
