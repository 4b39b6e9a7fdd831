package disk_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/storagetest"
)

// addFiles makes n blobs of one byte each, as an earlier process left them.
func addFiles(t *testing.T, root string, n int) {
	t.Helper()
	for i := range n {
		path := blobPath(root, digest.FromString(fmt.Sprint(i)))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte("1"), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
}

// The listing that the index is made from counts the content on its way: there is no
// second one. One that is given up counts nothing twice.
func TestListingCounts(t *testing.T) {
	root := t.TempDir()
	const n = 500
	addFiles(t, root, n)
	s := open(t, root, disk.Options{Listed: true})
	s.WaitForCount()
	if bytes, objects := s.Size(); bytes != 0 || objects != 0 || s.Counted() {
		t.Errorf("%d bytes in %d objects were counted by a listing of its own", bytes, objects)
	}
	seen := 0
	for _, err := range s.All(t.Context()) {
		if seen++; err != nil || seen == n/2 {
			break
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.All(gone) {
		if err == nil {
			t.Error("a listing went on after its context")
		}
	}
	if s.Counted() {
		t.Error("a part counts as all")
	}
	between := []byte("one that comes between the listings")
	storagetest.Commit(t, s, s.Spools(), between)
	for range 2 {
		listed := 0
		for _, err := range s.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			listed++
		}
		if listed != n+1 || !s.Counted() {
			t.Errorf("%d contents are listed, want %d, all counted: %v", listed, n+1, s.Counted())
		}
		wantSize(t, s, n+int64(len(between)), n+1)
	}
}

// A directory that cannot be listed keeps the count that it had.
func TestUnreadableDirectoryKeepsItsCount(t *testing.T) {
	root := t.TempDir()
	const n = 100
	addFiles(t, root, n)
	s := open(t, root, disk.Options{})
	s.WaitForCount()
	wantSize(t, s, n, n)
	first := filepath.Dir(blobPath(root, digest.FromString("0")))
	hidden := filepath.Join(root, "hidden")
	if err := errors.Join(os.Rename(first, hidden), os.WriteFile(first, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	failures := 0
	list := func() {
		for _, err := range s.All(t.Context()) {
			if err != nil {
				failures++
			}
		}
	}
	list()
	wantSize(t, s, n, n)
	if failures != 1 {
		t.Errorf("%d failures of a listing, want 1", failures)
	}
	// What can be listed again is counted again.
	if err := errors.Join(os.Remove(first), os.Rename(hidden, first), os.Remove(blobPath(root, digest.FromString("0")))); err != nil {
		t.Fatal(err)
	}
	list()
	wantSize(t, s, n-1, n-1)
}

// A listing of a large store makes little garbage.
func TestListingAllocatesLittle(t *testing.T) {
	root := t.TempDir()
	const n = 1000
	for i := range n {
		path := blobPath(root, digest.NewDigestFromEncoded(digest.SHA256, fmt.Sprintf("%064x", i)))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, nil, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, root, disk.Options{Listed: true})
	allocations := testing.AllocsPerRun(2, func() {
		for _, err := range s.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	// Its name, its name for the kernel, and its digest.
	if each := allocations / n; each > 5 {
		t.Errorf("%.1f allocations for each content, want 5 at most", each)
	}
}

// What another process has changed is noticed, and the next listing counts it.
func TestOtherProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		var noticed atomic.Int64
		s, err := disk.Open(root, disk.Options{OnOthers: func() { noticed.Add(1) }})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		gone := storagetest.Commit(t, s, s.Spools(), []byte("removed by another process"))
		kept := []byte("kept")
		storagetest.Commit(t, s, s.Spools(), kept)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := noticed.Load(); n != 0 {
			t.Errorf("noticed %d other processes, and there was none", n)
		}

		other, err := disk.Open(root, disk.Options{Existing: true})
		if err != nil {
			t.Fatal(err)
		}
		added := []byte("added by another process")
		storagetest.Commit(t, other, other.Spools(), added)
		if err := errors.Join(other.Delete(t.Context(), gone), other.Close()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := noticed.Load(); n != 1 {
			t.Errorf("noticed %d other processes, want 1", n)
		}
		for _, err := range s.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
		}
		wantSize(t, s, int64(len(kept)+len(added)), 2)
	})
}
