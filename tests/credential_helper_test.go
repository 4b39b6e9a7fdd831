package tests

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A credential helper from the PATH gives the password of an upstream, which shows nowhere.
func TestCredentialHelper(t *testing.T) {
	t.Parallel()
	const secret = "a-secret-of-the-helper"
	registry := upstreamtest.New(t, upstreamtest.WithBasic("AWS", secret))
	for _, repo := range []string{"org/app", "org/other"} {
		registry.AddImage(repo, "v1", []byte("a layer"))
	}
	bin := t.TempDir()
	asked := filepath.Join(bin, "asked")
	script := func(answer string) {
		t.Helper()
		harness.Must(t, os.WriteFile(filepath.Join(bin, "docker-credential-test"), fmt.Appendf(nil, "#!/bin/sh\necho \"$1 $(cat)\" >> %s\necho '%s'\n", asked, answer), 0o700))
	}
	script(`{"ServerURL":"","Username":"AWS","Secret":"` + secret + `"}`)
	w := harness.StartWeir(t, blockOf("private", nil, at(registry, `credential_helper = "test"`))+
		blockOf("broken", nil, at(registry, `credential_helper = "missing"`)), "PATH="+bin+":"+os.Getenv("PATH"))
	for range 3 {
		for _, repo := range []string{"org/app", "org/other"} {
			expect(t, repo, w.Get(t, manifestPath("private/"+repo, "v1")), http.StatusOK, "")
		}
	}
	got, err := os.ReadFile(asked)
	harness.Must(t, err)
	if want := "get " + registry.URL.Host + "\n"; string(got) != want {
		t.Errorf("the helper was asked %q, want %q", got, want)
	}
	answer := w.Get(t, manifestPath("broken/org/app", "v1"))
	expect(t, "a helper that is missing", answer, http.StatusBadGateway, "")
	if !strings.Contains(string(answer.Body), `Check credential_helper of repository.\"broken\".upstream[0]`) {
		t.Errorf("the client is told %s", answer.Body)
	}
	w.Logs(t, "is not a program that Weir can run", `repository.broken.upstream[0].credential_helper`)
	w.Logs(t, "the credential helper returned no password", "docker-credential-missing")
	check := command(t, filepath.Dir(w.Config), "check", "--config", w.Config)
	if strings.Contains(w.Log.String()+check.stdout+check.stderr, secret) {
		t.Error("the password shows")
	}
}
