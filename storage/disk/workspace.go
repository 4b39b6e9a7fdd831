package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// errInUse says that another process holds the lock of a workspace, or has
// just removed it.
var errInUse = errors.New("disk: in use by another process")

// workspace is the directory of one process's unfinished files.
type workspace struct {
	path string
	lock *os.File // held locked for as long as the process lives
}

// newWorkspace makes a directory below tmp and locks it. A sweep of another
// process may come between the two; then the next name is tried.
func newWorkspace(tmp string) (*workspace, error) {
	for {
		path := filepath.Join(tmp, rand.Text())
		if err := os.Mkdir(path, dirMode); err != nil {
			return nil, err
		}
		lock, err := tryLock(path)
		if err == nil {
			return &workspace{path: path, lock: lock}, nil
		}
		if !errors.Is(err, errInUse) {
			return nil, errors.Join(err, os.RemoveAll(path))
		}
	}
}

// close removes the directory and gives its lock back, in this order.
func (w *workspace) close() error {
	return errors.Join(os.RemoveAll(w.path), w.lock.Close())
}

// tryLock locks a workspace's directory. It returns errInUse when that is
// locked or gone.
func tryLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, fileMode)
	if errors.Is(err, fs.ErrNotExist) { // the directory has just been removed
		return nil, errInUse
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(errInUse, lock.Close())
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: path, Err: err}, lock.Close())
	}
	// The last holder of the lock may have removed the file. Then this lock is
	// on a file that no other process will find.
	held, err := lock.Stat()
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if there, err := os.Lstat(path); err != nil || !os.SameFile(held, there) {
		return nil, errors.Join(errInUse, lock.Close())
	}
	return lock, nil
}

// lookInterval is how often a process looks for others.
const lookInterval = 5 * time.Second

// watch calls changed after other processes have made or removed their workspaces, until the
// context ends.
func (w *workspace) watch(ctx context.Context, changed func()) {
	tmp := filepath.Dir(w.path)
	last, _ := os.Lstat(tmp)
	looks := time.NewTicker(lookInterval)
	defer looks.Stop()
	for {
		select {
		case <-looks.C:
		case <-ctx.Done():
			return
		}
		now, err := os.Lstat(tmp)
		if err != nil { // the volume is gone, and the commits say so
			continue
		}
		if last == nil || !now.ModTime().Equal(last.ModTime()) {
			changed()
		}
		last = now
	}
}

// sweep removes the workspaces of processes that have ended.
func (w *workspace) sweep(ctx context.Context, logger *slog.Logger) {
	tmp := filepath.Dir(w.path)
	entries, err := os.ReadDir(tmp)
	if err != nil {
		logger.Warn("cannot look for leftovers of ended processes", "error", err)
	}
	for _, entry := range entries {
		path := filepath.Join(tmp, entry.Name())
		if ctx.Err() != nil {
			return
		}
		if !entry.IsDir() || path == w.path { // not made by a process, or made by this one
			continue
		}
		switch freed, err := remove(path); {
		case errors.Is(err, errInUse):
			logger.Debug("kept the temporary files of another running process", "path", path)
		case err != nil:
			logger.Warn("cannot remove the leftovers of an ended process. Remove them by hand", "path", path, "error", err)
		default:
			logger.Info("removed the leftovers of an ended process", "path", path, "bytes", freed)
		}
	}
}

// remove removes a workspace that no process holds, and returns how many bytes
// its files had.
func remove(dir string) (freed int64, err error) {
	lock, err := tryLock(dir)
	if err != nil {
		return 0, err
	}
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			freed += info.Size()
		}
		return nil
	})
	return freed, errors.Join(err, os.RemoveAll(dir), lock.Close())
}
