package namespace_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// lenders are replicas with a disk each, which read blobs from each other.
type lenders struct {
	mu    sync.Mutex
	has   map[digest.Digest]storage.Store // of the replica that has told so last
	gone  bool                            // no replica is reached
	wrong bool                            // their bytes are wrong
}

func (l *lenders) set(change func(*lenders)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

// lender is one of them.
type lender struct {
	*lenders
	store storage.Store
}

func (l lender) Await(_ context.Context, _ storage.RepoID, dgst digest.Digest) error {
	l.set(func(all *lenders) { all.has[dgst] = l.store })
	return nil
}

func (lender) Reread(storage.RepoID, digest.Digest) {}

func (lender) Links() bool { return false }

func (lender) Lasting() time.Duration { return time.Hour }

func (lender) Paused() bool { return false }

// Open is that of an origin.
func (l lender) Open(ctx context.Context, want download.Want) (*download.Stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	other := l.has[want.Digest]
	if other == nil || other == l.store || l.gone {
		return nil, storage.ErrNotExist
	}
	object, err := other.Open(ctx, want.Digest)
	if err != nil {
		return nil, err
	}
	defer object.Content.Close()
	body, err := io.ReadAll(object.Content)
	if l.wrong {
		body[0] ^= 1
	}
	return &download.Stream{ReadCloser: io.NopCloser(bytes.NewReader(body)), Size: int64(len(body)), Origin: "replica.example", Peer: true}, err
}

// lentBubble runs a test with three replicas that have a disk each.
func lentBubble(t *testing.T, test func(t *testing.T, p *pailed, l *lenders), change ...func(*namespace.Spec)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, l := &pailed{queue: &queue{newShelf(), map[string]chan []byte{}}}, &lenders{has: map[digest.Digest]storage.Store{}}
		network := upstreamtest.NewNetwork()
		for range 3 {
			memory := storagetest.NewMemory(t)
			m := newMirrorWith(t, memory, memory, 4, nil, "", func(o *namespace.CacheOptions) {
				part := lender{l, memory}
				o.Answers, o.Commons, o.Origins = p.queue, part, []download.Origin{part}
			})
			m.network = network
			if p.registry == nil {
				p.registry = m.registry("up.example")
			}
			p.replicas = append(p.replicas, m.namespace("up.example", p.registry, change...))
		}
		test(t, p, l)
		time.Sleep(time.Second) // answers that are being settled
	})
}

// Replicas with a disk each fetch a manifest once. The others confirm their right with a HEAD, and
// read the manifest from the one that has it.
func TestReplicasLendManifests(t *testing.T) {
	for name, pull := range map[string]func(t *testing.T, p *pailed) (dgst digest.Digest, want []string){
		"by digest": func(t *testing.T, p *pailed) (digest.Digest, []string) {
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			p.gets(t, image.Digest.String(), image.Digest)
			return image.Digest, []string{manifestRequest("GET", "app", image.Digest, 200)}
		},
		"by digest, half an hour later": func(t *testing.T, p *pailed) (digest.Digest, []string) {
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			for _, n := range p.replicas {
				if got := get(t, n, "app", image.Digest.String()); got.err != nil {
					t.Error(got.err)
				}
				time.Sleep(25 * time.Minute)
			}
			return image.Digest, []string{manifestRequest("GET", "app", image.Digest, 200)}
		},
		"by tag": func(t *testing.T, p *pailed) (digest.Digest, []string) {
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			p.gets(t, "v1", image.Digest)
			return image.Digest, []string{manifestRequest("GET", "app", "v1", 200)}
		},
		"by a tag, and then by its digest": func(t *testing.T, p *pailed) (digest.Digest, []string) {
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			p.all(func(n *namespace.Namespace) { head(t, n, "app", "v1") })
			p.gets(t, image.Digest.String(), image.Digest)
			return image.Digest, []string{manifestRequest("HEAD", "app", "v1", 200), manifestRequest("GET", "app", image.Digest, 200)}
		},
		"by a tag that moves": func(t *testing.T, p *pailed) (digest.Digest, []string) {
			p.gets(t, "v1", p.registry.AddImage("app", "v1", []byte("an older layer")).Digest)
			time.Sleep(2 * time.Minute)
			p.registry.ResetRequests()
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			p.gets(t, "v1", image.Digest)
			return image.Digest, []string{manifestRequest("HEAD", "app", "v1", 200), manifestRequest("GET", "app", image.Digest, 200)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			lentBubble(t, func(t *testing.T, p *pailed, _ *lenders) {
				dgst, want := pull(t, p)
				confirms := manifestRequest("HEAD", "app", dgst, 200)
				wantRequests(t, p.registry, append(want, confirms, confirms)...)
				// Later each replica answers by itself.
				p.gets(t, dgst.String(), dgst)
				wantRequests(t, p.registry)
			}, tagTTL(time.Minute))
		})
	}
}

