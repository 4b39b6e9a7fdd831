package download_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/download"
)

// until sends bytes and then, after a while, the end of the stream.
type until struct {
	io.Reader
	ctx   context.Context
	pause time.Duration
}

func (u *until) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err == io.EOF {
		select {
		case <-u.ctx.Done():
			return 0, context.Cause(u.ctx)
		case <-time.After(u.pause):
		}
	}
	return n, err
}

func (u *until) Close() error { return nil }

// A client that has been told a size gets that many right bytes, or an error: whatever size a
// source gives afterwards.
func TestSizeStaysAsTold(t *testing.T) {
	good := random(1 << 20)
	dgst := digest.FromBytes(good)
	other := bytes.Repeat([]byte("x"), 4<<20)
	type answer struct {
		body []byte
		size int64
	}
	for name, answers := range map[string][]answer{
		"a longer one, after a pause":         {{good[:200<<10], 1 << 20}, {other, 4 << 20}},
		"a shorter one, after a pause":        {{good[:300<<10], 1 << 20}, {good[:800<<10], 800 << 10}},
		"another source after a cut one":      {{good[:100<<10], 100 << 10}, {good, 1 << 20}},
		"another source after a longer one":   {{other, 4 << 20}, {good, 1 << 20}},
		"one without a size after a cut one":  {{good[:100<<10], 100 << 10}, {good, -1}},
		"the same size, and the right bytes":  {{good[:200<<10], 1 << 20}, {good, 1 << 20}},
		"no size at first, and then a right":  {{good[:200<<10], -1}, {good, 1 << 20}},
		"no size at first, and then a longer": {{good[:200<<10], -1}, {other, 4 << 20}},
	} {
		for what, early := range map[string]bool{"read at once": false, "read later": true} {
			t.Run(name+", "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSetup(t, nil)
					opened := 0
					src := download.Source{Repository: ours, Open: func(ctx context.Context, offset, length int64) (*download.Stream, error) {
						a := answers[min(opened, len(answers)-1)]
						opened++
						if offset > int64(len(a.body)) {
							return nil, errors.New("there is no such range")
						}
						rejects := opened < len(answers)
						return &download.Stream{
							ReadCloser: &until{bytes.NewReader(a.body[offset:]), ctx, time.Minute}, Size: a.size, Origin: "up", Proves: true,
							Reject: func() bool { return rejects },
						}, nil
					}}
					first := s.reader(t, t.Context(), dgst, src)
					if _, err := first.Wait(0, -1); err != nil {
						t.Fatal(err)
					}
					first.Close()
					time.Sleep(5 * time.Second) // nobody reads: it pauses
					r := s.reader(t, t.Context(), dgst, src)
					defer r.Close()
					size, err := r.Wait(0, -1)
					if err != nil {
						return // the client gets an error
					}
					if early {
						time.Sleep(10 * time.Minute) // the client is slow to read its header
					}
					got, err := io.ReadAll(r)
					if err == nil && (digest.FromBytes(got) != dgst || size >= 0 && size != int64(len(got))) {
						t.Errorf("%d bytes of %d, with a clean end and a wrong digest", len(got), size)
					}
				})
			})
		}
	}
}
