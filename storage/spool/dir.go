package spool

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// ErrNoSpace says that a spool would leave its filesystem with less free space
// than the operator asked to keep, or that there is none left.
var ErrNoSpace = errors.New("spool: not enough free space")

// Dir makes spools in one directory. It counts what its spools have announced
// but not yet written, so that downloads that start together cannot promise
// the same free space twice.
type Dir struct {
	path    string
	minFree int64
	free    func(path string) (int64, error)

	mu      sync.Mutex
	pending int64 // bytes announced and not yet written
}

// NewDir returns a Dir over an existing directory, which must lie in the
// filesystem that finished spools are renamed into. minFree is the number of
// bytes that it never fills that filesystem beyond; zero or less means no
// such limit.
func NewDir(path string, minFree int64) *Dir {
	return &Dir{path: path, minFree: minFree, free: freeBytes}
}

// Create makes an empty spool for size bytes, or for an unknown number of them
// when size is -1. It returns ErrNoSpace, or the error of the filesystem.
func (d *Dir) Create(size int64) (*Spool, error) {
	reserved := max(size, 0)
	if err := d.reserve(reserved); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(d.path, "spool-")
	if err != nil {
		d.release(reserved)
		return nil, fmt.Errorf("spool: cannot create a temporary file: %w", err)
	}
	return &Spool{
		dir:      d,
		file:     file,
		size:     size,
		reserved: reserved,
		advanced: make(chan struct{}),
		refs:     1,
	}, nil
}

// reserve sets n bytes aside. Reserving nothing still asks whether there is
// any room, so that a full disk is noticed before an upstream is asked.
func (d *Dir) reserve(n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.minFree > 0 {
		free, err := d.free(d.path)
		if err != nil {
			return fmt.Errorf("spool: cannot read the free space below %s: %w", d.path, err)
		}
		if left := free - d.pending - n; left < d.minFree {
			return fmt.Errorf("%w below %s: %s free, %s promised to running downloads, %s wanted, %s to be kept free (blob_store.fs.min_free)",
				ErrNoSpace, d.path, iec(free), iec(d.pending), iec(n), iec(d.minFree))
		}
	}
	d.pending += n
	return nil
}

func (d *Dir) release(n int64) {
	d.mu.Lock()
	d.pending -= n
	d.mu.Unlock()
}

func iec(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func freeBytes(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
