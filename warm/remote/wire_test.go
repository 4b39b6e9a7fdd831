package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

// weir is a mirror over HTTP that stores the content which passes through it. It
// records the requests.
type weir struct {
	mu     sync.Mutex
	known  map[string][]byte // by path
	stored map[string]bool
	asked  []string
	accept []string
}

func (s *weir) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	if accept := r.Header.Get("Accept"); accept != "" {
		s.accept = append(s.accept, accept)
	}
	content, ok := s.known[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such content"}]}`)
		return
	}
	status := "weir; fwd=uri-miss; stored"
	if s.stored[r.URL.Path] {
		status = "weir; hit"
	}
	s.stored[r.URL.Path] = true
	w.Header().Set("Cache-Status", status)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(content)))
}

// newWeir returns a mirror of an image with one layer, and the digests of its
// manifest, configuration and layer.
func newWeir(t *testing.T) (s *weir, m *Mirror, digests []digest.Digest) {
	t.Helper()
	config, layer := []byte("{}"), []byte("a layer")
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, digest.FromBytes(config), len(config),
		ocispec.MediaTypeImageLayer, digest.FromBytes(layer), len(layer))
	digests = []digest.Digest{digest.FromBytes(body), digest.FromBytes(config), digest.FromBytes(layer)}
	const root = "/v2/team/app/"
	s = &weir{stored: make(map[string]bool), known: map[string][]byte{
		root + "manifests/v1": body, root + "blobs/" + digests[1].String(): config, root + "blobs/" + digests[2].String(): layer,
		root + "referrers/" + digests[0].String(): []byte(`{"schemaVersion":2,"manifests":[]}`),
	}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	m = New(address, nil, nil, "weir-warm/test", 4)
	t.Cleanup(m.Close)
	return s, m, digests
}

// A whole image is brought into a mirror, and the second time it is there: the
// blobs that are probably stored cost a HEAD each and no bytes.
func TestWarmAnImage(t *testing.T) {
	s, m, digests := newWeir(t)
	image := func() warm.Result {
		return warm.Image(t.Context(), m.Repository("team/app"), oci.ByTag("v1"), warm.Options{Referrers: true, Jobs: 1, MaxManifest: MaxManifest})
	}
	first := image()
	if err := first.Err(); err != nil || first.Digest != digests[0] || first.New.Objects != 3 || first.There.Objects != 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	for _, dgst := range digests[1:] {
		path := "GET /v2/team/app/blobs/" + dgst.String()
		if !slices.Contains(s.asked, path) || !slices.Contains(s.asked, path+" bytes=0-0") {
			t.Errorf("%s was not read and then awaited: %q", dgst, s.asked)
		}
	}
	if !slices.Contains(s.asked, "GET /v2/team/app/referrers/"+digests[0].String()) {
		t.Errorf("the referrers were not asked for: %q", s.asked)
	}
	// Kinds of manifests that are not known today are wanted, too.
	if len(s.accept) != 1 || !strings.HasSuffix(s.accept[0], ", */*") || !strings.Contains(s.accept[0], ocispec.MediaTypeImageIndex) {
		t.Errorf("accepts %q", s.accept)
	}
	s.asked = nil
	again := image()
	if err := again.Err(); err != nil || again.New.Objects != 0 || again.There.Objects != 3 {
		t.Errorf("%+v, %v", again, err)
	}
	for _, dgst := range digests[1:] {
		if path := "HEAD /v2/team/app/blobs/" + dgst.String(); !slices.Contains(s.asked, path) {
			t.Errorf("no %s: %q", path, s.asked)
		}
	}
}

// A blob whose length is another one than its descriptor's is not in the cache, even
// if the mirror has it.
func TestLengthIsChecked(t *testing.T) {
	_, m, digests := newWeir(t)
	source := m.Repository("team/app")
	for _, size := range []int64{6, 8} {
		blob := ocispec.Descriptor{Digest: digests[2], Size: size}
		for _, likely := range []bool{false, true} {
			there, err := source.Blob(t.Context(), blob, likely, func(int64) {})
			if there || err == nil || err.Error() != fmt.Sprintf("has 7 bytes, but the manifest says %d", size) {
				t.Errorf("likely %t: %t, %v", likely, there, err)
			}
		}
	}
}

// The caller sees the bytes of a blob as they arrive, up to its size.
func TestProgress(t *testing.T) {
	_, m, digests := newWeir(t)
	var last int64
	if _, err := m.Repository("team/app").Blob(t.Context(), ocispec.Descriptor{Digest: digests[2], Size: 7}, false, func(n int64) {
		if n < last {
			t.Errorf("%d bytes after %d", n, last)
		}
		last = n
	}); err != nil || last != 7 {
		t.Errorf("%d bytes, %v", last, err)
	}
}

