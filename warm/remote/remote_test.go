package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/oci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script answers the requests of a test, each with the next of its answers.
type script struct {
	answers []reply
	begin   time.Time
	asked   []string // time and request
}

type reply struct {
	status      int
	cacheStatus string
	retryAfter  string
	body        string
	broken      bool // after the body
}

// RoundTrip implements [http.RoundTripper].
func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	s.asked = append(s.asked, strings.TrimSpace(fmt.Sprintf("%s %s %s", time.Since(s.begin).Round(time.Second), req.Method, req.Header.Get("Range"))))
	if len(s.answers) == 0 {
		return nil, errors.New("one request too many")
	}
	next := s.answers[0]
	s.answers = s.answers[1:]
	var body io.Reader = strings.NewReader(next.body)
	if next.broken {
		body = io.MultiReader(body, failing{})
	}
	return &http.Response{
		StatusCode: next.status, ContentLength: -1, Body: io.NopCloser(body),
		Header: http.Header{"Cache-Status": {next.cacheStatus}, "Retry-After": {next.retryAfter}},
	}, nil
}

type failing struct{}

// mirror returns a mirror that answers as the script says.
func (s *script) mirror() *Mirror {
	m := New(&url.URL{Scheme: "http", Host: "mirror"}, nil, nil, "weir-warm/test", 1)
	m.client.Transport = s
	return m
}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

const (
	hit       = "weir; hit"
	stored    = "weir; fwd=uri-miss; stored"
	collapsed = "weir; fwd=uri-miss; collapsed"
	passed    = "weir; fwd=uri-miss"
)

// A blob is requested until it is stored or an answer is permanent.
func TestBlob(t *testing.T) {
	busy := reply{status: 503}
	for name, c := range map[string]struct {
		probably bool
		answers  []reply
		asked    string
		there    bool
		failure  string
	}{
		"cold":          {false, []reply{{status: 200, cacheStatus: stored, body: "blob"}, {status: 206, cacheStatus: hit}}, "0s GET, 0s GET bytes=0-0", false, ""},
		"stored late":   {false, []reply{{status: 200, cacheStatus: stored, body: "blob"}, {status: 206, cacheStatus: collapsed}, {status: 206, cacheStatus: hit}}, "0s GET, 0s GET bytes=0-0, 0s GET bytes=0-0", false, ""},
		"there":         {false, []reply{{status: 200, cacheStatus: hit, body: "blob"}}, "0s GET", true, ""},
		"expected":      {true, []reply{{status: 200, cacheStatus: hit}}, "0s HEAD", true, ""},
		"gone since":    {true, []reply{{status: 200, cacheStatus: passed}, {status: 200, cacheStatus: stored, body: "blob"}, {status: 206, cacheStatus: hit}}, "0s HEAD, 0s GET, 0s GET bytes=0-0", false, ""},
		"broken off":    {false, []reply{{status: 200, cacheStatus: stored, body: "bl", broken: true}, {status: 200, cacheStatus: hit}}, "0s GET, 1s GET", false, ""},
		"busy":          {false, []reply{busy, busy, {status: 200, cacheStatus: hit}}, "0s GET, 1s GET, 3s GET", true, ""},
		"always busy":   {false, []reply{busy, busy, busy, busy}, "0s GET, 1s GET, 3s GET, 7s GET", false, "the mirror answered 503 Service Unavailable"},
		"limited":       {false, []reply{{status: 429, retryAfter: "30"}, {status: 404}}, "0s GET, 30s GET", false, "the mirror answered 404 Not Found"},
		"limited long":  {false, []reply{{status: 429, retryAfter: "3600", body: `{"errors":[{"message":"slow\u001b[2J down"}]}`}}, "0s GET", false, "429: slow [2J down"},
		"denied":        {false, []reply{{status: 403, body: `{"errors":[{"message":"denied: ask for access"}]}`}}, "0s GET", false, "403: denied: ask for access"},
		"too short":     {false, []reply{{status: 200, cacheStatus: stored, body: "blo"}}, "0s GET", false, "3 bytes arrived, but the manifest says 4"},
		"too long":      {false, []reply{{status: 200, cacheStatus: stored, body: "blobs and more"}}, "0s GET", false, "5 bytes arrived, but the manifest says 4"},
		"passed on":     {false, []reply{{status: 200, cacheStatus: passed, body: "blob"}}, "0s GET", false, errNotStored.Error()},
		"lost at last":  {false, []reply{{status: 200, cacheStatus: stored, body: "blob"}, {status: 206, cacheStatus: stored}, {status: 206, cacheStatus: stored}}, "0s GET, 0s GET bytes=0-0, 0s GET bytes=0-0", false, errNotStored.Error()},
		"not our cache": {false, []reply{{status: 200, body: "blob"}, {status: 206}}, "0s GET, 0s GET bytes=0-0", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: c.answers, begin: time.Now()}
				source := s.mirror().Repository("app")
				blob := ocispec.Descriptor{Digest: digest.FromString("blob"), Size: 4}
				there, err := source.Blob(t.Context(), blob, c.probably, func(int64) {})
				failure := ""
				if err != nil {
					failure = err.Error()
				}
				if got := strings.Join(s.asked, ", "); got != c.asked || there != c.there || !strings.Contains(failure, c.failure) || (failure == "") != (c.failure == "") {
					t.Errorf("there: %t, failure %q, asked %s", there, failure, got)
				}
			})
		})
	}
}

