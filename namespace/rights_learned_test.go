package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// sentBy matches requests with the password of a user.
func sentBy(c upstream.Credential) upstreamtest.Match {
	return func(r *http.Request) bool {
		user, _, _ := r.BasicAuth()
		return user == c.Username
	}
}

// moreQuestions are other ways to ask for the same.
func moreQuestions(t *testing.T) []question {
	blob := func(start, end int64) func(context.Context, *namespace.Namespace, image) error {
		return func(ctx context.Context, n *namespace.Namespace, img image) error {
			b, err := n.Blob(ctx, "app", img.layers[0], start, end)
			if err == nil {
				b.Content.Close()
			}
			return err
		}
	}
	return append(questions(t), []question{
		{"HEAD of a manifest by digest", func(ctx context.Context, n *namespace.Namespace, img image) error {
			_, err := n.Head(ctx, "app", oci.ByDigest(img.manifest))
			return err
		}},
		{"a tag with other types", func(ctx context.Context, n *namespace.Namespace, _ image) error {
			m, err := n.Manifest(ctx, "app", reference(t, "v1").Accepting("application/vnd.oci.image.index.v1+json"))
			if err == nil {
				m.Content.Close()
			}
			return err
		}},
		{"the first bytes", blob(0, 4)},
		{"the last bytes", blob(4, -1)},
		{"referrers of a type", func(ctx context.Context, n *namespace.Namespace, img image) error {
			_, err := n.Referrers(ctx, "app", img.manifest, "application/spdx+json")
			return err
		}},
		{"tags after one", func(ctx context.Context, n *namespace.Namespace, _ image) error {
			_, err := n.Tags(ctx, "app", map[string][]string{"last": {"a"}, "n": {"1"}})
			return err
		}},
		{"a manifest as a blob", func(ctx context.Context, n *namespace.Namespace, img image) error {
			_, err := n.HeadBlob(ctx, "app", img.manifest)
			return err
		}},
	}...)
}

// A client without rights gets the same answers, and costs the upstream the same requests,
// whatever others have pulled, pull at the moment, or were refused.
func TestNothingIsLearnedFromOthers(t *testing.T) {
	const hidden = `{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}`
	ways := map[string]struct {
		options []upstreamtest.Option
		refuse  func(r *upstreamtest.Registry)
	}{
		"403":         {},
		"tokens":      {options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})}},
		"a 404":       {refuse: func(r *upstreamtest.Registry) { r.Fault(sentBy(bob), upstreamtest.Status(404, hidden)) }},
		"an HTML 404": {refuse: func(r *upstreamtest.Registry) { r.Fault(sentBy(bob), upstreamtest.Status(404, "<html>")) }},
		"limited":     {refuse: func(r *upstreamtest.Registry) { r.Fault(sentBy(bob), upstreamtest.Status(429, "")) }},
		"broken":      {refuse: func(r *upstreamtest.Registry) { r.Fault(sentBy(bob), upstreamtest.Status(500, "")) }},
		"away":        {refuse: func(r *upstreamtest.Registry) { r.Close() }},
	}
	worlds := map[string]func(t *testing.T, r *upstreamtest.Registry, n *namespace.Namespace, img image){
		"pulled by another": func(t *testing.T, _ *upstreamtest.Registry, n *namespace.Namespace, img image) {
			pullAll(t, n, img, alice)
			pullAll(t, n, img, alice)
		},
		"asked for by HEAD": func(t *testing.T, _ *upstreamtest.Registry, n *namespace.Namespace, img image) {
			for _, i := range []int{2, 4} {
				if err := questions(t)[i].ask(upstream.OnBehalf(t.Context(), alice), n, img); err != nil {
					t.Error(err)
				}
			}
		},
		"refused to another": func(t *testing.T, _ *upstreamtest.Registry, n *namespace.Namespace, img image) {
			for _, q := range moreQuestions(t) {
				_ = q.ask(upstream.OnBehalf(t.Context(), upstream.Credential{ID: "c", Username: "carol", Password: "x"}), n, img)
			}
		},
		"downloaded at the moment": func(t *testing.T, r *upstreamtest.Registry, n *namespace.Namespace, img image) {
			if r.Fault(upstreamtest.All(sentBy(alice), upstreamtest.Blobs), upstreamtest.StallAfter(3, upstreamtest.NewGate())); n != nil {
				ctx, cancel := context.WithCancel(upstream.OnBehalf(t.Context(), alice))
				t.Cleanup(cancel)
				go func() {
					if b, err := n.Blob(ctx, "app", img.layers[0], 0, -1); err == nil {
						<-ctx.Done()
						b.Content.Close()
					}
				}()
				synctest.Wait()
			}
		},
	}
	for way, w := range ways {
		for _, other := range []upstream.Credential{bob, guest} {
			if other == guest && w.refuse != nil {
				continue // the fault is one of bob's
			}
			answers := func(t *testing.T, before func(*testing.T, *upstreamtest.Registry, *namespace.Namespace, image)) (all []string) {
				bubble(t, func(t *testing.T, m *mirror) {
					r := m.registry("registry.test", append(w.options, upstreamtest.WithAccounts(account(alice, "app"), account(bob)))...)
					img := addImage(r, "a private layer")
					n := m.namespace("registry.test", r, onBehalf(time.Hour))
					if before != nil {
						before(t, r, n, img)
					}
					if w.refuse != nil {
						w.refuse(r)
					}
					for _, q := range append(moreQuestions(t), moreQuestions(t)...) {
						r.ResetRequests()
						err := q.ask(upstream.OnBehalf(t.Context(), other), n, img)
						// "Not found" may mean that there are no referrers.
						if err == nil && !(strings.Contains(way, "404") && strings.HasPrefix(q.name, "referrers")) {
							t.Errorf("%s, %s is answered", way, q.name)
						}
						all = append(all, fmt.Sprintf("%s: %v, by %q and %d for tokens", q.name, err, r.Requests(), len(r.TokenRequests())))
						time.Sleep(10 * time.Minute) // beyond each pause
					}
				})
				return all
			}
			want := answers(t, nil)
			for world, before := range worlds {
				t.Run(way+"/"+other.ID+"/"+world, func(t *testing.T) {
					for i, got := range answers(t, before) {
						if got != want[i] {
							t.Errorf("got  %s\nwant %s", got, want[i])
						}
					}
				})
			}
		}
	}
}

