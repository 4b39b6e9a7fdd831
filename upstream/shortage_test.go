package upstream_test

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A shortage of this machine is no failure of the upstream: it does not cool down, and the
// first request after the shortage is sent. The same holds for the hosts that the upstream
// leads to.
func TestShortageIsNotTheUpstreams(t *testing.T) {
	for name, cause := range map[string]error{
		"open files of the process": os.NewSyscallError("socket", syscall.EMFILE),
		"open files of the system":  os.NewSyscallError("socket", syscall.ENFILE),
		"local ports":               os.NewSyscallError("connect", syscall.EADDRNOTAVAIL),
		"buffers":                   os.NewSyscallError("socket", syscall.ENOBUFS),
		"memory":                    os.NewSyscallError("socket", syscall.ENOMEM),
		"a socket for the DNS":      &net.DNSError{Name: "x", Err: "dial udp 127.0.0.1:53: socket: too many open files"},
	} {
		for where, options := range map[string][]upstreamtest.Option{
			"registry":      nil,
			"token service": {upstreamtest.WithBearer(upstreamtest.Bearer{})},
			"redirect":      nil,
		} {
			t.Run(name+", "+where, func(t *testing.T) {
				r := upstreamtest.New(t, options...)
				r.AddImage("repo", "v1", []byte("a layer"))
				asked := r
				if where == "redirect" {
					asked = upstreamtest.New(t, upstreamtest.WithRedirect(r))
				}
				short := true
				c := newClient(t, asked, func(o *upstream.Options) {
					o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
						if short && (where == "registry" || addr != asked.Host) {
							return nil, &net.OpError{Op: "dial", Net: network, Err: cause}
						}
						return new(net.Dialer).DialContext(ctx, network, addr)
					}
				})
				chain := alone(c)
				for range 5 { // three would open the circuit breaker
					_, err := chain.Manifest(t.Context(), "repo", oci.ByTag("v1"))
					if e := wantError(t, err, upstream.ErrUnavailable); !e.Local() || e.Remedy() != upstream.RaiseLimits {
						t.Errorf("%v: local %v, remedy %d", err, e.Local(), e.Remedy())
					}
				}
				short = false
				if _, err := chain.Manifest(t.Context(), "repo", oci.ByTag("v1")); err != nil {
					t.Errorf("after the shortage: %v", err)
				}
			})
		}
	}
}
