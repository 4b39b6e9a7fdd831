// Package forwarded finds the address of a client behind proxies.
package forwarded

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/weirhq/weir/internal/printable"
)

const (
	// maxHops bounds the work for one header. Real chains have two or three proxies.
	maxHops = 32
	// maxAddress is the length of the longest address with a port and a zone.
	maxAddress = 64
)

// Proxies are the addresses of the proxies whose X-Forwarded-For is believed. They
// must have been unmapped: no IPv4 address in the form of IPv6.
type Proxies []netip.Prefix

// Current holds the proxies in force. A nil *Current has none, so that no header is believed.
// All methods may be called concurrently.
type Current struct{ proxies atomic.Pointer[Proxies] }

// Load returns the proxies in force.
func (c *Current) Load() Proxies {
	if c == nil {
		return nil
	}
	if proxies := c.proxies.Load(); proxies != nil {
		return *proxies
	}
	return nil // before the first configuration
}

// Store puts proxies in force.
func (c *Current) Store(proxies Proxies) { c.proxies.Store(&proxies) }

// Client returns the addresses of the client and of the peer that is connected. They
// differ if the peer is one of the proxies and its X-Forwarded-For names another
// address: then the client is the right-most address that is not a proxy's. Addresses
// further left are the client's own words. At an entry that is not an address the walk
// ends, and the proxy that added it counts as the client.
//
// The header Forwarded (RFC 7239) is not read. Proxies that set X-Forwarded-For pass
// the client's Forwarded on as it is.
func (p Proxies) Client(r *http.Request) (client, peer string) {
	from, ok := parse(r.RemoteAddr)
	if !ok { // such as the peer of a Unix socket
		text := printable.Line(r.RemoteAddr, maxAddress)
		return text, text
	}
	peer = from.String()
	if address := p.behind(from, r.Header); address != from {
		return address.String(), peer
	}
	return peer, peer
}

// Address returns the address of the client as [Proxies.Client] does. It is invalid if the
// peer has none.
func (p Proxies) Address(r *http.Request) netip.Addr {
	from, ok := parse(r.RemoteAddr)
	if !ok {
		return netip.Addr{}
	}
	return p.behind(from, r.Header)
}

// behind returns the address of the client behind a peer.
func (p Proxies) behind(address netip.Addr, header http.Header) netip.Addr {
	if !p.contain(address) {
		return address
	}
	hops := 0
	// A proxy may add a header of its own instead of extending the last one.
	headers := header.Values("X-Forwarded-For")
	for i := len(headers) - 1; i >= 0; i-- {
		for rest, more := headers[i], true; more; {
			at := strings.LastIndexByte(rest, ',')
			entry := strings.Trim(rest[at+1:], " \t")
			rest, more = rest[:max(at, 0)], at >= 0
			if hops++; hops > maxHops {
				return address
			}
			if entry == "" { // an element of a list may be empty (RFC 9110, section 5.6.1)
				continue
			}
			next, ok := parse(entry)
			if !ok {
				return address
			}
			address = next
			if !p.contain(address) {
				return address
			}
		}
	}
	return address
}

// Scheme returns the scheme by which the client asked: https over TLS, or if one of the
// proxies says so in X-Forwarded-Proto.
func (p Proxies) Scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	if len(p) == 0 {
		return "http"
	}
	address, ok := parse(r.RemoteAddr)
	if ok && p.contain(address) && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		return "https"
	}
	return "http"
}

// AppendAttrs appends the attributes of a request's line in the log that tell its client:
// its address, that of the peer if there is a proxy between, and its program.
func (p Proxies) AppendAttrs(attrs []slog.Attr, r *http.Request) []slog.Attr {
	client, peer := p.Client(r)
	attrs = append(attrs, slog.String("client", client))
	if peer != client {
		attrs = append(attrs, slog.String("peer", peer))
	}
	if agent := printable.UserAgent(r); agent != "" {
		attrs = append(attrs, slog.String("user_agent", agent))
	}
	return attrs
}

func (p Proxies) contain(address netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

// parse reads an address with or without a port: 192.0.2.1, 192.0.2.1:1234,
// 2001:db8::1, [2001:db8::1], [2001:db8::1]:1234. A zone is dropped.
func parse(text string) (netip.Addr, bool) {
	if len(text) > maxAddress {
		return netip.Addr{}, false
	}
	// An error costs more than the address, so the likely form is tried first: each peer has
	// a port, and only the last of several colons of IPv6 is behind a bracket.
	if strings.Count(text, ":") == 1 || strings.Contains(text, "]:") {
		if both, err := netip.ParseAddrPort(text); err == nil {
			return both.Addr().Unmap().WithZone(""), true
		}
	}
	address, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return address.Unmap().WithZone(""), err == nil
}
