package namespace_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestBlob(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		content := []byte("a layer")
		dgst := r.AddBlob("app", content)
		wantBlob(t, getBlob(t, n, "app", dgst), namespace.Miss, content)
		wantBlob(t, getBlob(t, n, "app", dgst), namespace.Hit, content)
		b, err := n.HeadBlob(t.Context(), "app", dgst)
		if err != nil || b.Cache != namespace.Hit || b.Size != 7 || b.Content != nil {
			t.Errorf("HEAD: %+v, %v", b, err)
		}
		wantRequests(t, r, blobRequest("GET", "app", dgst, "200"))

		off := m.namespace("up.example", r, offline)
		wantBlob(t, getBlob(t, off, "app", dgst), namespace.Hit, content)
		if b, err = off.HeadBlob(t.Context(), "app", dgst); err != nil || b.Cache != namespace.Hit || b.Size != 7 || b.Content != nil {
			t.Errorf("HEAD offline: %+v, %v", b, err)
		}
		m.store.Delete(t.Context(), dgst)
		if got := getBlob(t, off, "app", dgst); !isOffline(got.err) {
			t.Errorf("evicted and offline: %+v", got)
		}
		if _, err := off.HeadBlob(t.Context(), "app", dgst); !isOffline(err) {
			t.Errorf("evicted and offline, HEAD: %v", err)
		}
		wantBlob(t, getBlob(t, n, "app", dgst), namespace.Miss, content)
	})
}

func TestBlobJoined(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		dgst := r.AddRandomBlob("app", 200_000, 1)
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Blobs, upstreamtest.Hold(gate))
		statuses := make(chan namespace.CacheStatus, 20)
		together(gate, 20, func(int) {
			b, err := n.Blob(t.Context(), "app", dgst, 0, -1)
			if err != nil {
				t.Error(err)
				return
			}
			defer b.Content.Close()
			if got, err := digest.FromReader(b.Content); err != nil || got != dgst || b.Size != 200_000 {
				t.Errorf("got %s with %d bytes, %v", got, b.Size, err)
			}
			statuses <- b.Cache
		})
		counts := make(map[namespace.CacheStatus]int)
		for range 20 {
			counts[<-statuses]++
		}
		if counts[namespace.Miss] != 1 || counts[namespace.Collapsed] != 19 {
			t.Errorf("statuses: %v", counts)
		}
		wantRequests(t, r, blobRequest("GET", "app", dgst, "200"))
	})
}

func TestBlobRanges(t *testing.T) {
	const size = 4 << 20
	whole, _ := io.ReadAll(upstreamtest.RandomBlob(size, 1))
	for name, r := range map[string]struct{ start, end int64 }{
		"start":          {0, 10},
		"middle":         {5000, 6000},
		"far":            {2 << 20, 2<<20 + 100},
		"far, open":      {3 << 20, -1},
		"last byte":      {size - 1, -1},
		"beyond the end": {size + 2<<20, -1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				up := m.registry("up.example")
				n := m.namespace("up.example", up)
				dgst := up.AddRandomBlob("app", size, 1)
				for _, cache := range []namespace.CacheStatus{namespace.Miss, namespace.Hit} {
					b, err := n.Blob(t.Context(), "app", dgst, r.start, r.end)
					if err != nil {
						t.Fatal(err)
					}
					if b.Size != size || b.Cache != cache {
						t.Errorf("size %d, %v", b.Size, b.Cache)
					}
					start := min(r.start, size)
					end := r.end
					if end < 0 {
						end = size
					}
					b.Content.Seek(start, io.SeekStart)
					got, err := io.ReadAll(io.LimitReader(b.Content, end-start))
					if err != nil || string(got) != string(whole[start:end]) {
						t.Errorf("%d bytes, %v", len(got), err)
					}
					b.Content.Close()
					synctest.Wait() // the pool completes the download
				}
			})
		})
	}
}

func TestBlobNotFound(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, negativeTTL(time.Minute))
		dgst := digest.FromString("a layer")
		for range 2 {
			if got := getBlob(t, n, "app", dgst); !errors.Is(got.err, upstream.ErrNotFound) {
				t.Errorf("got %+v", got)
			}
			if _, err := n.HeadBlob(t.Context(), "app", dgst); !errors.Is(err, upstream.ErrNotFound) {
				t.Errorf("HEAD: %v", err)
			}
		}
		wantRequests(t, r, blobRequest("GET", "app", dgst, "404"))
		r.AddBlob("app", []byte("a layer"))
		time.Sleep(time.Minute)
		wantBlob(t, getBlob(t, n, "app", dgst), namespace.Miss, []byte("a layer"))
	})
}

func TestBlobOfUnknownSize(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		content, _ := io.ReadAll(upstreamtest.RandomBlob(100_000, 1))
		dgst := r.AddBlob("app", content)
		r.Fault(upstreamtest.Blobs, upstreamtest.Chunked(), upstreamtest.IgnoreRange())
		b, err := n.HeadBlob(t.Context(), "app", dgst)
		if err != nil || b.Size != -1 || b.Cache != namespace.Passed {
			t.Errorf("HEAD: %+v, %v", b, err)
		}
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(50_000, gate))
		b, err = n.Blob(t.Context(), "app", dgst, 0, -1)
		if err != nil || b.Size != -1 || b.Cache != namespace.Miss {
			t.Fatalf("%+v, %v", b, err)
		}
		gate.Open()
		got, err := io.ReadAll(b.Content)
		if err != nil || string(got) != string(content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		b.Content.Close()
		synctest.Wait()
		if got := getBlob(t, n, "app", dgst); got.size != 100_000 || got.cache != namespace.Hit {
			t.Errorf("warm: %d bytes, %v", got.size, got.cache)
		}
		if m.log.Count("level=WARN") != 0 {
			t.Error("the log has warnings")
		}
	})
}

