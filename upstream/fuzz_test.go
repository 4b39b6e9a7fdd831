package upstream

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzNextPage feeds the Link header: a query is bounded, and a link that a registry writes
// by the book leads to its query, whatever stands before it.
func FuzzNextPage(f *testing.F) {
	for _, field := range []string{
		`</v2/repo/tags/list?last=c&n=2>; rel="next"`, `<x>; rel=prev, <?a=b>; rel='next'`, `junk, <?last=c&amp;n=2>;rel=next`,
		`<?a;n=2>;rel="a next"`, `<?a=%zz>; rel=next`, `<`, `<a>;rel="`, `,;"\`,
	} {
		f.Add(field, "last", "v1&<>;,\"")
	}
	f.Fuzz(func(t *testing.T, field, name, value string) {
		query := nextPage(http.Header{"Link": {field}})
		total := 0
		for name, values := range query {
			total += len(name) + len(strings.Join(values, ""))
			if name == "" || len(values) == 0 {
				t.Errorf("%q leads to %q", field, query)
			}
		}
		if query != nil && len(query) == 0 || total > maxNextQuery {
			t.Errorf("%q leads to %d bytes", field, total)
		}
		want := url.Values{name: {value}}
		link := fmt.Sprintf(`</v2/app/tags/list?%s>; rel="next"`, want.Encode())
		if name == "" || len(link) > maxNextQuery {
			return
		}
		if diff := cmp.Diff(want, nextPage(http.Header{"Link": {link}})); diff != "" {
			t.Errorf("%q: %s", link, diff)
		}
	})
}

// FuzzContentRange feeds the Content-Range header: its numbers are possible ones, and mean
// the same when they are written again.
func FuzzContentRange(f *testing.F) {
	for _, value := range []string{"bytes 0-9/100", "Bytes 10-19/*", "bytes */100", "bytes 10-9/100", "bytes 9223372036854775807-9223372036854775807/*", "bytes +1-2/3", ""} {
		f.Add(value, int64(0), int64(9), int64(100))
	}
	f.Fuzz(func(t *testing.T, value string, first, last, whole int64) {
		start, size, err := parseContentRange(value)
		if err != nil && (start != 0 || size != -1) || start < 0 || size < -1 || size >= 0 && start >= size {
			t.Errorf("%q: from %d of %d, %v", value, start, size, err)
		}
		if size, ok := unsatisfiedSize(value); ok && size < 0 || ok && err == nil {
			t.Errorf("%q is unsatisfied of %d, %t", value, size, ok)
		}
		possible := 0 <= first && first <= last && last < whole
		written := fmt.Sprintf("bytes %d-%d/%d", first, last, whole)
		if start, size, err := parseContentRange(written); (err == nil) != possible || possible && (start != first || size != whole) {
			t.Errorf("%q: from %d of %d, %v", written, start, size, err)
		}
	})
}

// FuzzRateLimit feeds the headers of a rate limit: no number is negative.
func FuzzRateLimit(f *testing.F) {
	f.Add("100;w=21600", "76;w=21600")
	f.Add("-1;w=-1", "9223372036854775808")
	f.Add(";w=99999999999999999999", "")
	f.Fuzz(func(t *testing.T, limit, remaining string) {
		header := http.Header{"Ratelimit-Limit": {limit}, "Ratelimit-Remaining": {remaining}}
		most, left, ok := parseRateLimit(header)
		if ok && (most < 0 || left < 0) || parseWindow(header) < 0 {
			t.Errorf("%q, %q: %d of %d in %v", limit, remaining, left, most, parseWindow(header))
		}
	})
}
