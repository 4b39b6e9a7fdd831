package access

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

// Verdicts and answers of webhooks are not those of requests that are spelt alike.
func TestKeysOfVerdictsAreDistinct(t *testing.T) {
	all := newAccounts(nil)
	for name, key := range map[string]func(a, b string) string{
		"repositories": func(a, b string) string {
			return fmt.Sprintf("%#v", newVerdictKey(&Identity{}, Question{Block: a, Namespace: b}, false))
		},
		"users": func(a, b string) string {
			return fmt.Sprintf("%#v", newVerdictKey(&Identity{ID: a, User: b}, Question{}, false))
		},
		"organizations": func(a, b string) string {
			return newVerdictKey(&Identity{Certificate: &Certificate{Organizations: []string{a, b}}}, Question{}, false).organizations
		},
		"values told to a webhook": func(a, b string) string { return fmt.Sprint(sumOf(http.Header{"A": {a, b}})) },
		"fields told to a webhook": func(a, b string) string { return fmt.Sprint(sumOf(http.Header{"A": {a}, "B": {b}})) },
		"names told to a webhook":  func(a, b string) string { return fmt.Sprint(sumOf(http.Header{a: {b}})) },
	} {
		t.Run(name, func(t *testing.T) {
			testutil.Distinct(t, func(a, b string) (string, bool) { return key(a, b), true })
		})
	}
	// No username of Basic has a colon (RFC 7617 section 2).
	testutil.Distinct(t, func(a, b string) (string, bool) {
		return fmt.Sprint(all.mac(a, b)), !strings.Contains(a, ":")
	})
}
