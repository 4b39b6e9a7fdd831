package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/weirhq/weir/internal/zone"
)

// A redirect or a realm names a host for Weir to ask. A hostile one names a host that
// only Weir can reach, such as a metadata service or a database without a password.
// Therefore all hosts but the upstream's own are reached through a guard. It judges the
// address that is connected to, after DNS: a name that resolves differently the next
// time changes nothing.

// The upstream's own host is guarded too if Options.Reach says so.

// Reach is where a registry itself may be.
type Reach uint8

// Values of [Reach].
const (
	ReachAny    Reach = iota // the operator has named the registry
	ReachNear                // everywhere but at link-local addresses
	ReachPublic              // at public addresses
)

// guard returns the guard of the registry's own host; nil: there is none.
func (r Reach) guard() *guard {
	if r == ReachAny {
		return nil
	}
	return &guard{upstream: zone.Public, all: r == ReachNear, own: true}
}

// guard admits public addresses, those of the zone of the upstream, and all but
// link-local ones if the operator allows it.
type guard struct {
	upstream zone.Zone
	all      bool
	own      bool // the guarded host is the upstream's own
}

func (g guard) admits(z zone.Zone) bool {
	return z == zone.Public || z != zone.LinkLocal && (g.all || z == g.upstream)
}

// check returns an error if the guard does not admit an IP address with a port. It admits
// the addresses of other networks, which only tests have.
func (g guard) check(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil //nolint:nilerr // no IP address
	}
	return g.judge(zone.Of(at.Addr()))
}

func (g guard) judge(z zone.Zone) error {
	if g.admits(z) {
		return nil
	}
	return &refusedZoneError{z, g.own}
}

// refusedZoneError says that a redirect or a realm leads to a zone that the upstream is
// not in, or that the upstream itself is where Options.Reach does not admit it.
type refusedZoneError struct {
	zone zone.Zone
	own  bool
}

func (e *refusedZoneError) Error() string {
	if e.own {
		return "it has a " + e.zone.String() + " address, which is not allowed for this upstream"
	}
	if e.zone == zone.LinkLocal {
		return "it has a link-local address, which no upstream may refer to"
	}
	return "it has a " + e.zone.String() + " address, but the upstream itself has none"
}

// dialFunc connects to an address (host:port).
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer returns the way to connect: o.DialContext, or a net.Dialer. Addresses that the
// guard does not admit are refused before the first packet. A nil guard admits all.
func dialer(o Options, g *guard) dialFunc {
	d := &net.Dialer{KeepAlive: 30 * time.Second}
	dial := o.DialContext
	switch {
	case dial != nil && g != nil:
		custom := dial
		dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if err := g.check(addr); err != nil {
				return nil, err
			}
			conn, err := custom(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			if err := g.check(conn.RemoteAddr().String()); err != nil {
				conn.Close()
				return nil, err
			}
			return conn, nil
		}
	case dial == nil:
		if g != nil {
			d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error { return g.check(address) }
		}
		dial = d.DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
		defer cancel()
		return dial(ctx, network, addr)
	}
}

// proxyFunc returns the proxy for a request, nil for none.
type proxyFunc func(*http.Request) (*url.URL, error)

// routes are the connections of a client, by where they lead.
type routes struct {
	origin *connections // to the upstream's own origin, at any address
	proxy  proxyFunc
	// To every other host, without the client certificate. A proxy resolves the names
	// itself, so only the names are judged; the proxy may be at any address.
	proxied *connections
	direct  [zone.Zones]*connections // by the zone of the upstream
	all     bool                     // the operator allows all zones
	guarded bool                     // Options.Reach bounds where the upstream may be
	refused error                    // the proxy would lead to an upstream that is refused by its name; nil: not so
}

