package app

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/spool"
)

func TestWithAdvice(t *testing.T) {
	path := &fs.PathError{Op: "open", Path: "/data", Err: syscall.EROFS}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{errors.New("any"), "any"},
		{
			&disk.Error{Doing: "write to the store", Reason: disk.ReadOnly, Err: path},
			"disk: cannot write to the store: open /data: read-only file system. Mount this filesystem writable, or set blob_store.fs.root_dir to another one.",
		},
		{&disk.Error{Doing: "open the store", Err: errors.New("odd")}, "disk: cannot open the store: odd"},
		{fmt.Errorf("%w in /data", disk.ErrNoStore), "disk: there is no store in /data. Correct blob_store.fs.root_dir, or let weir serve make the store first."},
		{disk.ErrNoRoot, "disk: no directory to store in. Set blob_store.fs.root_dir."},
		{
			&spool.NoSpaceError{Path: "/data", Want: 3 << 20, Free: 4 << 20, Promised: 1 << 20, Keep: 2 << 20},
			"spool: not enough free space below /data: 4.0 MiB free, 1.0 MiB promised to running downloads, 3.0 MiB wanted, 2.0 MiB to be kept free. Free space on this filesystem, or lower blob_store.fs.min_free.",
		},
		{
			fmt.Errorf("%w: %w", spool.ErrBusy, &spool.NoSpaceError{Path: "/data", Err: syscall.ENOSPC}),
			"spool: room has to be made first: spool: not enough free space: no space left on device. Free space on this filesystem, or raise the disk quota.",
		},
		{
			&evict.FullError{Reason: evict.InUse, Want: 1 << 20, Max: 1 << 20},
			"spool: not enough free space: 1.0 MiB wanted; of the store's limit of 1.0 MiB, running downloads take 0 B and content that is being read 0 B. Set blob_store.fs.max_size to more if this happens often.",
		},
		{
			&evict.FullError{Reason: evict.CannotDelete, Err: &disk.Error{Doing: "remove x", Reason: disk.ReadOnly, Err: path}},
			"spool: not enough free space: nothing can be deleted to make room for 0 B: disk: cannot remove x: open /data: read-only file system. Mount this filesystem writable, or set blob_store.fs.root_dir to another one.",
		},
	} {
		err := WithAdvice(tc.err)
		if err.Error() != tc.want {
			t.Errorf("got  %q\nwant %q", err, tc.want)
		}
		if again := WithAdvice(err); again.Error() != tc.want {
			t.Errorf("the advice is given twice: %q", again)
		}
		if !errors.Is(err, tc.err) {
			t.Errorf("%q is not the error that it is about", err)
		}
	}
}

func TestEachReasonHasARemedy(t *testing.T) {
	for reason := disk.Full; reason <= disk.Vanished; reason++ {
		if diskRemedy(reason) == "" {
			t.Errorf("no remedy for reason %d", reason)
		}
	}
}
