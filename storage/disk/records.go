package disk

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirhq/weir/internal/regular"
	"github.com/weirhq/weir/storage"
)

// records keeps each record in the file that its key names.
type records struct {
	tree       *tree
	root       string
	unreadable *unreadable
	tmp        string // where a record is written before it takes its place
	flusher    *flusher
	changed    func(bytes, records int64)
}

const (
	// checksumPrefix begins the first line of a record. A record of an earlier version has no
	// such line: those were JSON or PEM.
	checksumPrefix = "weir-record-sha256 "
	// checksumSize is the length of that line.
	checksumSize = len(checksumPrefix) + 2*sha256.Size + 1
	// joined is the largest record that is copied behind its checksum, to be written in one
	// call.
	joined = 64 << 10
)

// errTorn says that a record does not have the bytes that were written.
var errTorn = errors.New("its bytes do not match its checksum")

// checksum returns the first line of a record's file.
func checksum(document []byte) []byte {
	sum := sha256.Sum256(document)
	line := make([]byte, 0, checksumSize+min(len(document), joined))
	line = append(line, checksumPrefix...)
	line = hex.AppendEncode(line, sum[:])
	return append(line, '\n')
}

// unseal returns the document of a record's file. A file that has neither a checksum nor the
// mark is one of an earlier version. It returns errTorn if the bytes are not those that
// were written, as after a power cut.
func unseal(path string, content []byte, marked bool) ([]byte, error) {
	if !marked && !bytes.HasPrefix(content, []byte(checksumPrefix)) {
		return content, nil
	}
	if len(content) >= checksumSize {
		if document := content[checksumSize:]; bytes.Equal(content[:checksumSize], checksum(document)) {
			return document, nil
		}
	}
	return nil, &fs.PathError{Op: "read", Path: path, Err: errTorn}
}

func (r *records) path(key string) (string, error) {
	if err := storage.ValidateKey(key); err != nil {
		return "", err
	}
	return filepath.Join(r.root, filepath.FromSlash(key)), nil
}

// Get reads the file. A file that is not a record, such as a link, a pipe or one that is
// too large, counts as unreadable.
func (r *records) Get(ctx context.Context, key string) ([]byte, error) {
	path, err := r.path(key)
	if err != nil {
		return nil, err
	}
	document, err := r.tree.readRecord(path)
	switch {
	case err == nil:
		return document, nil
	case noRecord(err):
		return nil, notRecorded(key, "read", err)
	default:
		return nil, r.unreadable.explain(ctx, path, fmt.Sprintf("record %q", key), "read", err)
	}
}

// Put writes a new file and renames it over the old one. The file bears the mark from its
// creation on, and begins with a checksum: after a power cut it may have the name of the
// record, and none of its bytes.
func (r *records) Put(_ context.Context, key string, document []byte) error {
	path, err := r.path(key)
	if err != nil {
		return err
	}
	// It could not be read back.
	if len(document) > maxRecord {
		return fmt.Errorf("%w: the record %q has %d bytes", storage.ErrTooLarge, key, len(document))
	}
	staged, before := filepath.Join(r.tmp, "record-"+rand.Text()), int64(0)
	err = r.write(staged, document)
	if err == nil {
		before, err = r.tree.place(staged, path)
	}
	size := int64(checksumSize + len(document))
	switch {
	case err != nil:
		os.Remove(staged) // fails if it was renamed before the error
	case before == absent:
		r.changed(size, 1)
	default:
		r.changed(size-before, 0)
	}
	r.flusher.commitRecord()
	// The whole path may be too long for the filesystem, though no segment is.
	if errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.EILSEQ) {
		return fmt.Errorf("%w %q: %w", storage.ErrInvalidKey, key, err)
	}
	return explain(fmt.Sprintf("write the record %q", key), err)
}

func (r *records) write(path string, document []byte) error {
	first := checksum(document)
	if len(document) <= joined {
		first, document = append(first, document...), nil
		if !r.tree.each() {
			return writeAtOnce(path, first)
		}
	}
	file, err := regular.Create(path, recordMode|mark)
	if err != nil {
		return err
	}
	_, err = file.Write(first)
	if err == nil && len(document) > 0 {
		_, err = file.Write(document)
	}
	if err == nil && r.tree.each() {
		err = r.tree.flush(file)
	}
	return errors.Join(err, file.Close())
}

// writeAtOnce makes the file of a short record. An os.File would cost a system call more, and
// memory that only a collection of garbage frees.
func writeAtOnce(path string, content []byte) error {
	fd, err := createRaw(path)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err := writeFull(fd, content); err != nil {
		unix.Close(fd)
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	if err := unix.Close(fd); err != nil && err != unix.EINTR {
		return &fs.PathError{Op: "close", Path: path, Err: err}
	}
	return nil
}

// createRaw creates the file of a record, with the mark.
func createRaw(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, recordMode|unix.S_ISVTX)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// writeFull writes all bytes of content.
func writeFull(fd int, content []byte) error {
	for len(content) > 0 {
		n, err := unix.Write(fd, content)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrShortWrite
		default:
			content = content[n:]
		}
	}
	return nil
}

// Delete removes the file, and its directories as far as they have become empty.
func (r *records) Delete(_ context.Context, key string) error {
	path, err := r.path(key)
	if err != nil {
		return err
	}
	size, err := r.tree.plainSize(path)
	if err == nil { // a directory is not a record
		err = os.Remove(path)
	}
	if err == nil {
		r.changed(-size, -1)
		r.removeEmpty(filepath.Dir(path))
	}
	return notRecorded(key, "remove", err)
}

