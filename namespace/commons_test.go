package namespace_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/storage/tier"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// pail is a bucket that replicas share.
type pail struct {
	storage.Records // those of the bucket

	mu       sync.Mutex
	contents map[digest.Digest][]byte
	isPaused bool
	hangs    bool // no upload ends
	reads    int  // of links
}

func newPail(t *testing.T) *pail {
	return &pail{Records: storagetest.NewMemory(t).Records(), contents: map[digest.Digest][]byte{}}
}

func (p *pail) set(change func(*pail)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *pail) Lacks(_ context.Context, info storage.Info) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.contents[info.Digest] == nil, nil
}

func (p *pail) Upload(ctx context.Context, info storage.Info, content io.ReaderAt) error {
	p.mu.Lock()
	hangs := p.hangs
	p.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(100 * time.Millisecond)
	body, err := io.ReadAll(io.NewSectionReader(content, 0, info.Size))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.contents[info.Digest] = body
	return err
}

func (p *pail) Put(ctx context.Context, key string, document []byte) error {
	time.Sleep(100 * time.Millisecond)
	return p.Records.Put(ctx, key, document)
}

func (p *pail) Get(ctx context.Context, key string) ([]byte, error) {
	if strings.Contains(key, "sha256") {
		p.set(func(p *pail) { p.reads++ })
	}
	return p.Records.Get(ctx, key)
}

func (p *pail) PutNew(ctx context.Context, key string, document []byte) error {
	return p.Records.Put(ctx, key, document)
}

func (p *pail) RecordKeys(ctx context.Context) iter.Seq2[string, error] { return p.List(ctx, "") }

func (p *pail) Paused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isPaused
}

// Open is that of an origin.
func (p *pail) Open(_ context.Context, want download.Want) (*download.Stream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	body := p.contents[want.Digest]
	if body == nil || p.isPaused {
		return nil, storage.ErrNotExist
	}
	return &download.Stream{ReadCloser: io.NopCloser(bytes.NewReader(body[want.Offset:])), Size: int64(len(body)), Origin: "bucket.example"}, nil
}

// pailCommons is the part of one replica.
type pailCommons struct {
	*pail
	uploads *tier.Uploader
	records *tier.Records
}

const recordsTTL = 10 * time.Second

func (c pailCommons) Await(ctx context.Context, repo storage.RepoID, dgst digest.Digest) error {
	key, err := catalog.LinkKey(repo, dgst)
	if err == nil {
		c.uploads.Hasten(dgst)
		err = c.uploads.Await(ctx, dgst)
	}
	if err == nil {
		err = c.records.Await(ctx, key)
	}
	return err
}

func (c pailCommons) Reread(repo storage.RepoID, dgst digest.Digest) {
	if key, err := catalog.LinkKey(repo, dgst); err == nil {
		c.records.Reread(key)
	}
}

func (pailCommons) Links() bool { return true }

func (pailCommons) Lasting() time.Duration { return recordsTTL }

// queue is a shelf on which one replica asks at a time. The others wait for its answer.
type queue struct {
	*shelf
	asking map[string]chan []byte
}

func (q *queue) Ask(ctx context.Context, question string) (body []byte, age time.Duration, settle func([]byte, time.Duration)) {
	body, age, put := q.shelf.Ask(ctx, question)
	if body != nil {
		return body, age, put
	}
	q.mu.Lock()
	asked := q.asking[question]
	if asked == nil {
		asked = make(chan []byte)
		q.asking[question] = asked
		q.mu.Unlock()
		return nil, 0, func(body []byte, fresh time.Duration) {
			put(body, fresh)
			q.mu.Lock()
			delete(q.asking, question)
			q.mu.Unlock()
			for {
				select {
				case asked <- body:
				case <-time.After(time.Millisecond):
					close(asked)
					return
				}
			}
		}
	}
	q.mu.Unlock()
	return <-asked, 0, put
}

// pailed is three replicas of a block on one bucket, and their upstream.
type pailed struct {
	pail     *pail
	queue    *queue
	registry *upstreamtest.Registry
	replicas []*namespace.Namespace
}

