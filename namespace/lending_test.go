package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream/upstreamtest"
	"github.com/weirhq/weir/warm"
)

// lending is a mirror whose blocks private, public and other all have the same content.
type lending struct {
	*mirror
	registries map[string]*upstreamtest.Registry
	blocks     map[string]*namespace.Namespace // in force
	content    []byte
	digest     digest.Digest
}

func newLending(t *testing.T, m *mirror, size int64) *lending {
	l := &lending{mirror: m, registries: make(map[string]*upstreamtest.Registry), content: random(t, size)}
	for _, key := range []string{"private", "public", "other"} {
		r := m.registry(key + ".example")
		for _, repo := range []string{"app", "fork"} {
			l.digest = r.AddBlob(repo, l.content)
		}
		l.registries[key] = r
	}
	return l
}

// reload puts all blocks but a removed one in force. Those that are named keep their
// content.
func (l *lending) reload(t *testing.T, removed string, unshared ...string) {
	t.Helper()
	var specs []namespace.Spec
	for _, key := range slices.Sorted(maps.Keys(l.registries)) {
		if key == removed {
			continue
		}
		c := l.client(l.registries[key])
		specs = append(specs, namespace.Spec{Key: key, Upstreams: c, Unshared: slices.Contains(unshared, key), MayLeadToMirror: func() bool { return true }})
	}
	table, err := namespace.NewTable(l.cache, specs)
	if err != nil {
		t.Fatal(err)
	}
	l.blocks = make(map[string]*namespace.Namespace)
	for _, n := range table.Namespaces() {
		l.blocks[n.Key()] = n
	}
}

// restart replaces the process over the same store.
func (l *lending) restart(t *testing.T) {
	t.Helper()
	network := l.network
	l.mirror = newMirrorOver(t, l.store, l.store, 4, nil)
	l.network = network
}

// pull pulls the content through a repository such as private/app, and returns how the
// repository came to it: whole, sampled, or not asked for at all.
func (l *lending) pull(t *testing.T, path string) string {
	t.Helper()
	key, repo, _ := strings.Cut(path, "/")
	got := getBlob(t, l.blocks[key], repo, l.digest)
	if got.err != nil || string(got.body) != string(l.content) {
		t.Errorf("%s: %d bytes, %v", path, len(got.body), got.err)
	}
	requests := l.registries[key].Requests()
	for other, r := range l.registries {
		if n := len(r.Requests()); other != key && n > 0 {
			t.Errorf("%s: %d requests to %s", path, n, other)
		}
		r.ResetRequests()
	}
	whole := blobRequest("GET", repo, l.digest, "200")
	switch {
	case len(requests) == 0 && got.cache == namespace.Hit:
		return "hit"
	case len(requests) == 1 && requests[0] == whole && got.cache == namespace.Miss:
		return "whole"
	case got.cache == namespace.Revalidated:
		return "sampled"
	}
	return fmt.Sprintf("%v after %q", got.cache, requests)
}

// TestUnsharedContent pulls one blob through several blocks, of which some keep their
// content to themselves.
func TestUnsharedContent(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps string
	}{
		{"all share", "keep; private/app whole; public/app sampled; private/fork sampled"},
		{"never lent to another block", "keep private; private/app whole; public/app whole; public/app hit; other/app sampled"},
		{"lent within the block", "keep private; private/app whole; private/fork sampled; private/fork hit"},
		{"lends from others", "keep private; public/app whole; private/app sampled; other/app sampled"},
		{"its proof lends nothing", "keep private public; other/app whole; private/app sampled; private/fork sampled; public/app sampled"},
		{"an own delivery is the block's", "keep private; private/app whole; public/app whole; public/fork sampled"},
		{"two that keep", "keep private other; private/app whole; other/app whole; public/app whole"},
		{"all keep", "keep private public other; private/app whole; public/app whole; other/app whole; other/fork sampled"},
		{"stored before the key was set", "keep; private/app whole; keep private; public/app whole; other/app sampled"},
		{"brought by another one before the key was set", "keep; public/app whole; keep private; public/app hit; other/app whole; private/app sampled"},
		{"proven before the key was set", "keep; private/app whole; public/app sampled; keep private; public/app hit; public/fork whole"},
		{"shared when it was delivered", "keep other; private/app whole; keep private; public/app whole; other/app sampled"},
		{"the key is taken back", "keep private; private/app whole; keep; public/app sampled"},
		{"the key is taken back, another one stays", "keep private other; private/app whole; keep other; public/app sampled"},
		{"restarted", "keep private; private/app whole; restart; keep private; public/app whole; restart; keep private; other/app sampled; private/fork sampled"},
		{"removed", "keep private; private/app whole; remove private; public/app whole; other/app sampled"},
		{"removed, restarted", "keep private; private/app whole; restart; remove private; public/app whole"},
		{"removed, and back", "keep private; private/app whole; remove private; keep; public/app sampled"},
		{"removed with a damaged record", "keep private; private/app whole; damage _keeping; restart; remove private; public/app whole"},
		{"without records of deliveries", "keep private; private/app whole; public/app whole; lose _deliveries; other/app whole; public/app hit"},
		{"with damaged records of deliveries", "keep private; private/app whole; public/app whole; damage _deliveries; restart; keep private; other/app whole; public/app hit"},
		{"without any record but the names", "keep private; private/app whole; public/app whole; lose _deliveries; lose _links; restart; keep private; private/app whole; public/app whole"},
		{"with records that cannot be written", "break; keep private; private/app whole; public/app whole; public/app hit; other/app whole; public/fork whole"},
		{"evicted meanwhile", "keep private; public/app whole; evict; private/app whole; other/app sampled"},
	} {
		for _, size := range []int64{0, 1000, 300_000} {
			t.Run(fmt.Sprintf("%s, %d bytes", tc.name, size), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mirror) {
					l := newLending(t, m, size)
					for step := range strings.SplitSeq(tc.steps, "; ") {
						l.step(t, step)
					}
				})
			})
		}
	}
}