// removeEmpty removes a directory and those above it as far as they are empty. A record
// that is being placed there makes them again.
func (r *records) removeEmpty(dir string) {
	for len(dir) > len(r.root) && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
}

// RemoveEmpty removes the directories that hold no record, as earlier versions left
// them, and returns their number. With dryRun it only counts them.
func (s *Store) RemoveEmpty(ctx context.Context, dryRun bool) (removed int, err error) {
	_, err = s.records.prune(ctx, s.records.root, dryRun, &removed)
	return removed, explain("remove empty directories", err)
}

// prune removes the empty directories below dir. It reports whether dir is empty then.
func (r *records) prune(ctx context.Context, dir string, dryRun bool, removed *int) (empty bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	entries, err := os.ReadDir(dir)
	if noRecord(err) { // it went since it was listed
		return false, nil
	}
	if err != nil {
		return false, err
	}
	empty = true
	for _, entry := range entries {
		below, gone := filepath.Join(dir, entry.Name()), false
		if entry.IsDir() {
			if gone, err = r.prune(ctx, below, dryRun, removed); err != nil {
				return false, err
			}
			// If a record has come meanwhile, the directory stays.
			gone = gone && (dryRun || os.Remove(below) == nil)
		}
		if gone {
			*removed++
		}
		empty = empty && gone
	}
	return empty, nil
}

// TouchRecord notes the use of a record as the time of its file.
func (s *Store) TouchRecord(_ context.Context, key string, used time.Time) error {
	path, err := s.records.path(key)
	if err != nil {
		return err
	}
	if _, err = s.tree.plainSize(path); err == nil { // Chtimes follows links
		err = os.Chtimes(path, time.Time{}, used)
	}
	return notRecorded(key, "record the use of", err)
}

// AllRecords reads directories and the sizes and times of files, and opens no file.
func (s *Store) AllRecords(ctx context.Context) iter.Seq2[storage.RecordEntry, error] {
	return func(yield func(storage.RecordEntry, error) bool) {
		failed := func(err error) { yield(storage.RecordEntry{}, err) }
		s.records.each(ctx, "", failed, func(dir int, name, key string) bool {
			var stat unix.Stat_t
			if unix.Fstatat(dir, name, &stat, unix.AT_SYMLINK_NOFOLLOW) != nil { // it went since it was listed
				return true
			}
			return yield(storage.RecordEntry{Key: key, Size: stat.Size, Used: time.Unix(stat.Mtim.Unix())}, nil)
		})
	}
}

// List reads directories only, one after the other as the caller proceeds.
func (r *records) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		failed := func(err error) { yield("", err) }
		r.each(ctx, prefix, failed, func(_ int, _, key string) bool { return yield(key, nil) })
	}
}

// each calls visit for each record below a prefix, with its name in the directory that is
// open as dir, until visit reports false. It calls failed if it cannot go on.
func (r *records) each(ctx context.Context, prefix string, failed func(error), visit func(dir int, name, key string) bool) {
	dir := r.root
	if prefix != "" {
		path, err := r.path(prefix)
		if err != nil {
			failed(err)
			return
		}
		dir, prefix = path, prefix+"/"
	}
	// A root that has vanished is an error and no empty list.
	_, err := os.Stat(r.root)
	if err := cmp.Or(context.Cause(ctx), explain("list the records", err)); err != nil {
		failed(err)
		return
	}
	w := walk{failed: failed, visit: visit}
	w.below(ctx, dir, prefix)
}

// walk is one way through the records.
type walk struct {
	failed func(error)
	visit  func(dir int, name, key string) bool
}

// below visits the files below a directory, whose keys begin with prefix. It reports
// whether the caller wants more.
func (w *walk) below(ctx context.Context, path, prefix string) bool {
	dir, err := os.Open(path)
	if noRecord(err) { // no record with that prefix, or the last one has just gone
		return true
	}
	if err != nil {
		w.failed(explain("list the records", err))
		return false
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil && !noRecord(err) {
		w.failed(explain("list the records", err))
		return false
	}
	slices.SortFunc(entries, compareKeys)
	for _, entry := range entries {
		if ctx.Err() != nil {
			w.failed(context.Cause(ctx))
			return false
		}
		more := true
		switch name := entry.Name(); {
		case entry.IsDir():
			more = w.below(ctx, filepath.Join(path, name), prefix+name+"/")
		case entry.Type().IsRegular():
			more = w.visit(int(dir.Fd()), name, prefix+name)
		}
		if !more {
			return false
		}
	}
	return true
}

// compareKeys orders the entries of one directory as the keys that they lead
// to. Below a directory a key continues with a slash, which comes after some
// bytes that a name may hold: "a-b" is before "a/b".
func compareKeys(a, b fs.DirEntry) int {
	left, right := a.Name(), b.Name()
	common := min(len(left), len(right))
	return cmp.Or(
		cmp.Compare(left[:common], right[:common]),
		cmp.Compare(keyByte(a, common), keyByte(b, common)),
	)
}

// keyByte returns the byte of a key at an index that is not beyond the end of the entry's
// name, or -1 at the end of the key.
func keyByte(entry fs.DirEntry, at int) int {
	switch name := entry.Name(); {
	case at < len(name):
		return int(name[at])
	case entry.IsDir():
		return '/'
	default:
		return -1
	}
}

// noRecord reports whether an error means that a path has no record. That is so
// too if the key continues below a record, or ends above one.
func noRecord(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR) ||
		errors.Is(err, syscall.ENAMETOOLONG) // no such record can have been written
}

func notRecorded(key, doing string, err error) error {
	if noRecord(err) {
		return fmt.Errorf("%w: record %q", storage.ErrNotExist, key)
	}
	return explain(fmt.Sprintf("%s the record %q", doing, key), err)
}
