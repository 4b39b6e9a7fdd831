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

	"golang.org/x/sys/unix"

	"github.com/weirhq/weir/internal/keylock"
	"github.com/weirhq/weir/internal/regular"
)

// tree creates directories, and places files in them, below one root.
type tree struct {
	root string // never created again; "" until it exists
	// each reports whether each file and directory is flushed by itself.
	each func() bool
	// logger gets foreign files that were moved away.
	logger *slog.Logger
	// flush makes a file or the entries of a directory survive a power cut.
	flush func(*os.File) error

	// refusing says that the kernel refuses links in paths below the root by itself.
	refusing bool

	// A directory is locked while it is created and its parent flushed. One that
	// exists has therefore been flushed too.
	making keylock.Map[string]
}

// place moves a staged file to its final path, makes the directories above it as far as they
// are missing, and flushes the directory. It returns the size of the file that was replaced,
// or absent.
func (t *tree) place(staged, path string) (before int64, err error) {
	if before, placed := t.placeAtOnce(staged, path); placed {
		return before, nil
	}
	if before, err = t.plainSize(path); err != nil {
		before = absent
	}
	dir := filepath.Dir(path)
	enter := func() error {
		if err := t.mkdirAll(dir); err != nil {
			return err
		}
		return regular.Rename(staged, path)
	}
	err = enter()
	// Another call may remove the directory as empty just before its first file comes.
	for tries := 0; tries < maxPlacing && errors.Is(err, fs.ErrNotExist) && t.exists(); tries++ {
		err = enter()
	}
	if isDirectory(err) {
		if err = t.setAside(path); err == nil {
			err = regular.Rename(staged, path)
		}
	}
	if err != nil {
		return absent, err
	}
	if err := t.syncDir(dir); !errors.Is(err, fs.ErrNotExist) { // else the file is removed already
		return before, err
	}
	return before, nil
}

// maxPlacing is how often a file is placed again whose directory vanishes meanwhile. Each
// try is lost only to another call that removes a record from the same directory at that
// moment.
const maxPlacing = 100

// exists reports whether the root is still there.
func (t *tree) exists() bool {
	_, err := os.Lstat(t.root)
	return err == nil
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

// foreign returns the first part of a directory's path below the root that is no
// directory, such as a link to one, or "".
func (t *tree) foreign(dir string) string {
	if dir == t.root || !strings.HasPrefix(dir, t.root) || t.root == "" {
		return ""
	}
	if part := t.foreign(filepath.Dir(dir)); part != "" {
		return part
	}
	if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
		return dir
	}
	return ""
}

// mkdirAll creates a directory and its parents as far as they are missing. It moves
// foreign files and links in their places away. A root that has vanished is an error:
// its volume may be unmounted.
func (t *tree) mkdirAll(dir string) error {
	if part := t.foreign(dir); part != "" {
		if err := t.setAside(part); err != nil {
			return err
		}
	}
	return t.makeAll(dir)
}

// makeAll is mkdirAll for a path without foreign files.
func (t *tree) makeAll(dir string) error {
	defer t.making.Lock(dir)()
	if dir == t.root {
		_, err := os.Lstat(dir)
		return err
	}
	err := os.Mkdir(dir, dirMode)
	if noDirectory(err) {
		if err := t.makeAll(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, dirMode)
	}
	if errors.Is(err, fs.ErrExist) {
		// The root itself may be a link to a directory.
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			if _, lerr := os.Lstat(dir); lerr != nil {
				return err // removed since
			}
		}
		if err != nil || !info.IsDir() { // a link that leads nowhere, too
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
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
	if err := t.makeAll(quarantine); err != nil {
		return err
	}
	// The end of a path says more than its beginning.
	name := strings.ReplaceAll(within, "/", "-")
	now := time.Now().UTC().Format(quarantineTime)
	moved := filepath.Join(quarantine, name[max(0, len(name)-maxQuarantined):]+"."+now)
	if err := os.Rename(path, moved); err != nil {
		// Another user's directory can be renamed, and not moved. A name with a dot
		// at its start is that of no content and no record.
		base := filepath.Base(path)
		moved = filepath.Join(filepath.Dir(path), "."+base[max(0, len(base)-maxQuarantined):]+"."+now)
		if os.Rename(path, moved) != nil && !errors.Is(err, fs.ErrNotExist) { // another call moved it
			return err
		}
	}
	t.logger.Warn("a foreign file was at the path of a file or directory of the store and was moved away. Inspect it and find out which program wrote it",
		"path", path, "moved", moved)
	return nil
}

// syncDir makes the entries of a directory survive a power cut, if each directory is
// flushed by itself.
func (t *tree) syncDir(dir string) error {
	if !t.each() {
		return nil
	}
	return t.flushDir(dir)
}

// flushDir makes the entries of a directory survive a power cut.
func (t *tree) flushDir(dir string) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0) // not a pipe, which would wait
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
