package tests

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/tests/harness"
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
	fmt.Fprintf(&b, "[repository.%q]\n%s\n", key, inOrder(settings))
	for _, lines := range upstreams {
		fmt.Fprintf(&b, "[[repository.%q.upstream]]\n%s\n", key, strings.Join(lines, "\n"))
	}
	return b.String()
}

// inOrder returns the settings of a block whose upstream is asked only for what a client has
// asked for, in the same order, unless they tell about layers ahead of the client.
func inOrder(settings []string) string {
	text := strings.Join(settings, "\n")
	if strings.Contains(text, "prefetch = ") {
		return text
	}
	return "prefetch = false\n" + text
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
func expect(t *testing.T, label string, a harness.Answer, status int, cacheStatus string) {
	t.Helper()
	if a.Err != nil {
		t.Errorf("%s: the body broke off after %d bytes: %v", label, len(a.Body), a.Err)
	}
	if a.Status != status {
		t.Errorf("%s: %d, want %d: %.300q", label, a.Status, status, a.Body)
	}
	if got := a.Header.Get("Cache-Status"); cacheStatus != "" && got != cacheStatus {
		t.Errorf("%s: Cache-Status %q, want %q", label, got, cacheStatus)
	}
}

// expectContent is expect for a blob of which the digest is known.
func expectContent(t *testing.T, label string, a harness.Answer, dgst digest.Digest, cacheStatus string) {
	t.Helper()
	expect(t, label, a, http.StatusOK, cacheStatus)
	if got := dgst.Algorithm().FromBytes(a.Body); got != dgst {
		t.Errorf("%s: %d bytes with digest %s, want %s", label, len(a.Body), got, dgst)
	}
}

// arrived waits until n requests in all have come to a gate.
func arrived(t *testing.T, gate *upstreamtest.Gate, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	if err := gate.Arrived(ctx, n); err != nil {
		t.Fatalf("waited in vain for request %d at a gate: %v", n, err)
	}
}

// contentOf returns the config and the layers of a manifest, in the order in
// which clients fetch them.
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

// expectRange fails the test unless an answer is the given part of a blob.
func expectRange(t *testing.T, label string, a harness.Answer, content []byte, from, to int) {
	t.Helper()
	expect(t, label, a, http.StatusPartialContent, "")
	if want := fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(content)); a.Header.Get("Content-Range") != want {
		t.Errorf("%s: Content-Range %q, want %q", label, a.Header.Get("Content-Range"), want)
	}
	if !bytes.Equal(a.Body, content[from:to]) {
		t.Errorf("%s: %d bytes that are not those of the range", label, len(a.Body))
	}
}
