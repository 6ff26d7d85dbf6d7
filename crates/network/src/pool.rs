//! Pools of addresses and the choice of subnets. Pure values: nothing here touches the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The addresses of one subnet, of either version of IP, and which of them are taken. Its serde form is its whole state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    subnet: IpNet,
    /// Where [`Pool::allocate`] takes from.
    range: IpNet,
    /// Never given out: the gateway, and what its owner keeps for other devices.
    reserved: BTreeSet<IpAddr>,
    allocated: BTreeSet<IpAddr>,
    /// The last address given out, so that the next one is another: a peer's cache of an address just freed
    /// must have time to die.
    last: Option<IpAddr>,
}

impl Pool {
    /// A pool over `subnet`. Addresses are taken from `range` (the whole subnet if none); `reserved` ones are
    /// never given out.
    pub fn new(
        subnet: IpNet,
        range: Option<IpNet>,
        reserved: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self> {
        let subnet = subnet.trunc();
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(Error::SubnetTooSmall { subnet });
        }
        let range = range.map_or(subnet, |range| range.trunc());
        if !subnet.contains(&range) {
            return Err(Error::RangeOutside { range, subnet });
        }
        let reserved: BTreeSet<_> = reserved.into_iter().collect();
        let pool = Self { subnet, range, reserved, allocated: BTreeSet::new(), last: None };
        for address in &pool.reserved {
            pool.check_host(*address)?;
        }
        Ok(pool)
    }

    /// The subnet.
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// How many addresses are taken.
    pub fn taken(&self) -> usize {
        self.allocated.len()
    }

    /// Whether `address` is taken.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.allocated.contains(&address)
    }

    /// Takes a free address, going round the range.
    pub fn allocate(&mut self) -> Result<IpAddr> {
        let (first, end) = (number(self.range.network()), number(self.range.broadcast()));
        let start = match self.last.map(number) {
            Some(last) if last >= first && last < end => last + 1,
            _ => first,
        };
        let address = |number| address_of(number, self.subnet.addr().is_ipv4());
        // Every address that is passed over is one of those taken, or the first or the last of the subnet.
        let free = (start..=end).chain(first..start).map(address).find(|&address| {
            self.check_host(address).is_ok()
                && !self.reserved.contains(&address)
                && !self.allocated.contains(&address)
        });
        let address = free.ok_or(Error::PoolExhausted { subnet: self.range })?;
        self.allocated.insert(address);
        self.last = Some(address);
        Ok(address)
    }

    /// Takes the address given; it may lie outside the range but not outside the subnet.
    pub fn allocate_exact(&mut self, address: IpAddr) -> Result<()> {
        self.check_host(address)?;
        if self.reserved.contains(&address) || !self.allocated.insert(address) {
            return Err(Error::AddressInUse { address });
        }
        Ok(())
    }

    /// Gives an address back; whether it was taken.
    pub fn release(&mut self, address: IpAddr) -> bool {
        self.allocated.remove(&address)
    }

    /// How many addresses of the subnet are in use or never given out, and how many [`Self::allocate`] could still give;
    /// both end at the largest number that there is.
    pub fn usage(&self) -> (u64, u64) {
        let mut gone: BTreeSet<IpAddr> = self.reserved.union(&self.allocated).copied().collect();
        gone.insert(self.subnet.network());
        if self.subnet.addr().is_ipv4() {
            gone.insert(self.subnet.broadcast());
        }
        let within = gone.iter().filter(|address| self.range.contains(*address)).count();
        let size = number(self.range.broadcast()) - number(self.range.network());
        let free = size.saturating_add(1).saturating_sub(within as u128);
        (gone.len() as u64, u64::try_from(free).unwrap_or(u64::MAX))
    }

    fn check_host(&self, address: IpAddr) -> Result<()> {
        let usable = self.subnet.contains(&address)
            && address != self.subnet.network()
            && (address.is_ipv6() || address != self.subnet.broadcast());
        if usable { Ok(()) } else { Err(Error::AddressOutside { address, subnet: self.subnet }) }
    }
}

