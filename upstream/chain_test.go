package upstream_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestChainErrors(t *testing.T) {
	tests := map[string]struct {
		statuses []int
		want     error
		status   int
	}{
		"not found everywhere":    {[]int{404, 404}, upstream.ErrNotFound, 404},
		"denied over not found":   {[]int{404, 403}, upstream.ErrDenied, 403},
		"unavailable over denied": {[]int{500, 403}, upstream.ErrUnavailable, 500},
		"rate limited over all":   {[]int{404, 429, 500, 403}, upstream.ErrRateLimited, 429},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var members []upstream.Member
			for _, status := range test.statuses {
				r := upstreamtest.New(t)
				r.Fault(upstreamtest.Any, upstreamtest.Status(status, "words of "+r.Host))
				members = append(members, newClient(t, r))
			}
			chain := upstream.NewChain(upstream.ChainOptions{}, members...)
			_, err := chain.Manifest(t.Context(), "repo", oci.ByTag("latest"))
			if e := wantError(t, err, test.want); e.Status != test.status {
				t.Errorf("got %#v", e)
			}
			for _, other := range []error{upstream.ErrNotFound, upstream.ErrDenied, upstream.ErrUnavailable, upstream.ErrRateLimited} {
				if other != test.want && errors.Is(err, other) {
					t.Errorf("%v is %v as well", err, other)
				}
			}
			for _, member := range members {
				if !strings.Contains(err.Error(), "words of "+member.Host()) {
					t.Errorf("%v does not tell of %s", err, member.Host())
				}
			}
		})
	}
}

func TestChainSkipsCoolingMember(t *testing.T) {
	first, second := upstreamtest.New(t), upstreamtest.New(t)
	second.AddImage("repo", "latest", []byte("layer"))
	first.Fault(upstreamtest.Any, upstreamtest.Status(429, ""))
	a, b := newClient(t, first), newClient(t, second)
	for range 2 { // chains share the health of their members
		m := must[*oci.Manifest](t)(upstream.NewChain(upstream.ChainOptions{}, a, b).Manifest(t.Context(), "repo", oci.ByTag("latest")))
		if m.Upstream != second.Host {
			t.Errorf("got it from %s", m.Upstream)
		}
	}
	if got := first.Requests(); len(got) != 1 {
		t.Errorf("requests are %v", got)
	}
	_, err := upstream.NewChain(upstream.ChainOptions{}, a, b).Manifest(t.Context(), "repo", oci.ByTag("absent"))
	wantError(t, err, upstream.ErrRateLimited)
}

// A member that cools down and is back is asked before its time if the only other
// one is broken, but not where that one just has not got it.
func TestCoolingMemberIsTheLastResort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := upstreamtest.NewNetwork()
		first := upstreamtest.New(t, upstreamtest.WithNetwork(n, "first.test"))
		second := upstreamtest.New(t, upstreamtest.WithNetwork(n, "second.test"))
		for _, r := range []*upstreamtest.Registry{first, second} {
			r.AddImage("repo", "latest", []byte("layer"))
		}
		a, b := newClient(t, first, on(n)), newClient(t, second, on(n))
		chain := upstream.NewChain(upstream.ChainOptions{}, a, b)
		pull := func(ref string) (string, error) {
			m, err := chain.Manifest(t.Context(), "repo", oci.ByTag(ref))
			if err != nil {
				return "", err
			}
			return m.Upstream, nil
		}
		first.Close()
		for range 3 {
			if from, err := pull("latest"); from != b.Host() {
				t.Fatalf("got it from %q, %v", from, err)
			}
		}
		first.Reopen()
		if _, err := pull("absent"); !errors.Is(err, upstream.ErrUnavailable) {
			t.Errorf("one cools down and the other lacks it: %v", err)
		}
		if got := first.Requests(); len(got) != 0 {
			t.Errorf("the coolingDown member was asked %v", got)
		}
		second.Fault(upstreamtest.Any, upstreamtest.Status(500, ""))
		if from, err := pull("latest"); from != a.Host() {
			t.Errorf("one cools down but is back, the other is broken: got it from %q, %v", from, err)
		}

		// While it stays away, it is tried once a second at most.
		first.Close()
		dials := n.Dials(a.Host())
		for range 20 {
			if _, err := pull("latest"); !errors.Is(err, upstream.ErrUnavailable) {
				t.Errorf("both are broken: %v", err)
			}
		}
		if got := n.Dials(a.Host()) - dials; got > 3+1 {
			t.Errorf("a dead member was dialled %d times by 20 requests at once", got)
		}
	})
}

func TestEmptyChain(t *testing.T) {
	_, err := upstream.NewChain(upstream.ChainOptions{}).Referrers(t.Context(), "repo", digest.FromString("x"), "")
	wantError(t, err, upstream.ErrUnavailable)
}

func TestTags(t *testing.T) {
	r := upstreamtest.New(t)
	for _, tag := range []string{"a", "b", "c"} {
		r.AddImage("repo", tag, []byte(tag))
	}
	c := newClient(t, r)
	first := must[*oci.TagList](t)(c.Tags(t.Context(), "repo", url.Values{"n": {"2"}}))
	want := &oci.TagList{Tags: []string{"a", "b"}, Next: url.Values{"n": {"2"}, "last": {"b"}}, Upstream: r.Host}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	second := must[*oci.TagList](t)(c.Tags(t.Context(), "repo", first.Next))
	if diff := cmp.Diff(&oci.TagList{Tags: []string{"c"}, Upstream: r.Host}, second); diff != "" {
		t.Error(diff)
	}
	r.Fault(upstreamtest.Tags, upstreamtest.Status(200, `{"name":"repo","tags":null}`)).Times(1)
	if got := must[*oci.TagList](t)(c.Tags(t.Context(), "repo", nil)); got.Tags == nil || len(got.Tags) != 0 {
		t.Errorf("null is %#v", got.Tags)
	}
	_, err := c.Tags(t.Context(), "absent", nil)
	wantError(t, err, upstream.ErrNotFound)
}
