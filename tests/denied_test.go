package tests

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Credentials that an upstream refuses are one warning with the keys to mend,
// however many pulls fail. A new password, which may be wrong too, is another matter.
func TestRefusedCredentialsAreWarnedOf(t *testing.T) {
	t.Parallel()
	const message = "an upstream refuses the configured credentials. Check username and password (or password_file) of these keys"
	basic := upstreamtest.New(t, upstreamtest.WithBasic("reader", "secret"))
	bearer := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: "secret"}))
	anonymous := upstreamtest.New(t, upstreamtest.WithBasic("reader", "secret"))
	for _, r := range []*upstreamtest.Registry{basic, bearer, anonymous} {
		r.AddImage("org/app", "v1", []byte("a layer"))
	}
	with := func(password string) []string {
		return []string{`username = "reader"`, `password = "` + password + `"`}
	}
	config := func(password string) string {
		return blockOf("basic", nil, at(basic, with(password)...)) + blockOf("same", nil, at(basic, with(password)...)) +
			blockOf("bearer", nil, at(bearer, with(password)...)) + blockOf("anonymous", nil, at(anonymous))
	}
	w := harness.StartWeir(t, config("wrong-one"), "WEIR_GLOBAL_NEGATIVE_TTL=0s")
	pull := func(status int, blocks ...string) {
		t.Helper()
		for range 3 {
			for _, block := range blocks {
				expect(t, block, w.Get(t, manifestPath(block+"/org/app", "v1")), status, "")
			}
		}
	}
	warnings := func(want int, texts ...string) {
		t.Helper()
		texts = append([]string{message, `"level":"WARN"`}, texts...)
		if got := w.Log.Count(texts...); got != want {
			t.Errorf("%d warnings with %q, want %d:\n%s", got, texts[2:], want, w.Log)
		}
	}
	pull(http.StatusForbidden, "basic", "same", "bearer", "anonymous")
	warnings(1, `"repositories":["basic","same"]`, `"keys":["repository.\"basic\".upstream[0]","repository.\"same\".upstream[0]"]`, `"upstream":"`+basic.URL.Host+`"`, `"content":"org/app:v1"`)
	warnings(1, `"repositories":["bearer"]`, `"upstream":"`+bearer.URL.Host+`"`)
	warnings(2)
	w.Logs(t, `"msg":"listening"`, `"overrides":["WEIR_GLOBAL_NEGATIVE_TTL"]`)

	harness.WriteFile(t, w.Config, config("wrong-two"))
	w.Logs(t, "the changed configuration is in force")
	pull(http.StatusForbidden, "basic")
	warnings(3)
	harness.WriteFile(t, w.Config, config("secret"))
	harness.Eventually(t, "the password is right", func() bool {
		return w.Get(t, manifestPath("basic/org/app", "v1")).Status == http.StatusOK
	})
	pull(http.StatusOK, "basic", "same", "bearer")
	warnings(3)
	for _, secret := range []string{"wrong-one", "wrong-two", "secret"} {
		if strings.Contains(w.Log.String(), secret) {
			t.Errorf("the log holds the password %q", secret)
		}
	}
}
