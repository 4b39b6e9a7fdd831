package namespace_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// random returns a reproducible blob.
func random(t *testing.T, size int64) []byte {
	t.Helper()
	content, err := io.ReadAll(upstreamtest.RandomBlob(size, 7))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// wantSampled is wantRequests in which PART stands for a range at random.
func wantSampled(t *testing.T, r *upstreamtest.Registry, want ...string) {
	t.Helper()
	got := r.Requests()
	r.ResetRequests()
	part := regexp.MustCompile(`bytes=\d+-\d+`)
	for i := range min(len(got), len(want)) {
		if regexp.MustCompile(" PART ").MatchString(want[i]) {
			got[i] = part.ReplaceAllString(got[i], "PART")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests to %s: %s", r.Host, diff)
	}
}

// TestProofOfPossession has the upstream of one block claim content of another block.
func TestProofOfPossession(t *testing.T) {
	const small, large = 1000, 300_000
	get := upstreamtest.All(upstreamtest.Blobs, upstreamtest.Method(http.MethodGet))
	claim := upstreamtest.All(upstreamtest.Blobs, upstreamtest.Method(http.MethodHead))
	as := func(change func([]byte) []byte) func(*upstreamtest.Registry, digest.Digest, []byte) {
		return func(r *upstreamtest.Registry, dgst digest.Digest, content []byte) {
			r.AddBlobAs("app", dgst, change(bytes.Clone(content)))
		}
	}
	honest := as(func(c []byte) []byte { return c })
	faulty := func(effects ...upstreamtest.Effect) func(*upstreamtest.Registry, digest.Digest, []byte) {
		return func(r *upstreamtest.Registry, dgst digest.Digest, content []byte) {
			r.Fault(get, effects...)
			honest(r, dgst, content)
		}
	}
	for _, tc := range []struct {
		name    string
		size    int64
		set     func(*upstreamtest.Registry, digest.Digest, []byte)
		failure error // nil: served
		cache   namespace.CacheStatus
	}{
		{"has it, small", small, honest, nil, namespace.Revalidated},
		{"has it, large", large, honest, nil, namespace.Revalidated},
		{"has the empty blob", 0, honest, nil, namespace.Revalidated},
		{"of one sample's size", 64<<10 + 1, honest, nil, namespace.Revalidated},
		// Quirks of real registries cost a transfer, or nothing.
		{"ignores ranges", large, faulty(upstreamtest.IgnoreRange()), nil, namespace.Miss},
		{"ignores ranges and tells no length", large, faulty(upstreamtest.IgnoreRange(), upstreamtest.Chunked()), nil, namespace.Miss},
		{"tells no length, small", small, faulty(upstreamtest.IgnoreRange(), upstreamtest.Chunked()), nil, namespace.Revalidated},
		{"refuses ranges", large, func(r *upstreamtest.Registry, dgst digest.Digest, content []byte) {
			r.Fault(func(req *http.Request) bool { return get(req) && req.Header.Get("Range") != "" }, upstreamtest.Status(501, ""))
			honest(r, dgst, content)
		}, nil, namespace.Miss},
		// Liars.
		{"has nothing", small, func(*upstreamtest.Registry, digest.Digest, []byte) {}, upstream.ErrNotFound, 0},
		{"has nothing, large", large, func(*upstreamtest.Registry, digest.Digest, []byte) {}, upstream.ErrNotFound, 0},
		{"denies it", large, faulty(upstreamtest.Status(403, "")), upstream.ErrDenied, 0},
		{"limits the rate", large, faulty(upstreamtest.Status(429, "")), upstream.ErrRateLimited, 0},
		{"answers every GET with nothing", large, faulty(upstreamtest.Status(200, "")), upstream.ErrUnavailable, 0},
		{"has zeros of the length", large, as(func(c []byte) []byte { return make([]byte, len(c)) }), upstream.ErrUnavailable, 0},
		{"has zeros of the length, small", small, as(func(c []byte) []byte { return make([]byte, len(c)) }), upstream.ErrUnavailable, 0},
		{"has the first half", large, as(func(c []byte) []byte { clear(c[len(c)/2:]); return c }), upstream.ErrUnavailable, 0},
		{"has the last half", large, as(func(c []byte) []byte { clear(c[:len(c)-2000]); return c }), upstream.ErrUnavailable, 0},
		{"has a part", large, as(func(c []byte) []byte { return c[:200_000] }), upstream.ErrUnavailable, 0},
		{"has a part, small", small, as(func(c []byte) []byte { return c[:500] }), upstream.ErrUnavailable, 0},
		{"has more", large, as(func(c []byte) []byte { return append(c, 'x') }), upstream.ErrUnavailable, 0},
		{"has more, small", small, as(func(c []byte) []byte { return append(c, 'x') }), upstream.ErrUnavailable, 0},
		{"has another empty blob", 0, as(func(c []byte) []byte { return []byte("x") }), upstream.ErrUnavailable, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				private, claiming := m.registry("private.example"), m.registry("claiming.example")
				content := random(t, tc.size)
				dgst := private.AddBlob("secret", content)
				claiming.Fault(claim, upstreamtest.Status(200, ""), upstreamtest.Header("Content-Length", fmt.Sprint(tc.size)))
				tc.set(claiming, dgst, content)
				wantBlob(t, getBlob(t, m.namespace("private.example", private), "secret", dgst), namespace.Miss, content)

				n := m.namespace("claiming.example", claiming)
				if b, err := n.HeadBlob(t.Context(), "app", dgst); err == nil && b.Cache != namespace.Passed {
					t.Errorf("HEAD: %+v", b)
				}
				// A range needs the same proof. Those that have more than the whole have its bytes.
				if start := tc.size / 6 * 5; tc.failure != nil && tc.size > 0 && !strings.HasPrefix(tc.name, "has more") {
					b, err := n.Blob(t.Context(), "app", dgst, start, start+100)
					if err == nil {
						b.Content.Seek(start, io.SeekStart)
						got, _ := io.ReadAll(io.LimitReader(b.Content, 100))
						b.Content.Close()
						if bytes.Equal(got, content[start:start+100]) {
							t.Error("a range was given out")
						}
					}
					synctest.Wait()
				}
				got := getBlob(t, n, "app", dgst)
				if tc.failure == nil {
					wantBlob(t, got, tc.cache, content)
					claiming.ResetRequests()
					wantBlob(t, getBlob(t, n, "app", dgst), namespace.Hit, content)
					wantRequests(t, claiming)
					return
				}
				if got.err == nil || !errors.Is(got.err, tc.failure) && !isCorrupt(got.err) || bytes.Contains(got.body, content[:min(len(content), 100)]) && len(content) > 0 && tc.failure != upstream.ErrUnavailable {
					t.Errorf("got %d bytes, %v", len(got.body), got.err)
				}
				if off := getBlob(t, m.namespace("claiming.example", claiming, offline), "app", dgst); !isOffline(off.err) {
					t.Errorf("a link was made: %+v", off.err)
				}
			})
		})
	}
}

