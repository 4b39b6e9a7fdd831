package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weirhq/weir/internal/keylock"
)

// tree creates directories, and places files in them, below one root.
type tree struct {
	root string // never created again; "" until it exists
	sync bool
	// flush makes a file or the entries of a directory survive a power cut.
	flush func(*os.File) error

	// A directory is locked while it is created and its parent flushed. One that
	// exists has therefore been flushed too.
	making keylock.Map[string]
}

// place gives a file its final path with the rename function, which is called
// once that path's directory exists, and flushes the directory.
func (t *tree) place(path string, rename func(path string) error) error {
	dir := filepath.Dir(path)
	if err := t.mkdirAll(dir); err != nil {
		return err
	}
	if err := rename(path); err != nil {
		return err
	}
	return t.syncDir(dir)
}

// mkdirAll creates a directory and its parents as far as they are missing. A
// root that has vanished is an error: its volume may be unmounted.
func (t *tree) mkdirAll(dir string) error {
	defer t.making.Lock(dir)()
	if dir == t.root {
		_, err := os.Lstat(dir)
		return err
	}
	err := os.Mkdir(dir, dirMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := t.mkdirAll(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, dirMode)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil // if it is not a directory, its first use says so
	case err != nil:
		return err
	}
	return t.syncDir(filepath.Dir(dir))
}

// syncDir makes the entries of a directory survive a power cut.
func (t *tree) syncDir(dir string) error {
	if !t.sync {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = t.flush(d)
	// Some network and FUSE filesystems cannot flush a directory: they write
	// its entries through.
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