func TestBlobWhereTheStoreFails(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		content := []byte("a layer")
		dgst := r.AddBlob("app", content)
		m.store.FailCommit(errors.New("disk full"))
		for range 2 {
			if got := getBlob(t, n, "app", dgst); got.err != nil || string(got.body) != "a layer" {
				t.Errorf("got %+v", got)
			}
		}
		m.store.FailCommit(nil)
		// Possession is recorded before the content is stored, so the link of the
		// first blob is there already.
		content = []byte("another layer")
		dgst = r.AddBlob("app", content)
		m.store.FailPut(errors.New("disk full"))
		wantBlob(t, getBlob(t, n, "app", dgst), namespace.Miss, content)
		// The link is in memory, although its record could not be written.
		wantBlob(t, getBlob(t, n, "app", dgst), namespace.Hit, content)
		if m.log.Count("cannot store records") != 1 {
			t.Error("the log does not tell of the link")
		}
		m.store.FailOpen(errors.New("input/output error"))
		off := m.namespace("up.example", r, offline)
		if got := getBlob(t, off, "app", dgst); got.err == nil || isOffline(got.err) {
			t.Errorf("offline, a broken store is told as %v", got.err)
		}
	})
}

// TestCorruptBlob takes the next upstream's bytes where the first one's do not
// match the digest, and none where no upstream has the right ones.
func TestCorruptBlob(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		bad, good := m.registry("bad.example"), m.registry("good.example")
		content := []byte("a layer")
		dgst := good.AddBlob("app", content)
		bad.AddBlobAs("app", dgst, []byte("a liar!"))
		n := m.chain("up.example", []*upstreamtest.Registry{bad, good})
		wantBlob(t, getBlob(t, n, "app", dgst), namespace.Miss, content)
		wantRequests(t, bad, blobRequest("GET", "app", dgst, "200"))
		wantRequests(t, good, blobRequest("GET", "app", dgst, "200"))
	})
	bubble(t, func(t *testing.T, m *mirror) {
		bad := m.registry("bad.example")
		dgst := digest.FromString("a layer")
		bad.AddBlobAs("app", dgst, []byte("a liar!"))
		if got := getBlob(t, m.namespace("up.example", bad), "app", dgst); !errors.Is(got.err, storage.ErrCorrupt) {
			t.Errorf("got %+v", got)
		}
		if m.store.Calls("Commit") != 0 {
			t.Error("a corrupt blob was stored")
		}
	})
}

// TestClientThatLeaves still fills the cache.
func TestClientThatLeaves(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		const size = 4 << 20
		dgst := r.AddRandomBlob("app", size, 1)
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(size/10, gate)).Times(1)
		leave(t, n, dgst, size/20)
		gate.Open()
		synctest.Wait()
		if info, err := m.store.Stat(t.Context(), dgst); err != nil || info.Size != size {
			t.Errorf("not stored: %v", err)
		}
		if b, err := n.HeadBlob(t.Context(), "app", dgst); err != nil || b.Cache != namespace.Hit {
			t.Errorf("not linked: %+v, %v", b, err)
		}
	})
}

// leave reads n bytes of a blob and goes.
func leave(t *testing.T, n *namespace.Namespace, dgst digest.Digest, bytes int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b, err := n.Blob(ctx, "app", dgst, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, b.Content, bytes); err != nil {
		t.Fatal(err)
	}
	cancel()
	b.Content.Close()
}

// TestFullPoolGivesDownloadsUp has a pool without room for completing a download
// that its client has left.
func TestFullPoolGivesDownloadsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, 0, nil)
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		dgst := r.AddRandomBlob("app", 4<<20, 1)
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(1<<20, gate)).Times(1)
		leave(t, n, dgst, 1000)
		if err := m.downloads.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := m.store.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("stored: %v", err)
		}
		// The next client starts over.
		gate.Open()
		if got := getBlob(t, n, "app", dgst); got.err != nil || got.cache != namespace.Miss {
			t.Errorf("%v, %v", got.cache, got.err)
		}
	})
}

// TestJobOfAFailedDownload waits for the pool while its download fails, and the
// next download of the digest is left too. The second one needs its own job.
func TestJobOfAFailedDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, 1, nil)
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		const size = 1 << 20
		dgst := r.AddRandomBlob("app", size, 1)
		busy := make(chan struct{})
		m.pool.Submit(named("busy"), func(context.Context) error { <-busy; return nil })

		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(size/2, gate)).Times(1)
		leave(t, n, dgst, 1000)                                            // its job waits
		r.Fault(upstreamtest.Blobs, upstreamtest.Status(404, "")).Times(3) // and the download fails when it goes on
		joined, err := n.Blob(t.Context(), "app", dgst, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		gate.Open()
		if _, err := io.Copy(io.Discard, joined.Content); err == nil {
			t.Fatal("the download did not fail")
		}
		joined.Content.Close()
		r.ClearFaults()
		r.Reopen()
		time.Sleep(time.Minute)

		gate = upstreamtest.NewGate()
		r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(size/2, gate)).Times(1)
		leave(t, n, dgst, 1000)
		gate.Open()
		close(busy)
		synctest.Wait()
		if _, err := m.store.Stat(t.Context(), dgst); err != nil {
			t.Errorf("the second download was not completed: %v", err)
		}
	})
}
