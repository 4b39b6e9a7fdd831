package upstream_test

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newClient returns a client for the registry, with short timeouts of 2 s to
// connect and 5 s to read.
func newClient(t *testing.T, r *upstreamtest.Registry, change ...func(*upstream.Options)) *upstream.Client {
	t.Helper()
	options := upstream.Options{
		URL: r.URL, MaxRedirects: 5, ConnectTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second, UserAgent: "weir/test",
	}
	for _, f := range change {
		f(&options)
	}
	c := upstream.NewClient(options)
	t.Cleanup(c.Close)
	return c
}

// inMemory runs a test in a bubble of fake time, with a network of its own.
func inMemory(t *testing.T, test func(t *testing.T, n *upstreamtest.Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, upstreamtest.NewNetwork()) })
}

// on lets a client dial on a network in memory.
func on(n *upstreamtest.Network) func(*upstream.Options) {
	return func(o *upstream.Options) { o.DialContext = n.DialContext }
}

// wantError checks the sentinel and returns the *Error.
func wantError(t *testing.T, err, want error) *upstream.Error {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
	e, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		t.Fatalf("%v is no *upstream.Error", err)
	}
	return e
}

// alone returns a chain of one client.
func alone(c *upstream.Client) *upstream.Chain { return upstream.NewChain(upstream.ChainOptions{}, c) }

// readBody reads a body that must be fine.
func readBody(t *testing.T, b oci.Blob, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	content, err := io.ReadAll(b)
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(content), err)
	}
	return content
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