// A manifest is read until it is stored, and says whether it is stale.
func TestManifest(t *testing.T) {
	for name, c := range map[string]struct {
		answers []reply
		asked   string
		there   bool
		stale   string
		failure string
	}{
		"cold":           {[]reply{{status: 200, cacheStatus: stored, body: "{}"}}, "0s GET", false, "", ""},
		"there":          {[]reply{{status: 200, cacheStatus: hit, body: "{}"}}, "0s GET", true, "", ""},
		"stale":          {[]reply{{status: 200, cacheStatus: hit + "; detail=stale", body: "{}"}}, "0s GET", true, "the mirror could not confirm it: ", ""},
		"stored later":   {[]reply{{status: 200, cacheStatus: passed, body: "{}"}, {status: 200, cacheStatus: hit, body: "{}"}}, "0s GET, 1s GET", true, "", ""},
		"never stored":   {[]reply{{cacheStatus: passed, status: 200}, {cacheStatus: passed, status: 200}, {cacheStatus: passed, status: 200}, {cacheStatus: passed, status: 200}}, "0s GET, 1s GET, 3s GET, 7s GET", false, "", errNotStored.Error()},
		"broken body":    {[]reply{{status: 200, cacheStatus: stored, broken: true}, {status: 200, cacheStatus: hit, body: "{}"}}, "0s GET, 1s GET", true, "", ""},
		"does not exist": {[]reply{{status: 404, body: `{"errors":[{"message":"no such tag"}]}`}}, "0s GET", false, "", "404: no such tag"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: c.answers, begin: time.Now()}
				m, err := s.mirror().Repository("app").Manifest(t.Context(), oci.ByTag("1.2"))
				if got := strings.Join(s.asked, ", "); got != c.asked {
					t.Errorf("asked %s, want %s", got, c.asked)
				}
				if c.failure != "" {
					if err == nil || err.Error() != c.failure {
						t.Errorf("%v, want %s", err, c.failure)
					}
					return
				}
				if err != nil || string(m.Body) != "{}" || m.There != c.there || m.Stale != c.stale {
					t.Errorf("%q, there: %t, stale: %q, %v", m.Body, m.There, m.Stale, err)
				}
			})
		})
	}
}

func TestReferrers(t *testing.T) {
	subject := digest.FromString("subject")
	s := &script{answers: []reply{{status: 200, body: `{"manifests":[{"size":7,"digest":"` + subject.String() + `"},{"size":8}]}`}, {status: 200, body: "<html>"}}}
	source := s.mirror().Repository("app")
	if list, err := source.Referrers(t.Context(), subject); err != nil || len(list) != 1 || list[0].Size != 7 {
		t.Errorf("%v, %v", list, err)
	}
	// The answer will not be another one next time.
	if _, err := source.Referrers(t.Context(), subject); err == nil || !strings.Contains(err.Error(), "not valid") || len(s.asked) != 2 {
		t.Errorf("%v, after %d requests", err, len(s.asked))
	}
}

// A pause ends with its context.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, errors.New("interrupted"))
		defer cancel()
		s := &script{answers: []reply{{status: 503}}, begin: time.Now()}
		if _, err := s.mirror().Repository("app").Manifest(ctx, oci.ByTag("1.2")); err == nil || err.Error() != "interrupted" {
			t.Error(err)
		}
	})
}

// The mirror is told its client's name, below its own path.
func TestPing(t *testing.T) {
	var path, agent string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, agent = r.URL.Path, r.UserAgent()
	}))
	defer server.Close()
	address, err := url.Parse(server.URL + "/mirror")
	if err != nil {
		t.Fatal(err)
	}
	m := New(address, nil, nil, "weir-warm/test", 1)
	defer m.Close()
	if err := m.Ping(t.Context()); err != nil || path != "/mirror/v2/" || agent != "weir-warm/test" {
		t.Errorf("%s asks %s: %v", agent, path, err)
	}
	server.Close()
	if err := m.Ping(t.Context()); err == nil {
		t.Error("a mirror that is gone answers")
	}
}
