package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// TestErrorsOfUpstreams is the table "Which failure means what", for each thing
// that can be asked for.
func TestErrorsOfUpstreams(t *testing.T) {
	dgst := digest.FromString("x").String()
	paths := map[string]string{
		"manifest":           "manifests/v1",
		"manifest by digest": "manifests/" + dgst,
		"blob":               "blobs/" + dgst,
		"tags":               "tags/list",
		"referrers":          "referrers/" + dgst,
	}
	own := map[string]string{"manifest": "MANIFEST_UNKNOWN", "manifest by digest": "MANIFEST_UNKNOWN", "blob": "BLOB_UNKNOWN", "tags": "NAME_UNKNOWN"}
	coded := func(code string) string { return fmt.Sprintf(`{"errors":[{"code":%q,"message":"so it says"}]}`, code) }
	for name, test := range map[string]struct {
		effects []upstreamtest.Effect
		status  int
		code    string // "": by what was asked for
		retry   string
	}{
		"404":                {[]upstreamtest.Effect{upstreamtest.Status(404, "")}, 404, "", ""},
		"404 with a code":    {[]upstreamtest.Effect{upstreamtest.Status(404, coded("NAME_UNKNOWN"))}, 404, "NAME_UNKNOWN", ""},
		"404 with another":   {[]upstreamtest.Effect{upstreamtest.Status(404, coded("TEAPOT"))}, 404, "", ""},
		"404 of a page":      {[]upstreamtest.Effect{upstreamtest.Status(404, "<html>")}, 404, "", ""},
		"410":                {[]upstreamtest.Effect{upstreamtest.Status(410, coded("MANIFEST_UNKNOWN"))}, 404, "MANIFEST_UNKNOWN", ""},
		"410 of a page":      {[]upstreamtest.Effect{upstreamtest.Status(410, "<html>")}, 502, "UNAVAILABLE", ""},
		"400 of a page":      {[]upstreamtest.Effect{upstreamtest.Status(400, "<html>")}, 502, "UNAVAILABLE", ""},
		"400 unsupported":    {[]upstreamtest.Effect{upstreamtest.Status(400, coded("UNSUPPORTED"))}, 502, "UNAVAILABLE", ""},
		"403 too many":       {[]upstreamtest.Effect{upstreamtest.Status(403, coded("TOOMANYREQUESTS"))}, 429, "TOOMANYREQUESTS", "60"},
		"401":                {[]upstreamtest.Effect{upstreamtest.Status(401, "")}, 403, "DENIED", ""},
		"403":                {[]upstreamtest.Effect{upstreamtest.Status(403, "")}, 403, "DENIED", ""},
		"429":                {[]upstreamtest.Effect{upstreamtest.Status(429, "slow down"), upstreamtest.Header("Retry-After", "7")}, 429, "TOOMANYREQUESTS", "7"},
		"429 without a time": {[]upstreamtest.Effect{upstreamtest.Status(429, "")}, 429, "TOOMANYREQUESTS", "60"},
		"429 with a part":    {[]upstreamtest.Effect{upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "1.5")}, 429, "TOOMANYREQUESTS", "2"},
		"503 with a time":    {[]upstreamtest.Effect{upstreamtest.Status(503, ""), upstreamtest.Header("Retry-After", "30")}, 502, "UNAVAILABLE", "30"},
		"500":                {[]upstreamtest.Effect{upstreamtest.Status(500, "")}, 502, "UNAVAILABLE", ""},
		"dropped":            {[]upstreamtest.Effect{upstreamtest.Drop()}, 502, "UNAVAILABLE", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for asked, path := range paths {
				if asked == "referrers" && test.status == 404 {
					continue // none, which is no error
				}
				r, m := pair(t)
				r.Fault(upstreamtest.Any, test.effects...)
				w := m.do("GET", "/v2/up.example/app/"+path)
				code := test.code
				if code == "" {
					code = own[asked]
				}
				message := wantError(t, w, test.status, code)
				if !strings.Contains(message, r.Host) {
					t.Errorf("%s: the message does not name the upstream: %s", asked, message)
				}
				wantHeader(t, w.Header(), "Retry-After", test.retry, "Etag", "", "Docker-Content-Digest", "", "Cache-Control", "")
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	r, m := pair(t)
	r.Fault(upstreamtest.Any, upstreamtest.Hold(upstreamtest.NewGate()))
	wantError(t, m.do("GET", "/v2/up.example/app/manifests/v1"), 504, "UNAVAILABLE")
}

func TestErrorsOfTheMirror(t *testing.T) {
	r, m := pair(t, func(s *namespace.Spec) { s.Offline = true })
	dgst := digest.FromString("x").String()
	for path, code := range map[string]string{
		"manifests/v1":      "MANIFEST_UNKNOWN",
		"manifests/" + dgst: "MANIFEST_UNKNOWN",
		"blobs/" + dgst:     "BLOB_UNKNOWN",
		"tags/list":         "NAME_UNKNOWN",
		"referrers/" + dgst: "MANIFEST_UNKNOWN",
	} {
		message := wantError(t, m.do("GET", "/v2/up.example/app/"+path), 404, code)
		if !strings.Contains(message, "offline") {
			t.Errorf("%s: %s", path, message)
		}
	}
	if message := wantError(t, m.do("GET", "/v2/elsewhere/app/manifests/v1"), 404, "NAME_UNKNOWN"); !strings.Contains(message, "up.example") {
		t.Errorf("what is configured is not told: %s", message)
	}
	wantError(t, m.do("GET", "/v2/UP/app/manifests/v1"), 400, "NAME_INVALID")
	if len(r.Requests()) != 0 {
		t.Errorf("an offline namespace asked %v", r.Requests())
	}
}

func TestCorruptBlob(t *testing.T) {
	r, m := pair(t)
	dgst := digest.FromString("a layer")
	r.AddBlobAs("app", dgst, []byte("a liar!"))
	wantError(t, m.do("GET", "/v2/up.example/app/blobs/"+dgst.String()), 502, "UNAVAILABLE")
}

func TestBrokenStore(t *testing.T) {
	r := upstreamtest.New(t)
	store := storagetest.NewMemory(t)
	m := newMirrorOver(t, store, store.Records(), store.Spools(), block(t, r))
	dgst := r.AddBlob("app", []byte("a layer"))
	store.FailOpen(errors.New("input/output error on /secret/path"))
	if message := wantError(t, m.do("GET", "/v2/up.example/app/blobs/"+dgst.String()), 500, "UNKNOWN"); strings.Contains(message, "secret") {
		t.Errorf("clients are told %q", message)
	}
	if line := m.log.requests(t)[0]; !strings.Contains(fmt.Sprint(line["error"]), "input/output error") || line["level"] != "WARN" {
		t.Errorf("the log says %v", line)
	}
}

func TestClientGone(t *testing.T) {
	r, m := pair(t)
	gate := upstreamtest.NewGate()
	r.Fault(upstreamtest.Any, upstreamtest.Hold(gate))
	for _, path := range []string{"manifests/v1", "tags/list", "blobs/" + digest.FromString("x").String()} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := httptest.NewRecorder()
		m.handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/v2/up.example/app/"+path, nil))
		if w.Code != 499 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	gate.Open()
}

// TestShutDown answers clients that are still there.
func TestShutDown(t *testing.T) {
	r, m := pair(t)
	dgst := r.AddBlob("app", []byte("a layer"))
	m.downloads.Close()
	wantError(t, m.do("GET", "/v2/up.example/app/blobs/"+dgst.String()), 503, "UNAVAILABLE")
}
