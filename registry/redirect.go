package registry

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/weirhq/weir/internal/zone"
)

// leastRedirected is the size of the smallest blob that a client is sent elsewhere for. A
// second connection costs more than the mirror's own bytes of a smaller one.
const leastRedirected = 1 << 20

// noRedirect is the header of requests that have to be answered here, as Angos has it.
const noRedirect = "X-Angos-No-Redirect"

// redirect sends a client to a place that has the blob, such as a bucket, and reports whether
// it did. The client gets the place (RFC 9110 section 15.4.8) only if it would get the blob.
func (p *pull) redirect() (bool, error) {
	if !p.mayRedirect() {
		return false, nil
	}
	target, outcome, err := p.ns.Elsewhere(p.ctx, p.repo, p.req.Digest, leastRedirected)
	if err != nil || target == nil || carriesLogin(p.r, target) || refusesAddress(p.r, target) {
		return false, err
	}
	p.setCacheStatus(outcome)
	h := p.w.Header()
	h.Set("Docker-Content-Digest", p.req.Digest.String())
	// The URL is a secret for a while, and good for that time only.
	h.Set("Cache-Control", "no-store")
	h.Set("Location", target.String())
	h.Set("Content-Length", "0")
	p.w.WriteHeader(http.StatusTemporaryRedirect)
	return true, nil
}

// mayRedirect reports whether a request for a blob may be answered with a redirect at all.
func (p *pull) mayRedirect() bool {
	h := p.r.Header
	switch {
	case p.opts.Redirects == nil || p.r.Method != http.MethodGet || h.Get(noRedirect) != "":
		return false
	// S3 ignores such a range and sends the whole.
	case severalRanges(strings.Join(h.Values("Range"), ",")):
		return false
	// The place has entity tags of its own.
	case h.Get("If-Match") != "" || h.Get("If-None-Match") != "" || h.Get("If-Range") != "":
		return false
	default:
		return p.opts.Redirects(p.opts.Proxies.Load().Address(p.r))
	}
}

// carriesLogin reports whether a client would send its Authorization on to a place. Clients
// do so at the same host, whatever its port, and at those below it. S3 refuses a request
// with two logins, and it is the mirror's.
func carriesLogin(r *http.Request, target *url.URL) bool {
	if r.Header.Get("Authorization") == "" {
		return false
	}
	place := plainHost(target.Host)
	// Each proxy of a chain may add one.
	forwarded := strings.Join(r.Header.Values("X-Forwarded-Host"), ",")
	for _, host := range append(strings.Split(forwarded, ","), r.Host) {
		if host = plainHost(host); place == host || strings.HasSuffix(place, "."+host) {
			return true
		}
	}
	return false
}

// refusesAddress reports whether a client follows no redirect to the address of a place: crane,
// and all other programs with go-containerregistry 0.22 or later, follow none from a name to a
// private address, and fail. They follow one to a name, whatever its address is.
func refusesAddress(r *http.Request, target *url.URL) bool {
	address, err := netip.ParseAddr(plainHost(target.Host))
	return err == nil && zone.Of(address) != zone.Public && strings.Contains(r.UserAgent(), "go-containerregistry")
}

// plainHost returns a host without its port, and in the one form that is compared.
func plainHost(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[] ")), ".")
}
