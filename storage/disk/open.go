package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/weirhq/weir/internal/regular"
	"github.com/weirhq/weir/internal/whoami"
	"github.com/weirhq/weir/storage"
)

// Another program, an operator or an attacker may have put any file in the place of
// a blob or a record. This file opens regular files only, never waits for a pipe
// or a device, follows no link, and says once that a file cannot be read.

const (
	// maxRecord is the largest record, in bytes, that is written and read. A list
	// of 8 MiB, which is the largest one that an upstream may send, has 11 MiB in
	// its record.
	maxRecord = 16 << 20
	// maxReported is how many unreadable files are remembered as reported. After
	// that many, a file may be reported once more.
	maxReported = 1024
)

// openRegular opens a file of the store: a regular one, below directories that are no
// links.
func (t *tree) openRegular(path string) (*os.File, fs.FileInfo, error) {
	if file, info, err := t.openAtOnce(path); !errors.Is(err, errUnsure) {
		return file, info, err
	}
	if link := t.foreign(filepath.Dir(path)); link != "" {
		return nil, nil, &fs.PathError{Op: "open", Path: link, Err: syscall.ENOTDIR}
	}
	return regular.Open(path)
}

// readRecord reads the document of a file of at most maxRecord bytes.
func (t *tree) readRecord(path string) ([]byte, error) {
	content, marked, err := t.readAtOnce(path, int64(maxRecord+checksumSize))
	if errors.Is(err, errUnsure) {
		content, marked, err = t.readByParts(path, int64(maxRecord+checksumSize))
	}
	if err != nil {
		return nil, err
	}
	document, err := unseal(path, content, marked)
	if err == nil && len(document) > maxRecord {
		err = &fs.PathError{Op: "read", Path: path, Err: regular.ErrTooLarge}
	}
	return document, err
}

// readByParts reads a file of at most limit bytes, after a look at each part of its path.
func (t *tree) readByParts(path string, limit int64) (content []byte, marked bool, err error) {
	if link := t.foreign(filepath.Dir(path)); link != "" {
		return nil, false, &fs.PathError{Op: "open", Path: link, Err: regular.ErrNotRegular}
	}
	content, info, err := regular.ReadFileInfo(path, limit)
	if err != nil {
		return nil, false, err
	}
	return content, isMarked(info), nil
}

// unreadable logs once for each path that a file cannot be read.
type unreadable struct {
	logger   *slog.Logger
	reported *lru.Cache[string, struct{}]
}

func newUnreadable(logger *slog.Logger) *unreadable {
	reported, err := lru.New[string, struct{}](maxReported)
	if err != nil {
		panic(err) // cannot be: the size is positive
	}
	return &unreadable{logger: logger, reported: reported}
}

// explain returns the error of reading a file: one that matches
// storage.ErrUnreadable, so that the content is fetched again, unless the process or
// the system has too many open files. That says nothing about the file.
func (u *unreadable) explain(ctx context.Context, path, content, doing string, err error) error {
	explained := explain(doing+" "+content, whoami.Explain(err))
	if scarce(err) || ctx.Err() != nil {
		return explained
	}
	if seen, _ := u.reported.ContainsOrAdd(path, struct{}{}); !seen {
		u.logger.Warn("cannot read a file of the store. Its content is fetched from the upstream again and replaces the file if possible",
			"path", path, "user", whoami.User(), "error", explained)
	}
	return fmt.Errorf("%w: %s: %w", storage.ErrUnreadable, content, explained)
}

// scarce reports whether an error is about the process or the system and not about
// a file: another try may succeed soon.
func scarce(err error) bool {
	for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}