// pailBubble runs a test with replicas on one bucket.
func pailBubble(t *testing.T, test func(t *testing.T, p *pailed), change ...func(*namespace.Spec)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pailed{pail: newPail(t), queue: &queue{newShelf(), map[string]chan []byte{}}}
		network := upstreamtest.NewNetwork()
		logger := slog.New(slog.DiscardHandler)
		for range 3 {
			memory := storagetest.NewMemory(t)
			uploads := tier.NewUploader(tier.UploaderOptions{Near: memory, Far: p.pail, Logger: logger})
			records := tier.NewRecords(tier.RecordsOptions{
				Near: memory.Records(), Far: p.pail, Paused: p.pail.Paused, Shares: catalog.Owns, TTL: recordsTTL, Logger: logger,
			})
			t.Cleanup(uploads.Close)
			t.Cleanup(records.Close)
			m := newMirrorWith(t, memory, tier.NewStore(memory, uploads), 4, nil, "", func(o *namespace.CacheOptions) {
				o.Answers, o.Commons = p.queue, pailCommons{p.pail, uploads, records}
				o.Catalog = catalog.New(records, catalog.Options{Shared: true, Logger: logger})
				o.Origins = []download.Origin{p.pail}
			})
			m.network = network
			if p.registry == nil {
				p.registry = m.registry("up.example")
			}
			p.replicas = append(p.replicas, m.namespace("up.example", p.registry, change...))
		}
		synctest.Wait() // the records are compared
		test(t, p)
		p.pail.set(func(p *pail) { p.hangs = false })
		time.Sleep(time.Second) // for the records that are being shared
	})
}

// all asks all replicas at once.
func (p *pailed) all(ask func(n *namespace.Namespace)) {
	var asking sync.WaitGroup
	for _, n := range p.replicas {
		asking.Go(func() { ask(n) })
	}
	asking.Wait()
}

// gets has all replicas get a manifest, and fails the test unless each gets the right one.
func (p *pailed) gets(t *testing.T, ref string, dgst digest.Digest) {
	t.Helper()
	p.all(func(n *namespace.Namespace) {
		if got := get(t, n, "app", ref); got.err != nil || got.desc.Digest != dgst || digest.FromString(got.Body) != dgst {
			t.Errorf("%s: %v, %s", ref, got.err, got.desc.Digest)
		}
	})
}

