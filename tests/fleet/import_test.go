package fleet

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
)

// The content of a real registry is imported into a real bucket that a mirror uses, and
// not to its disk. Another mirror of the bucket downloads none of it from upstream.
func TestImportIntoBucket(t *testing.T) {
	t.Parallel()
	old, bucket := harness.StartDistribution(t, http.DefaultClient, "http", "", ""), harness.StartBucket(t)
	img := harness.NewImage(t, 6*mib, 300<<10)
	push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + old.Addr}
	push.PushImage(t, "org/app", "1.2", img)
	config := bucket.Config(`records_ttl = "1s"`) + streamed +
		fmt.Sprintf("[repository.mirror]\nprefetch = false\n[[repository.mirror.upstream]]\nurl = \"http://%s\"\n", old.Addr)

	w := harness.StartWeir(t, config)
	load := func(args ...string) string {
		t.Helper()
		code, out := weir(t, append([]string{"import", "--bucket", "--from-registry-dir", old.Data, "--config", w.Config}, args...)...)
		if code != 0 {
			t.Errorf("weir import --bucket %q: exit code %d\n%s", args, code, out)
		}
		return out
	}
	contents := append([][]byte{img.Manifest, img.Config}, img.Layers...)
	objects := func() (present int) {
		for _, body := range contents {
			stored, err := os.ReadFile(filepath.Join(bucket.Dir, key(digest.FromBytes(body))))
			if err == nil && string(stored) == string(body) {
				present++
			}
		}
		return present
	}
	if out := load("--dry-run"); !strings.Contains(out, "would import 4 objects") || objects() != 0 {
		t.Errorf("a dry run left %d objects in the bucket, and printed\n%s", objects(), out)
	}
	if out := load(); !strings.Contains(out, "imported 4 objects") || objects() != len(contents) {
		t.Errorf("the bucket has %d objects of %d; weir import --bucket printed\n%s", objects(), len(contents), out)
	}
	if out := load(); !strings.Contains(out, "imported 0 objects, 0 B; already stored 4 objects") {
		t.Errorf("weir import --bucket, again, printed\n%s", out)
	}
	if local := w.Stored(t, "blobs"); len(local) > 0 {
		t.Errorf("the disk of the mirror has %q", local)
	}

	for _, mirror := range []*harness.Weir{w, harness.StartWeir(t, config)} {
		for path, want := range map[string][]byte{
			"/v2/mirror/org/app/manifests/1.2":                                     img.Manifest,
			"/v2/mirror/org/app/blobs/" + digest.FromBytes(img.Config).String():    img.Config,
			"/v2/mirror/org/app/blobs/" + digest.FromBytes(img.Layers[0]).String(): img.Layers[0],
			"/v2/mirror/org/app/blobs/" + digest.FromBytes(img.Layers[1]).String(): img.Layers[1],
		} {
			if answer := mirror.Get(t, path); answer.Status != http.StatusOK || answer.Err != nil || string(answer.Body) != string(want) {
				t.Errorf("GET %s: %d, %d bytes, %v", path, answer.Status, len(answer.Body), answer.Err)
			}
		}
	}
	for _, layer := range img.Layers {
		part := "/blobs/" + digest.FromBytes(layer).String()
		if whole, samples := old.Served("GET", part), old.Log.Count(`"GET /v2/`, part, `" 206 `); whole != 0 || samples > 4 {
			t.Errorf("%s: %d GETs of the layer and %d of samples, want 0 and 4 at most\n%s", part, whole, samples, old.Log)
		}
	}
}
