package check

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// advice is that of the command. Package app imports this one, so the test of another package
// gives it.
var advice Advice

// UseAdvice sets the advice of the tests.
func UseAdvice(a Advice) { advice = a }

// target returns the target of an upstream that a namespace names.
func target(t *testing.T, namespace string, client *upstream.Client, address string) Target {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return Target{Namespace: namespace, Key: fmt.Sprintf("repository.%q.upstream[0]", namespace), URL: u, Client: client}
}

func newClient(t *testing.T, address string) *upstream.Client {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	c := upstream.NewClient(upstream.Options{URL: u, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
	t.Cleanup(c.Close)
	return c
}

// Targets with one client are one check. An offline one is a check of its own.
func TestCombine(t *testing.T) {
	shared, hub := newClient(t, "https://registry.example"), newClient(t, "https://ghcr.io")
	private := newClient(t, "https://registry.example")
	offline := target(t, "d", shared, "https://registry.example")
	offline.Offline = true
	images, err := add(t, []namespace.Spec{{Key: "a"}, {Key: "b"}, {Key: "c"}, {Key: "d"}}, "b/app:1.2")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range combine([]Target{
		target(t, "a", shared, "https://registry.example"),
		target(t, "a2", hub, "https://ghcr.io"),
		target(t, "b", shared, "https://registry.example"),
		target(t, "c", private, "https://registry.example"),
		offline,
	}, images) {
		line := c.host + " " + strings.Join(c.keys, " ") + " " + c.image.String()
		if c.offline {
			line += " offline"
		}
		got = append(got, strings.NewReplacer("repository.", "", ".upstream[0]", "").Replace(line))
	}
	if want := []string{
		`registry.example "a" "b" app:1.2`,
		`ghcr.io "a2" stefanprodan/podinfo:latest`,
		`registry.example "c" `,
		`registry.example "d"  offline`,
	}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A run asks each upstream that is not offline, and reports one that cannot be
// reached beside one that works.
func TestRun(t *testing.T) {
	fine := upstreamtest.New(t)
	gone := upstreamtest.New(t)
	gone.Close()
	images, err := NewImages(nil)
	if err != nil {
		t.Fatal(err)
	}
	offline := target(t, "c", newClient(t, fine.URL.String()), fine.URL.String())
	offline.Offline = true
	results := Run(t.Context(), []Target{
		target(t, "a", newClient(t, fine.URL.String()), fine.URL.String()),
		target(t, "b", newClient(t, gone.URL.String()), gone.URL.String()),
		offline,
	}, images, advice)
	var got []string
	for _, r := range results {
		got = append(got, fmt.Sprint(r.Status, " ", r.Reachable))
	}
	if want := []string{"ok true", "failed false", "skipped false"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A probe that is not done in time fails with the reason.
func TestRunEndsWithItsContext(t *testing.T) {
	r := upstreamtest.New(t)
	images, err := NewImages(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("too late"))
	results := Run(ctx, []Target{target(t, "a", newClient(t, r.URL.String()), r.URL.String())}, images, advice)
	if r := results[0]; r.Status != StatusFailed || len(r.Errors) != 1 || !strings.Contains(r.Errors[0], "too late") {
		t.Errorf("%+v", r)
	}
}

// A namespace without a named image is asked for one that the mirror has cached:
// by tag if there is one, with a blob if there is one.
func TestCachedImages(t *testing.T) {
	manifest, layer := digest.FromString("manifest"), digest.FromString("layer")
	catalog := catalog.New(storagetest.NewMemory(t).Records(), catalog.Options{})
	link := func(namespace, name string, dgst digest.Digest, mediaType string) {
		t.Helper()
		id := storage.RepoID{Namespace: namespace, Name: name}
		if err := catalog.PutLink(t.Context(), id, ocispec.Descriptor{Digest: dgst, MediaType: mediaType}); err != nil {
			t.Fatal(err)
		}
	}
	link("digest", "app", manifest, "application/vnd.oci.image.manifest.v1+json")
	link("digest", "app", layer, "")
	link("blobs", "app", layer, "")
	link("named", "app", manifest, "application/vnd.oci.image.manifest.v1+json")
	images, err := add(t, []namespace.Spec{{Key: "named"}, {Key: "digest"}, {Key: "blobs"}}, "named/other:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := images.AddCached(t.Context(), catalog); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"digest": "app@" + manifest.String()[:19], "blobs": "", "named": "other:1",
	} {
		if got := images.byKey[key].String(); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if images.byKey["digest"].blob != layer {
		t.Errorf("the blob is %q", images.byKey["digest"].blob)
	}
}
