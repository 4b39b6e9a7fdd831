package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
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
		{fmt.Errorf("%w in /data", disk.ErrNoStore), "disk: there is no store in /data. Correct blob_store.fs.root_dir, or create the store by starting weir serve."},
		{disk.ErrNoRoot, "disk: no directory to store in. Set blob_store.fs.root_dir."},
		{
			&spool.NoSpaceError{Path: "/data", Want: 3 << 20, Free: 4 << 20, Promised: 1 << 20, Keep: 2 << 20},
			"spool: not enough free space below /data: 4.0 MiB free, 1.0 MiB promised to running downloads, 3.0 MiB needed, 2.0 MiB to be kept free. Free space on this filesystem, or lower blob_store.fs.min_free.",
		},
		{
			fmt.Errorf("%w: %w", spool.ErrBusy, &spool.NoSpaceError{Path: "/data", Err: syscall.ENOSPC}),
			"spool: space must be freed first: spool: not enough free space: no space left on device. Free space on this filesystem, or raise the disk quota.",
		},
		{
			&evict.FullError{Reason: evict.InUse, Want: 1 << 20, Max: 1 << 20},
			"spool: not enough free space: 1.0 MiB is needed, but of the store's limit of 1.0 MiB, running downloads take 0 B and content that is being read takes 0 B. Raise blob_store.fs.max_size if this happens often.",
		},
		{
			&evict.FullError{Reason: evict.OverShare, Want: 1 << 20, Max: 20 << 20, Owner: "quay.io", Own: 12 << 20},
			"spool: not enough free space: repository block \"quay.io\" has 12 MiB, more than any other block, and content that other blocks have used within a day is not evicted for it. Raise blob_store.fs.max_size if this block needs it.",
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

// Answers that everyone can read name no path and no user.
func TestPublic(t *testing.T) {
	const dir = "/srv/secret place"
	path := func(errno error) error { return &fs.PathError{Op: "open", Path: dir + "/x", Err: errno} }
	for _, c := range []struct {
		err  error
		want string
	}{
		{&disk.Error{Doing: "write to the store", Reason: disk.ReadOnly, Err: path(syscall.EROFS)},
			"cannot write to the store: read-only file system. Mount this filesystem writable, or set blob_store.fs.root_dir to another one."},
		{&disk.Error{Doing: "write to the store", Reason: disk.Forbidden, Err: path(syscall.EACCES)},
			"cannot write to the store: permission denied. Make blob_store.fs.root_dir, and all below it, writable for the user that weir runs as."},
		{&disk.Error{Doing: "publish a file", Reason: disk.Vanished, Err: &os.LinkError{Op: "rename", Old: dir, New: dir, Err: syscall.ENOENT}},
			"cannot publish a file: no such file or directory. Check that the volume of this directory is mounted, and restart weir."},
		{errors.Join(path(syscall.EIO), path(syscall.EIO)), "input/output error"},
		{fmt.Errorf("storing: %w", &spool.NoSpaceError{Path: dir, Want: 1, Keep: 2}), "not enough free space. Free space on this filesystem, or lower blob_store.fs.min_free."},
		{&evict.FullError{Reason: evict.CannotDelete, Err: &disk.Error{Doing: "remove x", Reason: disk.ReadOnly, Err: path(syscall.EROFS)}},
			"not enough free space. Mount this filesystem writable, or set blob_store.fs.root_dir to another one."},
		{fmt.Errorf("%w in %s", disk.ErrNoStore, dir), "the log has the reason. Correct blob_store.fs.root_dir, or create the store by starting weir serve."},
		{errors.New("odd: " + dir), "the log has the reason"},
		{WithAdvice(&disk.Error{Doing: "write to the store", Reason: disk.Damaged, Err: path(syscall.EIO)}), "cannot write to the store: input/output error"},
	} {
		if got := public(c.err); got != c.want || strings.Contains(got, dir) || strings.Contains(got, "uid") {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

// The log names the user whose rights are missing, and the owner.
func TestAdviceOnRights(t *testing.T) {
	dir := t.TempDir()
	uid := fmt.Sprintf("(uid %d)", os.Geteuid())
	for path, owned := range map[string]string{dir: dir, dir + "/tmp/missing/file": dir} {
		text := advised(fmt.Errorf("storing: %w", &disk.Error{Doing: "write to the store", Reason: disk.Forbidden, Err: &fs.PathError{Op: "open", Path: path, Err: syscall.EACCES}}))
		for _, want := range []string{
			"permission denied. It runs as user ", uid + "; " + owned + " belongs to user ", ", mode drwx",
			". Make blob_store.fs.root_dir, and all below it, writable for the user that weir runs as.",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("%q lacks %q", text, want)
			}
		}
	}
	if text := advised(&disk.Error{Doing: "write to the store", Reason: disk.ReadOnly, Err: syscall.EROFS}); strings.Contains(text, "uid") {
		t.Errorf("no rights are missing: %q", text)
	}
}

func TestEachReasonHasARemedy(t *testing.T) {
	for reason := disk.Full; reason <= disk.Vanished; reason++ {
		if diskRemedy(reason) == "" {
			t.Errorf("no remedy for reason %d", reason)
		}
	}
}
