package disk

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirhq/weir/internal/notify"
)

const (
	// flushAfter is how long the first file that was written since a flush waits for the
	// next one: a power cut costs the downloads of some seconds, and a busy disk is flushed
	// for many of them at once.
	flushAfter = 3 * time.Second
	// flushPatience bounds the last flush, at the end of the process. What it leaves is
	// hashed by the next process.
	flushPatience = 5 * time.Second
)

// flusher flushes the filesystem of a store with [Behind], and then clears the marks of the
// files that were in their places before the flush began. In this order, a file without a
// mark has its bytes on the disk whatever happens.
type flusher struct {
	blobs *blobs
	marks *marks
	// syncfs flushes the filesystem.
	syncfs func() error
	logger *slog.Logger

	behind  atomic.Bool // files are flushed behind their commits: the durability is Behind, and no flush has failed
	written notify.Signal
	running sync.Mutex // held for a flush

	flushes, failures atomic.Int64
}

// FlushStats count the work of a store with [Behind].
type FlushStats struct {
	Marked            int   // blobs that are stored, and not known to be flushed
	Flushes, Failures int64 // of the filesystem
	Intact, Damaged   int64 // blobs that an earlier process had not flushed
}

// marking reports whether a file is marked, and flushed later, rather than by its commit.
func (f *flusher) marking() bool { return f.behind.Load() && f.marks.count() < maxMarked }

// commitFile notes that a marked file is in its place. The caller holds the lock of its path.
func (f *flusher) commitFile(path string, info os.FileInfo) {
	f.marks.add(path, info)
	f.written.Notify()
}

// commitRecord notes that a record was written.
func (f *flusher) commitRecord() {
	if f.behind.Load() {
		f.marks.addRecord()
		f.written.Notify()
	}
}

// run flushes behind commits until the context ends.
func (f *flusher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.written.C():
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(flushAfter):
		}
		f.flush()
	}
}

// flush makes the files durable that are in their places, and clears their marks.
func (f *flusher) flush() {
	f.running.Lock()
	defer f.running.Unlock()
	paths, wanted := f.marks.begin()
	if !wanted {
		return
	}
	if err := f.syncfs(); err != nil {
		f.failures.Add(1)
		f.fail(err)
		return
	}
	f.flushes.Add(1)
	var failure error
	for _, path := range paths {
		if err := f.clear(path); err != nil && failure == nil {
			failure = err
		}
	}
	if failure != nil {
		f.logger.Warn("cannot mark a stored file as flushed to the disk. It is verified again after the next start. Check that all files of the store belong to the user of weir",
			"error", failure)
	}
}

// clear clears the mark of a flushed file, if that is still the one in its place.
func (f *flusher) clear(path string) error {
	defer f.blobs.paths.Lock(path)()
	flushed := f.marks.flushed(path)
	if flushed == 0 { // deleted, or committed again
		return nil
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode().IsRegular() && inode(info) == flushed {
		err = os.Chmod(path, info.Mode().Perm())
	}
	if errors.Is(err, os.ErrNotExist) { // another process has removed it
		err = nil
	}
	f.marks.end(path, err == nil)
	return err
}

// fail ends the flushes of the whole filesystem: from now on each file is flushed by itself,
// so that its commit fails if its bytes are lost. If the disk has lost bytes, the kernel
// does not say of which files. Those that were not flushed before are removed: their pages
// may look intact until they leave the memory.
func (f *flusher) fail(err error) {
	f.behind.Store(false)
	if unsupported(err) {
		f.marks.keep()
		f.logger.Warn("the filesystem of the store cannot be flushed as a whole. Each stored file is flushed individually from now on, which takes longer", "error", err)
		return
	}
	lost := f.marks.drop()
	f.logger.Error("cannot flush the filesystem of the store. Content that was stored since the last flush is removed and fetched again, and each file is flushed individually until the next start. Check the disk",
		"objects", len(lost), "error", err)
	for _, path := range lost {
		shard := f.blobs.shards[filepath.Base(filepath.Dir(filepath.Dir(path)))+":"+filepath.Base(filepath.Dir(path))]
		err := f.blobs.replace(shard, path, absent, func(int64) error { return os.Remove(path) })
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			// It keeps its mark, and is hashed before each use.
			f.logger.Warn("cannot remove content that the disk may have lost", "path", path, "error", err)
		}
	}
}

// unsupported reports whether an error of syncfs says nothing about bytes.
func unsupported(err error) bool {
	for _, reason := range []error{syscall.ENOSYS, syscall.EPERM, syscall.EINVAL, syscall.EOPNOTSUPP} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// end flushes for the last time, and waits for that as long as flushPatience.
func (f *flusher) end() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.flush()
	}()
	select {
	case <-done:
	case <-time.After(flushPatience):
		f.logger.Warn("the disk is slow to flush. Content of the last few seconds is verified after the next start")
	}
}

// syncfs flushes the filesystem of a file. It returns the error of each write that failed
// since the file was opened or flushed. Another goroutine may close the file meanwhile.
func syncfs(file *os.File) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { failed = unix.Syncfs(int(fd)) })
	return errors.Join(err, os.NewSyscallError("syncfs", failed))
}