// Registries have rights of their own for each kind of content: a list or a blob opens no
// manifest, and a list no blob.
func TestProofsOpenTheirKind(t *testing.T) {
	manifests, blobs := "manifest by digest", "HEAD of a blob"
	for _, test := range []struct {
		name  string
		may   upstreamtest.Match // have bob
		first string
		want  map[string]bool
	}{
		{"a list", upstreamtest.Tags, "tags", map[string]bool{"tags": true, manifests: false, "tag": false, blobs: false, "blob": false}},
		{"a blob", upstreamtest.Blobs, blobs, map[string]bool{blobs: true, "blob": true, manifests: false, "tag": false, "tags": false}},
		{"a manifest", upstreamtest.Manifests, "tag", map[string]bool{"tag": true, manifests: true, blobs: true, "blob": true, "tags": false}},
	} {
		bubble(t, func(t *testing.T, m *mirror) {
			r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob, "app")))
			img := addImage(r, "a layer")
			n := m.namespace("registry.test", r, onBehalf(time.Hour))
			pullAll(t, n, img, alice)
			r.Fault(func(req *http.Request) bool { return sentBy(bob)(req) && !test.may(req) }, upstreamtest.Status(403, `{"errors":[{"code":"DENIED"}]}`))
			for _, q := range questions(t) {
				want, asked := test.want[q.name]
				if !asked {
					continue
				}
				ctx := upstream.OnBehalf(t.Context(), bob)
				if i := slices.IndexFunc(questions(t), func(q question) bool { return q.name == test.first }); questions(t)[i].ask(ctx, n, img) != nil {
					t.Errorf("%s is not given", test.first)
				}
				if err := q.ask(ctx, n, img); (err == nil) != want || err != nil && !errors.Is(err, upstream.ErrDenied) {
					t.Errorf("after %s: %s: %v", test.name, q.name, err)
				}
			}
		})
	}
}

// A blob is proven by a manifest that lists it, else by its HEAD, else by its first byte.
func TestProofOfABlob(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob, "app")))
		first := addImage(r, "a layer", "another layer")
		n := m.namespace("registry.test", r, onBehalf(0))
		ctx := upstream.OnBehalf(t.Context(), bob)
		pullAll(t, n, first, bob)
		head := func(dgst digest.Digest, want ...string) {
			t.Helper()
			r.ResetRequests()
			if _, err := n.HeadBlob(ctx, "app", dgst); err != nil {
				t.Error(err)
			}
			wantRequests(t, r, want...)
		}
		second := image{manifest: r.AddImage("app", "v2", []byte("a third layer")).Digest}
		if m, err := n.Manifest(ctx, "app", reference(t, "v2")); err != nil {
			t.Error(err)
		} else {
			m.Content.Close()
		}
		time.Sleep(time.Minute)
		// It is not the manifest that was read last.
		head(first.layers[0], manifestRequest("HEAD", "app", first.manifest, 200))
		other := r.AddBlob("app", []byte("of no manifest"))
		head(other, blobRequest("HEAD", "app", other, "200")) // the verdict is in force
		time.Sleep(time.Minute)
		head(other, blobRequest("HEAD", "app", other, "200"), blobRequest("HEAD", "app", other, "200"))
		// A manifest that is gone proves nothing, and the blob may be there.
		time.Sleep(time.Minute)
		r.Remove("app", second.manifest)
		third := digest.FromString("a third layer")
		head(third, manifestRequest("HEAD", "app", second.manifest, 404), manifestRequest("GET", "app", second.manifest, 404),
			blobRequest("HEAD", "app", third, "200"), blobRequest("HEAD", "app", third, "200"))
		// public.ecr.aws refuses to answer a HEAD of a blob.
		r.Fault(upstreamtest.All(upstreamtest.Method("HEAD"), upstreamtest.Blobs), upstreamtest.Status(405, ""))
		time.Sleep(time.Minute)
		head(other, blobRequest("HEAD", "app", other, "405"), blobRequest("GET", "app", other, "bytes=0-0 206"), blobRequest("GET", "app", other, "bytes=0-0 206"))
		// Without rights the first byte is refused, too.
		r.SetAccounts(account(alice, "app"), account(bob))
		time.Sleep(time.Minute)
		if _, err := n.HeadBlob(ctx, "app", other); !errors.Is(err, upstream.ErrDenied) {
			t.Error(err)
		}
	})
}

