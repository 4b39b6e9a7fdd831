package upstream_test

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// refused collects the reports of refused credentials.
type refused []*upstream.Error

func (r *refused) with(o *upstream.Options) {
	o.OnDenied = func(e *upstream.Error) { *r = append(*r, e) }
}

// An upstream's refusal of credentials is reported, and no other refusal is.
func TestRefusedCredentialsAreReported(t *testing.T) {
	const registry = "ghcr.io"
	wrong := func(o *upstream.Options) { o.Username, o.Password = "reader", "wrong-password" }
	right := func(o *upstream.Options) { o.Username, o.Password = "reader", "secret" }
	basic := []upstreamtest.Option{upstreamtest.WithBasic("reader", "secret")}
	bearer := []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: "secret"})}
	denied := []upstreamtest.Effect{upstreamtest.Status(403, `{"errors":[{"code":"DENIED","message":"no right"}]}`)}
	page := []upstreamtest.Effect{upstreamtest.Status(403, "<html>blocked</html>")}
	for name, c := range map[string]struct {
		options []upstreamtest.Option
		change  func(*upstream.Options)
		match   upstreamtest.Match
		effects []upstreamtest.Effect
		want    string // the operation and the status of the report; "": none
	}{
		"Basic":                   {options: basic, change: wrong, want: "manifest 401"},
		"Basic, accepted":         {options: basic, change: right},
		"by the token service":    {options: bearer, change: wrong, want: "token 401"},
		"accepted, no such right": {options: bearer, change: right, match: upstreamtest.Path("/v2/repo/manifests/latest"), effects: denied, want: "manifest 403"},
		"403 of a token service":  {options: bearer, change: right, match: upstreamtest.Tokens, effects: denied, want: "token 403"},
		"anonymous":               {options: basic},
		"anonymous, by token":     {options: bearer},
		"never asked for":         {change: right, match: upstreamtest.Any, effects: denied},
		"a web filter":            {change: right, match: upstreamtest.Any, effects: page},
		"a HEAD only":             {options: basic, change: right, match: upstreamtest.Method("HEAD"), effects: denied},
		"not there":               {options: basic, change: right, match: upstreamtest.Path("/v2/repo/manifests/latest"), effects: []upstreamtest.Effect{upstreamtest.Status(404, "")}},
		"out of order":            {options: bearer, change: right, match: upstreamtest.Tokens, effects: []upstreamtest.Effect{upstreamtest.Status(503, "")}},
		"rate limited":            {options: bearer, change: wrong, match: upstreamtest.Tokens, effects: []upstreamtest.Effect{upstreamtest.Status(429, "")}},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, append(c.options, upstreamtest.WithNetwork(n, registry))...)
				r.AddImage("repo", "latest", []byte("layer"))
				if c.match != nil {
					r.Fault(c.match, c.effects...)
				}
				var got refused
				changes := []func(*upstream.Options){on(n), got.with}
				if c.change != nil {
					changes = append(changes, c.change)
				}
				client := newClient(t, r, changes...)
				for range 3 { // every pull meets it
					_, _ = client.Head(t.Context(), "repo", oci.ByTag("latest"))
					_, _ = client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				}
				expectReports(t, got, c.want)
				if c.want != "" && got[0].Content() != "repo:latest" {
					t.Errorf("reported for %s", got[0].Content())
				}
				time.Sleep(4 * time.Minute)
				_, _ = client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				expectReports(t, got, c.want)
				time.Sleep(time.Minute)
				_, _ = client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				if c.want != "" {
					expectReports(t, got, c.want, c.want)
				}
			})
		})
	}
}

func expectReports(t *testing.T, got refused, want ...string) {
	t.Helper()
	var reports []string
	for _, e := range got {
		reports = append(reports, fmt.Sprintf("%s %d", e.Op, e.Status))
	}
	want = slices.DeleteFunc(want, func(s string) bool { return s == "" })
	if !slices.Equal(reports, want) {
		t.Errorf("reported %q, want %q", reports, want)
	}
}

