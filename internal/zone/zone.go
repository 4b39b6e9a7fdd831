// Package zone classifies how near an address is: on this machine, in a private network, or
// on the internet. A hostile server may send a client to addresses that only the client
// can reach (server-side request forgery).
package zone

import (
	"encoding/binary"
	"net/netip"
	"strings"
)

// Zone is how near a host is. A service of a nearer zone may trust every caller that
// reaches it.
type Zone uint8

const (
	Public    Zone = iota // reachable from the whole internet
	Private               // of a network of one's own, or of no use: reserved, multicast, broadcast
	Loopback              // of this machine
	LinkLocal             // of this link, and the metadata services of clouds, which hand out credentials

	Zones // how many there are
)

// String returns the zone as messages name it.
func (z Zone) String() string {
	switch z {
	case Public:
		return "public"
	case Private:
		return "private"
	case Loopback:
		return "loopback"
	default:
		return "link-local"
	}
}

// special are the prefixes that are not public, by the IANA IPv4 and IPv6 Special-Purpose
// Address Registries (RFC 6890). A longer prefix comes before a shorter one that holds it.
var special = []struct {
	prefix netip.Prefix
	zone   Zone
}{
	// Metadata services outside of the link-local range, of AWS, Alibaba, Oracle and Azure.
	{netip.MustParsePrefix("fd00:ec2::/32"), LinkLocal},
	{netip.MustParsePrefix("100.100.100.200/32"), LinkLocal},
	{netip.MustParsePrefix("192.0.0.192/32"), LinkLocal},
	{netip.MustParsePrefix("168.63.129.16/32"), LinkLocal},

	{netip.MustParsePrefix("0.0.0.0/8"), Loopback}, // Linux connects to itself
	{netip.MustParsePrefix("10.0.0.0/8"), Private},
	{netip.MustParsePrefix("100.64.0.0/10"), Private},
	{netip.MustParsePrefix("127.0.0.0/8"), Loopback},
	{netip.MustParsePrefix("169.254.0.0/16"), LinkLocal},
	{netip.MustParsePrefix("172.16.0.0/12"), Private},
	{netip.MustParsePrefix("192.0.0.0/24"), Private},
	{netip.MustParsePrefix("192.0.2.0/24"), Private},
	{netip.MustParsePrefix("192.88.99.0/24"), Private},
	{netip.MustParsePrefix("192.168.0.0/16"), Private},
	{netip.MustParsePrefix("198.18.0.0/15"), Private},
	{netip.MustParsePrefix("198.51.100.0/24"), Private},
	{netip.MustParsePrefix("203.0.113.0/24"), Private},
	{netip.MustParsePrefix("224.0.0.0/3"), Private}, // multicast, reserved, broadcast

	{netip.MustParsePrefix("::1/128"), Loopback},
	{netip.MustParsePrefix("::/128"), Loopback}, // Linux connects to itself
	{netip.MustParsePrefix("fe80::/10"), LinkLocal},
	{netip.MustParsePrefix("2001::/23"), Private}, // Teredo and other protocols
	{netip.MustParsePrefix("2001:db8::/32"), Private},
	{netip.MustParsePrefix("3fff::/20"), Private},
	{netip.MustParsePrefix("2000::/3"), Public},
	{netip.MustParsePrefix("::/0"), Private}, // unique local, multicast, and all that is not assigned
}

// Of returns the zone of an address. If the address stands for an IPv4 address, as
// that of a translator or a tunnel does, the nearer of the two counts.
func Of(addr netip.Addr) Zone {
	addr = addr.Unmap().WithZone("") // a prefix contains no address with a zone
	if addr.Is4() {
		return listed(addr)
	}
	zone, inner := listed(addr), addr.As16()
	switch {
	case !translates(addr):
		return zone
	case nat64.Contains(addr):
		zone = Public // networks without IPv4 reach the public one so (RFC 6052 section 2.1)
	}
	at := 12 // of the four bytes of IPv4
	if sixToFour.Contains(addr) {
		at = 2
	}
	return max(zone, listed(netip.AddrFrom4([4]byte(inner[at:at+4]))))
}

func listed(addr netip.Addr) Zone {
	for _, s := range special {
		if s.prefix.Contains(addr) {
			return s.zone
		}
	}
	return Public
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	ownNAT64   = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 section 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 7915
)

// translates reports whether an IPv6 address holds an IPv4 address.
func translates(addr netip.Addr) bool {
	for _, p := range []netip.Prefix{nat64, ownNAT64, sixToFour, compatible, translated} {
		if p.Contains(addr) {
			return addr != netip.IPv6Loopback() && addr != netip.IPv6Unspecified()
		}
	}
	bytes := addr.As16()
	middle := binary.BigEndian.Uint32(bytes[8:12])
	return middle == 0x00005efe || middle == 0x02005efe // ISATAP (RFC 5214 section 6.1)
}

// OfName returns the zone that a host's name or literal address implies, without
// asking DNS. Names that DNS serves to one's own network only are private, and so are
// spellings of addresses that some resolvers understand, such as 127.1 and 0x7f000001.
func OfName(host string) Zone {
	if addr, err := netip.ParseAddr(host); err == nil {
		return Of(addr)
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case name == "metadata.google.internal", name == "metadata.goog", name == "metadata":
		return LinkLocal
	case last == "localhost", last == "localdomain", name == "ip6-localhost", name == "ip6-loopback":
		return Loopback
	case last == name, last == "internal", last == "local", strings.HasSuffix(name, ".home.arpa"):
		return Private
	case strings.IndexAny(last, "0123456789") == 0:
		return Private // no top-level domain begins so
	case strings.ContainsFunc(name, func(r rune) bool { return r > '~' }):
		return Private // a resolver may map it to any of the above (UTS 46)
	default:
		return Public
	}
}
