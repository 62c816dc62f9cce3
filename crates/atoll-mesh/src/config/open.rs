//! What of the machine itself is open to the mesh, as it is written in the configuration and as it is used.

use std::{collections::BTreeSet, fmt};

use atoll_os::{firewall::PortRange, limits::FIREWALL_OPEN_RANGES_MAX};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use super::ConfigError;
use crate::limits::OPEN_MAX;

/// The word that opens everything.
const ALL: &str = "all";

const _: () = assert!(OPEN_MAX <= FIREWALL_OPEN_RANGES_MAX);

/// What others may reach of this machine itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Open {
    /// Everything: there is no firewall.
    All,
    /// These ports, and no others.
    Ports {
        /// Of TCP.
        tcp: BTreeSet<PortRange>,
        /// Of UDP.
        udp: BTreeSet<PortRange>,
    },
}

/// Reads a list of entries, or the one word without a list around it, wherever `open` is written.
pub fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list such as [\"tcp/22\", \"udp/53\"], or the word \"all\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<String>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }

    deserializer.deserialize_any(Entries)
}

/// Parses the entries of `open`.
pub(super) fn check(entries: &[String]) -> Result<Open, ConfigError> {
    if entries.len() > OPEN_MAX {
        return Err(ConfigError::TooMany { what: "open", limit: OPEN_MAX });
    }
    let refuse = |entry: &String, why| ConfigError::Open { entry: entry.clone(), why };
    let (mut tcp, mut udp) = (BTreeSet::new(), BTreeSet::new());
    for entry in entries {
        if entry == ALL {
            if entries.len() > 1 {
                return Err(refuse(entry, "it opens everything, so it is the only entry"));
            }
            return Ok(Open::All);
        }
        let (transport, ports) = entry.split_once('/').ok_or_else(|| refuse(entry, "the transport is missing"))?;
        let set = match transport {
            "tcp" => &mut tcp,
            "udp" => &mut udp,
            _ => return Err(refuse(entry, "the transport is neither tcp nor udp")),
        };
        set.insert(range(ports).map_err(|why| refuse(entry, why))?);
    }
    Ok(Open::Ports { tcp, udp })
}

fn range(text: &str) -> Result<PortRange, &'static str> {
    let port = |text: &str| {
        let is_number = text.bytes().all(|b| b.is_ascii_digit());
        let port: Option<u16> = if is_number { text.parse().ok() } else { None };
        port.filter(|port| *port != 0).ok_or("a port is a number from 1 to 65535")
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange { first: port(first)?, last: port(last)? };
    if range.first > range.last { Err("the range ends before it begins") } else { Ok(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn ports_are_read() {
        let range = |first, last| PortRange { first, last };
        let open = check(&entries(&["tcp/22", "tcp/8000-8100", "udp/53", "tcp/65535", "tcp/22"]));
        let expected = Open::Ports {
            tcp: BTreeSet::from([range(22, 22), range(8000, 8100), range(65_535, 65_535)]),
            udp: BTreeSet::from([range(53, 53)]),
        };
        assert_eq!(open.expect("it is good"), expected);
        assert_eq!(check(&entries(&["all"])).expect("it is good"), Open::All);
        let nothing = Open::Ports { tcp: BTreeSet::new(), udp: BTreeSet::new() };
        assert_eq!(check(&[]).expect("it is good"), nothing);
    }

    #[test]
    fn a_list_or_the_word_is_read() {
        #[derive(Debug, Deserialize)]
        struct Written {
            #[serde(default, deserialize_with = "read")]
            open: Vec<String>,
        }
        for (text, expected) in
            [("", &[][..]), ("open = \"all\"", &["all"]), ("open = [\"tcp/22\", \"udp/53\"]", &["tcp/22", "udp/53"])]
        {
            assert_eq!(toml::from_str::<Written>(text).expect(text).open, entries(expected));
        }
        let error = toml::from_str::<Written>("open = 22").expect_err("a number").to_string();
        assert!(error.contains("the word \"all\""), "{error}");
    }

    #[test]
    fn what_is_no_port_is_refused_with_its_name_and_a_reason() {
        for (entry, reason) in [
            ("22", "transport is missing"),
            ("", "transport is missing"),
            ("sctp/22", "neither tcp nor udp"),
            ("TCP/22", "neither tcp nor udp"),
            ("tcp/", "from 1 to 65535"),
            ("tcp/0", "from 1 to 65535"),
            ("tcp/+22", "from 1 to 65535"),
            ("tcp/65536", "from 1 to 65535"),
            ("tcp/80-", "from 1 to 65535"),
            ("tcp/1-2-3", "from 1 to 65535"),
            ("tcp/http", "from 1 to 65535"),
            ("tcp/ 22", "from 1 to 65535"),
            ("udp/90-80", "ends before it begins"),
        ] {
            let error = check(&entries(&["tcp/1", entry])).expect_err(entry).to_string();
            assert!(error.contains(reason) && error.contains(&format!("'{entry}'")), "{error}");
        }
        for (list, reason) in [
            (entries(&["tcp/22", "all"]), "only entry"),
            (entries(&["all", "all"]), "only entry"),
            (vec!["tcp/22".to_owned(); OPEN_MAX + 1], "more than 256"),
        ] {
            let error = check(&list).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
