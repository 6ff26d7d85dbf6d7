//! Pools of IPv4 addresses and the choice of subnets. Pure values: nothing here touches the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The addresses of one subnet and which of them are taken. Its serde form is its whole state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    subnet: Ipv4Net,
    /// Where [`Pool::allocate`] takes from.
    range: Ipv4Net,
    gateway: Ipv4Addr,
    allocated: BTreeSet<Ipv4Addr>,
    /// The last address given out, so that the next one is another: a peer's cache of an address just freed
    /// must have time to die.
    last: Option<Ipv4Addr>,
}

impl Pool {
    /// A pool over `subnet`. Addresses are taken from `range` (the whole subnet if none); the gateway (the
    /// first host address if none) is never given out.
    pub fn new(subnet: Ipv4Net, range: Option<Ipv4Net>, gateway: Option<Ipv4Addr>) -> Result<Self> {
        let subnet = subnet.trunc();
        if subnet.prefix_len() > 30 {
            return Err(Error::SubnetTooSmall { subnet });
        }
        let range = range.map_or(subnet, |range| range.trunc());
        if !subnet.contains(&range) {
            return Err(Error::RangeOutside { range, subnet });
        }
        let gateway = match gateway {
            Some(gateway) => gateway,
            None => Ipv4Addr::from(u32::from(subnet.network()) + 1),
        };
        let pool = Self { subnet, range, gateway, allocated: BTreeSet::new(), last: None };
        pool.check_host(gateway)?;
        Ok(pool)
    }

    /// The subnet.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// The address that stays with the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// The gateway with the subnet's prefix, as the bridge has it.
    pub fn gateway_network(&self) -> Ipv4Net {
        Ipv4Net::new(self.gateway, self.subnet.prefix_len()).unwrap_or(self.subnet)
    }

    /// How many addresses are taken.
    pub fn taken(&self) -> usize {
        self.allocated.len()
    }

    /// Whether `address` is taken.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.allocated.contains(&address)
    }

    /// Takes a free address, going round the range.
    pub fn allocate(&mut self) -> Result<Ipv4Addr> {
        let (first, end) = (u32::from(self.range.network()), u32::from(self.range.broadcast()));
        let start = match self.last.map(u32::from) {
            Some(last) if last >= first && last < end => last + 1,
            _ => first,
        };
        let free = (start..=end).chain(first..start).map(Ipv4Addr::from).find(|&address| {
            address != self.gateway && self.check_host(address).is_ok() && !self.allocated.contains(&address)
        });
        let address = free.ok_or(Error::PoolExhausted { subnet: self.range })?;
        self.allocated.insert(address);
        self.last = Some(address);
        Ok(address)
    }

    /// Takes the address given; it may lie outside the range but not outside the subnet.
    pub fn allocate_exact(&mut self, address: Ipv4Addr) -> Result<()> {
        self.check_host(address)?;
        if address == self.gateway || !self.allocated.insert(address) {
            return Err(Error::AddressInUse { address });
        }
        Ok(())
    }

    /// Gives an address back; whether it was taken.
    pub fn release(&mut self, address: Ipv4Addr) -> bool {
        self.allocated.remove(&address)
    }

    fn check_host(&self, address: Ipv4Addr) -> Result<()> {
        let usable = self.subnet.contains(&address)
            && address != self.subnet.network()
            && address != self.subnet.broadcast();
        if usable {
            Ok(())
        } else {
            Err(Error::AddressOutside { address: IpAddr::V4(address), subnet: self.subnet })
        }
    }
}

/// The first candidate that overlaps none of `taken` (the host's routes and addresses, other networks).
/// A default route overlaps everything and is to be left out; [`crate::link::Netlink::networks_in_use`] does.
pub fn choose_subnet(candidates: impl IntoIterator<Item = Ipv4Net>, taken: &[Ipv4Net]) -> Result<Ipv4Net> {
    let mut count = 0;
    for candidate in candidates {
        count += 1;
        if !taken.iter().any(|other| other.contains(&candidate) || candidate.contains(other)) {
            return Ok(candidate);
        }
    }
    Err(Error::NoFreeSubnet { candidates: count })
}

