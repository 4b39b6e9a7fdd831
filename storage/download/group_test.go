package download_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

// OnUnattended may decide later. Abandon of a download that has ended by itself
// meanwhile leaves the download that has taken its place alone.
func TestAbandonOfAnEndedDownloadLeavesItsSuccessorAlone(t *testing.T) {
	var left *download.Download
	s := newSetup(t, func(o *download.Options) { o.OnUnattended = func(f *download.Download) { left = f } })
	body := random(1 << 20)
	dgst := digest.FromBytes(body)
	release := make(chan struct{})
	failing := download.Source{Repository: ours, Open: func(ctx context.Context, _, _ int64) (*download.Stream, error) {
		<-release
		return nil, errors.New("the upstream failed")
	}}
	r := s.reader(t, t.Context(), dgst, failing)
	r.Close() // the last one: OnUnattended gets the download, and decides below
	close(release)
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}

	o := &origin{body: body, step: make(chan int)}
	second := s.reader(t, t.Context(), dgst, o.source(ours))
	defer second.Close()
	left.Abandon()
	third := s.reader(t, t.Context(), dgst, o.source(ours))
	defer third.Close()
	if !third.Joined() {
		t.Error("a second download of the same digest began beside the running one")
	}
	close(o.step)
}

// Stored content that does not have its size is fetched again, and served as it comes
// from upstream, also if it cannot be taken out of the store.
func TestDamagedContentIsFetched(t *testing.T) {
	body := random(100_000)
	dgst := digest.FromBytes(body)
	for name, stored := range map[string][]byte{"cut": body[:70_000], "emptied": {}, "grown": append(bytes.Clone(body), 'x')} {
		for _, movable := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, movable: %v", name, movable), func(t *testing.T) {
				damaged := 0
				var s *setup
				s = newSetup(t, func(o *download.Options) {
					o.OnDamaged = func(ctx context.Context, info storage.Info, size int64) {
						damaged++
						if info.Size != int64(len(stored)) || size != int64(len(body)) {
							t.Errorf("%d bytes instead of %d", info.Size, size)
						}
						if movable {
							_ = s.store.Delete(ctx, dgst)
						}
					}
				})
				if err := s.store.Commit(t.Context(), dgst, storagetest.NewSpool(t, s.store.Spools(), stored)); err != nil {
					t.Fatal(err)
				}
				source := (&origin{body: body}).source(ours)
				source.Size = int64(len(body))
				r := s.reader(t, t.Context(), dgst, source)
				if got, err := readAll(r); !bytes.Equal(got, body) || err != nil {
					t.Errorf("read %d bytes, %v", len(got), err)
				}
				if damaged == 0 {
					t.Error("the damage was not reported")
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
				// Without a record of the size, the size is that of the stored content.
				obj, r, err := s.Open(t.Context(), dgst, (&origin{body: body}).source(theirs))
				if err != nil || obj == nil || movable && obj.Size != int64(len(body)) {
					t.Errorf("Open = %v, %v, %v", obj, r, err)
				}
			})
		}
	}
}

// slowOpen lets the second search for one digest take long, as a slow disk would.
type slowOpen struct {
	storage.Store
	slow  digest.Digest
	seen  atomic.Int64
	begun chan struct{}
	end   chan struct{}
}

func (s *slowOpen) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	if dgst == s.slow {
		if s.seen.Add(1) == 2 {
			close(s.begun)
			<-s.end
		}
	}
	return s.Store.Open(ctx, dgst)
}

func TestSlowSearchHoldsUpNoOtherDigest(t *testing.T) {
	a, b := &origin{body: random(1000)}, &origin{body: random(1000)}
	store := &slowOpen{slow: digest.FromBytes(a.body), begun: make(chan struct{}), end: make(chan struct{})}
	s := newSetup(t, func(o *download.Options) { store.Store = o.Store; o.Store = store })
	first, second := make(chan *download.Reader, 1), make(chan *download.Reader, 1)
	go func() { _, r, _ := s.Open(t.Context(), store.slow, a.source(ours)); first <- r }()
	<-store.begun
	go func() { _, r, _ := s.Open(t.Context(), digest.FromBytes(b.body), b.source(ours)); second <- r }()
	select {
	case r := <-second:
		r.Close()
	case <-time.After(2 * time.Second):
		t.Error("a pull of another digest waits for the slow search for the first")
	}
	close(store.end)
	(<-first).Close()
	if t.Failed() {
		(<-second).Close()
	}
}

// scriptedStore answers each search for a blob with the next entry of a
// script, and from then on as the store behind it does.
type scriptedStore struct {
	storage.Store
	script chan error // nil: as the store behind it does
}

func (s *scriptedStore) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	select {
	case err := <-s.script:
		if err != nil {
			return nil, err
		}
	default:
	}
	return s.Store.Open(ctx, dgst)
}

