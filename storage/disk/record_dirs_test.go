package disk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/weirhq/weir/storage/disk"
)

// Records come and go in the same directories: the sums stay exact, no record fails
// since its directory was just removed, and no empty directory is left.
func TestEmptyDirectories(t *testing.T) {
	root := t.TempDir()
	var mu sync.Mutex
	var bytes, number int64
	store, err := disk.Open(root, disk.Options{OnRecord: func(b, n int64) {
		mu.Lock()
		defer mu.Unlock()
		bytes, number = bytes+b, number+n
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	records := store.Records()
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 200 {
				key := fmt.Sprintf("ns/a/b/%d/_tags/t", worker%2*10+worker)
				if err := records.Put(t.Context(), key, make([]byte, i)); err != nil {
					t.Errorf("%d: %v", i, err)
				}
				if err := records.Put(t.Context(), key, make([]byte, 7)); err != nil {
					t.Errorf("%d: %v", i, err)
				}
				if err := records.Delete(t.Context(), key); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	all.Wait()
	if bytes != 0 || number != 0 {
		t.Errorf("counted %d bytes of %d records", bytes, number)
	}
	left, err := os.ReadDir(filepath.Join(root, "records"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
