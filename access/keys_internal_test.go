package access

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

// Verdicts and answers of webhooks are not those of requests that are spelt alike.
func TestKeysOfVerdictsAreDistinct(t *testing.T) {
	all := newAccounts(nil)
	memory, err := newMemory()
	if err != nil {
		t.Fatal(err)
	}
	certified := func(common string, organizations, names []string) string {
		leaf := &x509.Certificate{Subject: pkix.Name{CommonName: common, Organization: organizations}, DNSNames: names}
		return fmt.Sprint(memory.certified([]*x509.Certificate{leaf}).tag)
	}
	told := func(header http.Header) string {
		hook := newWebhook(Webhook{ForwardHeaders: []string{"A", "B"}}, memory.tags)
		return fmt.Sprint(hook.tag(&Identity{}, Question{}, Presented{Request: &http.Request{Header: header}}))
	}
	for name, key := range map[string]func(a, b string) string{
		"repositories": func(a, b string) string {
			return fmt.Sprintf("%#v", newVerdictKey(&Identity{}, &Question{Block: a, Namespace: b}))
		},
		"texts":                      func(a, b string) string { return fmt.Sprint(memory.tags.of(a, b)) },
		"a name and an organization": func(a, b string) string { return certified(a, []string{b}, nil) },
		"organizations":              func(a, b string) string { return certified("", []string{a, b}, nil) },
		"an organization and a name": func(a, b string) string { return certified("", []string{a}, []string{b}) },
		"names":                      func(a, b string) string { return certified("", nil, []string{a, b}) },
		"values told to a webhook":   func(a, b string) string { return told(http.Header{"A": {a, b}}) },
		"fields told to a webhook":   func(a, b string) string { return told(http.Header{"A": {a}, "B": {b}}) },
	} {
		t.Run(name, func(t *testing.T) {
			testutil.Distinct(t, func(a, b string) (string, bool) { return key(a, b), true })
		})
	}
	if told(http.Header{"A": {"x", "y"}}) == told(http.Header{"A": {"x"}, "B": {"y"}}) {
		t.Error("a value is told to a webhook under another name, with the same key")
	}
	// No username of Basic has a colon (RFC 7617 section 2).
	testutil.Distinct(t, func(a, b string) (string, bool) {
		return fmt.Sprint(all.mac(a, b)), !strings.Contains(a, ":")
	})
}