// Replicas that share a bucket fetch a manifest once, however their clients ask for it.
func TestReplicasFetchManifestOnce(t *testing.T) {
	const accepted = "application/vnd.example.manifest.v1+json"
	for name, tc := range map[string]struct {
		pull func(t *testing.T, p *pailed) (digest.Digest, []string)
	}{
		"by digest": {func(t *testing.T, p *pailed) (digest.Digest, []string) {
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			p.gets(t, image.Digest.String(), image.Digest)
			return image.Digest, []string{manifestRequest("GET", "app", image.Digest, 200)}
		}},
		"by digest, one after the other": {func(t *testing.T, p *pailed) (digest.Digest, []string) {
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			for _, n := range p.replicas {
				if got := get(t, n, "app", image.Digest.String()); got.err != nil {
					t.Error(got.err)
				}
			}
			return image.Digest, []string{manifestRequest("GET", "app", image.Digest, 200)}
		}},
		"by tag": {func(t *testing.T, p *pailed) (digest.Digest, []string) {
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			p.gets(t, "v1", image.Digest)
			return image.Digest, []string{manifestRequest("GET", "app", "v1", 200)}
		}},
		"by a tag, and then by its digest": {func(t *testing.T, p *pailed) (digest.Digest, []string) {
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			p.all(func(n *namespace.Namespace) { head(t, n, "app", "v1") })
			p.gets(t, image.Digest.String(), image.Digest)
			return image.Digest, []string{manifestRequest("HEAD", "app", "v1", 200), manifestRequest("GET", "app", image.Digest, 200)}
		}},
		"by a tag that moves": {func(t *testing.T, p *pailed) (digest.Digest, []string) {
			p.gets(t, "v1", p.registry.AddImage("app", "v1", []byte("an older layer")).Digest)
			time.Sleep(2 * time.Minute)
			p.registry.ResetRequests()
			image := p.registry.AddImage("app", "v1", []byte("a layer"))
			p.gets(t, "v1", image.Digest)
			return image.Digest, []string{manifestRequest("HEAD", "app", "v1", 200), manifestRequest("GET", "app", image.Digest, 200)}
		}},
		"an absence is remembered": {func(t *testing.T, p *pailed) (digest.Digest, []string) {
			image := p.registry.AddImage("other", "v1", []byte("a layer"))
			p.all(func(n *namespace.Namespace) {
				if got := get(t, n, "app", image.Digest.String()); !errors.Is(got.err, upstream.ErrNotFound) {
					t.Errorf("%+v", got)
				}
			})
			p.registry.ResetRequests()
			p.registry.AddImage("app", "v1", []byte("a layer"))
			time.Sleep(2 * time.Second) // the "not found" is forgotten
			p.gets(t, image.Digest.String(), image.Digest)
			return image.Digest, []string{manifestRequest("GET", "app", image.Digest, 200)}
		}},
		"a kind of manifest that is not known": {func(t *testing.T, p *pailed) (digest.Digest, []string) {
			other := p.registry.AddManifest("app", "v1", accepted, []byte(`{"schemaVersion":2,"mediaType":"`+accepted+`"}`))
			p.all(func(n *namespace.Namespace) {
				m, err := n.Manifest(t.Context(), "app", reference(t, other.Digest.String()).Accepting(accepted))
				if got := read(t)(m, err); got.err != nil {
					t.Error(got.err)
				}
			})
			return other.Digest, []string{manifestRequest("GET", "app", other.Digest, 200)}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			pailBubble(t, func(t *testing.T, p *pailed) {
				dgst, want := tc.pull(t, p)
				wantRequests(t, p.registry, want...)
				// Later each replica answers by itself.
				time.Sleep(30 * time.Second)
				p.gets(t, dgst.String(), dgst)
				wantRequests(t, p.registry)
			}, tagTTL(time.Minute), negativeTTL(time.Second))
		})
	}
}

// A manifest that is missing costs one request too.
func TestReplicasMissManifestOnce(t *testing.T) {
	pailBubble(t, func(t *testing.T, p *pailed) {
		missing := digest.FromString("missing")
		for range 2 {
			p.all(func(n *namespace.Namespace) {
				if got := get(t, n, "app", missing.String()); !errors.Is(got.err, upstream.ErrNotFound) {
					t.Errorf("%+v", got)
				}
			})
			wantRequests(t, p.registry, manifestRequest("GET", "app", missing, 404))
			time.Sleep(61 * time.Second)
		}
	}, negativeTTL(time.Minute))
}

// A bucket that is away or slow delays no client of the replica that fetches, and others by three
// seconds once a minute.
func TestManifestWithoutBucket(t *testing.T) {
	for name, tc := range map[string]struct {
		trouble func(*pail)
		waits   time.Duration
	}{
		"it is away": {func(p *pail) { p.isPaused = true }, 0},
		"it hangs":   {func(p *pail) { p.hangs = true }, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			pailBubble(t, func(t *testing.T, p *pailed) {
				p.pail.set(tc.trouble)
				for n, waits := range []time.Duration{tc.waits, 0, 0, tc.waits} {
					image := p.registry.AddImage("app", "v1", []byte(fmt.Sprint("layer ", n)))
					begun, soon := time.Now(), 0
					var mu sync.Mutex
					p.all(func(n *namespace.Namespace) {
						if got := get(t, n, "app", image.Digest.String()); got.err != nil {
							t.Error(got.err)
						}
						mu.Lock()
						defer mu.Unlock()
						if time.Since(begun) < 100*time.Millisecond {
							soon++
						}
					})
					took := time.Since(begun)
					if took < waits || took > waits+100*time.Millisecond || soon == 0 {
						t.Errorf("manifest %d: %s, and %d replicas answered at once", n, took, soon)
					}
					get := manifestRequest("GET", "app", image.Digest, 200)
					wantRequests(t, p.registry, get, get, get)
					if n == 2 {
						time.Sleep(2 * time.Minute)
					}
				}
			})
		})
	}
}

