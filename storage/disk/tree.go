package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// tree creates directories, and places files in them, below one root.
type tree struct {
	root string // what is never created; "" until it has been
	sync bool
	// flush makes a file or the entries of a directory survive a power cut.
	flush func(*os.File) error

	// making is held while a directory is created and its parent flushed. A
	// directory that exists has therefore been flushed too.
	making sync.Mutex
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

func (t *tree) mkdirAll(dir string) error {
	t.making.Lock()
	defer t.making.Unlock()
	return t.mkdir(dir)
}

func (t *tree) mkdir(dir string) error {
	if dir == t.root {
		_, err := os.Lstat(dir)
		return err
	}
	err := os.Mkdir(dir, dirMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := t.mkdir(filepath.Dir(dir)); err != nil {
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
	// Some network and FUSE filesystems cannot flush a directory, and write
	// its entries through.
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
