package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/storagetest"
)

// TestSteps takes a reader to each position of a download in each condition. It
// expects the bytes, or the failure, and the range that the reader's own source
// is asked for.
func TestSteps(t *testing.T) {
	const size, written = 4 << 20, 1 << 20 // of the content, in the spool
	body := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	dgst := digest.FromBytes(body)
	broken := errors.New("connection reset")
	ours, theirs := storage.RepoID{Namespace: "a", Name: "x"}, storage.RepoID{Namespace: "b", Name: "x"}
	offsets := [...]int64{readable: 0, withheld: written - 10, next: written, near: written + 1000, far: written + reach + 1}
	for at, off := range offsets {
		for _, how := range []condition{alive, replaceable, failedForMe} {
			want := steps[at][how]
			t.Run(fmt.Sprintf("position %d condition %d", at, how), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					memory := storagetest.NewMemory(t)
					g := NewGroup(Options{Store: memory, Spools: memory.Spools(), MaxFetches: 2, Logger: slog.New(slog.DiscardHandler)})
					defer g.Close()
					more := make(chan struct{})
					starter := Source{Repository: theirs, Open: func(_ context.Context, offset, _ int64) (*Stream, error) {
						// The size is unknown, so that the tail stays withheld.
						rest := &gated{first: body[offset:written], gate: more, rest: body[written:]}
						if how != alive {
							rest.rest, rest.err = nil, broken
						}
						return &Stream{ReadCloser: io.NopCloser(rest), Size: -1}, nil
					}}
					_, first, err := g.Open(t.Context(), dgst, starter)
					if err != nil {
						t.Fatal(err)
					}
					defer first.Close()
					synctest.Wait()
					if how != alive {
						close(more)
						synctest.Wait()
					}
					asked := ""
					own := Source{Repository: ours, Open: func(_ context.Context, offset, length int64) (*Stream, error) {
						asked = fmt.Sprintf("%d+%d", offset, length)
						return &Stream{ReadCloser: io.NopCloser(bytes.NewReader(body[offset:])), Size: size}, nil
					}}
					if how == failedForMe {
						own.Repository = theirs
					}
					// A download that has failed is out of the group.
					first.download.hold()
					r := newReader(t.Context(), first.download, own, true)
					defer r.Close()
					r.off = off
					if how == alive {
						go func() {
							synctest.Wait()
							close(more)
						}()
					}
					got := make([]byte, 5)
					_, err = io.ReadFull(r, got)
					if want == giveUp {
						if !errors.Is(err, broken) || asked != "" {
							t.Fatalf("error %v, asked for %q; want the download's error", err, asked)
						}
						return
					}
					if err != nil || !bytes.Equal(got, body[off:off+5]) {
						t.Errorf("read %q, %v; want %q", got, err, body[off:off+5])
					}
					wantAsked := map[step]string{
						openRest:   fmt.Sprintf("%d+-1", off),
						openWindow: fmt.Sprintf("%d+%d", off, window),
					}[want]
					if asked != wantAsked {
						t.Errorf("the reader's source was asked for %q, want %q", asked, wantAsked)
					}
				})
			})
		}
	}
}

// gated delivers its first bytes, then, once the gate is open, the rest or err.
type gated struct {
	first, rest []byte
	gate        chan struct{}
	err         error
}

func (g *gated) Read(p []byte) (int, error) {
	if len(g.first) > 0 {
		n := copy(p, g.first)
		g.first = g.first[n:]
		return n, nil
	}
	<-g.gate
	if len(g.rest) > 0 {
		n := copy(p, g.rest)
		g.rest = g.rest[n:]
		return n, nil
	}
	if g.err != nil {
		return 0, g.err
	}
	return 0, io.EOF
}
