package namespace_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

var (
	alice = upstream.Credential{ID: "a", Username: "alice", Password: "secret of alice"}
	bob   = upstream.Credential{ID: "b", Username: "bob", Password: "secret of bob"}
	guest = upstream.Credential{ID: "anonymous"}
)

func account(c upstream.Credential, repositories ...string) upstreamtest.Account {
	return upstreamtest.Account{Username: c.Username, Password: c.Password, Repositories: repositories}
}

// onBehalf lets the rights of clients decide, for a minute.
func onBehalf(grace time.Duration) func(*namespace.Spec) {
	return func(s *namespace.Spec) {
		s.OnBehalf, s.AuthCheckTTL, s.AuthStaleGrace = true, time.Minute, grace
		s.NegativeTTL = time.Hour
		s.TagTTL = time.Hour
		s.ServeStaleOn = []upstream.Class{upstream.ClassUnavailable, upstream.ClassRateLimited, upstream.ClassDenied, upstream.ClassNotFound}
	}
}

// image is the content of the tag v1 of the repository app.
type image struct {
	manifest digest.Digest
	layers   []digest.Digest
}

func addImage(r *upstreamtest.Registry, layers ...string) image {
	var img image
	var contents [][]byte
	for _, layer := range layers {
		img.layers = append(img.layers, digest.FromString(layer))
		contents = append(contents, []byte(layer))
	}
	img.manifest = r.AddImage("app", "v1", contents...).Digest
	return img
}

// question is one thing that a client asks for. It returns the error.
type question struct {
	name string
	ask  func(ctx context.Context, n *namespace.Namespace, img image) error
}

func questions(t *testing.T) []question {
	manifest := func(ctx context.Context, n *namespace.Namespace, ref oci.Reference) error {
		m, err := n.Manifest(ctx, "app", ref)
		if err == nil {
			m.Content.Close()
		}
		return err
	}
	return []question{
		{"tag", func(ctx context.Context, n *namespace.Namespace, img image) error {
			return manifest(ctx, n, reference(t, "v1"))
		}},
		{"manifest by digest", func(ctx context.Context, n *namespace.Namespace, img image) error {
			return manifest(ctx, n, oci.ByDigest(img.manifest))
		}},
		{"HEAD of a tag", func(ctx context.Context, n *namespace.Namespace, img image) error {
			_, err := n.Head(ctx, "app", reference(t, "v1"))
			return err
		}},
		{"blob", func(ctx context.Context, n *namespace.Namespace, img image) error {
			b, err := n.Blob(ctx, "app", img.layers[0], 0, -1)
			if err == nil {
				b.Content.Close()
			}
			return err
		}},
		{"HEAD of a blob", func(ctx context.Context, n *namespace.Namespace, img image) error {
			_, err := n.HeadBlob(ctx, "app", img.layers[0])
			return err
		}},
		{"tags", func(ctx context.Context, n *namespace.Namespace, img image) error {
			_, err := n.Tags(ctx, "app", nil)
			return err
		}},
		{"referrers", func(ctx context.Context, n *namespace.Namespace, img image) error {
			_, err := n.Referrers(ctx, "app", img.manifest, "")
			return err
		}},
	}
}

// pullAll pulls everything with a credential, so that it is cached.
func pullAll(t *testing.T, n *namespace.Namespace, img image, c upstream.Credential) {
	t.Helper()
	for _, q := range questions(t) {
		if err := q.ask(upstream.OnBehalf(t.Context(), c), n, img); err != nil {
			t.Errorf("%s with rights: %v", q.name, err)
		}
		synctest.Wait()
	}
}

// Content that one client brought answers another one only if that one's own rights open
// it, whatever the kind of the question, of the challenge and of the refusal.
func TestRightsOfEachClient(t *testing.T) {
	challenges := map[string]upstreamtest.Option{
		"Basic":  nil,
		"Bearer": upstreamtest.WithBearer(upstreamtest.Bearer{}),
	}
	for name, challenge := range challenges {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				options := []upstreamtest.Option{upstreamtest.WithAccounts(account(alice, "app"), account(bob))}
				if challenge != nil {
					options = append(options, challenge)
				}
				r := m.registry("registry.test", options...)
				img := addImage(r, "a private layer")
				n := m.namespace("registry.test", r, onBehalf(time.Hour))
				pullAll(t, n, img, alice)
				for _, other := range []upstream.Credential{bob, guest, {ID: "wrong", Username: "alice", Password: "guessed"}, {ID: "token", Token: "forged"}} {
					for _, q := range questions(t) {
						err := q.ask(upstream.OnBehalf(t.Context(), other), n, img)
						if !errors.Is(err, upstream.ErrDenied) {
							t.Errorf("%s of %s: %v, want a refusal", q.name, other.ID, err)
						}
					}
				}
				r.ResetRequests()
				pullAll(t, n, img, alice) // the refusals of others change nothing
			})
		})
	}
}

