package tests

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// keepers are blocks whose upstreams all have the same blob, and a running mirror of them.
type keepers struct {
	*harness.Weir
	registries map[string]*upstreamtest.Registry
	digest     digest.Digest
}

func newKeepers(t *testing.T, keys ...string) *keepers {
	k := &keepers{registries: make(map[string]*upstreamtest.Registry)}
	for _, key := range keys {
		k.registries[key] = upstreamtest.New(t)
		for _, repo := range []string{"org/app", "org/fork"} {
			k.digest = addRandom(t, k.registries[key], repo, mib, 1)
		}
	}
	return k
}

// config has a block for each registry. Those that are named are not shared.
func (k *keepers) config(unshared ...string) string {
	var all strings.Builder
	for key, registry := range k.registries {
		var settings []string
		if slices.Contains(unshared, key) {
			settings = []string{"shared = false"}
		}
		all.WriteString(blockOf(key, settings, at(registry)))
	}
	return all.String()
}

// pull pulls the blob, and checks how the repository came to it.
func (k *keepers) pull(t *testing.T, label, key, repo, want string) {
	t.Helper()
	status := map[string]string{"whole": statusStored, "sampled": statusRevalidated, "hit": statusHit}[want]
	expectContent(t, label, k.Get(t, blobPath(key+"/"+repo, k.digest)), k.digest, status)
	k.MetricIs(t, 0, "weir_downloads") // it is stored
	got := k.registries[key].Requests()
	k.registries[key].ResetRequests()
	whole := fmt.Sprintf("GET /v2/%s/blobs/%s 200", repo, k.digest)
	switch {
	case want == "whole" && !slices.Equal(got, []string{whole}),
		want == "sampled" && (len(got) != 2 || !strings.Contains(got[0], "bytes=") || !strings.Contains(got[1], "bytes=")),
		want == "hit" && len(got) > 0:
		t.Errorf("%s: %s: upstream was asked %q", label, want, got)
	}
}

// restart ends the process, runs commands on its data, and starts another one.
func (k *keepers) restart(t *testing.T, config string, between ...func()) {
	t.Helper()
	if code := k.Terminate(t); code != 0 {
		t.Errorf("exit %d", code)
	}
	for _, f := range between {
		f()
	}
	k.Weir = harness.StartWeirIn(t, filepath.Dir(k.Config), config)
}

// Content of a block with shared = false is never used for another block: that one
// downloads it whole from its own upstream, also after a restart, without the records, and
// if the key or the block comes or goes while the mirror runs.
func TestUnsharedBlock(t *testing.T) {
	t.Parallel()
	k := newKeepers(t, "private", "public", "third")
	k.Weir = harness.StartWeirIn(t, t.TempDir(), k.config("private"))
	reload := func(config string) {
		t.Helper()
		reloads := k.Log.Count(inForce)
		rename(t, k.Config, config)
		harness.Eventually(t, "the change takes effect", func() bool { return k.Log.Count(inForce) > reloads })
	}
	k.pull(t, "the owner", "private", "org/app", "whole")
	k.pull(t, "within the block", "private", "org/fork", "sampled")
	k.pull(t, "another block", "public", "org/app", "whole")
	k.pull(t, "another block again", "public", "org/app", "hit")
	k.pull(t, "within the other block", "public", "org/fork", "sampled")
	k.pull(t, "between blocks that share", "third", "org/app", "sampled")

	// Content that is gone has no records after weir gc, and no repository has a right to it.
	k.restart(t, k.config("private"), func() {
		expectResult(t, "gc", maintain(t, k.Weir, "gc", "--max-size", "1B", "--prune-records"), 0, "removed 1 object", "links: 5")
	})
	k.pull(t, "the owner, after gc", "private", "org/app", "whole")
	k.restart(t, k.config("private"))
	k.pull(t, "another block, after a restart", "third", "org/app", "whole")

	reload(k.config("private", "third"))
	k.pull(t, "after another block stopped sharing", "public", "org/app", "whole")

	// The key is set for a block whose content is stored, and removed with its block.
	k.restart(t, k.config(), func() {
		expectResult(t, "gc", maintain(t, k.Weir, "gc", "--max-size", "1B", "--prune-records"), 0, "removed 1 object")
	})
	k.pull(t, "all share", "private", "org/app", "whole")
	k.pull(t, "all share", "third", "org/app", "sampled")
	reload(k.config("private"))
	k.pull(t, "after private stopped sharing", "public", "org/app", "whole")
	k.pull(t, "a right from before", "third", "org/app", "hit")
	private := k.registries["private"]
	delete(k.registries, "private")
	reload(k.config())
	k.pull(t, "after private was removed", "third", "org/fork", "sampled") // of public's own download
	k.registries["private"] = private
	reload(k.config())
	k.pull(t, "private shares again", "private", "org/fork", "sampled")
	k.ExpectIntact(t)
}

