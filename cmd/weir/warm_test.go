package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/warm"
)

// script answers the requests of a test, each with the next of its answers.
type script struct {
	answers []reply
	begin   time.Time
	asked   []string // when, and what
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

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

const (
	hit       = "weir; hit"
	stored    = "weir; fwd=uri-miss; stored"
	collapsed = "weir; fwd=uri-miss; collapsed"
	passed    = "weir; fwd=uri-miss"
)

// A blob is asked for until it is stored or there is no hope in it.
func TestWarmBlob(t *testing.T) {
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
		"always busy":   {false, []reply{busy, busy, busy, busy}, "0s GET, 1s GET, 3s GET, 7s GET", false, "the mirror answers 503 Service Unavailable"},
		"limited":       {false, []reply{{status: 429, retryAfter: "30"}, {status: 404}}, "0s GET, 30s GET", false, "the mirror answers 404 Not Found"},
		"limited long":  {false, []reply{{status: 429, retryAfter: "3600", body: `{"errors":[{"message":"slow\u001b[2J down"}]}`}}, "0s GET", false, "429: slow [2J down"},
		"denied":        {false, []reply{{status: 403, body: `{"errors":[{"message":"denied: ask for access"}]}`}}, "0s GET", false, "403: denied: ask for access"},
		"too short":     {false, []reply{{status: 200, cacheStatus: stored, body: "blo"}}, "0s GET", false, "3 bytes came, and 4 are in it where it is named"},
		"too long":      {false, []reply{{status: 200, cacheStatus: stored, body: "blobs and more"}}, "0s GET", false, "5 bytes came, and 4 are in it where it is named"},
		"passed on":     {false, []reply{{status: 200, cacheStatus: passed, body: "blob"}}, "0s GET", false, errNotKept.Error()},
		"lost at last":  {false, []reply{{status: 200, cacheStatus: stored, body: "blob"}, {status: 206, cacheStatus: stored}, {status: 206, cacheStatus: stored}}, "0s GET, 0s GET bytes=0-0, 0s GET bytes=0-0", false, errNotKept.Error()},
		"not our cache": {false, []reply{{status: 200, body: "blob"}, {status: 206}}, "0s GET, 0s GET bytes=0-0", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: c.answers, begin: time.Now()}
				source := mirrorSource{&http.Client{Transport: s}, &url.URL{Scheme: "http", Host: "mirror", Path: "/v2/app"}}
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

// Where there is no terminal, a line now and then says how far each image is.
func TestWarmLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		s := newScreen(&stdout, &stderr)
		one, two := s.begin("one"), s.begin("two")
		one(warm.Progress{Done: warm.Amount{Objects: 1, Bytes: 1 << 20}, Total: warm.Amount{Objects: 2, Bytes: 4 << 20}})
		two(warm.Progress{Done: warm.Amount{Objects: 3, Bytes: 3 << 20}, Total: warm.Amount{Objects: 3, Bytes: 3 << 20}})
		time.Sleep(lineInterval + time.Second)
		s.end("two", "warm two\n")
		time.Sleep(lineInterval)
		s.close()
		want := []string{
			"warming one: 25% (1 object, 1.0 MiB)", "warming two: 100% (3 objects, 3.0 MiB)",
			"warming one: 25% (1 object, 1.0 MiB)", "",
		}
		if got := strings.Split(stderr.String(), "\n"); !slices.Equal(got, want) || stdout.String() != "warm two\n" {
			t.Errorf("%q, %q", got, stdout.String())
		}
	})
}
