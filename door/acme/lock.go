package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Locker has locks by name between all processes on one store. Lock waits until the
// lock is free or the context ends; Unlock is called after it, once.
type Locker interface {
	Lock(ctx context.Context, name string) error
	Unlock(ctx context.Context, name string) error
}

// lockPause is the time between two attempts to get a lock. A holder waits for the
// authority, which takes seconds.
const lockPause = 200 * time.Millisecond

// FileLocks are locks between the processes on one machine. A process that ends, in any
// way, releases its locks.
type FileLocks struct {
	dir string

	mu   sync.Mutex
	held map[string]*os.File
}

// NewFileLocks returns locks that are files in a directory.
func NewFileLocks(dir string) *FileLocks {
	return &FileLocks{dir: dir, held: make(map[string]*os.File)}
}

// Lock implements [Locker].
func (l *FileLocks) Lock(ctx context.Context, name string) error {
	if ctx.Err() != nil { // no file for a manager that has ended
		return ctx.Err()
	}
	const onlyOwner = 0o700
	if err := os.MkdirAll(l.dir, onlyOwner); err != nil {
		return err
	}
	// Names have domains in them, and a "*".
	sum := sha256.Sum256([]byte(name))
	path := filepath.Join(l.dir, hex.EncodeToString(sum[:])+".lock")
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return err
		}
		// Each attempt has a file of its own: flock(2) does not wait for the same one.
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.held[name] = file
			return nil
		}
		file.Close()
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Unlock implements [Locker].
func (l *FileLocks) Unlock(_ context.Context, name string) error {
	l.mu.Lock()
	file := l.held[name]
	delete(l.held, name)
	l.mu.Unlock()
	if file == nil {
		return nil
	}
	return file.Close()
}
