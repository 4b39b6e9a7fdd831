package upstream_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// An upstream gets no request if it is where Options.Reach does not admit it, whatever its name
// is. The error does not tell the address.
func TestReach(t *testing.T) {
	for _, c := range []struct {
		at    string
		reach upstream.Reach
		want  bool
	}{
		{"8.8.8.8", upstream.ReachPublic, true},
		{"8.8.8.8", upstream.ReachNear, true},
		{"10.0.0.1", upstream.ReachPublic, false},
		{"10.0.0.1", upstream.ReachNear, true},
		{"127.0.0.1", upstream.ReachPublic, false},
		{"127.0.0.1", upstream.ReachNear, true},
		{"fd00::1", upstream.ReachPublic, false},
		{"64:ff9b::10.0.0.1", upstream.ReachPublic, false},
		{"169.254.169.254", upstream.ReachPublic, false},
		{"169.254.169.254", upstream.ReachNear, false},
		{"169.254.169.254", upstream.ReachAny, true},
		{"fd00:ec2::254", upstream.ReachNear, false},
	} {
		inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
			r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
			r.AddImage("repo", "latest", []byte("layer"))
			client := newClient(t, r, resolving(n, func(string) string { return c.at }), withCredentials, func(o *upstream.Options) { o.Reach = c.reach })
			_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
			if got := len(r.Log()) > 0; got != c.want || (err == nil) != c.want {
				t.Errorf("%s, reach %d: reached %v: %v", c.at, c.reach, got, err)
			}
			if err != nil && strings.Contains(err.Error(), c.at) {
				t.Errorf("the error tells the address: %v", err)
			}
		})
	}
}

// A real connection is refused, and so is one for a segment of a blob.
func TestReachOfRealConnections(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	t.Cleanup(server.Close)
	at, _ := url.Parse(server.URL)
	for _, host := range []string{"127.0.0.1", "localhost"} {
		client := upstream.NewClient(upstream.Options{URL: &url.URL{Scheme: "http", Host: host + ":" + at.Port()}, Reach: upstream.ReachPublic})
		t.Cleanup(client.Close)
		for _, ctx := range []func() error{
			func() error { _, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest")); return err },
			func() error {
				_, err := client.Manifest(oci.WithSegment(t.Context(), host), "repo", oci.ByTag("latest"))
				return err
			},
		} {
			if e := wantError(t, ctx(), upstream.ErrUnavailable); e.Remedy() != upstream.StayPublic {
				t.Errorf("%s: %v", host, e)
			}
		}
	}
	if n := requests.Load(); n > 0 {
		t.Errorf("%d requests", n)
	}
}

// Behind a proxy, which may be at any address, the name of the upstream decides.
func TestReachThroughProxy(t *testing.T) {
	for host, want := range map[string]bool{"registry.example": true, "127.1": false, "10.0.0.1": false, "minio": false, "metadata.google.internal": false} {
		var asked atomic.Int64
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			io.WriteString(w, "{}")
		}))
		at, _ := url.Parse(proxy.URL)
		client := upstream.NewClient(upstream.Options{URL: &url.URL{Scheme: "http", Host: host}, Proxy: at, Reach: upstream.ReachPublic})
		_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		if got := asked.Load() > 0; got != want {
			t.Errorf("%s: the proxy was asked %v: %v", host, got, err)
		}
		client.Close()
		proxy.Close()
	}
}
