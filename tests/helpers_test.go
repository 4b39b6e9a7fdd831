package tests

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/upstream/upstreamtest"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// Values of the Cache-Status header.
const (
	statusHit         = "weir; hit"
	statusRevalidated = "weir; hit; detail=revalidated"
	statusStale       = "weir; hit; detail=stale"
	statusStored      = "weir; fwd=uri-miss; stored"
	statusCollapsed   = "weir; fwd=uri-miss; collapsed"
	statusPassed      = "weir; fwd=uri-miss"
	statusMoved       = "weir; fwd=stale"
)

// blockOf is a repository block with upstreams given by their URLs and further
// settings of theirs, one line each.
func blockOf(key string, settings []string, upstreams ...[]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[repository.%q]\n%s\n", key, strings.Join(settings, "\n"))
	for _, lines := range upstreams {
		fmt.Fprintf(&b, "[[repository.%q.upstream]]\n%s\n", key, strings.Join(lines, "\n"))
	}
	return b.String()
}

// at is an upstream of a block.
func at(upstream *upstreamtest.Registry, settings ...string) []string {
	return append([]string{fmt.Sprintf("url = %q", upstream.URL)}, settings...)
}

func blobPath(name string, dgst digest.Digest) string {
	return "/v2/" + name + "/blobs/" + dgst.String()
}

func manifestPath(name, ref string) string { return "/v2/" + name + "/manifests/" + ref }

// expect fails the test unless an answer came whole with a status and, where
// that is not empty, a Cache-Status.
func expect(t *testing.T, what string, a answer, status int, cacheStatus string) {
	t.Helper()
	if a.Err != nil {
		t.Errorf("%s: the body broke off after %d bytes: %v", what, len(a.Body), a.Err)
	}
	if a.Status != status {
		t.Errorf("%s: %d, want %d: %.300q", what, a.Status, status, a.Body)
	}
	if got := a.Header.Get("Cache-Status"); cacheStatus != "" && got != cacheStatus {
		t.Errorf("%s: Cache-Status %q, want %q", what, got, cacheStatus)
	}
}

// expectContent is expect for a content of which the digest is known.
func expectContent(t *testing.T, what string, a answer, dgst digest.Digest, cacheStatus string) {
	t.Helper()
	expect(t, what, a, http.StatusOK, cacheStatus)
	if got := dgst.Algorithm().FromBytes(a.Body); got != dgst {
		t.Errorf("%s: %d bytes with digest %s, want %s", what, len(a.Body), got, dgst)
	}
}

// errorCode returns the code of an OCI error document, or "" where the body is
// none.
func (a answer) errorCode() string {
	var document struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.Body, &document) != nil || len(document.Errors) != 1 || document.Errors[0].Message == "" {
		return ""
	}
	return document.Errors[0].Code
}

// open starts a request on a connection of its own. The caller reads the body
// as it likes; the test's end closes it.
func (w *weir) open(t *testing.T, path string, headers ...string) *http.Response {
	t.Helper()
	return w.openWith(t, &net.Dialer{}, path, headers...)
}

// openSlow is open with a small receive buffer, so that a client that does not
// read is noticed by the mirror soon.
func (w *weir) openSlow(t *testing.T, path string, headers ...string) *http.Response {
	t.Helper()
	return w.openWith(t, &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failure error
		err := c.Control(func(fd uintptr) {
			failure = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64*kib)
		})
		if err != nil {
			return err
		}
		return failure
	}}, path, headers...)
}

