package spool

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/regular"
)

// Mode is the mode of a spool's file, less the umask. The sticky bit means nothing to Linux in
// the mode of a file. Package disk knows content by it that may not survive a power cut,
// and the bit has to be there before the bytes are.
const Mode = fs.ModeSticky | 0o640

// Quota bounds the bytes of spools and stored content together. Each spool has an
// owner, of which a quota may bound the share; "" is none. Its methods may be called
// concurrently.
type Quota interface {
	// Check returns an error that matches ErrNoSpace if n bytes could not be set
	// aside, whatever is removed. It sets nothing aside and removes nothing.
	Check(owner string, n int64) error
	// Reserve sets n bytes aside, or returns an error that matches ErrNoSpace.
	// If other content has to be removed first, it waits for that if it may,
	// and else returns an error that matches ErrBusy. Up to ahead further bytes
	// are set aside if they are free now; extra is their number.
	Reserve(owner string, n, ahead int64, wait bool) (extra int64, err error)
	// Release gives back n reserved bytes.
	Release(owner string, n int64)
	// MakeRoom removes at least n bytes from the filesystem and waits until
	// they are gone. It reports false, and removes nothing, if there is not that
	// much to remove.
	MakeRoom(owner string, n int64) bool
	// Removable is how many bytes MakeRoom could remove, if n are wanted. If an
	// owner gets less than there is since it has more than its share, limited
	// says so and matches ErrNoSpace.
	Removable(owner string, n int64) (removable int64, limited error)
}

// Dir makes spools in one directory. It counts the bytes that its spools have
// reserved and not yet written, so that downloads that run together cannot use
// the same free space twice.
type Dir struct {
	path    string
	minFree int64
	free    func(path string) (int64, error)
	total   func(path string) (int64, error)
	quota   Quota

	reuse time.Duration // how long a measured free space counts

	mu       sync.Mutex
	pending  int64 // bytes reserved and not yet written
	released int64 // bytes that were pending once, since the start
	last     measured
}

// measured is the free space of the filesystem at a moment.
type measured struct {
	at       time.Time
	free     int64
	released int64 // at that moment
}

// reuse is how long a measured free space counts while there is enough of it. A download of
// a small blob asks three times. Only the bytes of other programs go unseen
// for that time.
const reuse = 20 * time.Millisecond

// NewDir returns a Dir over an existing directory, which must lie in the
// filesystem that finished spools are renamed into. Spools leave minFree bytes of
// that filesystem free; zero is no such limit. Each spool takes part in the quota
// with all its bytes, written or not, until its file is closed or handed over;
// nil means no quota.
func NewDir(path string, minFree int64, quota Quota) *Dir {
	if quota == nil {
		quota = unlimited{}
	}
	return &Dir{path: path, minFree: minFree, free: freeBytes, total: totalBytes, quota: quota, reuse: reuse}
}

// Free returns the bytes that the filesystem has free, less those promised to
// spools.
func (d *Dir) Free() (int64, error) {
	free, err := d.free(d.path) // without the mutex, which all downloads share
	d.mu.Lock()
	defer d.mu.Unlock()
	return free - d.pending, err
}

// Create makes an empty spool of an owner for size bytes, which the caller has at hand
// and which are therefore reserved at once, or for an unknown number of bytes that may
// come when size is -1. It returns ErrNoSpace, or the error of the filesystem.
func (d *Dir) Create(owner string, size int64) (*Spool, error) { return d.create(owner, size, true) }

// CreateNoWait is like Create but returns ErrBusy instead of waiting for eviction.
// The spool is [Spool.NoWait].
func (d *Dir) CreateNoWait(owner string, size int64) (*Spool, error) {
	return d.create(owner, size, false)
}

func (d *Dir) create(owner string, size int64, wait bool) (*Spool, error) {
	reserved := max(size, 0)
	if _, err := d.reserve(owner, reserved, reserved, 0, wait); err != nil {
		return nil, err
	}
	file, err := regular.Create(filepath.Join(d.path, "spool-"+rand.Text()), Mode)
	if err != nil {
		d.release(reserved)
		d.quota.Release(owner, reserved)
		return nil, fmt.Errorf("spool: cannot create a temporary file: %w", err)
	}
	s := &Spool{
		dir:      d,
		owner:    owner,
		file:     file,
		path:     file.Name(),
		noWait:   !wait,
		size:     size,
		allotted: reserved,
		reserved: reserved,
		refs:     1,
	}
	s.settled = sync.NewCond(&s.mu)
	return s, nil
}

