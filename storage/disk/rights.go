package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

var (
	errExposed      = errors.New("others may write to it")
	errForeignOwner = errors.New("it belongs to another user")
)

// owners are the user and the groups that may write to a store.
type owners struct {
	user   uint32 // of the files that this process makes
	groups []int
}

// checkRights returns an error if another user may write to a directory of the store:
// that user could decide which manifest a tag names. workspace is a directory
// that the process has just made there. On a filesystem that changes its owner or
// mode, such as one of a network or of another system, it shows what they mean.
func (t *tree) checkRights(workspace string, logger *slog.Logger) error {
	made, err := statOf(os.Lstat(workspace))
	if err != nil {
		return err
	}
	if made.Mode&0o002 != 0 {
		logger.Warn("the filesystem of the data directory does not keep permissions. Make sure that no other user can write to it", "path", t.root)
		return nil
	}
	own := owners{user: made.Uid, groups: []int{os.Getegid(), int(made.Gid)}}
	if more, err := os.Getgroups(); err == nil {
		own.groups = append(own.groups, more...)
	}
	// The root may be a link, and on a volume that is shared by design, as /tmp is: the
	// sticky bit keeps others from replacing the directories below.
	root, err := statOf(os.Stat(t.root))
	if err != nil {
		return err
	}
	if root.Mode&syscall.S_ISVTX == 0 {
		if err := own.check(t.root, root); err != nil {
			return err
		}
	}
	for _, below := range []string{"blobs", "blobs/sha256", "blobs/sha512", "records", "tmp", quarantineDir} {
		path := filepath.Join(t.root, below)
		dir, err := statOf(os.Lstat(path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case dir.Mode&syscall.S_IFMT != syscall.S_IFDIR:
			return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
		}
		if err := own.check(path, dir); err != nil {
			return err
		}
	}
	return nil
}

// check allows a directory of the process's own user or of root. A group may write if
// the process is a member of it: Kubernetes' fsGroup makes volumes such.
func (o owners) check(path string, dir *syscall.Stat_t) error {
	fail := func(err error) error { return &fs.PathError{Op: "use", Path: path, Err: err} }
	switch mode := dir.Mode & 0o7777; {
	case dir.Uid != o.user && dir.Uid != 0:
		return fail(fmt.Errorf("%w (uid %d, while files of weir get uid %d)", errForeignOwner, dir.Uid, o.user))
	case mode&0o002 != 0:
		return fail(fmt.Errorf("%w (all users, mode %04o)", errExposed, mode))
	case mode&0o020 != 0 && dir.Gid != 0 && !slices.Contains(o.groups, int(dir.Gid)):
		return fail(fmt.Errorf("%w (group %d, to which weir does not belong, mode %04o)", errExposed, dir.Gid, mode))
	default:
		return nil
	}
}

func statOf(info fs.FileInfo, err error) (*syscall.Stat_t, error) {
	if err != nil {
		return nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: info.Name(), Err: errors.ErrUnsupported}
	}
	return stat, nil
}
