package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// lookupPlaces and lookupQueue are how many lookups of a namespace run and wait.
const (
	lookupPlaces = 64
	lookupQueue  = 2048
)

// hanging leaves questions about the manifests of the repository "slow" without an answer
// until it is opened.
type hanging struct {
	oci.Registry
	open chan struct{}

	mu        sync.Mutex
	now, most int // questions that wait
}

func (h *hanging) Manifest(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	if repo != "slow" {
		return h.Registry.Manifest(ctx, repo, ref)
	}
	h.count(1)
	defer h.count(-1)
	select {
	case <-h.open:
		return h.Registry.Manifest(ctx, repo, ref)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (h *hanging) count(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now += n
	h.most = max(h.most, h.now)
}

// occupy begins lookups that hang, and returns when as many as possible run. Their clients
// leave with the context.
func occupy(ctx context.Context, n *namespace.Namespace, lookups int) {
	for i := range lookups {
		go n.Manifest(ctx, "slow", oci.ByTag(fmt.Sprint("v", i)))
	}
	synctest.Wait()
}

func isBusy(err error) bool {
	_, ok := errors.AsType[*namespace.BusyError](err)
	return ok
}

// TestFullPlaces asks in each way while no lookup can begin. The cache answers at once if
// it need not ask the upstream, and soon if it may answer in the upstream's place.
// Otherwise the client is told to come back.
func TestFullPlaces(t *testing.T) {
	const atOnce, soon, late = 0, time.Second, 30 * time.Second
	layer, elsewhere := []byte("a layer"), []byte("a layer of another block")
	stale := staleOn(upstream.ClassUnavailable)
	asks := map[string]func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error){
		"tag": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			a := get(t, n, "app", "v1")
			return a.Cache, a.warn, a.err
		},
		"HEAD": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			a := head(t, n, "app", "v1")
			return a.Cache, a.warn, a.err
		},
		"other tag": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			a := get(t, n, "app", "v2")
			return a.Cache, a.warn, a.err
		},
		"digest": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			record, err := n.Head(t.Context(), "app", oci.ByTag("v1"))
			if err != nil {
				return 0, "", err
			}
			a := get(t, n, "app", record.Descriptor.Digest.String())
			return a.Cache, a.warn, a.err
		},
		"blob": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			b, err := n.Blob(t.Context(), "app", digest.FromBytes(layer), 0, -1)
			if err != nil {
				return 0, "", err
			}
			b.Content.Close()
			return b.Cache, b.Warning, nil
		},
		"HEAD of a blob": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			b, err := n.HeadBlob(t.Context(), "app", digest.FromBytes(layer))
			if err != nil {
				return 0, "", err
			}
			return b.Cache, b.Warning, nil
		},
		"blob of another block": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			_, err := n.Blob(t.Context(), "app", digest.FromBytes(elsewhere), 0, -1)
			return 0, "", err
		},
		"HEAD of an unknown blob": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			_, err := n.HeadBlob(t.Context(), "app", digest.FromString("unknown"))
			return 0, "", err
		},
		"tags": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			l, err := n.Tags(t.Context(), "app", url.Values{})
			if err != nil {
				return 0, "", err
			}
			return l.Cache, l.Warning, nil
		},
		"tags of another repository": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			_, err := n.Tags(t.Context(), "unknown", url.Values{})
			return 0, "", err
		},
		"referrers": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			record, err := n.Head(t.Context(), "app", oci.ByTag("v1"))
			if err != nil {
				return 0, "", err
			}
			l, err := n.Referrers(t.Context(), "app", record.Descriptor.Digest, "")
			if err != nil {
				return 0, "", err
			}
			return l.Cache, l.Warning, nil
		},
		"referrers of an unknown digest": func(t *testing.T, n *namespace.Namespace) (namespace.CacheStatus, string, error) {
			_, err := n.Referrers(t.Context(), "app", digest.FromString("unknown"), "")
			return 0, "", err
		},
	}
	for name, c := range map[string]struct {
		spec   []func(*namespace.Spec)
		ask    string
		after  time.Duration         // since the tag was checked
		queued int                   // lookups that wait
		cache  namespace.CacheStatus // None: it is busy
		took   time.Duration
	}{
		"a cached tag":                   {[]func(*namespace.Spec){stale}, "tag", time.Hour, 10, namespace.Stale, soon},
		"its HEAD":                       {[]func(*namespace.Spec){stale}, "HEAD", time.Hour, 10, namespace.Stale, soon},
		"with a full queue":              {[]func(*namespace.Spec){stale}, "tag", time.Hour, lookupQueue, namespace.Stale, atOnce},
		"that may be stale for long":     {[]func(*namespace.Spec){stale, maxStale(2 * time.Hour)}, "tag", time.Hour, 10, namespace.Stale, soon},
		"that is too old":                {[]func(*namespace.Spec){stale, maxStale(time.Minute)}, "tag", time.Hour, 10, namespace.None, late},
		"in a block without stale tags":  {nil, "tag", time.Hour, 10, namespace.None, late},
		"stale only after a rate limit":  {[]func(*namespace.Spec){staleOn(upstream.ClassRateLimited)}, "tag", time.Hour, 10, namespace.None, late},
		"without stale tags, full queue": {nil, "tag", time.Hour, lookupQueue, namespace.None, atOnce},
		"a fresh tag":                    {[]func(*namespace.Spec){tagTTL(2 * time.Hour)}, "tag", time.Hour, 10, namespace.Hit, atOnce},
		"an immutable tag":               {[]func(*namespace.Spec){immutable}, "tag", time.Hour, 10, namespace.Hit, atOnce},
		"its HEAD, immutable":            {[]func(*namespace.Spec){immutable}, "HEAD", time.Hour, 10, namespace.Hit, atOnce},
		"a cached manifest by digest":    {[]func(*namespace.Spec){immutable}, "digest", time.Hour, 10, namespace.Hit, atOnce},
		"a tag that is not cached":       {[]func(*namespace.Spec){stale}, "other tag", time.Hour, 10, namespace.None, late},
		"not cached, full queue":         {[]func(*namespace.Spec){stale}, "other tag", time.Hour, lookupQueue, namespace.None, atOnce},
		"a stored blob":                  {nil, "blob", time.Hour, lookupQueue, namespace.Hit, atOnce},
		"a stored blob's HEAD":           {nil, "HEAD of a blob", time.Hour, 10, namespace.Hit, atOnce},
		"a blob whose right is old":      {[]func(*namespace.Spec){stale, rechecking}, "blob", 25 * time.Hour, 10, namespace.Stale, soon},
		"an old right, nothing stale":    {[]func(*namespace.Spec){rechecking}, "HEAD of a blob", 25 * time.Hour, 10, namespace.None, late},
		"a right that is to be proven":   {[]func(*namespace.Spec){stale}, "blob of another block", time.Hour, 10, namespace.None, late},
		"an unknown blob":                {[]func(*namespace.Spec){stale}, "HEAD of an unknown blob", time.Hour, 10, namespace.None, late},
		"a kept list of tags":            {[]func(*namespace.Spec){stale}, "tags", time.Hour, 10, namespace.Stale, soon},
		"a list of an unknown one":       {[]func(*namespace.Spec){stale}, "tags of another repository", time.Hour, 10, namespace.None, late},
		"kept referrers":                 {[]func(*namespace.Spec){stale, immutable}, "referrers", time.Hour, 10, namespace.Stale, soon},
		"unknown referrers":              {[]func(*namespace.Spec){stale}, "referrers of an unknown digest", time.Hour, 10, namespace.None, late},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r, other := m.registry("up.example"), m.registry("other.example")
				h := &hanging{open: make(chan struct{})}
				n := m.namespace("up.example", r, append(c.spec, func(s *namespace.Spec) { h.Registry, s.Upstreams = s.Upstreams, h })...)
				image := r.AddImage("app", "v1", layer)
				r.AddBlob("app", elsewhere)
				other.AddBlob("lib", elsewhere)
				get(t, n, "app", "v1")
				getBlob(t, n, "app", digest.FromBytes(layer))
				getBlob(t, m.namespace("other.example", other), "lib", digest.FromBytes(elsewhere))
				tags(t, n, url.Values{})
				n.Referrers(t.Context(), "app", image.Digest, "")
				time.Sleep(c.after)
				clients, leave := context.WithTimeout(t.Context(), time.Minute)
				defer leave()
				occupy(clients, n, lookupPlaces+c.queued)
				r.ResetRequests()
				began := time.Now()
				cache, warning, err := asks[c.ask](t, n)
				if took := time.Since(began); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				if isBusy(err) != (c.cache == namespace.None) || err != nil && !isBusy(err) || cache != c.cache {
					t.Errorf("got %v, %v; want %v", cache, err, c.cache)
				}
				if want := "the mirror has too many lookups of up.example; served from the cache, last checked " + c.after.String() + " ago"; c.cache == namespace.Stale && warning != want && c.queued == lookupQueue {
					t.Errorf("the warning is %q, want %q", warning, want)
				}
				wantRequests(t, r)
				if h.most != lookupPlaces {
					t.Errorf("%d lookups ran, want %d", h.most, lookupPlaces)
				}
			})
		})
	}
}

