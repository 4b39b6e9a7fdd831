package upstream_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// However a token service writes its answer, a token costs one request.
func TestTokenAnswersCostOneRequest(t *testing.T) {
	issuedBefore := func(d time.Duration) func(string, time.Time) string {
		return func(token string, now time.Time) string {
			return fmt.Sprintf(`{"token":%q,"expires_in":300,"issued_at":%q}`, token, now.Add(-d).UTC().Format(time.RFC3339Nano))
		}
	}
	written := func(format string) func(string, time.Time) string {
		return func(token string, _ time.Time) string { return fmt.Sprintf(format, token) }
	}
	for name, answer := range map[string]func(token string, now time.Time) string{
		"life as a string":       written(`{"token":"%s","expires_in":"300"}`),
		"life of an instant":     written(`{"token":"%s","expires_in":0.001}`),
		"issued at a Unix time":  written(`{"token":"%s","issued_at":1700000000}`),
		"issued at a string":     written(`{"token":"%s","issued_at":"1700000000"}`),
		"fields of other types":  written(`{"token":"%s","access_token":7,"expires_in":[],"issued_at":{}}`),
		"a token of other type":  written(`{"token":{},"access_token":"%s"}`),
		"a newline in the token": written(`{"token":"%s\n"}`),
		"a newline after all":    written("{\"token\":\"%s\"}\n\n"),
		"a byte order mark":      written("\ufeff{\"token\":\"%s\"}"),
		"issued long before":     issuedBefore(24 * time.Hour),
		"issued a life before":   issuedBefore(300 * time.Second),
		"issued just too early":  issuedBefore(270 * time.Second),
		"issued in the future":   issuedBefore(-time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBearer(upstreamtest.Bearer{Answer: answer}))
				r.AddImage("repo", "latest", []byte("layer"))
				c := newClient(t, r, on(n))
				for range 10 {
					must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
				}
				synctest.Wait()
				if got := r.TokenRequests(); len(got) != 1 {
					t.Errorf("the token service was asked %d times", len(got))
				}
				if got := r.Requests(); len(got) != 11 { // one of them brought the challenge
					t.Errorf("requests are %q", got)
				}
			})
		})
	}
}