// The mirror's answer is the reason of a failed ping, which is not repeated.
func TestPingRefused(t *testing.T) {
	s, m, _ := newWeir(t)
	if err := m.Ping(t.Context()); err == nil || err.Error() != "404: no such content" || len(s.asked) != 1 {
		t.Errorf("%v, after %q", err, s.asked)
	}
}

// A blob of no bytes has none to wait for.
func TestEmptyBlob(t *testing.T) {
	s := &script{answers: []reply{{status: 200, cacheStatus: stored}}, begin: time.Now()}
	there, err := s.mirror().Repository("app").Blob(t.Context(), ocispec.Descriptor{Digest: digest.FromString("")}, false, func(int64) {})
	if there || err != nil || len(s.asked) != 1 {
		t.Errorf("%t, %v, asked %q", there, err, s.asked)
	}
}

// While a mirror stores a large blob, it is asked less and less often, and once a
// second at most.
func TestPausesBetweenLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: []reply{{status: 200, cacheStatus: stored, body: "blob"}}, begin: time.Now()}
		for range 10 {
			s.answers = append(s.answers, reply{status: 206, cacheStatus: collapsed})
		}
		s.answers = append(s.answers, reply{status: 206, cacheStatus: hit})
		blob := ocispec.Descriptor{Digest: digest.FromString("blob"), Size: 4}
		if _, err := s.mirror().Repository("app").Blob(t.Context(), blob, false, func(int64) {}); err != nil {
			t.Fatal(err)
		}
		// 20, 40, ... 640 ms, and then four times a second.
		if took, want := time.Since(s.begin), 1260*time.Millisecond+4*time.Second; took != want {
			t.Errorf("it took %s, want %s", took, want)
		}
	})
}

// A busy mirror is asked again also while a blob is being stored and for a list.
func TestBusyInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := reply{status: 503}
		s := &script{begin: time.Now(), answers: []reply{
			{status: 200, cacheStatus: stored, body: "blob"}, busy, {status: 206, cacheStatus: hit},
			busy, {status: 200, body: `{"manifests":[]}`},
		}}
		source := s.mirror().Repository("app")
		if _, err := source.Blob(t.Context(), ocispec.Descriptor{Digest: digest.FromString("blob"), Size: 4}, false, func(int64) {}); err != nil {
			t.Error(err)
		}
		if _, err := source.Referrers(t.Context(), digest.FromString("x")); err != nil {
			t.Error(err)
		}
		if took := time.Since(s.begin); took != 2*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// Manifests beyond the limit are not read into memory as a whole. The context has
// ended, so there is no second attempt.
func TestManifestLimit(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &script{begin: time.Now(), answers: []reply{{status: 200, cacheStatus: hit, body: strings.Repeat(" ", MaxManifest+1)}}}
	if _, err := s.mirror().Repository("app").Manifest(ctx, oci.ByTag("v1")); !errors.Is(err, oci.ErrManifestTooLarge) {
		t.Error(err)
	}
}

// A request that asks for a pause of more than a minute, or none at all, is treated
// by its status.
func TestRetryAfter(t *testing.T) {
	for retryAfter, asked := range map[string]string{
		"":    "0s GET, 1s GET",
		"0":   "0s GET, 1s GET",
		"20":  "0s GET, 20s GET",
		"60":  "0s GET, 1m0s GET",
		"61":  "0s GET",
		"-5":  "0s GET, 1s GET",
		"Fri": "0s GET, 1s GET", // a date is not understood
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{begin: time.Now(), answers: []reply{{status: 503, retryAfter: retryAfter}, {status: 404}}}
			_, err := s.mirror().Repository("app").Manifest(t.Context(), oci.ByTag("v1"))
			if got := strings.Join(s.asked, ", "); err == nil || got != asked {
				t.Errorf("%q: asked %s, want %s; %v", retryAfter, got, asked, err)
			}
		})
	}
}

// Only the parameters after the cache's name count.
func TestCacheStatus(t *testing.T) {
	for header, want := range map[string]struct{ hit, notStored bool }{
		"":                        {},
		"weir; hit":               {hit: true},
		"weir;hit":                {hit: true},
		"hit":                     {}, // a cache of that name
		"weir; hit; detail=stale": {hit: true},
		stored:                    {},
		collapsed:                 {},
		passed:                    {notStored: true},
		"weir; fwd=stale":         {},
	} {
		resp := &http.Response{Header: http.Header{"Cache-Status": {header}}}
		if got := (struct{ hit, notStored bool }{isHit(resp), notStored(resp)}); got != want {
			t.Errorf("%q: %+v, want %+v", header, got, want)
		}
	}
}