// A whole pull of cached content costs one HEAD.
func TestVerdictOfAPull(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob, "app")))
		img := addImage(r, "a layer", "another layer")
		n := m.namespace("registry.test", r, onBehalf(0))
		pullAll(t, n, img, alice)
		pull := func(c upstream.Credential) {
			t.Helper()
			ctx := upstream.OnBehalf(t.Context(), c)
			for _, q := range questions(t)[:2] {
				if err := q.ask(ctx, n, img); err != nil {
					t.Errorf("%s: %v", q.name, err)
				}
			}
			for _, layer := range img.layers {
				b, err := n.Blob(ctx, "app", layer, 0, -1)
				if err != nil {
					t.Error(err)
					continue
				}
				b.Content.Close()
			}
		}
		pull(alice) // the other layers
		r.ResetRequests()
		pull(bob)
		// The challenge, and its answer.
		wantRequests(t, r, manifestRequest("HEAD", "app", "v1", 401), manifestRequest("HEAD", "app", "v1", 200))
		pull(bob)
		wantRequests(t, r)
		time.Sleep(time.Minute)
		pull(bob)
		wantRequests(t, r, manifestRequest("HEAD", "app", "v1", 200))
		// A long pull ends with a layer. The manifest that lists it answers for it.
		time.Sleep(time.Minute)
		b, err := n.Blob(upstream.OnBehalf(t.Context(), bob), "app", img.layers[0], 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b.Content.Close()
		wantRequests(t, r, manifestRequest("HEAD", "app", img.manifest, 200))
	})
}

// A right that was withdrawn ends with the verdict, for that client alone.
func TestWithdrawnRightOfAClient(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob, "app")))
		img := addImage(r, "a layer")
		n := m.namespace("registry.test", r, onBehalf(time.Hour))
		pullAll(t, n, img, alice)
		pullAll(t, n, img, bob)
		r.SetAccounts(account(alice, "app"), account(bob))
		time.Sleep(time.Minute)
		for _, q := range questions(t) {
			if err := q.ask(upstream.OnBehalf(t.Context(), bob), n, img); !errors.Is(err, upstream.ErrDenied) {
				t.Errorf("%s after the withdrawal: %v", q.name, err)
			}
		}
		pullAll(t, n, img, alice)
	})
}

// While the upstream is away, a verdict counts for its grace, and never without one.
func TestRightsWhileTheUpstreamIsAway(t *testing.T) {
	for _, test := range []struct {
		grace, passed time.Duration
		served        bool
	}{
		{0, 30 * time.Second, true},
		{0, time.Minute, false},
		{time.Hour, time.Hour, true},
		{time.Hour, time.Hour + time.Minute, false},
	} {
		bubble(t, func(t *testing.T, m *mirror) {
			r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob, "app")))
			img := addImage(r, "a layer")
			n := m.namespace("registry.test", r, onBehalf(test.grace))
			pullAll(t, n, img, alice)
			pullAll(t, n, img, alice) // so that all verdicts are of this moment
			r.Close()
			time.Sleep(test.passed)
			for _, q := range questions(t) {
				err := q.ask(upstream.OnBehalf(t.Context(), alice), n, img)
				if test.served != (err == nil) {
					t.Errorf("grace %v, after %v: %s: %v", test.grace, test.passed, q.name, err)
				}
				if err := q.ask(upstream.OnBehalf(t.Context(), bob), n, img); !errors.Is(err, upstream.ErrUnavailable) {
					t.Errorf("%s of another client: %v", q.name, err)
				}
			}
		})
	}
}

