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
