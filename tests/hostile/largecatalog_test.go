package hostile

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/tests/harness"
)

// A hundred clients ask at once for the catalog of a store with tens of thousands of
// repositories. All of them share one list, and each gets its page.
func TestManyAskForALargeCatalog(t *testing.T) {
	testutil.Long(t, "writes tens of thousands of records")
	const repositories, askers, pages = 25_000, 100, 3
	dir := t.TempDir()
	plantLinks(t, filepath.Join(dir, "data"), repositories)
	shipped := harness.BuildShipped(t)
	s := &stage{t: t}
	s.mirror = harness.StartWeirAs(t, dir, "[repository.\"open\"]\noffline = true\n[[repository.\"open\".upstream]]\nurl = \"http://127.0.0.1:1\"\n",
		func(cmd *exec.Cmd) { cmd.Path, cmd.Args[0] = shipped, shipped })
	before := s.peak()
	var all sync.WaitGroup
	var wrong atomic.Int64
	for range askers {
		all.Go(func() {
			for range pages {
				if names, ok := catalogPage(t.Context(), s.mirror.URL); !ok || names != 1000 {
					wrong.Add(1)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d askers of a catalog of %d repositories: the mirror had at most %d MiB, and %d before", askers, repositories, s.peak()/mib, before/mib)
	if wrong.Load() > 0 {
		t.Errorf("%d of %d pages are not of 1000 names", wrong.Load(), askers*pages)
	}
	if s.peak() > mostMemory/2 {
		t.Errorf("the mirror had %d MiB of resident memory", s.peak()/mib)
	}
	for _, text := range s.texts {
		t.Error(text)
	}
}

// catalogPage returns how many names the first page of a catalog has.
func catalogPage(ctx context.Context, url string) (names int, ok bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v2/_catalog", nil)
	if err != nil {
		return 0, false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false
	}
	defer resp.Body.Close()
	var page struct{ Repositories []string }
	err = json.NewDecoder(resp.Body).Decode(&page)
	return len(page.Repositories), err == nil && resp.StatusCode == http.StatusOK
}

// plantLinks writes a link for each of many repositories, as pulls do.
func plantLinks(t *testing.T, root string, repositories int) {
	t.Helper()
	store, err := disk.Open(root, disk.Options{})
	harness.Must(t, err)
	links := catalog.New(store.Records(), catalog.Options{})
	for n := range repositories {
		harness.Must(t, links.PutLink(t.Context(), storage.RepoID{Namespace: "open", Name: fmt.Sprintf("org/app%06d", n)},
			ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}))
	}
	harness.Must(t, store.Close())
}