// TestFindingALoopTakesAPlace asks for a blob as another mirror does, while no lookup can
// begin. The HEAD that would show a loop is a lookup: clients can claim to be mirrors.
func TestFindingALoopTakesAPlace(t *testing.T) {
	layer := digest.FromString("layer")
	for name, c := range map[string]struct {
		trail    via.Trail
		lookups  int
		took     time.Duration
		busy     bool
		requests []string
	}{
		"a mirror":                     {via.Trail{"weir-2"}, lookupPlaces, 30 * time.Second, true, nil},
		"a mirror behind another one":  {via.Trail{"weir-0", "weir-3"}, lookupPlaces + 10, 30 * time.Second, true, nil},
		"a mirror, and the last place": {via.Trail{"weir-2"}, lookupPlaces - 1, 0, false, []string{"HEAD", "GET"}},
		// These may wait for any download, so they look for no loop.
		"a mirror of a smaller ID": {via.Trail{"weir-0"}, lookupPlaces, 0, false, []string{"GET"}},
		"a client":                 {nil, lookupPlaces, 0, false, []string{"GET"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMirrorOf(t, "weir-1")
				r := m.registry("up.example")
				r.AddBlob("app", []byte("layer"))
				h := &hanging{open: make(chan struct{})}
				n := m.namespace("up.example", r, func(s *namespace.Spec) {
					h.Registry, s.Upstreams = s.Upstreams, h
					s.MayLeadToMirror = func() bool { return true }
				})
				clients, leave := context.WithCancel(t.Context())
				defer leave()
				occupy(clients, n, c.lookups)
				began := time.Now()
				blob, err := n.Blob(via.With(t.Context(), c.trail), "app", layer, 0, -1)
				if took := time.Since(began); took != c.took || isBusy(err) != c.busy || err != nil && !c.busy {
					t.Errorf("after %v: %v; want %v, busy: %v", took, err, c.took, c.busy)
				}
				if err == nil {
					blob.Content.Close()
				}
				synctest.Wait()
				var want []string
				for _, method := range c.requests {
					want = append(want, fmt.Sprintf("%s /v2/app/blobs/%s 200", method, layer))
				}
				wantRequests(t, r, want...)
			})
		})
	}
}