// reserve takes allot bytes from the quota and promises n bytes of the filesystem,
// or neither. It adds up to ahead bytes to both if they are free now; extra is their
// number.
func (d *Dir) reserve(owner string, allot, n, ahead int64, wait bool) (extra int64, err error) {
	extra, err = d.quota.Reserve(owner, allot, ahead, wait)
	if err != nil {
		return 0, err
	}
	if extra > 0 {
		if _, err := d.reserveDisk(n + extra); err == nil {
			return extra, nil
		}
		d.quota.Release(owner, extra) // no content is removed for bytes that may never come
	}
	short, err := d.reserveDisk(n)
	switch {
	case short > 0 && !wait: // a later attempt may find room
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	case short > 0 && d.quota.MakeRoom(owner, short):
		// Another spool may have taken the room meanwhile.
		_, err = d.reserveDisk(n)
	case short > 0:
		if limited := d.refusal(owner, short, err); limited != nil { // else it takes too long
			err = limited
		}
	}
	if err != nil {
		d.quota.Release(owner, allot)
	}
	return 0, err
}

// check returns ErrNoSpace if there cannot be room for allot bytes of the quota and
// n of the filesystem, whatever is removed. It costs nothing.
func (d *Dir) check(owner string, allot, n int64) error {
	if err := d.quota.Check(owner, min(allot, largest)); err != nil {
		return err
	}
	d.mu.Lock()
	short, err := d.measure(min(n, largest))
	d.mu.Unlock()
	if short > 0 {
		return d.refusal(owner, short, err)
	}
	return err
}

// Fits reports whether there can be room for n bytes of an owner, whatever is removed for
// them, as far as is known now.
func (d *Dir) Fits(owner string, n int64) bool { return d.check(owner, n, n) == nil }

// largest is the largest size that is told apart from larger ones. No filesystem holds
// it, and sums of such sizes do not overflow.
const largest = 1 << 60

// refusal returns the reason why that many bytes cannot be removed from the filesystem
// for an owner, or nil if they can. Otherwise that is err.
func (d *Dir) refusal(owner string, short int64, err error) error {
	removable, limited := d.quota.Removable(owner, short)
	switch {
	case short <= removable:
		return nil
	case limited != nil:
		return limited
	}
	if full, ok := errors.AsType[*NoSpaceError](err); ok {
		full.Removable = removable
		if total, err := d.total(d.path); err == nil {
			full.Total = total
		}
	}
	return err
}

// reserveDisk counts n bytes as pending, or returns how many are short. With n = 0
// it still measures, so that a full disk is noticed before an upstream is asked.
func (d *Dir) reserveDisk(n int64) (short int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if short, err = d.measure(n); err == nil {
		d.pending += n
	}
	return short, err
}

// measure returns how many bytes are short if n more are wanted. The caller holds the
// mutex, which measure releases meanwhile: the filesystem is asked without it, since all
// downloads share it.
func (d *Dir) measure(n int64) (short int64, err error) {
	if d.minFree <= 0 { // no limit, so the filesystem is not asked
		return 0, nil
	}
	if time.Since(d.last.at) < d.reuse && d.short(d.last, n) <= 0 {
		return 0, nil
	}
	for {
		now := measured{at: time.Now(), released: d.released}
		d.mu.Unlock()
		now.free, err = d.free(d.path)
		d.mu.Lock()
		if err != nil {
			return 0, fmt.Errorf("spool: cannot read the free space below %s: %w", d.path, err)
		}
		d.last = now
		short := d.short(now, n)
		switch {
		case short <= 0:
			return 0, nil
		case short <= d.released-now.released:
			continue // without these bytes there may be room: measure once more
		}
		return short, &NoSpaceError{Path: d.path, Want: n, Free: now.free, Promised: d.pending, Keep: d.minFree}
	}
}

// short returns how many bytes are short if n more are wanted, by the last measurement. Bytes
// that were written since are no longer pending, but the free space may still include them:
// they count as pending. The caller holds the mutex.
func (d *Dir) short(m measured, n int64) int64 {
	return d.minFree - (m.free - d.pending - (d.released - m.released) - n)
}

func (d *Dir) release(n int64) {
	d.mu.Lock()
	d.pending -= n
	d.released += n
	d.mu.Unlock()
}

// unlimited is the quota of a Dir without one.
type unlimited struct{}

func (unlimited) Check(string, int64) error                               { return nil }
func (unlimited) Reserve(_ string, _, ahead int64, _ bool) (int64, error) { return ahead, nil }
func (unlimited) Release(string, int64)                                   {}
func (unlimited) MakeRoom(string, int64) bool                             { return false }
func (unlimited) Removable(string, int64) (int64, error)                  { return 0, nil }
