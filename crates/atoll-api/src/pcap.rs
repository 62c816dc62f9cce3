//! The capture file format that Wireshark and tcpdump read (draft-ietf-opsawg-pcap), for raw IPv6 packets.

/// Time in microseconds, numbers in the byte order of whoever writes: here little endian.
const MAGIC: u32 = 0xa1b2_c3d4;
/// `LINKTYPE_RAW`: each packet begins with its IP header.
const LINKTYPE_RAW: u32 = 101;
/// Largest packet.
pub const PACKET_BYTES_MAX: u32 = 65_535;

/// What a file begins with.
pub fn header() -> [u8; 24] {
    let mut bytes = [0; 24];
    let fields = [MAGIC, u32::from_le_bytes([2, 0, 4, 0]), 0, 0, PACKET_BYTES_MAX, LINKTYPE_RAW];
    for (chunk, field) in bytes.chunks_exact_mut(4).zip(fields) {
        chunk.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

/// A packet that was seen at this time (Unix time in microseconds).
pub fn record(at_us: u64, packet: &[u8]) -> Vec<u8> {
    let kept = &packet[..packet.len().min(PACKET_BYTES_MAX as usize)];
    // The format's seconds have 32 bits.
    let seconds = u32::try_from(at_us / 1_000_000).unwrap_or(u32::MAX);
    let fields = [seconds, (at_us % 1_000_000) as u32, kept.len() as u32, packet.len() as u32];
    let mut bytes: Vec<u8> = fields.into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.extend_from_slice(kept);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_the_format_says() {
        let expected = "d4c3b2a1020004000000000000000000ffff000065000000";
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&header()), expected);
        assert_eq!(hex(&record(0x0102_0304 * 1_000_000 + 5, b"abc")), "04030201050000000300000003000000616263");
        let long = record(0, &[7; 70_000]);
        assert_eq!((long.len(), &long[8..16]), (16 + 65_535, &[0xff, 0xff, 0, 0, 0x70, 0x11, 1, 0][..]));
    }
}
