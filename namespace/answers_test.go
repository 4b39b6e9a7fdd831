package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// shelf has the answers that replicas share: the last one to each question.
type shelf struct {
	mu      sync.Mutex
	answers map[string]shelved
	asked   []string
}

type shelved struct {
	body  []byte
	at    time.Time
	fresh time.Duration
}

func newShelf() *shelf { return &shelf{answers: map[string]shelved{}} }

func (s *shelf) Ask(_ context.Context, question string) (body []byte, age time.Duration, settle func([]byte, time.Duration)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, question)
	if a, ok := s.answers[question]; ok && time.Since(a.at) < a.fresh {
		return a.body, time.Since(a.at), nil
	}
	return nil, 0, func(body []byte, fresh time.Duration) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if body != nil {
			s.answers[question] = shelved{body, time.Now(), fresh}
		}
	}
}

func (s *shelf) Look(_ context.Context, question string) (body []byte, age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, question)
	if a, ok := s.answers[question]; ok && time.Since(a.at) < a.fresh {
		return a.body, time.Since(a.at)
	}
	return nil, 0
}

func (s *shelf) Tell(_ context.Context, question string, body []byte, fresh time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[question] = shelved{body, time.Now(), fresh}
}

// put makes another replica's answer to the last question of any kind.
func (s *shelf) put(body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[s.asked[len(s.asked)-1]] = shelved{[]byte(body), time.Now(), time.Hour}
}

// replicasOf returns mirrors with a shelf in common, each with a store of its own.
func replicasOf(t *testing.T, n int, s *shelf) []*mirror {
	var mirrors []*mirror
	for range n {
		store := storagetest.NewMemory(t)
		m := newMirrorWith(t, store, store, 4, nil, "", func(o *namespace.CacheOptions) { o.Answers = s })
		if len(mirrors) > 0 {
			m.network = mirrors[0].network
		}
		mirrors = append(mirrors, m)
	}
	return mirrors
}

// shelfBubble runs a test with two replicas of a block and their upstream.
func shelfBubble(t *testing.T, test func(t *testing.T, s *shelf, r *upstreamtest.Registry, one, two *namespace.Namespace), change ...func(*namespace.Spec)) {
	t.Helper()
	bubble(t, func(t *testing.T, _ *mirror) {
		s := newShelf()
		m := replicasOf(t, 2, s)
		r := m[0].registry("up.example")
		test(t, s, r, m[0].namespace("up.example", r, change...), m[1].namespace("up.example", r, change...))
	})
}

// A tag that one replica has checked costs the others no request while it is fresh, and no
// longer. A manifest that is not theirs yet is fetched by its digest: that proves their right.
func TestReplicasCheckTagOnce(t *testing.T) {
	shelfBubble(t, func(t *testing.T, _ *shelf, r *upstreamtest.Registry, one, two *namespace.Namespace) {
		image := r.AddImage("app", "v1", []byte("a layer"))
		wantManifest(t, get(t, one, "app", "v1"), namespace.Miss, image)
		wantRequests(t, r, manifestRequest("GET", "app", "v1", 200))
		wantManifest(t, head(t, two, "app", "v1"), namespace.Passed, image)
		wantRequests(t, r)
		wantManifest(t, get(t, two, "app", "v1"), namespace.Miss, image)
		wantRequests(t, r, manifestRequest("GET", "app", image.Digest, 200))
		time.Sleep(50 * time.Second)
		wantManifest(t, get(t, two, "app", "v1"), namespace.Hit, image)
		wantRequests(t, r)
		// The age of the answer counts, and not the time at which it was heard.
		time.Sleep(11 * time.Second)
		wantManifest(t, get(t, two, "app", "v1"), namespace.Revalidated, image)
		wantRequests(t, r, manifestRequest("HEAD", "app", "v1", 200))
		wantManifest(t, get(t, one, "app", "v1"), namespace.Revalidated, image)
		wantRequests(t, r)
		// A tag that moved is seen by the replica that asks, and then by all.
		moved := r.AddImage("app", "v1", []byte("another layer"))
		time.Sleep(61 * time.Second)
		wantManifest(t, get(t, one, "app", "v1"), namespace.Moved, moved)
		r.ResetRequests()
		wantManifest(t, get(t, two, "app", "v1"), namespace.Moved, moved)
		wantRequests(t, r, manifestRequest("GET", "app", moved.Digest, 200))
	}, tagTTL(time.Minute))
}

