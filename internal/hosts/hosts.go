// Package hosts answers questions about the host names, IP addresses and ports
// that operators write.
package hosts

import (
	"net/netip"
	"strconv"
)

// Loopback reports whether only this machine can reach host: localhost or a
// loopback address, without a port.
func Loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// Unspecified reports whether host stands for every address of a machine, as in
// the address of a listener: it is empty, 0.0.0.0 or "::".
func Unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
}

// ValidPort reports whether a client can connect to port: a number from 1 to
// 65535.
func ValidPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// Network returns the network that counts as one unknown client: one address of IPv4, or a site
// of IPv6, which has a /48 (RFC 6177) and chooses among 2^80 addresses. It is invalid for an
// invalid address, such as that of a Unix socket.
func Network(address netip.Addr) netip.Prefix {
	bits := 48
	if address.Is4() {
		bits = 32
	}
	network, err := address.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}