/// Docker's own order: 172.17.0.0/16 to 172.31.0.0/16, then the /20s of 192.168.0.0/16.
pub fn bridge_candidates() -> impl Iterator<Item = Ipv4Net> {
    (17..=31)
        .map(|second| Ipv4Net::new_assert(Ipv4Addr::new(172, second, 0, 0), 16))
        .chain((0..16).map(|third| Ipv4Net::new_assert(Ipv4Addr::new(192, 168, third * 16, 0), 20)))
}

/// 10.42.0.0/24, then the first /24 of 10.44.0.0/16, 10.46.0.0/16 and so on.
pub fn pod_candidates() -> impl Iterator<Item = Ipv4Net> {
    (42..=254).step_by(2).map(|second| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 24))
}

/// 10.43.0.0/16, then 10.45.0.0/16 and so on.
pub fn service_candidates() -> impl Iterator<Item = Ipv4Net> {
    (43..=255).step_by(2).map(|second| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 16))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_go_round() {
        let mut pool = Pool::new(network("10.0.0.0/29"), None, None).unwrap();
        assert_eq!(pool.gateway(), Ipv4Addr::new(10, 0, 0, 1));
        let taken: Vec<_> = (0..5).map(|_| pool.allocate().unwrap().octets()[3]).collect();
        assert_eq!(taken, [2, 3, 4, 5, 6]);
        assert!(matches!(pool.allocate(), Err(Error::PoolExhausted { .. })));
        assert!(pool.release(Ipv4Addr::new(10, 0, 0, 3)));
        assert!(pool.release(Ipv4Addr::new(10, 0, 0, 6)));
        assert!(!pool.release(Ipv4Addr::new(10, 0, 0, 6)));
        assert_eq!(pool.allocate().unwrap().octets()[3], 3, "6 was freed last and must wait");
    }

    #[test]
    fn exact_addresses_and_ranges() {
        let mut pool = Pool::new(network("10.0.0.0/24"), Some(network("10.0.0.128/30")), None).unwrap();
        pool.allocate_exact(Ipv4Addr::new(10, 0, 0, 9)).unwrap();
        assert!(matches!(pool.allocate_exact(Ipv4Addr::new(10, 0, 0, 9)), Err(Error::AddressInUse { .. })));
        for outside in [[10, 0, 1, 1], [10, 0, 0, 0], [10, 0, 0, 255]] {
            assert!(matches!(pool.allocate_exact(outside.into()), Err(Error::AddressOutside { .. })));
        }
        assert!(pool.allocate_exact(pool.gateway()).is_err());
        assert_eq!(pool.allocate().unwrap(), Ipv4Addr::new(10, 0, 0, 128));
        assert!(Pool::new(network("10.0.0.0/31"), None, None).is_err());
        assert!(Pool::new(network("10.0.0.0/24"), Some(network("10.1.0.0/24")), None).is_err());
    }

    #[test]
    fn subnets_avoid_what_the_host_knows() {
        let taken = [network("172.17.5.0/24"), network("172.18.0.0/15")];
        assert_eq!(choose_subnet(bridge_candidates(), &taken).unwrap(), network("172.20.0.0/16"));
        assert_eq!(choose_subnet(pod_candidates(), &[]).unwrap(), network("10.42.0.0/24"));
        assert_eq!(choose_subnet(service_candidates(), &[]).unwrap(), network("10.43.0.0/16"));
        assert!(choose_subnet(bridge_candidates(), &[network("0.0.0.0/1"), network("128.0.0.0/1")]).is_err());
    }

    proptest! {
        #[test]
        fn never_twice_and_always_inside(steps in prop::collection::vec(any::<(bool, u8)>(), 0..300)) {
            let mut pool = Pool::new(network("10.0.0.0/26"), None, None).unwrap();
            let mut model = BTreeSet::new();
            for (take, which) in steps {
                if take {
                    match pool.allocate() {
                        Ok(address) => {
                            prop_assert!(model.insert(address));
                            prop_assert!(pool.subnet().contains(&address));
                            prop_assert_ne!(address, pool.gateway());
                        }
                        Err(_) => prop_assert_eq!(model.len(), 61),
                    }
                } else if let Some(&address) = model.iter().nth(usize::from(which) % model.len().max(1)) {
                    model.remove(&address);
                    prop_assert!(pool.release(address));
                }
                let text = serde_json::to_string(&pool).unwrap();
                pool = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(pool.taken(), model.len());
            }
        }
    }
}
