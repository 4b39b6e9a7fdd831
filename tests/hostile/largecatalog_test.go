package hostile

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/tests/harness"
)

// A hundred clients ask at once for the catalog of a store with a hundred thousand
// repositories, each for pages of its own, as large as they can get. All of them share one
// list.
func TestManyAskForALargeCatalog(t *testing.T) {
	testutil.Long(t, "makes a hundred thousand records")
	const repositories, askers, pages = 100_000, 100, 5
	dir := t.TempDir()
	plantTags(t, filepath.Join(dir, "data"), repositories)
	shipped := harness.BuildShipped(t)
	s := &stage{t: t}
	s.mirror = harness.StartWeirAs(t, dir, "[repository.\"open\"]\noffline = true\n[[repository.\"open\".upstream]]\nurl = \"http://127.0.0.1:1\"\n",
		func(cmd *exec.Cmd) { cmd.Path, cmd.Args[0] = shipped, shipped }, "GOMEMLIMIT=off")
	before := s.peak()
	var all sync.WaitGroup
	var wrong atomic.Int64
	for asker := range askers {
		all.Go(func() {
			for page := range pages {
				last := repository(asker * (repositories / askers) / (page + 2))
				if names, ok := catalogPage(t.Context(), s.mirror.URL+"/v2/_catalog?n=100000&last=open/"+last); !ok || names != 1000 {
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
	// The list itself takes 20 MiB, and a list for each asker took 1.6 GB.
	if s.peak() > mostMemory {
		t.Errorf("the mirror had %d MiB of resident memory, want %d at most", s.peak()/mib, mostMemory/mib)
	}
	for _, text := range s.texts {
		t.Error(text)
	}
}

// catalogPage returns how many names a page of a catalog has.
func catalogPage(ctx context.Context, url string) (names int, ok bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
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

// repository is the name of a repository that the large catalog has.
func repository(n int) string { return fmt.Sprintf("org/app%06d", n) }

// plantTags gives each of many repositories the record of a tag. One of them is written as
// a pull does, and all others are names of the same file: a hundred thousand files would
// take longer than the test. They are in memory for the same reason.
func plantTags(t *testing.T, root string, repositories int) {
	t.Helper()
	testutil.Root(t)
	harness.Must(t, os.Mkdir(root, 0o750))
	harness.Must(t, syscall.Mount("tmpfs", root, "tmpfs", 0, "size=1g"))
	t.Cleanup(func() { harness.Must(t, syscall.Unmount(root, syscall.MNT_DETACH)) })
	store, err := disk.Open(root, disk.Options{})
	harness.Must(t, err)
	of := func(n int) string { return filepath.Join(root, "records", "open", repository(n), "_tags") }
	harness.Must(t, catalog.New(store.Records(), catalog.Options{}).PutTag(t.Context(), storage.RepoID{Namespace: "open", Name: repository(0)}, "v1",
		catalog.Tag{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}, Checked: time.Now()}))
	harness.Must(t, store.Close())
	for n := 1; n < repositories; n++ {
		harness.Must(t, os.MkdirAll(of(n), 0o750))
		harness.Must(t, os.Link(filepath.Join(of(0), "v1"), filepath.Join(of(n), "v1")))
	}
}
