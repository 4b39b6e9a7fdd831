package printable_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/weirhq/weir/internal/printable"
)

func TestLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "",
		"docker/27.1 go/1.22":       "docker/27.1 go/1.22",
		"größe 日本 🐳":                "größe 日本 🐳",
		`back\slash "quoted"`:       `back\slash "quoted"`,
		"a\nb\tc\rd":                `a\nb\tc\rd`,
		"\x1b[31mred\x1b[0m":        `\x1b[31mred\x1b[0m`,
		"\u009b31m":                 `\u009b31m`, // the C1 form of the same sequence
		"app\u202egnp.exe":          `app\u202egnp.exe`,
		"a\u2066b\u2069":            `a\u2066b\u2069`,
		"zero\u200bwidth\ufeff":     `zero\u200bwidth\ufeff`,
		"soft\u00adhyphen":          `soft\u00adhyphen`,
		"tag\U000e0041":             `tag\U000e0041`,
		"line\u2028paragraph\u2029": `line\u2028paragraph\u2029`,
		"no-break\u00a0space":       `no-break\u00a0space`,
		"\xff\xc3":                  `\xff\xc3`,
		"nul\x00":                   `nul\x00`,
		"replaced \ufffd":           "replaced \ufffd",
		strings.Repeat("x", 64):     strings.Repeat("x", 64),
		strings.Repeat("x", 65):     strings.Repeat("x", 64) + "...",
		strings.Repeat("é", 40):     strings.Repeat("é", 32) + "...",
		strings.Repeat("\x1b", 20):  strings.Repeat(`\x1b`, 16) + "...",
	} {
		if got := printable.Line(text, 64); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	if got := printable.Lines("a\n\tb\x1b\r", 64); got != "a\n\tb"+`\x1b\r` {
		t.Errorf("several lines became %q", got)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("app\u202e\x1b]0;title\a", 10)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = min(max(limit, 0), 1<<12)
		got := printable.Line(text, limit)
		if len(got) > limit+len("...") || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q became %q", text, got)
		}
	})
}

// A client's words have bounds of their own.
func TestRequest(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	r := &http.Request{Method: long, URL: &url.URL{Path: "/v2/\x1b[2J\u202e" + long}, Header: http.Header{"User-Agent": {"curl\n" + long}}}
	if method, path, agent := printable.Method(r), printable.Path(r), printable.UserAgent(r); len(method) != 16+3 ||
		!strings.HasPrefix(path, `/v2/\x1b[2J\u202exxx`) || len(path) != 300+3 || !strings.HasPrefix(agent, `curl\nxxx`) || len(agent) != 200+3 {
		t.Errorf("%q\n%q\n%q", method, path, agent)
	}
	if agent := printable.UserAgent(&http.Request{}); agent != "" {
		t.Errorf("no user agent is %q", agent)
	}
}
