package fleet

import (
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// weir verify --bucket finds an object with wrong bytes, names its image, and removes it and
// nothing else. The next pull brings the right bytes back.
func TestVerifyBucket(t *testing.T) {
	t.Parallel()
	server, upstream := s3test.New(t), upstreamtest.New(t)
	layer := content(mib, 13)
	i := addImage(upstream, "1.0", layer)
	server.Put("foreign/key", []byte("of another program"))
	w := harness.StartWeir(t, server.Config()+streamed+block(upstream))
	pull(t, w, i, "1.0")
	inBucket(t, server, 3, i.manifest, i.layer)
	w.Kill()
	if code, out := weir(t, "verify", "--bucket", "--config", w.Config); code != 0 || !strings.Contains(out, "verified 2 objects") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	wrong := slices.Clone(layer)
	wrong[7] ^= 1
	server.Put(key(i.layer), wrong)
	before := len(server.Keys(""))
	code, out := weir(t, "verify", "--bucket", "--config", w.Config)
	if code != 1 || !strings.Contains(out, "quarantined "+i.layer.String()) || !strings.Contains(out, "removed from the bucket") || !strings.Contains(out, "mirror/org/app:1.0") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if _, there := server.Get(key(i.layer)); there || len(server.Keys("")) != before-1 {
		t.Errorf("the bucket has %q", server.Keys(""))
	}
	pull(t, harness.StartWeir(t, server.Config()+streamed+block(upstream)), i, "1.0")
	inBucket(t, server, 3, i.layer)

	// Keys of a later version are left alone.
	server.Put("weir.json", []byte(`{"format":7}`))
	server.Put(key(i.layer), wrong)
	if code, out := weir(t, "verify", "--bucket", "--config", w.Config); code != 1 || !strings.Contains(out, "Update Weir") {
		t.Errorf("a later format: exit code %d\n%s", code, out)
	}
	server.Delete("weir.json")
	if code, out := weir(t, "verify", "--bucket", "--config", w.Config); code != 1 || !strings.Contains(out, "no mirror has used the bucket yet") {
		t.Errorf("no marker: exit code %d\n%s", code, out)
	}
	if _, there := server.Get(key(i.layer)); !there {
		t.Error("the object was removed")
	}
}
