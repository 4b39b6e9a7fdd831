package upstream_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A blob that is too large is refused by its announcement or at the first byte too
// many, without further requests for its rest.
func TestBlobTooLarge(t *testing.T) {
	const limit = 1000
	for name, c := range map[string]struct {
		size           int64
		effects        []upstreamtest.Effect
		offset, length int64
		refused        bool
		requests       string // methods
	}{
		"as large as the limit":             {size: limit, length: -1, requests: "GET"},
		"announced":                         {size: limit + 1, length: -1, refused: true, requests: "GET"},
		"without a length":                  {size: limit + 1, effects: []upstreamtest.Effect{upstreamtest.Chunked()}, length: -1, refused: true, requests: "GET"},
		"as large, without a length":        {size: limit, effects: []upstreamtest.Effect{upstreamtest.Chunked()}, length: -1, requests: "GET"},
		"a range at its start":              {size: limit + 1, length: 10, refused: true, requests: "GET"},
		"its end":                           {size: limit + 1, offset: 990, length: -1, refused: true, requests: "GET"},
		"beyond the limit":                  {size: 2 * limit, offset: limit + 1, length: -1, refused: true},
		"a registry that ignores the range": {size: 2 * limit, effects: []upstreamtest.Effect{upstreamtest.IgnoreRange(), upstreamtest.Chunked()}, offset: 900, length: -1, refused: true, requests: "GET"},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			client := newClient(t, r, func(o *upstream.Options) { o.MaxBlobSize = limit })
			dgst := r.AddRandomBlob("org/app", c.size, 1)
			if c.effects != nil {
				r.Fault(upstreamtest.Blobs, c.effects...)
			}
			blob, err := client.Blob(t.Context(), "org/app", dgst, c.offset, c.length)
			if err == nil {
				_, err = io.Copy(io.Discard, blob)
				blob.Close()
			}
			failed, _ := errors.AsType[*upstream.Error](err)
			if c.refused && (failed == nil || failed.Remedy() != upstream.RaiseBlobSize) || !c.refused && err != nil {
				t.Errorf("%v, refused %v", err, c.refused)
			}
			var methods []string
			for _, request := range r.Requests() {
				method, _, _ := strings.Cut(request, " ")
				methods = append(methods, method)
			}
			if got := strings.Join(methods, " "); got != c.requests {
				t.Errorf("requests %q, want %q", got, c.requests)
			}
			if _, err := client.StatBlob(t.Context(), "org/app", dgst); (err != nil) != (c.size > limit && c.effects == nil) && c.effects == nil {
				t.Errorf("HEAD: %v", err)
			}
		})
	}
}