// Blobs of a manifest that is gone are proven one by one, also if they are asked for at once.
func TestProofsOfSeveralBlobs(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob, "app")))
		img := addImage(r, "a layer", "another layer", "a third layer", "a fourth layer")
		n := m.namespace("registry.test", r, onBehalf(0))
		pullAll(t, n, img, bob)
		r.Remove("app", img.manifest)
		r.Remove("app", img.layers[0])
		time.Sleep(time.Minute)
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.All(upstreamtest.Manifests, upstreamtest.Method("HEAD")), upstreamtest.Hold(gate))
		together(gate, len(img.layers), func(i int) {
			_, err := n.HeadBlob(upstream.OnBehalf(t.Context(), bob), "app", img.layers[i])
			if errors.Is(err, upstream.ErrNotFound) != (i == 0) || i > 0 && err != nil {
				t.Errorf("layer %d: %v", i, err)
			}
		})
	})
}

// A refused download ends the verdict, so that cached content is asked about again.
func TestRefusedDownloadEndsARight(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob, "app")))
		img := addImage(r, "a layer", "another layer")
		n := m.namespace("registry.test", r, onBehalf(time.Hour))
		pullAll(t, n, img, bob)
		r.SetAccounts(account(alice, "app"), account(bob))
		ctx := upstream.OnBehalf(t.Context(), bob)
		if _, err := n.Blob(ctx, "app", img.layers[1], 0, -1); !errors.Is(err, upstream.ErrDenied) {
			t.Errorf("a blob that is not cached: %v", err)
		}
		for _, q := range questions(t) {
			if err := q.ask(ctx, n, img); !errors.Is(err, upstream.ErrDenied) {
				t.Errorf("%s: %v", q.name, err)
			}
		}
	})
}

// A reload may lead a block to another place. What it had from the first one, and the
// verdicts there, are nothing there.
func TestRightsAtAnotherPlace(t *testing.T) {
	place := upstream.Place{Registry: "https://registry.test/v2/ auth.test", Path: "team"}
	for name, next := range map[string]upstream.Place{
		"another path":          {Registry: place.Registry, Path: "other"},
		"another registry":      {Registry: "https://other.test/v2/ auth.test", Path: place.Path},
		"another scheme":        {Registry: "http://registry.test/v2/ auth.test", Path: place.Path},
		"another token service": {Registry: "https://registry.test/v2/ ", Path: place.Path},
	} {
		bubble(t, func(t *testing.T, m *mirror) {
			first := m.registry("registry.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob, "app")))
			img := addImage(first, "a layer")
			at := func(p upstream.Place) func(*namespace.Spec) {
				return func(s *namespace.Spec) { onBehalf(time.Hour)(s); s.Place = p }
			}
			n := m.namespace("registry.test", first, at(place))
			pullAll(t, n, img, alice)
			pullAll(t, n, img, bob)
			// The same place after a reload: all is as before.
			n = m.namespace("registry.test", first, at(place))
			first.ResetRequests()
			if err := questions(t)[0].ask(upstream.OnBehalf(t.Context(), bob), n, img); err != nil {
				t.Error(err)
			}
			wantRequests(t, first)

			second := m.registry("other.test", upstreamtest.WithAccounts(account(alice, "app"), account(bob)))
			n = m.namespace("registry.test", second, at(next))
			for _, q := range questions(t) {
				if err := q.ask(upstream.OnBehalf(t.Context(), bob), n, img); !errors.Is(err, upstream.ErrDenied) {
					t.Errorf("%s, %s: %v", name, q.name, err)
				}
			}
			// The registry has other content, and a client with rights gets that.
			for _, q := range questions(t)[:5] {
				if err := q.ask(upstream.OnBehalf(t.Context(), alice), n, img); !errors.Is(err, upstream.ErrNotFound) {
					t.Errorf("%s, %s: %v", name, q.name, err)
				}
			}
		})
	}
}
