package app

import (
	"html"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/pages"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The trial of a registry with an authority of its own, and of one that asks for a certificate, uses
// those of the form. No answer, log or file has them.
func TestTrialWithCertificates(t *testing.T) {
	registry := upstreamtest.New(t, upstreamtest.WithClientCertificates(), upstreamtest.WithBasic("alice", "s3cret-word"))
	open := upstreamtest.New(t, upstreamtest.WithTLS())
	certificate, key := registry.ClientCertificateFiles()
	authority, own, secret := read(t, registry.CAFile()), read(t, certificate), read(t, key)
	stranger, strangerKey := open.ClientCertificateFiles()
	e := newEditing(t, privateToo, "")
	mtls := func(more ...string) url.Values {
		form := registryForm(registry.URL.String(), "kind", "mtls", "username", "alice", "password", "s3cret-word", "action", "add", "authority", authority, "certificate", own, "private_key", secret)
		for i := 0; i+1 < len(more); i += 2 {
			form.Set(more[i], more[i+1])
		}
		return form
	}
	for name, c := range map[string]struct {
		form url.Values
		says string
	}{
		"with all":                  {mtls(), "It works"},
		"another authority":         {mtls("authority", read(t, open.CAFile())), "It does not work"},
		"no authority":              {mtls("authority", ""), "It does not work"},
		"another certificate":       {mtls("certificate", read(t, stranger), "private_key", read(t, strangerKey)), "It does not work"},
		"a wrong password":          {mtls("password", "wr0ng-word"), "It does not work"},
		"the key of another one":    {mtls("private_key", read(t, strangerKey)), `id="certificate-problem"`},
		"no key":                    {mtls("private_key", ""), `id="private_key-problem"`},
		"no certificate":            {mtls("certificate", ""), `id="certificate-problem"`},
		"the path of a key":         {mtls("private_key", key), `id="certificate-problem"`},
		"a long authority":          {mtls("authority", authority+strings.Repeat("x", maxCertificates)), `id="authority-problem"`},
		"only shown":                {mtls("action", "show", "private_key", ""), "The block"},
		"its authority":             {registryForm(open.URL.String(), "kind", "private-ca", "authority", read(t, open.CAFile())), "It works"},
		"its authority is missing":  {registryForm(open.URL.String(), "kind", "private-ca"), `id="authority-problem"`},
		"an authority that is none": {registryForm(open.URL.String(), "kind", "private-ca", "authority", "/etc/passwd"), `id="authority-problem"`},
		"a public authority":        {registryForm(open.URL.String()), "It does not work"},
	} {
		w := visit(t, e.handler, "POST", addPage, c.form)
		body := html.UnescapeString(w.Body.String())
		if w.Code != 200 || !strings.Contains(body, c.says) || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d, without %s\n%s", name, w.Code, c.says, body)
		}
		for _, text := range []string{secret, own, authority, read(t, strangerKey)} {
			if line := strings.Split(text, "\n")[1]; strings.Contains(body, line) || strings.Contains(e.log.String(), line) {
				t.Errorf("%s: the answer or the log has a certificate or a key: %s", name, body)
			}
		}
	}
	w := visit(t, e.handler, "POST", addPage, mtls())
	for _, want := range []string{"server_ca_bundle", "client_certificate", "client_private_key", "password_file", "this page cannot add the block"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is missing: %s", want, w.Body)
		}
	}
	if files := e.files(t); len(files) > 0 {
		t.Errorf("files %q", files)
	}
}

const ecr = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"

// The trial of Amazon ECR runs the credential helper of the mirror's PATH, for addresses of ECR alone.
func TestTrialOfECR(t *testing.T) {
	network := upstreamtest.NewNetwork()
	registry := upstreamtest.New(t, upstreamtest.WithNetwork(network, ecr), upstreamtest.WithTLS(), upstreamtest.WithBasic("AWS", "t0ken-word"))
	registry.AddImage("team/app", "v1", []byte("a layer"))
	e := newEditing(t, "", "")
	r := registrar{mirror: e.mirror, adding: new(sync.Mutex), trial: trial{network.DialContext, []byte(read(t, registry.CAFile()))}}
	described := pages.Registry{Key: ecr, URL: "https://" + ecr, Helper: config.ECRHelper, Image: "team/app:v1"}
	path := t.TempDir()
	t.Setenv("PATH", path)
	form := url.Values{"kind": {"ecr"}, "url": {"https://" + ecr}, "action": {"add"}}
	w := visit(t, e.handler, "POST", addPage, form)
	if body := w.Body.String(); w.Code != 200 || !strings.Contains(body, "amazon-ecr-credential-helper") || !strings.Contains(body, "It does not work") || !strings.Contains(body, "lends the rights") {
		t.Errorf("without the helper: %d %s", w.Code, body)
	}
	runs := filepath.Join(path, "runs")
	script := "#!/bin/sh\nread -r server\necho \"$1 $server\" >> " + runs + "\necho '{\"ServerURL\":\"x\",\"Username\":\"AWS\",\"Secret\":\"t0ken-word\"}'\n"
	if err := os.WriteFile(filepath.Join(path, "docker-credential-ecr-login"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	for _, address := range []string{"https://registry.example", "http://" + ecr, "https://" + ecr + ".evil.example"} {
		form.Set("url", address)
		if w := visit(t, e.handler, "POST", addPage, form); w.Code != 200 || !strings.Contains(w.Body.String(), `id="url-problem"`) {
			t.Errorf("%s: %d %s", address, w.Code, w.Body)
		}
	}
	if _, err := os.Stat(runs); err == nil {
		t.Errorf("the helper ran for %s", read(t, runs))
	}
	results, err := r.Try(t.Context(), described)
	if err != nil || len(results) != 1 || results[0].Status != check.StatusOK || results[0].Authentication != check.LoginAccepted {
		t.Fatalf("%+v %v", results, err)
	}
	if got := read(t, runs); got != "get "+ecr+"\n" {
		t.Errorf("the helper ran as %q", got)
	}
	if text, _, err := r.Draft(t.Context(), described); err != nil || !strings.Contains(text, `credential_helper = "ecr-login"`) {
		t.Errorf("%v\n%s", err, text)
	}
	if err := r.Add(t.Context(), described); err == nil || len(e.files(t)) > 0 {
		t.Errorf("the block of a helper was added: %v, files %q", err, e.files(t))
	}
}
