package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const mib = 1 << 20

// streamed lets no client be redirected, so that the mirror reads the bucket.
const streamed = "[global]\nenable_blob_redirect = false\n"

// block is a repository block named "mirror" with one upstream.
func block(upstream *upstreamtest.Registry, settings ...string) string {
	return fmt.Sprintf("[repository.mirror]\n%s\n[[repository.mirror.upstream]]\nurl = %q\n", strings.Join(settings, "\n"), upstream.URL)
}

// image is an image of one layer, and the paths of its parts at a mirror.
type image struct {
	manifest, layer digest.Digest
	size            int
}

func addImage(upstream *upstreamtest.Registry, tag string, layer []byte) image {
	desc := upstream.AddImage("org/app", tag, layer)
	return image{desc.Digest, digest.FromBytes(layer), len(layer)}
}

func (i image) tagPath(tag string) string { return "/v2/mirror/org/app/manifests/" + tag }
func (i image) layerPath() string         { return "/v2/mirror/org/app/blobs/" + i.layer.String() }

// pull pulls the tag and the layer, and fails the test unless both come whole.
func pull(t *testing.T, w *harness.Weir, i image, tag string) {
	t.Helper()
	for path, want := range map[string]digest.Digest{i.tagPath(tag): i.manifest, i.layerPath(): i.layer} {
		answer := w.Get(t, path)
		if answer.Status != http.StatusOK || answer.Err != nil || digest.FromBytes(answer.Body) != want {
			t.Errorf("GET %s: %d, %d bytes, %v: %.200s", path, answer.Status, len(answer.Body), answer.Err, answer.Body)
		}
	}
}

func key(dgst digest.Digest) string {
	return "blobs/sha256/" + dgst.Encoded()[:2] + "/" + dgst.Encoded()
}

// inBucket waits until the blobs and a number of records are in the bucket.
func inBucket(t *testing.T, server *s3test.Server, records int, contents ...digest.Digest) {
	t.Helper()
	harness.Eventually(t, "the content and the records are in the bucket", func() bool {
		missing := slices.ContainsFunc(contents, func(dgst digest.Digest) bool { _, ok := server.Get(key(dgst)); return !ok })
		return !missing && len(server.Keys("records/")) >= records
	})
}

func content(size int, seed byte) []byte {
	layer := bytes.Repeat([]byte{seed}, size)
	for i := range layer {
		layer[i] += byte(i * i >> 7)
	}
	return layer
}

// A mirror uploads the image that it pulled. Another one with an empty disk gets the blobs from the
// bucket, with the rights that the first one has proven, and asks the upstream for the tag
// alone.
func TestSecondMirrorReadsBucket(t *testing.T) {
	t.Parallel()
	server, upstream := s3test.New(t), upstreamtest.New(t)
	i := addImage(upstream, "1.0", content(3*mib, 1))
	config := server.Config() + streamed + block(upstream)
	first := harness.StartWeir(t, config)
	pull(t, first, i, "1.0")
	inBucket(t, server, 3, i.manifest, i.layer)
	for _, dgst := range []digest.Digest{i.manifest, i.layer} {
		if object, _ := server.Get(key(dgst)); digest.FromBytes(object.Content) != dgst {
			t.Errorf("the bucket has other bytes for %s", dgst)
		}
	}

	upstream.ResetRequests()
	server.Requests()
	second := harness.StartWeir(t, config)
	if answer := second.Do(t, http.MethodHead, i.layerPath()); answer.Status != http.StatusOK || answer.Header.Get("Content-Length") != fmt.Sprint(i.size) {
		t.Errorf("HEAD of a blob in the bucket: %d %v", answer.Status, answer.Header)
	}
	pull(t, second, i, "1.0")
	if got := upstream.Requests(); len(got) != 1 || !strings.HasPrefix(got[0], "HEAD /v2/org/app/manifests/1.0") {
		t.Errorf("the upstream was asked %q, want one HEAD of the tag", got)
	}
	second.ExpectIntact(t)
	asked := slices.DeleteFunc(server.Requests(), func(r string) bool { return !strings.Contains(r, key(i.layer)) })
	if len(asked) != 2 || !strings.HasPrefix(asked[0], "HEAD blobs/") || !strings.HasPrefix(asked[1], "GET blobs/") {
		t.Errorf("a HEAD and a pull of the layer cost %q, want a HEAD and a GET", asked)
	}
	// Content of the local tier is served without the bucket.
	server.Requests()
	pull(t, second, i, "1.0")
	if got := server.Requests(); slices.ContainsFunc(got, func(r string) bool { return strings.Contains(r, "blobs/") }) {
		t.Errorf("a warm pull asked the bucket %q", got)
	}
}

// weir runs a command, and returns its exit code and all that it prints.
func weir(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
	text, err := cmd.CombinedOutput()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return failed.ExitCode(), string(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, string(text)
}

// Two mirrors pull through a real server of an object store: one fills the bucket, with an
// upload in parts, and the other one reads from it.
func TestMirrorsOnRealServer(t *testing.T) {
	t.Parallel()
	bucket, upstream := harness.StartBucket(t), upstreamtest.New(t)
	i := addImage(upstream, "1.0", content(40*mib, 2))
	config := bucket.Config("key_prefix = \"mirrors/weir\"") + streamed + block(upstream)
	first := harness.StartWeir(t, config)
	pull(t, first, i, "1.0")
	harness.Eventually(t, "content and records are in the bucket", func() bool {
		_, layer := os.Stat(filepath.Join(bucket.Dir, "mirrors/weir", key(i.layer)))
		_, manifest := os.Stat(filepath.Join(bucket.Dir, "mirrors/weir", key(i.manifest)))
		return layer == nil && manifest == nil && first.Metric(t, "weir_tier_record_writes_total", "result", "uploaded") >= 3
	})
	if code, out := weir(t, "check", "--online", "--config", first.Config); code != 0 || strings.Contains(out, "error:") {
		t.Errorf("weir check: exit code %d\n%s", code, out)
	}
	upstream.ResetRequests()
	second := harness.StartWeir(t, config)
	pull(t, second, i, "1.0")
	if got := upstream.Requests(); len(got) != 1 {
		t.Errorf("the upstream was asked %q, want one HEAD of the tag", got)
	}
	second.ExpectIntact(t)
}