func (l *lending) step(t *testing.T, step string) {
	t.Helper()
	words := strings.Fields(step)
	switch words[0] {
	case "keep":
		l.reload(t, "", words[1:]...)
	case "remove":
		l.reload(t, words[1])
	case "restart":
		l.restart(t)
	case "break":
		l.store.FailPut(errors.New("scripted"))
	case "evict":
		if err := l.store.Delete(t.Context(), l.digest); err != nil {
			t.Fatal(err)
		}
	case "lose", "damage":
		for _, key := range l.recordKeys(t) {
			if !strings.Contains(key, words[1]) {
				continue
			}
			err := l.store.Records().Put(t.Context(), key, []byte("{"))
			if words[0] == "lose" {
				err = l.store.Records().Delete(t.Context(), key)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	default:
		if got := l.pull(t, words[0]); got != words[1] {
			t.Errorf("%s: %s, want %s", words[0], got, words[1])
		}
	}
}

// TestUnsharedDownloads joins no download of another block, whether it began before or
// after the block kept its content.
func TestUnsharedDownloads(t *testing.T) {
	for name, before := range map[string][]string{"after": {"private"}, "before": nil, "before, another one kept its own": {"other"}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				l := newLending(t, m, 400_000)
				gate := upstreamtest.NewGate()
				l.registries["private"].Fault(upstreamtest.Blobs, upstreamtest.StallAfter(200_000, gate)).Times(1)
				l.reload(t, "", before...)
				first, err := l.blocks["private"].Blob(t.Context(), "app", l.digest, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				l.registries["private"].ResetRequests()
				l.reload(t, "", "private")
				if got := l.pull(t, "public/app"); got != "whole" {
					t.Errorf("beside a download of another block: %s", got)
				}
				gate.Open()
				if got, err := io.ReadAll(first.Content); err != nil || string(got) != string(l.content) {
					t.Errorf("the first client: %d bytes, %v", len(got), err)
				}
				first.Content.Close()
				synctest.Wait()
				if got := l.pull(t, "private/app"); got != "hit" {
					t.Errorf("the first client again: %s", got)
				}
			})
		})
	}
}

// TestUnsharedBlockSharesItsDownloads has many clients of one block ask at once.
func TestUnsharedBlockSharesItsDownloads(t *testing.T) {
	for _, key := range []string{"private", "public"} {
		bubble(t, func(t *testing.T, m *mirror) {
			l := newLending(t, m, 400_000)
			l.reload(t, "", "private")
			gate := upstreamtest.NewGate()
			l.registries[key].Fault(upstreamtest.Blobs, upstreamtest.Hold(gate)).Times(1)
			together(gate, 20, func(i int) {
				b, err := l.blocks[key].Blob(t.Context(), []string{"app", "fork"}[i%2], l.digest, 0, -1)
				if err == nil {
					_, err = io.Copy(io.Discard, b.Content)
					b.Content.Close()
				}
				if err != nil {
					t.Error(err)
				}
			})
			whole := 0
			for _, request := range l.registries[key].Requests() {
				if !strings.Contains(request, "bytes=") {
					whole++
				}
			}
			if whole != 1 {
				t.Errorf("%s: %d downloads: %q", key, whole, l.registries[key].Requests())
			}
		})
	}
}