// TestProofDuringADownload has a liar of the same namespace join a running download: with nothing, with the
// bytes that have arrived, and with all but the tail.
func TestProofDuringADownload(t *testing.T) {
	const size = 400_000
	for _, tc := range []struct {
		name  string
		known int // bytes at the start that the liar has
		most  int // bytes that its client gets
		want  error
	}{
		{"nothing", 0, 0, nil},
		{"a part of the bytes that have arrived", 60_000, 60_000, nil},
		{"all but the tail", size - 100, size - 32<<10, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				private, lying := m.registry("private.example"), m.registry("lying.example")
				content := random(t, size)
				dgst := private.AddBlob("secret", content)
				lie := bytes.Clone(content)
				clear(lie[tc.known:])
				lying.AddBlobAs("app", dgst, lie)
				gate := upstreamtest.NewGate()
				private.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(200_000, gate))
				first, err := m.namespace("registry.example", private).Blob(t.Context(), "secret", dgst, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				n := m.namespace("registry.example", lying)
				b, err := n.Blob(t.Context(), "app", dgst, 0, -1)
				gate.Open()
				if err == nil {
					got, readErr := io.ReadAll(b.Content)
					b.Content.Close()
					err = readErr
					right := 0
					for right < len(got) && got[right] == content[right] {
						right++
					}
					if right > tc.most {
						t.Errorf("%d bytes were given out", right)
					}
				}
				if err == nil {
					t.Error("the whole was given out")
				}
				io.Copy(io.Discard, first.Content)
				first.Content.Close()
				synctest.Wait()
				if got := getBlob(t, m.namespace("registry.example", lying, offline), "app", dgst); !isOffline(got.err) {
					t.Errorf("a link was made: %v", got.err)
				}
			})
		})
	}
}

// TestManifestIsNotClaimed has a lying upstream answer 200 to every HEAD of a manifest.
func TestManifestIsNotClaimed(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		private, lying := m.registry("private.example"), m.registry("lying.example")
		image := private.AddImage("secret", "tag", []byte("a layer"))
		get(t, m.namespace("private.example", private), "secret", "tag")
		lying.Fault(upstreamtest.All(upstreamtest.Manifests, upstreamtest.Method(http.MethodHead)),
			upstreamtest.Status(200, ""), upstreamtest.Header("Docker-Content-Digest", image.Digest.String()),
			upstreamtest.Header("Content-Type", image.MediaType), upstreamtest.Header("Content-Length", fmt.Sprint(image.Size)))
		n := m.namespace("lying.example", lying)
		for _, ref := range []string{"tag", image.Digest.String()} {
			wantManifest(t, head(t, n, "app", ref), namespace.Passed, image)
			if got := get(t, n, "app", ref); !errors.Is(got.err, upstream.ErrNotFound) {
				t.Errorf("%s: got %+v", ref, got)
			}
			if got := get(t, m.namespace("lying.example", lying, offline), "app", ref); !isOffline(got.err) {
				t.Errorf("a link was made: %+v", got)
			}
		}
		if repositories, err := m.cache.Repositories(t.Context()); err != nil || len(repositories) != 1 {
			t.Errorf("the catalogue has %v, %v", slices.Collect(slices.Values(repositories)), err)
		}
	})
}

func isCorrupt(err error) bool { return errors.Is(err, storage.ErrCorrupt) }
