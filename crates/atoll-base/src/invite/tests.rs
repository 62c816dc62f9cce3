//! Invites as people copy them: whole, broken over lines, cut off, mistyped.

use proptest::prelude::*;

use super::*;

fn link() -> impl Strategy<Value = InviteLink> {
    let host = prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| IpAddr::from(ip).to_string()),
        any::<[u8; 16]>().prop_map(|ip| IpAddr::from(ip).to_string()),
        "[a-z0-9]{1,20}(-[a-z0-9]{1,20})?\\.[a-z]{2,10}",
    ];
    let transport = prop_oneof![Just(LinkTransport::Udp), Just(LinkTransport::Tls)];
    (transport, host, 1u16..)
        .prop_map(|(transport, host, port)| InviteLink::new(transport, &host, port).expect("valid"))
}

fn invite() -> impl Strategy<Value = Invite> {
    (any::<[u8; 32]>(), prop::collection::vec(link(), 0..=INVITE_LINKS_MAX))
        .prop_map(|(region, links)| Invite::new(RegionId(region), links).expect("few links"))
}

proptest! {
    #[test]
    fn invites_round_trip(invite in invite()) {
        let text = invite.to_string();
        prop_assert!(text.len() <= INVITE_TEXT_BYTES_MAX);
        prop_assert_eq!(text.parse::<Invite>(), Ok(invite.clone()));
        prop_assert_eq!(text.to_uppercase().parse::<Invite>(), Ok(invite.clone()));
        let lines: Vec<_> = text.as_bytes().chunks(60).map(|line| String::from_utf8_lossy(line)).collect();
        prop_assert_eq!(format!("  {}\r\n", lines.join("\n ")).parse::<Invite>(), Ok(invite));
    }

    #[test]
    fn a_mistyped_digit_is_noticed(invite in invite(), at: prop::sample::Index, other in 0usize..32) {
        let mut text = invite.to_string().into_bytes();
        let at = SCHEME.len() + at.index(text.len() - SCHEME.len());
        prop_assume!(text[at] != ALPHABET[other]);
        text[at] = ALPHABET[other];
        prop_assert!(String::from_utf8_lossy(&text).parse::<Invite>().is_err());
    }

    #[test]
    fn two_exchanged_digits_are_noticed(invite in invite(), at: prop::sample::Index) {
        let mut text = invite.to_string().into_bytes();
        let at = SCHEME.len() + at.index(text.len() - SCHEME.len() - 1);
        prop_assume!(text[at] != text[at + 1]);
        text.swap(at, at + 1);
        prop_assert!(String::from_utf8_lossy(&text).parse::<Invite>().is_err());
    }

    #[test]
    fn a_piece_of_an_invite_is_none(invite in invite(), cut: prop::sample::Index) {
        let text = invite.to_string();
        let cut = cut.index(text.len());
        prop_assert!(text[..cut].parse::<Invite>().is_err());
    }

    #[test]
    fn the_parser_survives_any_text(text in "(atoll-invite:)?.{0,200}") {
        let _ = text.parse::<Invite>();
    }

    /// What is accepted at all has one form.
    #[test]
    fn the_decoder_survives_any_bytes_with_a_checksum(mut bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        if let Some(count) = bytes.get_mut(33) {
            *count %= 4;
        }
        bytes.extend_from_slice(&checksum(&bytes));
        if let Ok(invite) = Invite::parse(&bytes) {
            prop_assert_eq!(invite.to_bytes(), bytes);
        }
    }
}

#[test]
fn an_invite_looks_like_this() {
    let links = vec![
        InviteLink::new(LinkTransport::Udp, "192.0.2.1", 4870).expect("valid"),
        InviteLink::new(LinkTransport::Tls, "2001:db8::1", 443).expect("valid"),
        InviteLink::new(LinkTransport::Udp, "gate.example", 4870).expect("valid"),
    ];
    let peers: Vec<_> = links.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["192.0.2.1:4870", "[2001:db8::1]:443", "gate.example:4870"]);
    let invite = Invite::new(RegionId([7; 32]), links).expect("few links");
    // People have this on paper: it never changes.
    assert_eq!(
        invite.to_string(),
        "atoll-invite:aedqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqoayacmdasmjzgixdalrsfyyqcan3bmzdambrhjsgeob2hiyqaeygbrtwc5dffzsxqylnobwgk3xxfuoq"
    );
}

#[test]
fn what_is_wrong_is_said() {
    let good = Invite::new(RegionId([7; 32]), Vec::new()).expect("no links").to_string();
    let parse = |text: &str| text.parse::<Invite>().expect_err("no invite");
    let built = |change: fn(&mut Vec<u8>)| {
        let link = InviteLink::new(LinkTransport::Udp, "a.b", 1).expect("valid");
        let mut bytes = Invite::new(RegionId([7; 32]), vec![link]).expect("one link").to_bytes();
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        change(&mut bytes);
        bytes.extend_from_slice(&checksum(&bytes));
        Invite::parse(&bytes).expect_err("no invite")
    };
    assert_eq!(parse(""), InviteError::Scheme);
    assert_eq!(parse("https://example.org"), InviteError::Scheme);
    assert_eq!(parse("atoll-invite:"), InviteError::Truncated);
    assert_eq!(parse("atoll-invite:ab!"), InviteError::Character { character: '!', at: 16 });
    assert_eq!(parse("atoll-invite:ab1"), InviteError::Character { character: '1', at: 16 });
    assert_eq!(parse(&good.replace(":a", ":b")), InviteError::Checksum);
    assert_eq!(built(|bytes| bytes[0] = 2), InviteError::Version(2));
    assert_eq!(parse(&"a".repeat(INVITE_TEXT_BYTES_MAX + 1)), InviteError::TooLong);
    assert_eq!(built(|bytes| bytes.push(0)), InviteError::Trailing(1));
    assert_eq!(built(|bytes| bytes.truncate(bytes.len() - 1)), InviteError::Truncated);
    assert_eq!(built(|bytes| bytes[33] = 17), InviteError::TooManyLinks(17));
    assert_eq!(built(|bytes| bytes[34] = 9), InviteError::Transport { link: 1, transport: 9 });
    assert_eq!(built(|bytes| bytes[36] = 0), InviteError::Port("a.b".to_owned()));
    assert_eq!(built(|bytes| bytes[39] = b'/'), InviteError::Host("a/b".to_owned()));
    for host in ["", "A.b", "a..b", "-a", "a.1", "300.1.1.1", "2001:DB8::1", "fe80::1%eth0", &"a.".repeat(127)] {
        assert_eq!(InviteLink::new(LinkTransport::Udp, host, 1), Err(InviteError::Host(host.to_owned())), "{host}");
    }
    let many = vec![InviteLink::new(LinkTransport::Udp, "a.b", 1).expect("valid"); INVITE_LINKS_MAX + 1];
    assert_eq!(Invite::new(RegionId([7; 32]), many), Err(InviteError::TooManyLinks(INVITE_LINKS_MAX + 1)));
}
