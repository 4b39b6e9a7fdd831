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
// first request after the shortage is sent.
func TestShortageIsNotTheUpstreams(t *testing.T) {
	for name, cause := range map[string]error{
		"open files of the process": os.NewSyscallError("socket", syscall.EMFILE),
		"open files of the system":  os.NewSyscallError("socket", syscall.ENFILE),
		"local ports":               os.NewSyscallError("connect", syscall.EADDRNOTAVAIL),
		"buffers":                   os.NewSyscallError("socket", syscall.ENOBUFS),
		"memory":                    os.NewSyscallError("socket", syscall.ENOMEM),
		"a socket for the DNS":      &net.DNSError{Name: "x", Err: "dial udp 127.0.0.1:53: socket: too many open files"},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			r.AddImage("repo", "v1", []byte("a layer"))
			short := true
			c := newClient(t, r, func(o *upstream.Options) {
				o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if short {
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