// A search without a lock, the download's own search and the one after it may
// each find another state of the store.
func TestStoreChangesDuringOpen(t *testing.T) {
	missing, broken := storage.ErrNotExist, errors.New("input/output error")
	for _, tc := range []struct {
		name   string
		stored bool
		script []error
		object bool  // a stored object is returned
		err    error // of Open
		asked  int   // downloads
	}{
		{"stored before", true, nil, true, nil, 0},
		{"stored after the first search", true, []error{missing}, true, nil, 0},
		{"stored, and evicted before it is opened", true, []error{missing, nil, missing, missing}, false, nil, 1},
		{"stored, evicted and stored again", true, []error{missing, nil, missing, nil}, true, nil, 0},
		{"the first search fails", true, []error{broken}, false, broken, 0},
		{"the download's search fails", true, []error{missing, broken}, false, broken, 0},
		{"the search after it fails", true, []error{missing, nil, broken}, false, broken, 0},
		{"never there", false, nil, false, nil, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store := &scriptedStore{script: make(chan error, len(tc.script))}
			for _, err := range tc.script {
				store.script <- err
			}
			s := newSetup(t, func(o *download.Options) { store.Store = o.Store; o.Store = store })
			o := &origin{body: random(1000)}
			dgst := digest.FromBytes(o.body)
			if tc.stored {
				storagetest.Commit(t, s.store, spool.NewDir(t.TempDir(), 0, nil), o.body)
			}
			obj, r, err := s.Open(t.Context(), dgst, o.source(ours))
			if !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
			if (obj != nil) != tc.object {
				t.Errorf("object %v, want one: %v", obj, tc.object)
			}
			var content io.ReadCloser
			switch {
			case obj != nil:
				content = obj.Content
			case r != nil:
				content = r
			default:
				return
			}
			defer content.Close()
			if got, err := io.ReadAll(content); err != nil || !bytes.Equal(got, o.body) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if err := s.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if asked := o.asked(); len(asked) != tc.asked {
				t.Errorf("the source was asked %v, want %d times", asked, tc.asked)
			}
			if len(store.script) > 0 {
				t.Errorf("%d searches were not made", len(store.script))
			}
		})
	}
}

// Clients that come while the download searches the store wait for that search,
// and share its result.
func TestManyJoinDuringTheSearch(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprintf("stored=%v", stored), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &origin{body: random(1000)}
				dgst := digest.FromBytes(o.body)
				store := &slowOpen{slow: dgst, begun: make(chan struct{}), end: make(chan struct{})}
				s := newSetup(t, func(o *download.Options) { store.Store = o.Store; o.Store = store })
				var objects, readers, joined atomic.Int64
				open := func() {
					obj, r, err := s.Open(t.Context(), dgst, o.source(ours))
					switch {
					case err != nil:
						t.Error(err)
					case obj != nil:
						objects.Add(1)
						obj.Content.Close()
					default:
						readers.Add(1)
						if r.Joined() {
							joined.Add(1)
						}
						if err := r.Complete(); err != nil {
							t.Error(err)
						}
					}
				}
				var clients sync.WaitGroup
				clients.Go(open)
				<-store.begun
				for range 9 {
					clients.Go(open)
				}
				synctest.Wait()
				if stored {
					storagetest.Commit(t, s.store, spool.NewDir(t.TempDir(), 0, nil), o.body)
				}
				close(store.end)
				clients.Wait()
				s.Close()
				if stored && (objects.Load() != 10 || len(o.asked()) != 0) {
					t.Errorf("%d of 10 clients got the stored object, the source was asked %v", objects.Load(), o.asked())
				}
				if !stored && (readers.Load() != 10 || joined.Load() != 9 || len(o.asked()) != 1) {
					t.Errorf("%d of 10 clients got a reader, %d of them joined; the source was asked %v", readers.Load(), joined.Load(), o.asked())
				}
			})
		})
	}
}

// A client that leaves while the download searches the store leaves a download
// that is unattended.
func TestClientLeavesDuringTheSearch(t *testing.T) {
	idle := make(chan *download.Download, 1)
	o := &origin{body: random(1000)}
	store := &slowOpen{slow: digest.FromBytes(o.body), begun: make(chan struct{}), end: make(chan struct{})}
	s := newSetup(t, func(o *download.Options) {
		store.Store = o.Store
		o.Store, o.OnUnattended = store, func(f *download.Download) { idle <- f }
	})
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, _, err := s.Open(ctx, store.slow, o.source(ours))
		left <- err
	}()
	<-store.begun
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("Open: %v, want that the client has left", err)
	}
	f := <-idle
	close(store.end)
	if err := f.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !s.stored(t, store.slow) {
		t.Error("not stored")
	}
}

// stuckTracer takes as long to start a span as the test wants.
type stuckTracer struct {
	trace.Tracer
	begun, end chan struct{}
}

func (t stuckTracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	close(t.begun)
	<-t.end
	return t.Tracer.Start(ctx, name, opts...)
}

// recording is the span of a request that is traced.
type recording struct{ noop.Span }

func (recording) IsRecording() bool { return true }

func TestSlowTracerHoldsUpNoOtherDigest(t *testing.T) {
	tracer := stuckTracer{noop.NewTracerProvider().Tracer(""), make(chan struct{}), make(chan struct{})}
	s := newSetup(t, func(o *download.Options) { o.Tracer = tracer })
	a, b := &origin{body: random(1000)}, &origin{body: random(1000)}
	first, second := make(chan *download.Reader, 1), make(chan *download.Reader, 1)
	traced := trace.ContextWithSpan(t.Context(), recording{})
	go func() { _, r, _ := s.Open(traced, digest.FromBytes(a.body), a.source(ours)); first <- r }()
	<-tracer.begun
	go func() { _, r, _ := s.Open(t.Context(), digest.FromBytes(b.body), b.source(ours)); second <- r }()
	select {
	case r := <-second:
		r.Close()
	case <-time.After(2 * time.Second):
		t.Error("a pull of another digest waits for the tracer")
	}
	close(tracer.end)
	(<-first).Close()
	if t.Failed() {
		(<-second).Close()
	}
}
