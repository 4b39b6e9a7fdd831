package upstream_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// TestFallbackOn asks a chain, whose first member fails in one class, about a tag and a
// digest, for every list of classes.
func TestFallbackOn(t *testing.T) {
	faults := map[upstream.Class]upstreamtest.Effect{
		upstream.ClassNotFound:    upstreamtest.Status(404, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`),
		upstream.ClassDenied:      upstreamtest.Status(403, ""),
		upstream.ClassRateLimited: upstreamtest.Status(429, ""),
		upstream.ClassUnavailable: upstreamtest.Status(500, ""),
	}
	lists := map[string][]upstream.Class{
		"default":  nil,
		"none":     {},
		"private":  {upstream.ClassUnavailable, upstream.ClassRateLimited},
		"denied":   {upstream.ClassDenied},
		"unknown":  {upstream.ClassNotFound},
		"all four": {upstream.ClassNotFound, upstream.ClassDenied, upstream.ClassRateLimited, upstream.ClassUnavailable},
	}
	for class, fault := range faults {
		for name, list := range lists {
			t.Run(fmt.Sprintf("%s, %s", class, name), func(t *testing.T) {
				first, second := upstreamtest.New(t), upstreamtest.New(t)
				first.Fault(upstreamtest.Any, fault)
				image := second.AddImage("app", "v1", []byte("a layer"))
				layer := digest.FromString("a layer")
				chain := upstream.NewChain(upstream.ChainOptions{FallbackOn: list}, newClient(t, first), newClient(t, second))
				ctx := t.Context()
				byTag := map[string]func() error{
					"manifest": func() error {
						m, err := chain.Manifest(ctx, "app", oci.ByTag("v1"))
						if err == nil && !m.Fallback {
							t.Error("the second member's answer counts as the first one's")
						}
						return err
					},
					"head":      func() error { _, err := chain.Head(ctx, "app", oci.ByTag("v1")); return err },
					"tags":      func() error { _, err := chain.Tags(ctx, "app", url.Values{}); return err },
					"referrers": func() error { _, err := chain.Referrers(ctx, "app", image.Digest, ""); return err },
				}
				mayAsk := list == nil || slices.Contains(list, class)
				for question, ask := range byTag {
					second.ResetRequests()
					err := ask()
					switch {
					case mayAsk && err != nil:
						t.Errorf("%s: %v", question, err)
					case !mayAsk && len(second.Requests()) > 0:
						t.Errorf("%s: the second member was asked: %q", question, second.Requests())
					// A registry that cannot list referrers has none.
					case !mayAsk && upstream.ClassOf(err) != class && (question != "referrers" || class != upstream.ClassNotFound):
						t.Errorf("%s: %v", question, err)
					}
				}
				// Content by digest is verified, so any member may have it.
				if m, err := chain.Manifest(ctx, "app", oci.ByDigest(image.Digest)); err != nil || !m.Fallback {
					t.Errorf("by digest: %v", err)
				}
				if b, err := chain.Blob(ctx, "app", layer, 0, -1); err != nil {
					t.Errorf("blob: %v", err)
				} else {
					b.Close()
				}
				if _, err := chain.StatBlob(ctx, "app", layer); err != nil {
					t.Errorf("HEAD of a blob: %v", err)
				}
			})
		}
	}
}

// TestFallbackDuringACooldown has the first member refuse connections until it cools
// down: "unavailable" is then its answer about a tag, whatever the second one says.
func TestFallbackDuringACooldown(t *testing.T) {
	for _, list := range [][]upstream.Class{{}, {upstream.ClassDenied, upstream.ClassNotFound}} {
		first, second := upstreamtest.New(t), upstreamtest.New(t)
		first.Close()
		second.AddImage("app", "v1", []byte("a layer"))
		chain := upstream.NewChain(upstream.ChainOptions{FallbackOn: list}, newClient(t, first), newClient(t, second))
		for range 5 {
			if _, err := chain.Head(t.Context(), "app", oci.ByTag("v1")); !errors.Is(err, upstream.ErrUnavailable) {
				t.Errorf("%v: %v", list, err)
			}
		}
		if got := second.Requests(); len(got) > 0 {
			t.Errorf("%v: the second member was asked: %q", list, got)
		}
	}
}

// TestHalfOpenMemberIsAskedAboutATag has the second member not know a tag that the first
// one, which is half open and therefore asked last, has.
func TestHalfOpenMemberIsAskedAboutATag(t *testing.T) {
	first := &fake{host: "first", halfOpen: true, err: &upstream.Error{Host: "first", Class: upstream.ClassUnavailable}}
	second := &fake{host: "second", err: &upstream.Error{Host: "second", Class: upstream.ClassNotFound}}
	third := &fake{host: "third", err: &upstream.Error{Host: "third", Class: upstream.ClassNotFound}}
	chain := upstream.NewChain(upstream.ChainOptions{FallbackOn: []upstream.Class{upstream.ClassUnavailable}}, first, second, third)
	_, err := chain.Tags(t.Context(), "app", nil)
	if !errors.Is(err, upstream.ErrUnavailable) || first.asked != 1 || second.asked != 1 || third.asked != 0 {
		t.Errorf("asked %d, %d and %d times: %v", first.asked, second.asked, third.asked, err)
	}
}