// TestOtherBlocksDoNotWait has lookups of many blocks hang.
func TestOtherBlocksDoNotWait(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		clients, leave := context.WithCancel(t.Context())
		defer leave()
		r := m.registry("up.example")
		image := r.AddImage("app", "v1", []byte("a layer"))
		for i := range 5 {
			h := &hanging{open: make(chan struct{})}
			occupy(clients, m.namespace(fmt.Sprint("hangs", i), r, func(s *namespace.Spec) { h.Registry, s.Upstreams = s.Upstreams, h }), 2*lookupPlaces)
		}
		began := time.Now()
		wantManifest(t, get(t, m.namespace("up.example", r), "app", "v1"), namespace.Miss, image)
		if took := time.Since(began); took != 0 {
			t.Errorf("another block took %v", took)
		}
	})
}

// TestWaitingLookups has an upstream answer again, and clients leave. Those that wait get
// their answers in turn, and lookups without clients never begin.
func TestWaitingLookups(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		h := &hanging{open: make(chan struct{})}
		n := m.namespace("up.example", r, func(s *namespace.Spec) { h.Registry, s.Upstreams = s.Upstreams, h })
		leaving, leave := context.WithCancel(t.Context())
		occupy(leaving, n, lookupPlaces)
		var clients sync.WaitGroup
		for i := range 100 { // of each second one the client leaves
			tag := fmt.Sprint("later", i)
			r.AddImage("slow", tag, []byte(tag))
			ctx := t.Context()
			if i%2 == 0 {
				ctx = leaving
			}
			clients.Go(func() {
				if _, err := n.Manifest(ctx, "slow", oci.ByTag(tag)); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", tag, err)
				}
			})
			synctest.Wait()
		}
		leave()
		time.Sleep(3 * time.Second)
		r.ResetRequests()
		close(h.open)
		clients.Wait()
		if got := len(r.Requests()); got != 50 {
			t.Errorf("%d requests, want 50", got)
		}
		if h.most != lookupPlaces {
			t.Errorf("%d lookups ran at once", h.most)
		}
	})
}

// TestLongestLookup has an upstream that needs for ever, without a request that takes long.
func TestLongestLookup(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		h := &hanging{open: make(chan struct{})}
		n := m.namespace("up.example", r, func(s *namespace.Spec) { h.Registry, s.Upstreams = s.Upstreams, h })
		began := time.Now()
		got := get(t, n, "slow", "v1")
		failed, ok := errors.AsType[*upstream.Error](got.err)
		if took := time.Since(began); took != 5*time.Minute || !ok || !failed.Timeout() || failed.Content() != "slow:v1" || failed.Remedy() != upstream.CheckSpeed {
			t.Errorf("after %v: %v", took, got.err)
		}
	})
}