// A definite "not found" is shared for as long as it is remembered. Other failures are not.
func TestReplicasShareNotFound(t *testing.T) {
	shelfBubble(t, func(t *testing.T, _ *shelf, r *upstreamtest.Registry, one, two *namespace.Namespace) {
		for _, n := range []*namespace.Namespace{one, two} {
			got := get(t, n, "app", "missing")
			if !errors.Is(got.err, upstream.ErrNotFound) || !strings.Contains(got.err.Error(), "MANIFEST_UNKNOWN") {
				t.Errorf("%v", got.err)
			}
			time.Sleep(20 * time.Second)
		}
		wantRequests(t, r, manifestRequest("GET", "app", "missing", 404))
		time.Sleep(21 * time.Second) // a minute after the upstream's word
		get(t, two, "app", "missing")
		wantRequests(t, r, manifestRequest("GET", "app", "missing", 404))

		for name, effect := range map[string]upstreamtest.Effect{
			"a page": upstreamtest.Status(http.StatusNotFound, "<html>"), "denied": upstreamtest.Status(http.StatusForbidden, ""), "broken": upstreamtest.Status(http.StatusInternalServerError, ""),
		} {
			fault := r.Fault(upstreamtest.Path("other"), effect)
			get(t, one, "app", "other")
			r.ResetRequests()
			get(t, two, "app", "other")
			if len(r.Requests()) == 0 {
				t.Errorf("%s is shared", name)
			}
			fault.Remove()
			time.Sleep(time.Hour) // whatever cools down
			r.ResetRequests()
		}
	}, negativeTTL(time.Minute))
}

// A definite "not found" about a digest is shared too, of a manifest and of a blob each.
func TestReplicasShareMissingDigests(t *testing.T) {
	for name, tc := range map[string]struct {
		ask  func(t *testing.T, n *namespace.Namespace, dgst digest.Digest) error
		code string
	}{
		"a manifest": {func(t *testing.T, n *namespace.Namespace, dgst digest.Digest) error {
			return get(t, n, "app", dgst.String()).err
		}, "MANIFEST_UNKNOWN"},
		"the head of a manifest": {func(t *testing.T, n *namespace.Namespace, dgst digest.Digest) error {
			return head(t, n, "app", dgst.String()).err
		}, ""},
		"a blob": {func(t *testing.T, n *namespace.Namespace, dgst digest.Digest) error {
			_, err := n.Blob(t.Context(), "app", dgst, 0, -1)
			return err
		}, "BLOB_UNKNOWN"},
		"the head of a blob": {func(t *testing.T, n *namespace.Namespace, dgst digest.Digest) error {
			_, err := n.HeadBlob(t.Context(), "app", dgst)
			return err
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			shelfBubble(t, func(t *testing.T, _ *shelf, r *upstreamtest.Registry, one, two *namespace.Namespace) {
				missing := digest.FromString("missing")
				asked := func(n *namespace.Namespace) int {
					t.Helper()
					r.ResetRequests()
					if err := tc.ask(t, n, missing); !errors.Is(err, upstream.ErrNotFound) || !strings.Contains(err.Error(), tc.code) {
						t.Errorf("%v", err)
					}
					return len(r.Requests())
				}
				first := asked(one)
				time.Sleep(20 * time.Second)
				if again := asked(two); first == 0 || again != 0 {
					t.Errorf("the upstream was asked %d times, and %d times by the other replica", first, again)
				}
				// A minute after the upstream's word, and not after it was heard.
				time.Sleep(41 * time.Second)
				if again := asked(two); again == 0 {
					t.Errorf("the upstream was asked %d times a minute later", again)
				}
				// A refusal is no answer about another repository or another kind of content.
				for _, other := range []func() error{
					func() error { return get(t, two, "other", missing.String()).err },
					func() error { _, err := two.HeadBlob(t.Context(), "other", missing); return err },
				} {
					r.ResetRequests()
					if err := other(); err == nil || len(r.Requests()) == 0 {
						t.Errorf("%v after %q", err, r.Requests())
					}
				}
				// Other failures are not shared.
				for status, kind := range map[int]upstreamtest.Effect{403: upstreamtest.Status(403, ""), 500: upstreamtest.Status(500, ""), 404: upstreamtest.Status(404, "<html>")} {
					missing = digest.FromString(fmt.Sprint(status))
					fault := r.Fault(upstreamtest.Path(missing.Encoded()), kind)
					_ = tc.ask(t, one, missing)
					r.ResetRequests()
					_ = tc.ask(t, two, missing)
					if len(r.Requests()) == 0 {
						t.Errorf("%d is shared", status)
					}
					fault.Remove()
					time.Sleep(time.Hour) // whatever cools down
				}
			}, negativeTTL(time.Minute))
		})
	}
}