/// The first address of a network that a host can have.
pub fn first_host(network: IpNet) -> IpAddr {
    address_of(number(network.network()).saturating_add(1), network.addr().is_ipv4())
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address_of(number: u128, ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if ipv4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

/// The /64s of a /48 of unique local addresses (RFC 4193).
pub fn ipv6_candidates(prefix: Ipv6Net) -> impl Iterator<Item = Ipv6Net> {
    let first = u128::from(prefix.network());
    (0..1 << 16).filter_map(move |number: u128| Ipv6Net::new((first | number << 64).into(), 64).ok())
}

/// A /48 of unique local addresses with this global identifier, of which 40 bits count.
pub fn unique_local_prefix(identifier: u64) -> Ipv6Net {
    let address = 0xfd << 120 | u128::from(identifier & 0xff_ffff_ffff) << 80;
    Ipv6Net::new_assert(address.into(), 48)
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

/// Addresses that subnets of one size are cut from: what dockerd calls a default address pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultPool {
    /// All of the addresses.
    pub base: IpNet,
    /// Length of the prefix of each subnet.
    pub size: u8,
}

impl DefaultPool {
    /// The first subnets, in order: more than a host has networks, so that a search among them ends.
    pub fn subnets(self) -> impl Iterator<Item = IpNet> {
        let width = if self.base.addr().is_ipv4() { 32 } else { 128 };
        let first = match self.base.network() {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let count = 1_u128.checked_shl(u32::from(self.size - self.base.prefix_len())).unwrap_or(u128::MAX);
        (0..count.min(1 << 16)).map_while(move |number| {
            let address = first | number.checked_shl(width - u32::from(self.size))?;
            let address = match u32::try_from(address) {
                Ok(address) if width == 32 => IpAddr::V4(address.into()),
                _ => IpAddr::V6(address.into()),
            };
            IpNet::new(address, self.size).ok()
        })
    }
}

impl FromStr for DefaultPool {
    type Err = String;

    /// Reads `base=10.0.0.0/8,size=24`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (mut base, mut size) = (None, None);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("base", value)) => {
                    let network: IpNet = value.parse().map_err(|_| format!("invalid base pool {value:?}"))?;
                    base = Some(network.trunc());
                }
                Some(("size", value)) => {
                    size = Some(value.parse::<u8>().map_err(|_| format!("invalid size value {value:?}"))?);
                }
                _ => return Err(format!("{field:?} is neither base=SUBNET nor size=BITS")),
            }
        }
        let (Some(base), Some(size)) = (base, size) else {
            return Err("a pool needs base=SUBNET,size=BITS".to_owned());
        };
        // A subnet needs addresses for a gateway and a container.
        if size < base.prefix_len() || size > base.max_prefix_len() - 2 {
            return Err(format!("subnets of size {size} cannot be cut from {base}"));
        }
        Ok(Self { base, size })
    }
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

    fn pool(subnet: &str, range: Option<&str>, reserved: &[&str]) -> Result<Pool> {
        let reserved: Vec<IpAddr> = reserved.iter().map(|text| text.parse().unwrap()).collect();
        Pool::new(subnet.parse().unwrap(), range.map(|text| text.parse().unwrap()), reserved)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn default_pools_are_cut_into_subnets() {
        let subnets = |text: &str, skip: usize| -> Vec<String> {
            let pool: DefaultPool = text.parse().unwrap();
            pool.subnets().skip(skip).map(|subnet| subnet.to_string()).collect()
        };
        assert_eq!(subnets("base=10.9.8.7/23,size=24", 0), ["10.9.8.0/24", "10.9.9.0/24"]);
        assert_eq!(subnets("size=16,base=10.9.0.0/16", 0), ["10.9.0.0/16"]);
        assert_eq!(subnets("base=fd00:1::/62,size=64", 2), ["fd00:1:0:2::/64", "fd00:1:0:3::/64"]);
        assert_eq!(subnets("base=0.0.0.0/0,size=30", (1 << 16) - 1), ["0.3.255.252/30"]);
        for text in [
            "",
            "base=10.0.0.0/8",
            "base=10.0.0.0/8,size=7",
            "base=10.0.0.0/8,size=31",
            "base=x,size=9",
            "size=x",
        ] {
            assert!(text.parse::<DefaultPool>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_go_round() {
        let mut pool = pool("10.0.0.0/29", None, &["10.0.0.1"]).unwrap();
        let taken: Vec<_> = (0..5).map(|_| pool.allocate().unwrap().to_string()).collect();
        assert_eq!(taken, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(matches!(pool.allocate(), Err(Error::PoolExhausted { .. })));
        assert!(pool.release(address("10.0.0.3")));
        assert!(pool.release(address("10.0.0.6")));
        assert!(!pool.release(address("10.0.0.6")));
        assert_eq!(pool.allocate().unwrap(), address("10.0.0.3"), "6 was freed last and must wait");
    }

    #[test]
    fn usage_counts_what_is_never_given_out() {
        let mut all = pool("172.16.0.0/16", None, &["172.16.0.1"]).unwrap();
        assert_eq!(all.usage(), (3, 65533));
        all.allocate().unwrap();
        assert_eq!(all.usage(), (4, 65532));
        let mut part = pool("10.0.0.0/24", Some("10.0.0.128/30"), &["10.0.0.1", "10.0.0.128"]).unwrap();
        part.allocate_exact(address("10.0.0.9")).unwrap();
        assert_eq!(part.usage(), (5, 3));
        assert_eq!(pool("fd00::/64", None, &["fd00::1"]).unwrap().usage(), (2, u64::MAX - 1));
        assert_eq!(pool("fd00::/48", None, &[]).unwrap().usage(), (1, u64::MAX));
    }

    #[test]
    fn exact_addresses_and_ranges() {
        let mut one = pool("10.0.0.0/24", Some("10.0.0.128/30"), &["10.0.0.1", "10.0.0.128"]).unwrap();
        one.allocate_exact(address("10.0.0.9")).unwrap();
        assert!(matches!(one.allocate_exact(address("10.0.0.9")), Err(Error::AddressInUse { .. })));
        for outside in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            assert!(matches!(one.allocate_exact(address(outside)), Err(Error::AddressOutside { .. })));
        }
        assert!(one.allocate_exact(address("10.0.0.1")).is_err());
        assert_eq!(one.allocate().unwrap(), address("10.0.0.129"), "what is kept for others stays");
        assert!(pool("10.0.0.0/31", None, &[]).is_err());
        assert!(pool("10.0.0.0/24", Some("10.1.0.0/24"), &[]).is_err());
        assert!(pool("10.0.0.0/24", None, &["10.1.0.1"]).is_err());
    }

    #[test]
    fn ipv6_has_addresses_too() {
        let mut pool = pool("fd00:1::/64", None, &["fd00:1::1"]).unwrap();
        assert_eq!(pool.allocate().unwrap(), address("fd00:1::2"));
        pool.allocate_exact(address("fd00:1::ffff:ffff:ffff:ffff")).unwrap();
        assert!(pool.allocate_exact(address("fd00:2::1")).is_err());
        assert_eq!(first_host("fd00:1::/64".parse().unwrap()), address("fd00:1::1"));
        let prefix = unique_local_prefix(0xff12_3456_789a);
        assert_eq!(prefix.to_string(), "fd12:3456:789a::/48", "40 bits count");
        let mut candidates = ipv6_candidates(prefix);
        assert_eq!(candidates.nth(1).unwrap().to_string(), "fd12:3456:789a:1::/64");
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
            let gateway = address("10.0.0.1");
            let mut pool = pool("10.0.0.0/26", None, &["10.0.0.1"]).unwrap();
            let mut model = BTreeSet::new();
            for (take, which) in steps {
                if take {
                    match pool.allocate() {
                        Ok(address) => {
                            prop_assert!(model.insert(address));
                            prop_assert!(pool.subnet().contains(&address));
                            prop_assert_ne!(address, gateway);
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
