//! An invite that is accepted has one form, whatever it was written like.

use atoll_base::invite::Invite;

/// Checks one input.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    if let Ok(invite) = text.parse::<Invite>() {
        let canonical = invite.to_string();
        let written: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        assert_eq!(written.to_ascii_lowercase(), canonical);
        assert_eq!(canonical.parse(), Ok(invite));
    }
}
