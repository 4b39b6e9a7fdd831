package disk

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weirhq/weir/internal/keylock"
)

// tree creates directories, and places files in them, below one root.
type tree struct {
	root string // never created again; "" until it exists
	sync bool
	// logger gets foreign files that were moved away.
	logger *slog.Logger
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
	err := rename(path)
	if isDirectory(err) {
		if err = t.setAside(path); err == nil {
			err = rename(path)
		}
	}
	if err != nil {
		return err
	}
	return t.syncDir(dir)
}

// noDirectory reports whether a file could not take its place since the directory
// above is missing, or is a foreign file or link.
func noDirectory(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// isDirectory reports whether a file could not take a place since a directory has
// it.
func isDirectory(err error) bool {
	return errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.ENOTEMPTY)
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
	if noDirectory(err) {
		if err := t.mkdirAll(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, dirMode)
	}
	if errors.Is(err, fs.ErrExist) {
		stat := os.Lstat
		if t.root == "" { // the root itself may be a link to a directory
			stat = os.Stat
		}
		if info, err := stat(dir); err == nil && info.IsDir() {
			return nil
		}
		if err = t.setAside(dir); err == nil {
			err = os.Mkdir(dir, dirMode)
		}
	}
	if err != nil {
		return err
	}
	return t.syncDir(filepath.Dir(dir))
}

// setAside moves a foreign file or directory, which has the place of a directory or
// a file of the store, to the quarantine. It returns syscall.ENOTDIR for the
// directories that the store itself is made of: an operator decides about those.
func (t *tree) setAside(path string) error {
	within, err := filepath.Rel(t.root, path)
	if t.root == "" || err != nil || !strings.Contains(within, "/") {
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	quarantine := filepath.Join(t.root, quarantineDir)
	if err := t.mkdirAll(quarantine); err != nil {
		return err
	}
	// The end of a path tells more than its beginning.
	name := strings.ReplaceAll(within, "/", "-")
	now := time.Now().UTC().Format(quarantineTime)
	moved := filepath.Join(quarantine, name[max(0, len(name)-maxQuarantined):]+"."+now)
	if err := os.Rename(path, moved); err != nil {
		// Another user's directory can be renamed, and not moved. A name with a dot
		// at its start is that of no content and no record.
		base := filepath.Base(path)
		moved = filepath.Join(filepath.Dir(path), "."+base[max(0, len(base)-maxQuarantined):]+"."+now)
		if os.Rename(path, moved) != nil {
			return err
		}
	}
	t.logger.Warn("a foreign file had the place of a file or directory of the store and was moved away. Look at it, and find out which program wrote it",
		"path", path, "moved", moved)
	return nil
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