// A replica that cannot read a manifest from another one fetches it. If its upstream does not
// confirm its right, it gets nothing.
func TestManifestsThatAreNotLent(t *testing.T) {
	heads := func(effects ...upstreamtest.Effect) func(*pailed, *lenders, digest.Digest) {
		return func(p *pailed, _ *lenders, _ digest.Digest) {
			p.registry.Fault(upstreamtest.Method(http.MethodHead), effects...)
		}
	}
	for name, tc := range map[string]struct {
		trouble func(*pailed, *lenders, digest.Digest)
		err     error
		head    int  // the status of the HEAD
		get     bool // a GET follows
	}{
		"the other one is gone":      {func(_ *pailed, l *lenders, _ digest.Digest) { l.gone = true }, nil, 200, true},
		"it sends wrong bytes":       {func(_ *pailed, l *lenders, _ digest.Digest) { l.wrong = true }, nil, 200, true},
		"another size":               {heads(upstreamtest.Header("Content-Length", "7")), nil, 200, true},
		"no size":                    {heads(upstreamtest.Chunked()), nil, 200, false},
		"the upstream takes no HEAD": {heads(upstreamtest.Status(http.StatusMethodNotAllowed, "")), nil, 405, true},
		"it denies all": {func(p *pailed, _ *lenders, _ digest.Digest) {
			p.registry.Fault(upstreamtest.Any, upstreamtest.Status(http.StatusForbidden, ""))
		}, upstream.ErrDenied, 403, true},
		"it has it no more": {func(p *pailed, _ *lenders, dgst digest.Digest) { p.registry.Remove("app", dgst) }, upstream.ErrNotFound, 404, true},
	} {
		t.Run(name, func(t *testing.T) {
			lentBubble(t, func(t *testing.T, p *pailed, l *lenders) {
				image := p.registry.AddImage("app", "v1", []byte("a layer"))
				if got := get(t, p.replicas[0], "app", image.Digest.String()); got.err != nil {
					t.Fatal(got.err)
				}
				synctest.Wait()
				p.registry.ResetRequests()
				l.set(func(l *lenders) { tc.trouble(p, l, image.Digest) })
				got := get(t, p.replicas[1], "app", image.Digest.String())
				if !errors.Is(got.err, tc.err) || tc.err == nil && digest.FromString(got.Body) != image.Digest {
					t.Errorf("%+v", got)
				}
				want := []string{manifestRequest("HEAD", "app", image.Digest, tc.head)}
				if tc.get {
					status := 200
					if tc.err != nil {
						status = tc.head
					}
					want = append(want, manifestRequest("GET", "app", image.Digest, status))
				}
				wantRequests(t, p.registry, want...)
			})
		})
	}
}

// A manifest that a replica lends to a repository is no other repository's.
func TestLentManifestIsOneRepositorys(t *testing.T) {
	lentBubble(t, func(t *testing.T, p *pailed, _ *lenders) {
		image := p.registry.AddImage("app", "v1", []byte("a layer"))
		p.gets(t, image.Digest.String(), image.Digest)
		p.registry.ResetRequests()
		// Its upstream says yes to any HEAD.
		p.registry.Fault(upstreamtest.Method(http.MethodHead), upstreamtest.Status(http.StatusOK, ""))
		for _, n := range p.replicas {
			if got := get(t, n, "other", image.Digest.String()); !errors.Is(got.err, upstream.ErrNotFound) {
				t.Errorf("%+v", got)
			}
		}
	})
}
