package app

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/testutil"
)

// A webhook may have a private authority and ask for a client certificate.
func TestWebhookOverTLS(t *testing.T) {
	ca := testutil.NewAuthority(t)
	until := time.Now().Add(time.Hour)
	certificate, key := ca.Issue("localhost", until)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.VerifiedChains[0][0].Subject.CommonName != "weir" || r.Header.Get("Authorization") != "Basic d2Vpcjpub2JvZHkncw==" {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	defer server.Close()
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	address.Host = "localhost:" + address.Port()
	certificate, key = ca.Issue("weir", until)
	trusting := config.Webhook{Key: "opa", URL: config.URL(*address), TimeoutMS: 10_000, ServerCABundle: ca.File(), ClientCertificate: certificate, ClientPrivateKey: key, BasicAuth: config.BasicAuth{Username: "weir", Password: "nobody's"}}
	strange, unknown := trusting, trusting
	strange.ServerCABundle = ""
	unknown.ClientCertificate, unknown.ClientPrivateKey = "", ""
	for name, c := range map[string]struct {
		hook config.Webhook
		want bool
	}{
		"both know each other": {trusting, true}, "an unknown authority": {strange, false}, "no client certificate": {unknown, false},
	} {
		hook, err := translateWebhook(c.hook)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := access.New(access.Options{Anonymous: true, Webhook: "opa", Webhooks: []access.Webhook{hook}, Blocks: []access.Block{{Key: "up"}}})
		if err != nil {
			t.Fatal(err)
		}
		err = rules.Permit(t.Context(), &access.Identity{User: "alice"}, access.Question{Action: access.GetManifest, Block: "up", Name: "app", Namespace: "up/app"}, access.Presented{Request: &http.Request{Method: "GET"}})
		if (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		var current access.Current
		current.Store(rules)
		current.Store(rules) // which closes the idle connections of the first
	}
}