func (w *weir) openWith(t *testing.T, dialer *net.Dialer, path string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// pulling is a request that runs beside the test.
type pulling struct {
	status int
	header http.Header
	length int64
	digest digest.Digest // of the body, which may have broken off
	err    error
	done   chan struct{}
}

// pull starts a request and reads its body to the end, beside the test.
func (w *weir) pull(t *testing.T, path string, headers ...string) *pulling {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	p := &pulling{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		resp, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(req)
		if err != nil {
			p.err = err
			return
		}
		defer resp.Body.Close()
		p.status, p.header = resp.StatusCode, resp.Header
		digester := digest.Canonical.Digester()
		p.length, p.err = io.Copy(digester.Hash(), resp.Body)
		p.digest = digester.Digest()
	}()
	return p
}

// wait returns when the request has ended.
func (p *pulling) wait(t *testing.T) *pulling {
	t.Helper()
	eventually(t, "a pull ends", func() bool {
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	})
	return p
}

// whole fails the test unless the request ends with the content.
func (p *pulling) whole(t *testing.T, what string, dgst digest.Digest) {
	t.Helper()
	p.wait(t)
	if p.err != nil || p.status != http.StatusOK || p.digest != dgst {
		t.Errorf("%s: status %d, %d bytes, error %v, digest %s, want %s", what, p.status, p.length, p.err, p.digest, dgst)
	}
}

// arrived waits until n requests in all have come to a gate.
func arrived(t *testing.T, gate *upstreamtest.Gate, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := gate.Arrived(ctx, n); err != nil {
		t.Fatalf("waited in vain for request %d at a gate: %v", n, err)
	}
}

// metricIs waits until a metric has a value.
func (w *weir) metricIs(t *testing.T, value float64, name string, labels ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s%v is %v", name, labels, value), func() bool { return w.metric(t, name, labels...) == value })
}

// logs waits for a line that holds all of the given texts.
func (w *weir) logs(t *testing.T, texts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("a log line with %q", texts), func() bool { return w.log.count(texts...) > 0 })
}

// stored returns the names of the files below the mirror's data, sorted.
func (w *weir) stored(t *testing.T, below ...string) []string {
	t.Helper()
	var files []string
	root := filepath.Join(append([]string{w.Data}, below...)...)
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return ignoreMissing(err)
		}
		name, err := filepath.Rel(w.Data, path)
		files = append(files, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

// A file may go while the tree is walked.
func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// expectIntact fails the test if the mirror stores content under a digest that
// is not its own.
func (w *weir) expectIntact(t *testing.T) {
	t.Helper()
	for _, name := range w.stored(t, "blobs") {
		content, err := os.ReadFile(filepath.Join(w.Data, name))
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(filepath.ToSlash(name), "/")
		want := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[len(parts)-1])
		if got := want.Algorithm().FromBytes(content); got != want {
			t.Errorf("%s holds %d bytes with digest %s", name, len(content), got)
		}
	}
}

// contentOf returns what is in a manifest, in the order in which clients fetch
// it.
func contentOf(t *testing.T, manifest []byte) []digest.Digest {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		t.Fatal(err)
	}
	list := []digest.Digest{m.Config.Digest}
	for _, layer := range m.Layers {
		list = append(list, layer.Digest)
	}
	return list
}

// random returns size bytes that the seed alone determines. A cipher makes them
// since that is fast under the race detector too.
func random(t *testing.T, size int64, seed uint64) []byte {
	t.Helper()
	key := sha256.Sum256(fmt.Append(nil, seed))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, size)
	cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(content, content)
	return content
}

// addRandom puts a random blob into a repository of an upstream. Unlike
// AddRandomBlob it keeps the blob in memory, which makes it fast to serve.
func addRandom(t *testing.T, upstream *upstreamtest.Registry, repo string, size int64, seed uint64) digest.Digest {
	t.Helper()
	return upstream.AddBlob(repo, random(t, size, seed))
}

// expectRange fails the test unless an answer is the given part of a content.
func expectRange(t *testing.T, what string, a answer, content []byte, from, to int) {
	t.Helper()
	expect(t, what, a, http.StatusPartialContent, "")
	if want := fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(content)); a.Header.Get("Content-Range") != want {
		t.Errorf("%s: Content-Range %q, want %q", what, a.Header.Get("Content-Range"), want)
	}
	if !bytes.Equal(a.Body, content[from:to]) {
		t.Errorf("%s: %d bytes that are not those of the range", what, len(a.Body))
	}
}