// A limit of requests is no upstream that is away. A client could reach it on purpose, and keep a
// right that has been withdrawn.
func TestLimitsKeepNoRights(t *testing.T) {
	for name, test := range map[string]struct {
		limit func(*testing.T, *upstreamtest.Registry, *namespace.Namespace)
		want  func(error) bool
	}{
		"of the upstream": {func(_ *testing.T, r *upstreamtest.Registry, _ *namespace.Namespace) {
			r.Fault(upstreamtest.Any, upstreamtest.Status(http.StatusTooManyRequests, ""), upstreamtest.Header("Retry-After", "600"))
		}, func(err error) bool { return errors.Is(err, upstream.ErrRateLimited) }},
		"of the mirror": {func(t *testing.T, _ *upstreamtest.Registry, n *namespace.Namespace) {
			ctx, leave := context.WithTimeout(t.Context(), 5*time.Minute)
			t.Cleanup(leave)
			occupy(ctx, n, lookupPlaces+10)
		}, isBusy},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app")))
				img := addImage(r, "a layer")
				h := &hanging{open: make(chan struct{})}
				n := m.namespace("registry.test", r, onBehalf(time.Hour), func(s *namespace.Spec) { h.Registry, s.Upstreams = s.Upstreams, h })
				pullAll(t, n, img, alice)
				time.Sleep(10 * time.Minute)
				test.limit(t, r, n)
				for _, q := range questions(t) {
					if err := q.ask(upstream.OnBehalf(t.Context(), alice), n, img); !test.want(err) {
						t.Errorf("%s: %v", q.name, err)
					}
				}
			})
		})
	}
}

// A registry may hide content by "not found". That is remembered for one client.
func TestHiddenFromOneClient(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob, "app")))
		img := addImage(r, "a layer")
		n := m.namespace("registry.test", r, onBehalf(0))
		hidden := r.Fault(upstreamtest.Any, upstreamtest.Status(404, `{"errors":[{"code":"NAME_UNKNOWN"}]}`))
		for _, q := range questions(t)[:5] {
			if err := q.ask(upstream.OnBehalf(t.Context(), bob), n, img); !errors.Is(err, upstream.ErrNotFound) {
				t.Errorf("%s that is hidden: %v", q.name, err)
			}
		}
		hidden.Remove()
		pullAll(t, n, img, alice)
		// The tag that bob did not find is still known.
		hidden = r.Fault(upstreamtest.Any, upstreamtest.Status(404, `{"errors":[{"code":"NAME_UNKNOWN"}]}`))
		time.Sleep(time.Minute)
		if err := questions(t)[0].ask(upstream.OnBehalf(t.Context(), bob), n, img); !errors.Is(err, upstream.ErrNotFound) {
			t.Error(err)
		}
		hidden.Remove()
		r.ResetRequests()
		if err := questions(t)[0].ask(upstream.OnBehalf(t.Context(), alice), n, img); err != nil {
			t.Error(err)
		}
		wantRequests(t, r, manifestRequest("HEAD", "app", "v1", 200))
	})
}

// Clients with different credentials share no lookup, so that the refusal of one is not
// the other's.
func TestLookupsOfEachClient(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob)))
		img := addImage(r, "a layer")
		n := m.namespace("registry.test", r, onBehalf(0))
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Any, upstreamtest.Hold(gate))
		together(gate, 8, func(i int) {
			q, c := questions(t)[i%4], alice
			if i >= 4 {
				c = bob
			}
			err := q.ask(upstream.OnBehalf(t.Context(), c), n, img)
			if (err == nil) != (i < 4) {
				t.Errorf("%s of %s: %v", q.name, c.Username, err)
			}
		})
	})
}

// sealed is a credential that counts how often it is opened.
type sealed struct {
	upstream.Credential
	opened *int
}

func (s sealed) Reveal() upstream.Credential {
	*s.opened++
	return s.Credential
}

// A credential is opened for requests upstream only, and not for content that the cache answers.
func TestCredentialsOpenForTheUpstreamAlone(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app")))
		img := addImage(r, "a layer")
		n := m.namespace("registry.test", r, onBehalf(0))
		opened := 0
		ctx := upstream.OnBehalf(t.Context(), sealed{alice, &opened})
		for range 2 {
			for _, q := range questions(t)[:5] { // lists are asked for each time
				if err := q.ask(ctx, n, img); err != nil {
					t.Errorf("%s: %v", q.name, err)
				}
				synctest.Wait()
			}
			if r.ResetRequests(); opened == 0 {
				t.Error("the upstream got no credential")
			}
			opened = 0
			for _, q := range questions(t)[:5] {
				if err := q.ask(ctx, n, img); err != nil {
					t.Errorf("%s from the cache: %v", q.name, err)
				}
				synctest.Wait()
			}
			if got := r.Requests(); opened != 0 || len(got) > 0 {
				t.Errorf("the credential was opened %d times, and the upstream got %q", opened, got)
			}
			time.Sleep(time.Minute) // the verdict ends
		}
	})
}
