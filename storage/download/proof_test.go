package download_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// Bytes that match the digest are good wherever they come from. Only streams of
// the repository's own upstream prove that the repository possesses them.
func TestProof(t *testing.T) {
	for _, tc := range []struct {
		name    string
		streams []bool // whether each proves
		corrupt bool   // the first stream is
		want    bool
	}{
		{"own upstream", []bool{true}, false, true},
		{"a peer", []bool{false}, false, false},
		{"a peer, and own upstream after a pause", []bool{false, true}, false, false},
		{"own upstream, and a peer after a pause", []bool{true, false}, false, false},
		{"own upstream twice", []bool{true, true}, false, true},
		{"own upstream after a corrupt peer", []bool{false, true}, true, true},
		{"a peer after a corrupt upstream", []bool{true, false}, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, nil)
				defer s.Close()
				o := &origin{body: random(2000), step: make(chan int, 10)}
				if tc.corrupt {
					o.better = true
					o.corrupt = func(p []byte) []byte { p[9] ^= 1; return p }
				}
				dgst := digest.FromBytes(o.body)
				opened := 0
				var proofs []bool
				src := download.Source{
					Repository: ours,
					Open: func(ctx context.Context, offset, length int64) (*download.Stream, error) {
						stream, err := o.open(ctx, offset, length)
						stream.Proves = tc.streams[opened]
						opened++
						return stream, err
					},
					Verified: func(_ storage.Info, proven bool) { proofs = append(proofs, proven) },
				}
				r := s.reader(t, t.Context(), dgst, src)
				if len(tc.streams) == 2 && !tc.corrupt {
					o.step <- 500
					synctest.Wait()
					r.Close()
					o.step <- 500 // then the download sees that no reader is left
					time.Sleep(time.Minute)
					r = s.reader(t, t.Context(), dgst, src)
				}
				o.step <- 2000
				o.step <- 2000
				if _, err := io.Copy(io.Discard, r); err != nil {
					t.Fatal(err)
				}
				r.Close()
				s.Close()
				if opened != len(tc.streams) {
					t.Errorf("%d streams were opened, want %d", opened, len(tc.streams))
				}
				if len(proofs) != 1 || proofs[0] != tc.want {
					t.Errorf("proven: %v, want once %v", proofs, tc.want)
				}
			})
		})
	}
}