// newRoutes returns the routes of a client over some protocols; nil: HTTP/1.1 and HTTP/2. A
// limit counts requests to the upstream's own origin, and those through the proxy that leads
// there. Other hosts, such as storage hosts, have other limits than the registry.
func newRoutes(o Options, protocols *http.Protocols, limit *connectionLimit) *routes {
	proxy := proxyFunc(http.ProxyFromEnvironment)
	if o.Proxy != nil {
		proxy = http.ProxyURL(o.Proxy)
	}
	r := &routes{proxy: proxy, all: o.AllowPrivateRedirects, guarded: o.Reach != ReachAny}
	open := dialer(o, nil)
	own, ownProxy := open, proxy
	if g := o.Reach.guard(); g != nil && r.isProxied(o.URL) {
		r.refused = g.judge(zone.OfName(o.URL.Hostname()))
	} else if g != nil {
		own, ownProxy = dialer(o, g), nil // a proxy may be at any address, and would be refused
	}
	r.origin = newConnections(o, func() *http.Transport { return newTransport(o, protocols, o.Certificate, ownProxy, own) })
	r.proxied = newConnections(o, func() *http.Transport { return newTransport(o, protocols, nil, proxy, open) })
	r.origin.limit = limit
	if r.isProxied(o.URL) {
		r.proxied.limit = limit
	}
	for z := range zone.Zones {
		guarded := dialer(o, &guard{upstream: z, all: r.all})
		r.direct[z] = newConnections(o, func() *http.Transport { return newTransport(o, protocols, nil, nil, guarded) })
	}
	return r
}

func (r *routes) closeIdle() {
	r.origin.closeIdle()
	r.proxied.closeIdle()
	for _, c := range r.direct {
		c.closeIdle()
	}
}

// isProxied reports whether requests to a URL go through a proxy.
func (r *routes) isProxied(u *url.URL) bool {
	proxy, err := r.proxy(&http.Request{URL: u})
	return proxy != nil || err != nil // the transport reports the error
}

// to returns the transport to a host other than the upstream's, for an upstream that
// answered from a zone.
func (r *routes) to(target *url.URL, upstream zone.Zone) http.RoundTripper {
	if !r.isProxied(target) {
		return otherTransport{r.direct[upstream]}
	}
	g := guard{upstream: upstream, all: r.all}
	if err := g.judge(zone.OfName(target.Hostname())); err != nil {
		return refusingTransport{err}
	}
	return otherTransport{r.proxied}
}

// refusingTransport is the transport to a host that may not be asked.
type refusingTransport struct{ err error }

func (t refusingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	return nil, &transportError{host: req.URL.Host, err: t.err}
}

// otherTransport is the connTransport of hosts other than the upstream's.
type otherTransport struct{ base *connections }

// errNoHTTP stands for errors of net/http that quote the answer. The words of a service
// that is not a web server must not reach a client.
var errNoHTTP = errors.New("malformed HTTP answer")

func (t otherTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := connTransport(t).RoundTrip(req)
	failed, ok := err.(*transportError)
	if !ok {
		return resp, err
	}
	failed.redact()
	return nil, failed
}

// redact takes the address of a host and the words of its answer out of a failure.
func (e *transportError) redact() {
	if refused, ok := errors.AsType[*refusedZoneError](e.err); ok {
		e.err = refused // without the address that the name resolves to
	} else if strings.Contains(e.err.Error(), `"`) {
		e.err = errNoHTTP
	}
}

// zoneKey is the key of the zone that an answer came from, in the context of its request.
type zoneKey struct{}

// noteZone keeps the zone that an answer of the upstream came from.
func (c *Client) noteZone(resp *http.Response, from net.Addr) {
	z := zone.OfName(c.url.Hostname()) // behind a proxy nothing else is known
	if from != nil && !c.routes.isProxied(c.url) {
		if at, err := netip.ParseAddrPort(from.String()); err == nil {
			z = zone.Of(at.Addr())
		}
	}
	resp.Request = resp.Request.WithContext(context.WithValue(resp.Request.Context(), zoneKey{}, z))
}

// zoneOf returns the zone that decides which hosts an answer may lead to: the one that
// the upstream answered from, or for the answer of another host, before.
func zoneOf(resp *http.Response, before zone.Zone) zone.Zone {
	if z, ok := resp.Request.Context().Value(zoneKey{}).(zone.Zone); ok {
		return z
	}
	return before
}