// Two blocks that pull one blob at the same time do not join, if one of them does not
// share. The clients of each block do.
func TestUnsharedDownloads(t *testing.T) {
	t.Parallel()
	k := newKeepers(t, "private", "public")
	k.Weir = harness.StartWeir(t, k.config("private"))
	gate := upstreamtest.NewGate()
	var pulls []*harness.Pulling
	for _, key := range []string{"private", "public"} {
		k.registries[key].Fault(upstreamtest.Blobs, upstreamtest.Hold(gate))
	}
	for range 5 {
		for _, key := range []string{"private", "public"} {
			pulls = append(pulls, k.Pull(t, blobPath(key+"/org/app", k.digest)))
		}
	}
	arrived(t, gate, 2)
	k.MetricIs(t, 10, "weir_download_readers")
	gate.Open()
	for _, pull := range pulls {
		pull.Whole(t, "at once", k.digest)
	}
	for key, registry := range k.registries {
		if got, want := registry.Requests(), []string{fmt.Sprintf("GET /v2/org/app/blobs/%s 200", k.digest)}; !slices.Equal(got, want) {
			t.Errorf("%s was asked %q, want %q", key, got, want)
		}
	}
	k.MetricIs(t, 0, "weir_downloads")
	k.ExpectIntact(t)
}

// A client of another block cannot tell content of a block that does not share from
// content that is not here.
func TestUnsharedContentIsNotTold(t *testing.T) {
	testutil.Long(t, "pulls as a stranger in many ways")
	t.Parallel()
	k := newKeepers(t, "private", "public")
	k.Weir = harness.StartWeir(t, k.config("private"))
	here := k.digest
	image := k.registries["private"].AddImage("org/app", "v1", []byte("a layer"))
	absent := addRandom(t, k.registries["public"], "org/app", mib, 2)
	k.pull(t, "the owner", "private", "org/app", "whole")
	expect(t, "the owner", k.Get(t, manifestPath("private/org/app", "v1")), http.StatusOK, "")
	unknown := digest.FromString("unknown")
	for _, q := range []struct {
		method  string
		paths   [2]string // for content that is here, and for content that is not
		headers []string
	}{
		{http.MethodHead, [2]string{blobPath("public/org/app", here), blobPath("public/org/app", absent)}, nil},
		{http.MethodGet, [2]string{blobPath("public/org/none", here), blobPath("public/org/none", absent)}, nil},
		{http.MethodHead, [2]string{blobPath("public/org/none", here), blobPath("public/org/none", absent)}, nil},
		{http.MethodGet, [2]string{blobPath("public/org/none", here), blobPath("public/org/none", absent)}, []string{"Range", "bytes=5-9"}},
		{http.MethodGet, [2]string{blobPath("public/org/none", here), blobPath("public/org/none", absent)}, []string{"If-None-Match", `"` + here.String() + `"`}},
		{http.MethodGet, [2]string{blobPath("public/org/none", here), blobPath("public/org/none", absent)}, []string{"Via", "1.1 weir-zzzz"}},
		{http.MethodGet, [2]string{manifestPath("public/org/app", image.Digest.String()), manifestPath("public/org/app", unknown.String())}, nil},
		{http.MethodGet, [2]string{blobPath("public/org/app", image.Digest), blobPath("public/org/app", unknown)}, nil},
		{http.MethodGet, [2]string{"/v2/public/org/app/referrers/" + image.Digest.String(), "/v2/public/org/app/referrers/" + unknown.String()}, nil},
		{http.MethodGet, [2]string{blobPath("public/org/app", here), blobPath("public/org/app", absent)}, nil}, // stores it, so last
	} {
		var told [2]string
		for i, path := range q.paths {
			k.registries["public"].ResetRequests()
			a := k.Do(t, q.method, path, q.headers...)
			a.Header.Del("Date")
			if a.Status == http.StatusOK && q.method == http.MethodGet {
				a.Body = nil // random bytes
			}
			told[i] = fmt.Sprintf("%d %v %s, upstream %q", a.Status, a.Header, a.Body, k.registries["public"].Requests())
			for _, dgst := range []digest.Digest{here, absent, image.Digest, unknown} {
				told[i] = strings.ReplaceAll(told[i], dgst.Encoded(), "DIGEST")
			}
			k.MetricIs(t, 0, "weir_downloads")
		}
		if told[0] != told[1] {
			t.Errorf("%s %s %q:\n%s\n%s", q.method, q.paths[0], q.headers, told[0], told[1])
		}
	}
}
