//! Who may wait: a bounded set of connections, and who leaves when it is full.
//!
//! Pure: it decides, the shard acts. When the set is full, the oldest connection of the source that
//! holds most leaves, so that one source's flood turns against itself. A source is an IPv4 address or
//! an IPv6 /64: what one attacker gets for nothing.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

/// One connection that waits; numbered in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What counts as one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// The waiting connections of one shard. Each operation takes logarithmic time.
#[derive(Debug)]
pub struct Admission {
    capacity: usize,
    next: u64,
    sources: BTreeMap<Ticket, Source>,
    /// Oldest first; never empty.
    waiting: BTreeMap<Source, VecDeque<Ticket>>,
    /// (connections, source), so that the last is the source that holds most.
    ranking: BTreeSet<(usize, Source)>,
}

impl Admission {
    /// Room for `capacity` connections, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            next: 0,
            sources: BTreeMap::new(),
            waiting: BTreeMap::new(),
            ranking: BTreeSet::new(),
        }
    }

    /// Lets one more wait. The second ticket, if any, must leave for it; it is gone from here already.
    pub fn enter(&mut self, source: impl Into<Source>) -> (Ticket, Option<Ticket>) {
        let source = source.into();
        let evicted = if self.sources.len() >= self.capacity { self.evict() } else { None };
        let ticket = Ticket(self.next);
        self.next += 1;
        self.sources.insert(ticket, source);
        let queue = self.waiting.entry(source).or_default();
        queue.push_back(ticket);
        let held = queue.len();
        self.ranking.remove(&(held - 1, source));
        self.ranking.insert((held, source));
        (ticket, evicted)
    }

    /// It waits no longer. No effect if it was evicted.
    pub fn leave(&mut self, ticket: Ticket) {
        let Some(source) = self.sources.remove(&ticket) else { return };
        let Some(queue) = self.waiting.get_mut(&source) else { return };
        let held = queue.len();
        // Tickets ascend within a queue.
        if let Ok(at) = queue.binary_search(&ticket) {
            queue.remove(at);
        }
        self.ranking.remove(&(held, source));
        if queue.is_empty() {
            self.waiting.remove(&source);
        } else {
            self.ranking.insert((held - 1, source));
        }
    }

    /// Connections that wait now.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.sources.len()
    }

    fn evict(&mut self) -> Option<Ticket> {
        let (_, source) = self.ranking.last()?;
        let oldest = *self.waiting.get(source)?.front()?;
        self.leave(oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_flood_evicts_its_own_oldest_and_not_the_honest() {
        let mut admission = Admission::new(4);
        let (honest, _) = admission.enter(v4(1));
        let flood: Vec<_> = (0..3).map(|_| admission.enter(v4(2)).0).collect();
        for round in 0..10 {
            let (_, evicted) = admission.enter(v4(2));
            assert_ne!(evicted, Some(honest));
            if let Some(oldest) = flood.get(round) {
                assert_eq!(evicted, Some(*oldest));
            }
            assert_eq!(admission.len(), 4);
        }
        let (second, evicted) = admission.enter(v4(3));
        assert!(evicted.is_some());
        admission.leave(honest);
        admission.leave(second);
        assert_eq!(admission.len(), 2);
    }

    #[test]
    fn one_ipv6_network_is_one_source() {
        let mut admission = Admission::new(3);
        let (other, _) = admission.enter("fd00:1::1".parse::<IpAddr>().unwrap());
        let (first, _) = admission.enter("fd00:2::1".parse::<IpAddr>().unwrap());
        admission.enter("fd00:2::2".parse::<IpAddr>().unwrap());
        let (_, evicted) = admission.enter("fd00:2::3".parse::<IpAddr>().unwrap());
        assert_eq!(evicted, Some(first));
        assert_ne!(evicted, Some(other));
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(Source::from(mapped), Source::from(v4(1)));
    }

    #[test]
    fn leaving_twice_or_after_eviction_changes_nothing() {
        let mut admission = Admission::new(1);
        let (first, _) = admission.enter(v4(1));
        let (second, evicted) = admission.enter(v4(1));
        assert_eq!(evicted, Some(first));
        admission.leave(first);
        assert_eq!(admission.len(), 1);
        admission.leave(second);
        admission.leave(second);
        assert_eq!(admission.len(), 0);
    }

    proptest! {
        /// Never above the capacity, the evicted belonged to a source that held most, and the indices
        /// agree with each other.
        #[test]
        fn the_set_stays_bounded_and_consistent(
            capacity in 1usize..12,
            steps in prop::collection::vec((0u8..6, any::<bool>(), any::<prop::sample::Index>()), 0..200),
        ) {
            let mut admission = Admission::new(capacity);
            let mut model: Vec<(Ticket, u8)> = Vec::new();
            for (source, leaves, which) in steps {
                if leaves && !model.is_empty() {
                    let (ticket, _) = model.remove(which.index(model.len()));
                    admission.leave(ticket);
                } else {
                    let (ticket, evicted) = admission.enter(v4(source));
                    prop_assert_eq!(evicted.is_some(), model.len() == capacity);
                    if let Some(evicted) = evicted {
                        let held = |s: u8| model.iter().filter(|(_, of)| *of == s).count();
                        let (_, of) = *model.iter().find(|(t, _)| *t == evicted).unwrap();
                        prop_assert!((0..6).all(|s| held(s) <= held(of)));
                        let oldest = model.iter().find(|(_, s)| *s == of).unwrap().0;
                        prop_assert_eq!(oldest, evicted);
                        model.retain(|(t, _)| *t != evicted);
                    }
                    model.push((ticket, source));
                }
                prop_assert_eq!(admission.len(), model.len());
                let ranked: usize = admission.ranking.iter().map(|(held, _)| held).sum();
                prop_assert_eq!(ranked, model.len());
            }
        }
    }
}
