package namespace_test

import (
	"errors"
	"testing"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// TestCorruptBlobIsNotAskedForForEver has upstreams that never send the bytes of a digest.
func TestCorruptBlobIsNotAskedForForEver(t *testing.T) {
	for _, tc := range []struct {
		name   string
		second bool // there is a second upstream
		fault  upstreamtest.Effect
		most   int // requests to the first upstream
	}{
		{"an empty body", false, upstreamtest.Status(200, ""), 1},
		{"an empty body, and an upstream without the blob", true, upstreamtest.Status(200, ""), 2},
		{"a page", false, upstreamtest.Status(200, "<html>"), 1},
		{"other bytes, and an upstream without the blob", true, upstreamtest.Corrupt(3), 2},
		{"an empty body without a length", false, upstreamtest.Truncate(0), 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				first, second := m.registry("first.example"), m.registry("second.example")
				dgst := first.AddBlob("app", []byte("a layer"))
				first.Fault(upstreamtest.Blobs, tc.fault)
				registries := []*upstreamtest.Registry{first}
				if tc.second {
					registries = append(registries, second)
				}
				n := m.chain("up.example", registries)
				// In fake time, an endless loop ends the test with its time limit.
				if got := getBlob(t, n, "app", dgst); got.err == nil {
					t.Errorf("got %+v", got)
				} else if tc.most < 3 && !errors.Is(got.err, storage.ErrCorrupt) {
					t.Errorf("got %v", got.err)
				}
				if requests := first.Requests(); len(requests) > tc.most {
					t.Errorf("%d requests to the first upstream", len(requests))
				}
			})
		})
	}
}
