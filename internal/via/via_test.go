package via_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/via"
)

func TestRead(t *testing.T) {
	for name, test := range map[string]struct {
		header http.Header
		want   via.Trail
	}{
		"no header":          {http.Header{}, nil},
		"one":                {http.Header{"Via": {"1.1 weir-a1"}}, via.Trail{"weir-a1"}},
		"protocol by name":   {http.Header{"Via": {"HTTP/1.1 weir-a1"}}, via.Trail{"weir-a1"}},
		"comment":            {http.Header{"Via": {"1.1 weir-a1 (a mirror, of mine)"}}, via.Trail{"weir-a1"}},
		"long":               {http.Header{"Via": {"1.1 weir-" + strings.Repeat("a", 32)}}, via.Trail{via.ID("weir-" + strings.Repeat("a", 32))}},
		"too long":           {http.Header{"Via": {"1.1 weir-" + strings.Repeat("a", 33) + ", 1.1 weir-b2"}, "Cdn-Loop": {"weir-" + strings.Repeat("0", 60_000)}}, via.Trail{"weir-b2"}},
		"case":               {http.Header{"Via": {"1.1 WEIR-A1"}}, via.Trail{"weir-a1"}},
		"two":                {http.Header{"Via": {"1.1 weir-a1, 1.1 weir-b2"}}, via.Trail{"weir-a1", "weir-b2"}},
		"several headers":    {http.Header{"Via": {"1.1 weir-a1", "2 weir-b2"}}, via.Trail{"weir-a1", "weir-b2"}},
		"other proxies":      {http.Header{"Via": {"1.1 varnish, 1.1 weir-a1, 1.1 nginx (weir-c3)"}}, via.Trail{"weir-a1"}},
		"host of a proxy":    {http.Header{"Via": {"1.1 weir-proxy.example.com, 1.1 weir-1:80, 1.1 weir-"}}, nil},
		"rubbish":            {http.Header{"Via": {",,weir-a1,;,1.1"}, "Cdn-Loop": {",;,"}}, nil},
		"only CDN-Loop":      {http.Header{"Cdn-Loop": {"weir-a1; v=1, cloudflare, weir-b2"}}, via.Trail{"weir-a1", "weir-b2"}},
		"both":               {http.Header{"Via": {"1.1 weir-a1"}, "Cdn-Loop": {"weir-a1, weir-b2"}}, via.Trail{"weir-a1", "weir-b2"}},
		"the same one twice": {http.Header{"Via": {"1.1 weir-a1, 1.1 weir-a1"}}, via.Trail{"weir-a1", "weir-a1"}},
	} {
		if got := via.Read(test.header); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// A request carries the IDs of the mirrors before, and the next mirror reads them.
func TestMark(t *testing.T) {
	header := http.Header{}
	ctx := via.With(t.Context(), via.Trail{"weir-a1"})
	via.ID("weir-b2").Mark(ctx, header)
	if v, l := header.Get("Via"), header.Get("CDN-Loop"); v != "1.1 weir-a1, 1.1 weir-b2" || l != "weir-a1, weir-b2" {
		t.Errorf("Via: %s, CDN-Loop: %s", v, l)
	}
	if got := via.Read(header); !slices.Equal(got, via.Trail{"weir-a1", "weir-b2"}) {
		t.Errorf("the next mirror reads %q", got)
	}
	if got := via.From(ctx); !slices.Equal(got, via.Trail{"weir-a1"}) {
		t.Errorf("the trail was changed to %q", got)
	}
	header = http.Header{}
	via.ID("").Mark(ctx, header)
	if len(header) > 0 {
		t.Errorf("without an ID: %v", header)
	}
}

func TestNewID(t *testing.T) {
	a, b := via.NewID(), via.NewID()
	if !regexp.MustCompile(`^weir-[0-9a-f]{16}$`).MatchString(string(a)) || a == b {
		t.Errorf("%s, %s", a, b)
	}
}

// No circle of processes waits for itself, in whatever order the IDs are: of any two,
// one must not wait for the other.
func TestMayWait(t *testing.T) {
	for _, test := range []struct {
		id    via.ID
		trail via.Trail
		want  bool
	}{
		{"weir-b", nil, true},
		{"weir-b", via.Trail{"weir-a"}, true},
		{"weir-b", via.Trail{"weir-c"}, false},
		{"weir-b", via.Trail{"weir-b"}, false},
		{"weir-c", via.Trail{"weir-a", "weir-b"}, true},
		{"weir-b", via.Trail{"weir-c", "weir-a"}, false},
		{"weir-b", via.Trail{"weir-a", "weir-c"}, false},
		{"", via.Trail{"weir-a"}, false},
	} {
		if got := test.id.MayWait(test.trail); got != test.want {
			t.Errorf("%q may wait after %q: %v", test.id, test.trail, got)
		}
	}
}

func TestAnswersNameTheMirror(t *testing.T) {
	answer := http.Header{}
	via.ID("weir-a1").Name(answer)
	for value, want := range map[string]bool{
		answer.Get("Via"): true, "1.1 varnish, 1.1 weir-a1": true, "1.1 WEIR-A1": true,
		"": false, "1.1 varnish": false, "1.1 weir-proxy.example.com": false, "weir-a1": false,
	} {
		if got := via.IsMirror(http.Header{"Via": {value}}); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
	// Only requests have CDN-Loop.
	if via.IsMirror(http.Header{"Cdn-Loop": {"weir-a1"}}) {
		t.Error("CDN-Loop counts")
	}
	nameless := http.Header{}
	via.ID("").Name(nameless)
	if len(nameless) > 0 {
		t.Errorf("without an ID: %v", nameless)
	}
}

func TestWatch(t *testing.T) {
	via.NoteLoop(t.Context()) // without a watch nothing happens
	ctx := via.Watch(t.Context())
	if via.Looped(ctx) {
		t.Error("a loop before any request")
	}
	inner := via.Watch(ctx)
	via.NoteLoop(via.With(inner, via.Trail{"weir-a1"}))
	if !via.Looped(inner) || via.Looped(via.Watch(ctx)) {
		t.Error("a loop is that of its own watch, and of those around it")
	}
	if !via.Looped(ctx) {
		t.Error("the loop of a request was not noted")
	}
}

// FuzzRead holds a trail to the IDs of mirrors, and to itself when it is sent on.
func FuzzRead(f *testing.F) {
	f.Add("1.1 weir-0a, HTTP/1.1 proxy.example (weir-1)", "weir-0A; x=1,weir-2")
	f.Add("weir-1", ",,;")
	f.Add("1.1 weir-\n1", "WEIR-ſ")
	f.Fuzz(func(t *testing.T, forwarded, loop string) {
		trail := via.Read(http.Header{"Via": {forwarded}, "Cdn-Loop": {loop}})
		for _, id := range trail {
			if rest, ok := strings.CutPrefix(string(id), "weir-"); !ok || rest == "" || len(rest) > 32 || strings.Trim(rest, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
				t.Errorf("%q and %q: the trail has %q", forwarded, loop, id)
			}
		}
		header := make(http.Header)
		via.ID("weir-own").Mark(via.With(t.Context(), trail), header)
		if sent := via.Read(header); !slices.Equal(sent, append(slices.Clone(trail), "weir-own")) {
			t.Errorf("%q and %q: %q is sent on as %q", forwarded, loop, trail, sent)
		}
	})
}