// A manifest in the bucket that another repository brought is no other one's, whatever an answer
// says. Each repository needs a link.
func TestSharedManifestNeedsLink(t *testing.T) {
	pailBubble(t, func(t *testing.T, p *pailed) {
		image := p.registry.AddImage("app", "v1", []byte("a layer"))
		p.gets(t, image.Digest.String(), image.Digest)
		_ = get(t, p.replicas[0], "other", image.Digest.String()) // which makes the question known
		p.queue.put(fmt.Sprintf("{%q:%q}", "digest", image.Digest))
		p.registry.ResetRequests()
		for _, n := range p.replicas[1:] {
			if got := get(t, n, "other", image.Digest.String()); !errors.Is(got.err, upstream.ErrNotFound) {
				t.Errorf("another repository gets %+v", got)
			}
		}
		missing := manifestRequest("GET", "other", image.Digest, 404)
		wantRequests(t, p.registry, missing, missing)
		// An answer that says something else counts as none.
		for _, body := range []string{"{}", "null", "[]", "x", `{"digest":"sha256:0"}`, `{"digest":"` + digest.FromString("x").String() + `"}`} {
			another := p.registry.AddImage("app", "v2", []byte(body))
			p.queue.asked = append(p.queue.asked, strings.Replace(p.queue.asked[0], image.Digest.String(), another.Digest.String(), 1))
			p.queue.put(body)
			if got := get(t, p.replicas[0], "app", another.Digest.String()); got.err != nil {
				t.Errorf("%s: %v", body, got.err)
			}
		}
	})
}

// A client that asks again and again for a tag's digest alone, and never for the manifest, costs the
// bucket no read each time.
func TestLinkIsNotReadForEachAnswer(t *testing.T) {
	pailBubble(t, func(t *testing.T, p *pailed) {
		p.registry.AddImage("app", "v1", []byte("a layer"))
		head(t, p.replicas[0], "app", "v1")
		time.Sleep(recordsTTL)
		p.pail.set(func(p *pail) { p.reads = 0 })
		for range 10 {
			head(t, p.replicas[1], "app", "v1")
		}
		if p.pail.reads != 1 {
			t.Errorf("the link was read %d times", p.pail.reads)
		}
		wantRequests(t, p.registry, manifestRequest("HEAD", "app", "v1", 200))
	}, tagTTL(time.Minute))
}

// Replicas do not wait for each other where clients have rights of their own, nor for a request
// that may be in a loop.
func TestManifestsThatAreNotShared(t *testing.T) {
	leads := func(s *namespace.Spec) { s.MayLeadToMirror = func() bool { return true } }
	for name, tc := range map[string]struct {
		change func(*namespace.Spec)
		with   func(context.Context) context.Context
	}{
		"rights of clients":   {func(s *namespace.Spec) { s.OnBehalf = true }, func(ctx context.Context) context.Context { return ctx }},
		"it may be in a loop": {leads, func(ctx context.Context) context.Context { return via.With(ctx, []via.ID{"another"}) }},
	} {
		t.Run(name, func(t *testing.T) {
			pailBubble(t, func(t *testing.T, p *pailed) {
				image := p.registry.AddImage("app", "v1", []byte("a layer"))
				for _, ref := range []string{"v1", image.Digest.String()} {
					p.all(func(n *namespace.Namespace) {
						m, err := n.Manifest(tc.with(t.Context()), "app", reference(t, ref))
						if got := read(t)(m, err); got.err != nil {
							t.Error(got.err)
						}
					})
				}
				if len(p.queue.asked) != 0 {
					t.Errorf("asked %q", p.queue.asked)
				}
				if got := p.registry.Requests(); !slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, http.MethodGet) }) || len(got) < 3 {
					t.Errorf("the upstream got %q", got)
				}
			}, tc.change)
		})
	}
}