// What another replica was refused takes nothing away, and its bytes prove nothing: a repository
// with a right keeps its stored content.
func TestRefusalElsewhereRemovesNothing(t *testing.T) {
	shelfBubble(t, func(t *testing.T, _ *shelf, r *upstreamtest.Registry, one, two *namespace.Namespace) {
		layer := []byte("a layer")
		image := r.AddImage("app", "v1", layer)
		blob := func() *namespace.Blob {
			t.Helper()
			b, err := two.Blob(t.Context(), "app", digest.FromBytes(layer), 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, b.Content); err != nil {
				t.Error(err)
			}
			b.Content.Close()
			return b
		}
		blob()
		get(t, two, "app", image.Digest.String())
		synctest.Wait()
		r.Fault(upstreamtest.Any, upstreamtest.Status(404, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`))
		if _, err := one.HeadBlob(t.Context(), "app", digest.FromBytes(layer)); !errors.Is(err, upstream.ErrNotFound) {
			t.Errorf("%v", err)
		}
		get(t, one, "app", image.Digest.String())
		if b := blob(); b.Cache != namespace.Hit {
			t.Errorf("the blob: %v", b.Cache)
		}
		wantManifest(t, get(t, two, "app", image.Digest.String()), namespace.Hit, image)
	}, negativeTTL(time.Minute))
}

// A shared answer confirms no right: a link that is old is confirmed by its own HEAD.
func TestSharedAnswerConfirmsNoRight(t *testing.T) {
	shelfBubble(t, func(t *testing.T, _ *shelf, r *upstreamtest.Registry, one, two *namespace.Namespace) {
		image := r.AddImage("app", "v1", []byte("a layer"))
		for _, n := range []*namespace.Namespace{one, two} {
			get(t, n, "app", "v1")
		}
		time.Sleep(25 * time.Hour)
		get(t, one, "app", "v1")
		r.ResetRequests()
		wantManifest(t, get(t, two, "app", "v1"), namespace.Revalidated, image)
		wantRequests(t, r, manifestRequest("HEAD", "app", image.Digest, 200))
		time.Sleep(25 * time.Hour)
		get(t, one, "app", "v1")
		r.Fault(upstreamtest.Path(image.Digest.Encoded()), upstreamtest.Status(http.StatusForbidden, ""))
		if got := get(t, two, "app", "v1"); !errors.Is(got.err, upstream.ErrDenied) {
			t.Errorf("a right that was withdrawn: %+v", got)
		}
	}, tagTTL(time.Minute), rechecking)
}

// Answers of replicas are bounded and read with care. One that names no manifest counts as
// none, and one that names another manifest names nothing that the upstream does not have.
func TestOddAnswers(t *testing.T) {
	shelfBubble(t, func(t *testing.T, s *shelf, r *upstreamtest.Registry, one, _ *namespace.Namespace) {
		image := r.AddImage("app", "v1", []byte("a layer"))
		head(t, one, "app", "v1")
		const dgst = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		for name, body := range map[string]string{
			"no JSON": "v1", "null": "null", "empty": "{}", "a list": "[]",
			"no digest":     `{"digest":"v1","type":"application/vnd.oci.image.manifest.v1+json","size":10}`,
			"a weak digest": `{"digest":"md5:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","type":"application/vnd.oci.image.manifest.v1+json","size":10}`,
			"no size":       `{"digest":"` + dgst + `","type":"application/vnd.oci.image.manifest.v1+json"}`,
			"a huge size":   `{"digest":"` + dgst + `","type":"application/vnd.oci.image.manifest.v1+json","size":99999999999}`,
			"a page":        `{"digest":"` + dgst + `","type":"text/html","size":10}`,
			// The upstream does not know it, and its tag counts.
			"what is not there": `{"digest":"` + dgst + `","type":"application/vnd.oci.image.manifest.v1+json","size":10}`,
		} {
			s.put(body)
			if got := get(t, one, "app", "v1"); got.err != nil || got.desc.Digest != image.Digest {
				t.Errorf("%s: %+v", name, got)
			}
			time.Sleep(time.Hour)
		}
	})
}

// Answers are for one block, one name and one upstream, and for no client with rights of its
// own.
func TestQuestions(t *testing.T) {
	bubble(t, func(t *testing.T, _ *mirror) {
		s := newShelf()
		m := replicasOf(t, 1, s)[0]
		r, other := m.registry("up.example"), m.registry("other.example")
		r.AddImage("app", "v1", []byte("a layer"))
		other.AddImage("app", "v1", []byte("a layer"))
		r.AddImage("b/app", "v1", []byte("a layer"))
		for _, n := range []*namespace.Namespace{m.namespace("a", r), m.namespace("b", r), m.namespace("a", other)} {
			get(t, n, "app", "v1")
		}
		get(t, m.namespace("a", r), "b/app", "v1")
		get(t, m.namespace("a/b", r), "app", "v1")
		n := m.namespace("a", r)
		if _, err := n.Manifest(t.Context(), "app", reference(t, "v1").Accepting("application/vnd.example.manifest.v1+json")); err != nil {
			t.Error(err)
		}
		questions := map[string]bool{}
		for _, question := range s.asked {
			questions[question] = true
		}
		if len(questions) != 6 || len(s.asked) != 6 {
			t.Errorf("%d questions of %d are different: %q", len(questions), len(s.asked), s.asked)
		}
		s.asked = nil
		get(t, n, "app", r.AddImage("app", "v2", []byte("x")).Digest.String())
		// A request that has passed another mirror waits for no replica.
		leads := m.namespace("c", r, func(s *namespace.Spec) { s.MayLeadToMirror = func() bool { return true } })
		if _, err := leads.Manifest(via.With(t.Context(), []via.ID{"another"}), "app", reference(t, "v1")); err != nil {
			t.Error(err)
		}
		if len(s.asked) != 0 {
			t.Errorf("asked %q", s.asked)
		}
	})
}
