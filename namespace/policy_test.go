package namespace_test

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/namespace"
)

// TestExclusions pulls tags twice from a namespace of immutable tags: those that
// are excluded cost a HEAD the second time. The time is real, since the regular
// expressions keep a clock of their own.
func TestExclusions(t *testing.T) {
	m := newMirror(t, 1, nil)
	r := m.registry("up.example")
	hostile := strings.Repeat("a", 60) + "-"
	for name, test := range map[string]struct {
		patterns  []string
		mutable   []string
		immutable []string
	}{
		"none":       {nil, nil, []string{"latest", "v1"}},
		"anchored":   {[]string{"^latest$", "^nightly"}, []string{"latest", "nightly-1"}, []string{"latest-1", "a-nightly", "v1"}},
		"unanchored": {[]string{"rc"}, []string{"v1-rc1", "rc"}, []string{"v1"}},
		"lookahead":  {[]string{`^(?!v\d+$)`}, []string{"latest", "v1-rc"}, []string{"v1", "v22"}},
		"lookbehind": {[]string{`(?<!stable)-x$`}, []string{"a-x"}, []string{"stable-x"}},
		"cut off":    {[]string{`^(a+)+$`}, []string{hostile}, []string{"v1"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := m.namespace("up.example", r, immutable, func(s *namespace.Spec) { s.ImmutableTagsExclusions = test.patterns })
			for tags, cache := range map[*[]string]namespace.CacheStatus{&test.mutable: namespace.Revalidated, &test.immutable: namespace.Hit} {
				for _, tag := range *tags {
					image := r.AddImage("app", tag, []byte(tag))
					get(t, n, "app", tag)
					for range 2 {
						wantManifest(t, get(t, n, "app", tag), cache, image)
					}
				}
			}
		})
	}
}

// A pattern that backtracks is given up, and the log says so once. The few tags here cost much
// less than the time of all patterns in a minute, also on a busy machine.
func TestPatternThatTakesTooLong(t *testing.T) {
	m := newMirror(t, 1, nil)
	r := m.registry("up.example")
	n := m.namespace("up.example", r, immutable, func(s *namespace.Spec) {
		s.ImmutableTagsExclusions = []string{`^(a+)+$`, `^(b+)+$`}
	})
	for _, letter := range []string{"a", "b"} {
		tag := strings.Repeat(letter, 60) + "-"
		image := r.AddImage("app", tag, []byte("a layer"))
		get(t, n, "app", tag)
		wantManifest(t, get(t, n, "app", tag), namespace.Revalidated, image)
	}
	if got := m.log.Count("took too long"); got != 2 {
		t.Errorf("the log says so %d times, want once for each pattern", got)
	}
}

// Tags that tools move by design are mutable under any rule. Tags that look alike are
// not.
func TestDerivedTagsAreMutable(t *testing.T) {
	m := newMirror(t, 1, nil)
	r := m.registry("up.example")
	n := m.namespace("up.example", r, immutable)
	hex := strings.Repeat("0123456789abcdef", 4)
	for tag, cache := range map[string]namespace.CacheStatus{
		"sha256-" + hex: namespace.Revalidated, "sha512-" + hex: namespace.Revalidated, "sha384-" + hex: namespace.Revalidated,
		"sha256-" + hex + ".sig": namespace.Revalidated, "sha256-" + hex + ".att": namespace.Revalidated, "sha256-" + hex + ".sbom": namespace.Revalidated,
		"sha512-" + hex + ".sig": namespace.Revalidated, "sha256-" + hex + ".other-tool": namespace.Revalidated,
		"v1": namespace.Hit, "sha-" + hex[:40]: namespace.Hit, "sha256-" + hex[:12]: namespace.Hit, "release-sha256-" + hex: namespace.Hit, hex: namespace.Hit, "v1.sig": namespace.Hit,
	} {
		image := r.AddImage("app", tag, []byte(tag))
		get(t, n, "app", tag)
		wantManifest(t, get(t, n, "app", tag), cache, image)
	}
}

// An upstream that names tags without end cannot keep a processor busy with them.
func TestPatternsHaveOneBudget(t *testing.T) {
	m := newMirror(t, 1, nil)
	r := m.registry("up.example")
	n := m.namespace("up.example", r, immutable, func(s *namespace.Spec) {
		s.ImmutableTagsExclusions = []string{`^(a+)+$`, `^(a|aa)+$`, `^(a*)*$`}
	})
	var tags []string
	for length := range 60 {
		tag := strings.Repeat("a", 40+length) + "-"
		r.AddImage("app", tag, []byte(tag))
		get(t, n, "app", tag)
		tags = append(tags, tag)
	}
	for _, tag := range tags {
		// None of them is taken for an immutable one.
		if got := get(t, n, "app", tag); got.Cache != namespace.Revalidated {
			t.Errorf("%s: %v", tag, got.Cache)
		}
	}
	// Without a budget for all of them together, the log says nothing.
	if got := m.log.Count("have used up their time"); got != 1 {
		t.Errorf("the log says so %d times", got)
	}
}

// TestMutable is the rule without immutable_tags: exclusions mean nothing.
func TestMutable(t *testing.T) {
	m := newMirror(t, 1, nil)
	r := m.registry("up.example")
	n := m.namespace("up.example", r, func(s *namespace.Spec) { s.ImmutableTagsExclusions = []string{"^latest$"} })
	for _, tag := range []string{"latest", "v1"} {
		image := r.AddImage("app", tag, []byte("a layer"))
		get(t, n, "app", tag)
		wantManifest(t, get(t, n, "app", tag), namespace.Revalidated, image)
	}
}
