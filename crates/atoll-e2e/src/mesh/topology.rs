//! Which machines are joined: pairs of machine numbers, the first calls the second.

/// 0–1–2–…
pub fn line(hosts: usize) -> Vec<(usize, usize)> {
    (1..hosts).map(|host| (host - 1, host)).collect()
}

/// 0–1–2–…–0.
pub fn ring(hosts: usize) -> Vec<(usize, usize)> {
    (0..hosts).map(|host| (host, (host + 1) % hosts)).collect()
}

/// A connected random graph in which every machine has four neighbours: two rings in random orders without a common
/// wire. `hosts` is at least 5. The same seed gives the same graph.
pub fn random_degree_four(hosts: usize, seed: u64) -> Vec<(usize, usize)> {
    assert!(hosts >= 5, "four neighbours need five machines");
    let mut random = Random(seed);
    loop {
        let mut edges = shuffled_ring(hosts, &mut random);
        edges.extend(shuffled_ring(hosts, &mut random));
        let mut ends: Vec<_> = edges.iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        ends.sort_unstable();
        ends.dedup();
        if ends.len() == edges.len() {
            return edges;
        }
    }
}

fn shuffled_ring(hosts: usize, random: &mut Random) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..hosts).collect();
    for end in (1..hosts).rev() {
        order.swap(end, random.below(end + 1));
    }
    ring(hosts).into_iter().map(|(a, b)| (order[a], order[b])).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): good enough to choose wires and bytes, and the same on every machine.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_of_a_random_graph_has_four_neighbours() {
        for (hosts, seed) in [(5, 1), (30, 2), (100, 3)] {
            let edges = random_degree_four(hosts, seed);
            assert_eq!(edges, random_degree_four(hosts, seed));
            for host in 0..hosts {
                assert_eq!(edges.iter().filter(|(a, b)| *a == host || *b == host).count(), 4);
            }
        }
    }

    #[test]
    fn lines_and_rings() {
        assert_eq!(line(3), [(0, 1), (1, 2)]);
        assert_eq!(ring(3), [(0, 1), (1, 2), (2, 0)]);
    }
}