// TestWarmingOfUnsharedContent keeps an image warm whose content another block keeps to
// itself. The warming began before that block did.
func TestWarmingOfUnsharedContent(t *testing.T) {
	for name, steps := range map[string][2]string{"before": {"keep", "keep private"}, "from the start": {"keep private", "keep private"}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				l := newLending(t, m, 300_000)
				l.step(t, steps[0])
				l.pull(t, "private/app")
				warming := make(map[string]warm.Source)
				for _, repo := range []string{"app", "fork"} {
					_, warming[repo] = l.blocks["public"].Warm(repo)
				}
				l.step(t, steps[1])
				for _, want := range []struct{ repo, how string }{{"app", "whole"}, {"fork", "sampled"}} {
					there, err := warming[want.repo].Blob(t.Context(), ocispec.Descriptor{Digest: l.digest, Size: 300_000}, false, nil)
					if err != nil || there != (want.how == "sampled") {
						t.Errorf("%s: there: %v, %v", want.repo, there, err)
					}
					for _, request := range l.registries["public"].Requests() {
						if strings.Contains(request, "bytes=") != (want.how == "sampled") {
							t.Errorf("%s: %s", want.repo, request)
						}
					}
					l.registries["public"].ResetRequests()
					if got := l.pull(t, "public/"+want.repo); got != "hit" {
						t.Errorf("%s: %s", want.repo, got)
					}
				}
			})
		})
	}
}

// TestUnsharedContentLeavesNoTrace asks a block's repositories about content that another
// block keeps to itself, and about content that is not here. The answers and the requests
// upstream are the same.
func TestUnsharedContentLeavesNoTrace(t *testing.T) {
	questions := map[string]func(context.Context, *namespace.Namespace, string, digest.Digest) string{
		"GET": func(ctx context.Context, n *namespace.Namespace, repo string, dgst digest.Digest) string {
			return describe(n.Blob(ctx, repo, dgst, 0, -1))
		},
		"range": func(ctx context.Context, n *namespace.Namespace, repo string, dgst digest.Digest) string {
			return describe(n.Blob(ctx, repo, dgst, 250_000, 250_100))
		},
		"HEAD": func(ctx context.Context, n *namespace.Namespace, repo string, dgst digest.Digest) string {
			return describe(n.HeadBlob(ctx, repo, dgst))
		},
		"through another mirror": func(ctx context.Context, n *namespace.Namespace, repo string, dgst digest.Digest) string {
			return describe(n.Blob(via.With(ctx, via.Trail{"weir-9"}), repo, dgst, 0, -1))
		},
		"manifest": func(ctx context.Context, n *namespace.Namespace, repo string, dgst digest.Digest) string {
			m, err := n.Manifest(ctx, repo, reference(t, dgst.String()))
			if err != nil {
				return err.Error()
			}
			m.Content.Close()
			return fmt.Sprint(m.Cache, m.Descriptor)
		},
	}
	for name, ask := range questions {
		for _, repo := range []string{"app", "without"} {
			t.Run(name+" of "+repo, func(t *testing.T) {
				var traces []string
				for _, here := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						m := newMirrorOf(t, "weir-1")
						l := newLending(t, m, 300_000)
						image := l.registries["private"].AddImage("app", "v1", []byte("a layer"))
						l.registries["public"].AddImage("app", "v1", []byte("a layer"))
						l.reload(t, "", "private")
						if here {
							l.pull(t, "private/app")
							get(t, l.blocks["private"], "app", "v1")
						}
						opened := m.store.Calls("Open")
						for _, r := range l.registries {
							r.ResetRequests()
						}
						start := time.Now()
						dgst := l.digest
						if name == "manifest" {
							dgst = image.Digest
						}
						trace := ask(t.Context(), l.blocks["public"], repo, dgst)
						took := time.Since(start)
						synctest.Wait()
						traces = append(traces, fmt.Sprint(trace, " after ", took, l.registries["public"].Requests()))
						if n := m.store.Calls("Open") - opened; n > 0 && here && name != "manifest" {
							t.Errorf("the store was asked %d times", n)
						}
					})
				}
				if diff := cmp.Diff(traces[0], traces[1]); diff != "" {
					t.Errorf("the answers tell whether the content is here: %s", diff)
				}
			})
		}
	}
}

func describe(b *namespace.Blob, err error) string {
	if err != nil {
		return err.Error()
	}
	n := int64(0)
	if b.Content != nil {
		n, err = io.Copy(io.Discard, b.Content)
		b.Content.Close()
	}
	return fmt.Sprint(b.Outcome, b.Size, n, err)
}