// Credentials that were accepted until they expired are refused ones.
func TestExpiredCredentialsAreReported(t *testing.T) {
	for name, kind := range map[string]upstreamtest.Option{
		"manifest 401": upstreamtest.WithBasic("reader", "secret"),
		"token 401":    upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: "secret", TTL: time.Minute}),
	} {
		inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
			r := upstreamtest.New(t, kind, upstreamtest.WithNetwork(n, "ghcr.io"))
			r.AddImage("repo", "latest", []byte("layer"))
			var got refused
			client := newClient(t, r, on(n), got.with, func(o *upstream.Options) { o.Username, o.Password = "reader", "secret" })
			must[*oci.Manifest](t)(client.Manifest(t.Context(), "repo", oci.ByTag("latest")))
			expectReports(t, got)
			match := upstreamtest.Manifests
			if strings.HasPrefix(name, "token") {
				match = upstreamtest.Tokens
			}
			r.Fault(match, upstreamtest.Status(401, `{"errors":[{"code":"UNAUTHORIZED","message":"the password has expired"}]}`))
			time.Sleep(time.Hour)
			_, _ = client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
			expectReports(t, got, name)
		})
	}
}

// A client certificate is a credential, too.
func TestRefusedCertificateIsReported(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithClientCertificates())
	r.AddImage("repo", "latest", []byte("layer"))
	foreign := upstreamtest.New(t, upstreamtest.WithClientCertificates()).ClientCertificate()
	own := r.ClientCertificate()
	pull := func(certificate *tls.Certificate) (got refused) {
		client := newClient(t, r, got.with, func(o *upstream.Options) { o.Certificate, o.RootCAs = certificate, r.RootCAs() })
		for range 3 {
			_, _ = client.Head(t.Context(), "repo", oci.ByTag("latest"))
			_, _ = client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		}
		return got
	}
	// Of another authority. A TLS handshake has no status.
	if got := pull(&foreign); len(got) != 1 || got[0].Status != 0 || got[0].Remedy() != upstream.CheckClientCertificate {
		t.Errorf("a foreign certificate: reported %v", got)
	}
	expectReports(t, pull(&own))
	expectReports(t, pull(nil)) // none is configured
	r.Fault(upstreamtest.Manifests, upstreamtest.Status(403, `{"errors":[{"code":"DENIED"}]}`))
	expectReports(t, pull(&own), "manifest 403")
}

// Another registry behind a redirect does not get the credentials, so it cannot refuse
// them.
func TestOtherRegistryRefusesNoCredentials(t *testing.T) {
	second := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	second.AddImage("repo", "latest", []byte("layer"))
	// It challenges first, and then refuses its anonymous token.
	withToken := func(r *http.Request) bool { return r.Header.Get("Authorization") != "" }
	second.Fault(upstreamtest.All(upstreamtest.Manifests, withToken), upstreamtest.Status(403, `{"errors":[{"code":"DENIED"}]}`))
	first := upstreamtest.New(t, upstreamtest.WithBasic("user", "hunter2"), upstreamtest.WithRedirect(second))
	var got refused
	client := newClient(t, first, withCredentials, got.with)
	_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
	if e := wantError(t, err, upstream.ErrDenied); !e.NotAsked {
		t.Errorf("it seems to refuse credentials: %v", e)
	}
	expectReports(t, got)
}

// An upstream that repeats the password, or the header that carries it, does not bring
// it into the log.
func TestAnswersDoNotRepeatThePassword(t *testing.T) {
	header := "Basic " + base64.StdEncoding.EncodeToString([]byte("reader:wrong-password"))
	for _, message := range []string{"the password wrong-password has expired", "bad header Authorization: " + header, "wrong-password" + header} {
		r := upstreamtest.New(t, upstreamtest.WithBasic("reader", "secret"))
		r.Fault(upstreamtest.Manifests, upstreamtest.Status(403, fmt.Sprintf(`{"errors":[{"code":"DENIED","message":%q}]}`, message)))
		var got refused
		client := newClient(t, r, got.with, func(o *upstream.Options) { o.Username, o.Password = "reader", "wrong-password" })
		_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		text := fmt.Sprint(err, got)
		if strings.Contains(text, "wrong-password") || strings.Contains(text, header[6:]) || !strings.Contains(text, "[hidden]") {
			t.Errorf("%s", text)
		}
	}
}
