//! Babel packets: what is read can be written, and reads the same again; and a router that is told all of it by a
//! neighbour of the mesh, who has no signature of anybody, believes nothing.

use atoll_base::{NodeSecret, RegionId};
use atoll_mesh_core::{
    LinkId, Time,
    babel::{BabelError, Tlv, Writer, decode},
    routing::{LinkPolicy, Neighbourhood, Router, RouterSettings},
};

const REGION: RegionId = RegionId([7; 32]);

/// Checks one input: as a packet, and as the body of one.
pub(crate) fn check(data: &[u8]) {
    let _: Result<(), BabelError> = packet(data);
    let body = &data[..data.len().min(1400)];
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let _ = packet(&[&[42, 2, length[0], length[1]], body].concat());
}

fn packet(bytes: &[u8]) -> Result<(), BabelError> {
    let tlvs = decode(bytes)?;
    for tlv in &tlvs {
        let mut writer = Writer::default();
        // Padding makes some shorter, nothing makes one longer than a packet.
        assert!(writer.push(tlv), "{tlv:?}");
        assert_eq!(decode(&writer.finish()).as_deref(), Ok(core::slice::from_ref(tlv)));
    }
    let mut writer = Writer::default();
    let written: Vec<Tlv> = tlvs.iter().take_while(|tlv| writer.push(tlv)).cloned().collect();
    assert_eq!(decode(&writer.finish()), Ok(written));
    tell(&tlvs);
    Ok(())
}

fn tell(tlvs: &[Tlv]) {
    let (own, other) = (NodeSecret::from_seed([1; 32]), NodeSecret::from_seed([2; 32]));
    let mut now = Time::ZERO;
    let mut router = Router::new(RouterSettings { secret: own, region: REGION, calendar_ms: 1_000_000 }, now);
    let neighbourhood = Neighbourhood {
        region: REGION,
        node: other.id(),
        cost: 96,
        mtu: 1452,
        generation: 1,
        policy: LinkPolicy::default(),
    };
    let link = LinkId::of(1);
    router.handle_link_up(link, neighbourhood, now);
    router.handle_generation(link, 1, now);
    for _ in 0..3 {
        router.handle_tlvs(link, tlvs, now);
        while router.poll_transmit().is_some() {}
        now = router.deadline().unwrap_or(now).max(now);
        router.handle_timeout(now);
    }
    // Golden vectors are signed by others than the neighbour, or for other regions: a table has at most what was signed.
    let signed = tlvs.iter().filter(|tlv| matches!(tlv, Tlv::Update(update) if update.origin.is_some())).count();
    assert!(router.table_sizes().0 <= signed);
}
