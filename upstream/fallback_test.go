package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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

// TestFallbackOnOddFailures has a private member fail in ways that are neither an answer
// about the tag nor a known absence, some of them by a client's or an attacker's doing. The
// public second member is asked about a tag only if the list has the failure's class, and
// never if this machine lacks a resource.
func TestFallbackOnOddFailures(t *testing.T) {
	bearer := upstreamtest.WithBearer(upstreamtest.Bearer{Username: "u", Password: "p"})
	short := func(o *upstream.Options) {
		o.DialContext = func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
		}
	}
	index := upstreamtest.Header("Content-Type", ocispec.MediaTypeImageIndex)
	for name, tc := range map[string]struct {
		options []upstreamtest.Option
		match   upstreamtest.Match
		effects []upstreamtest.Effect
		client  func(*upstream.Options)
		class   upstream.Class
		never   bool
	}{
		"no open files":                   {client: short, class: upstream.ClassUnavailable, never: true},
		"the token service refuses":       {options: []upstreamtest.Option{bearer}, class: upstream.ClassDenied},
		"the token service has no such":   {options: []upstreamtest.Option{bearer}, match: upstreamtest.Tokens, effects: []upstreamtest.Effect{upstreamtest.Status(404, "")}, class: upstream.ClassUnavailable},
		"the token service is limited":    {options: []upstreamtest.Option{bearer}, match: upstreamtest.Tokens, effects: []upstreamtest.Effect{upstreamtest.Status(429, "")}, class: upstream.ClassRateLimited},
		"the token service is broken":     {options: []upstreamtest.Option{bearer}, match: upstreamtest.Tokens, effects: []upstreamtest.Effect{upstreamtest.Status(500, "")}, class: upstream.ClassUnavailable},
		"the token service is dropped":    {options: []upstreamtest.Option{bearer}, match: upstreamtest.Tokens, effects: []upstreamtest.Effect{upstreamtest.Drop()}, class: upstream.ClassUnavailable},
		"a loop that a client claims":     {effects: []upstreamtest.Effect{upstreamtest.Status(508, "")}, class: upstream.ClassUnavailable},
		"legal reasons":                   {effects: []upstreamtest.Effect{upstreamtest.Status(451, "")}, class: upstream.ClassUnavailable},
		"a login page":                    {effects: []upstreamtest.Effect{upstreamtest.Status(200, "<html>log in</html>"), upstreamtest.Header("Content-Type", "text/html")}, class: upstream.ClassUnavailable},
		"a page of a load balancer":       {effects: []upstreamtest.Effect{upstreamtest.Status(404, "<html>")}, class: upstream.ClassNotFound},
		"a limit, as a refusal":           {effects: []upstreamtest.Effect{upstreamtest.Status(403, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`)}, class: upstream.ClassRateLimited},
		"an empty document":               {effects: []upstreamtest.Effect{upstreamtest.Status(200, "{}"), index}, class: upstream.ClassUnavailable},
		"a document that is cut off":      {effects: []upstreamtest.Effect{upstreamtest.Status(200, `{"schemaVersion":2,"mani`), index}, class: upstream.ClassUnavailable},
		"a circle of redirects":           {effects: []upstreamtest.Effect{upstreamtest.Status(307, ""), upstreamtest.Header("Location", "/v2/app/manifests/v1")}, class: upstream.ClassUnavailable},
		"a redirect to a host that hides": {effects: []upstreamtest.Effect{upstreamtest.Status(307, ""), upstreamtest.Header("Location", "http://169.254.169.254/")}, class: upstream.ClassUnavailable},
	} {
		for _, list := range [][]upstream.Class{{}, {upstream.ClassUnavailable, upstream.ClassRateLimited}, {upstream.ClassDenied}, {upstream.ClassNotFound}} {
			t.Run(fmt.Sprint(name, list), func(t *testing.T) {
				first, second := upstreamtest.New(t, tc.options...), upstreamtest.New(t)
				if tc.effects != nil {
					match := tc.match
					if match == nil {
						match = upstreamtest.Any
					}
					first.Fault(match, tc.effects...)
				}
				second.AddImage("app", "v1", []byte("theirs"))
				chain := upstream.NewChain(upstream.ChainOptions{FallbackOn: list}, newClient(t, first, func(o *upstream.Options) {
					if tc.client != nil {
						tc.client(o)
					}
				}), newClient(t, second))
				m, err := chain.Manifest(t.Context(), "app", oci.ByTag("v1"))
				mayAsk := slices.Contains(list, tc.class) && !tc.never
				switch {
				case mayAsk && (err != nil || !m.Fallback):
					t.Errorf("the second member was not asked: %v", err)
				case !mayAsk && (err == nil || len(second.Requests()) > 0):
					t.Errorf("the second member was asked: %q, %v", second.Requests(), err)
				case !mayAsk && upstream.ClassOf(err) != tc.class:
					t.Errorf("the class of %v is %v, want %v", err, upstream.ClassOf(err), tc.class)
				}
			})
		}
	}
}
