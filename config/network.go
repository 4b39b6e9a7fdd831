package config

import (
	"fmt"
	"net/netip"
)

// Network is a range of addresses, such as 10.0.0.0/8, or a single address.
type Network netip.Prefix

// MarshalText returns the form that UnmarshalText reads.
func (n Network) MarshalText() ([]byte, error) {
	prefix := netip.Prefix(n)
	if prefix.IsSingleIP() {
		return prefix.Addr().MarshalText()
	}
	return prefix.MarshalText()
}

// UnmarshalText reads an address or a range in CIDR notation. IPv4 in the form of IPv6
// becomes IPv4.
func (n *Network) UnmarshalText(text []byte) error {
	prefix, err := netip.ParsePrefix(string(text))
	if err != nil {
		var address netip.Addr
		if address, err = netip.ParseAddr(string(text)); err != nil || address.Zone() != "" {
			return fmt.Errorf(`%q is neither an address nor a range of addresses; write one like "10.0.0.0/8", "192.0.2.1" or "fd00::/8"`, text)
		}
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	const mapped = 96 // bits before the IPv4 address in ::ffff:0:0/96
	if prefix.Addr().Is4In6() && prefix.Bits() >= mapped {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mapped)
	}
	if prefix != prefix.Masked() {
		return fmt.Errorf("%q has address bits beyond its prefix; write %q, or the address alone", text, prefix.Masked())
	}
	*n = Network(prefix)
	return nil
}

// TrustedProxies returns the proxies whose X-Forwarded-For is believed: those of
// server.trusted_proxies, or else those of global.trusted_proxies.
func (c *Config) TrustedProxies() []netip.Prefix {
	networks := c.Server.TrustedProxies
	if len(networks) == 0 {
		networks = c.Global.TrustedProxies
	}
	prefixes := make([]netip.Prefix, len(networks))
	for i, network := range networks {
		prefixes[i] = netip.Prefix(network)
	}
	return prefixes
}
