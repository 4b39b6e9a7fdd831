// Package disk is the storage driver for a directory of a local filesystem.
//
//	root/blobs/<algorithm>/<first two hex digits>/<hex>   content
//	root/records/<key>                                    records
//	root/tmp/<random>/                                    unfinished files of one running process
//	root/quarantine/<algorithm>-<hex>.<time>              content that had become corrupt
//
// Content and records are renamed out of tmp when they are complete, so that a
// crash leaves each of them whole or absent. A power cut is another matter: it may leave the
// name of a file without its bytes. [Durability] has two remedies.
//
// With [Always] the file is flushed before its rename, and the directory after it. With
// [Behind] the file is born with a mark, the sticky bit of its mode, which says that it may
// be torn. One syncfs(2) every few seconds flushes the filesystem, and after it the marks
// of those files are cleared that had their names before it began:
//
//	spool (marked) ── rename ──► content (marked) ── syncfs ── chmod ──► content
//
// So a blob without a mark is on the disk. A process that finds a marked one, which it
// has not written itself, hashes it before it serves it, and quarantines it if it is torn.
// Records keep their mark and begin with a checksum, which is compared at each reading: a
// record that was torn counts as absent.
//
// Removals are not flushed: after a power cut a removed file may be back, which costs a
// cache only its space.
//
// Every process has its own directory below tmp and holds a lock in it. A new
// process removes those whose lock is free: their process has ended. Several
// processes may therefore share a root, as they do during a rolling restart.
//
// Names of files are made only from digests and keys that have been validated.
// A record's segments are its path as they are, since Linux takes every byte
// that they may hold; a filesystem that folds case or refuses some bytes would
// need an escaping and is not supported. Files that the driver did not make
// are ignored. Directories of records that have become empty are removed.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

const (
	dirMode  = 0o750
	fileMode = 0o640
	// recordMode leaves the group out: records may be keys, such as that of a certificate.
	recordMode = 0o600
)

// Options configure a store on disk.
type Options struct {
	// Durability says when stored content survives a power cut. The default is Never.
	// Behind is the same as Always on a filesystem that does not support it.
	Durability Durability
	// MinFree is the number of bytes that downloads leave free on the filesystem.
	MinFree int64
	// Quota bounds the bytes of downloads and stored content together. Nil sets no
	// limit.
	Quota spool.Quota
	// MaxQuarantine bounds the bytes of quarantined content. 0 sets no limit.
	MaxQuarantine int64
	// OnRecord, if set, is called for each change of the records: by how many bytes, and
	// by how many records, their sum has grown.
	OnRecord func(bytes, records int64)
	// Existing is for maintenance next to the process that serves from the
	// store. It opens only a store that is there, and leaves the removal of
	// leftovers and the counting to that process: Size stays zero.
	Existing bool
	// Listed says that All is called soon, which counts the content on its way. Otherwise
	// Open has it counted in the background.
	Listed bool
	// OnOthers, if set, is called a few seconds after another process has begun or ended its work on
	// the store: it may have changed the content. The call should return soon.
	OnOthers func()
	// Logger gets leftovers and failed counts. The default discards.
	Logger *slog.Logger
}

// Store is content in a directory. Its operations are short calls to the local
// filesystem, so that only All and its records' List, which can take long, end
// with their context.
type Store struct {
	tree       *tree
	blobs      *blobs
	records    *records
	workspace  *workspace
	spools     *spool.Dir
	unreadable *unreadable
	marks      *marks
	suspects   *suspects
	flusher    *flusher
	sync       func(*spool.Spool) error // flushes one file
	durability Durability
	existing   bool
	logger     *slog.Logger

	maxQuarantine int64

	stop       context.CancelFunc
	background sync.WaitGroup // ends by itself
	endless    sync.WaitGroup
}

var (
	_ storage.Driver      = (*Store)(nil)
	_ storage.Toucher     = (*Store)(nil)
	_ storage.Quarantiner = (*Store)(nil)
	_ storage.Sizer       = (*Store)(nil)
	_ storage.Prober      = (*Store)(nil)

	_ storage.RecordKeeper = (*Store)(nil)
)

// ErrNoStore says that there is no store in a directory that should have one.
var ErrNoStore = errors.New("disk: there is no store")

// ErrNoRoot says that no directory was given.
var ErrNoRoot = errors.New("disk: no directory to store in")

// Open opens the store in the directory root and creates missing directories. The
// time that it takes does not grow with the store: leftovers of ended processes
// are removed, and content is counted, in the background. With
// [Options.Existing] it returns ErrNoStore if no store has been made there yet.
func Open(root string, opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.OnRecord == nil {
		opts.OnRecord = func(int64, int64) {}
	}
	if root == "" {
		return nil, ErrNoRoot
	}
	missing := missingOf(root)
	tree, err := openTree(root, opts)
	if err != nil {
		return nil, err
	}
	root = tree.root
	workspace, err := newWorkspace(filepath.Join(root, "tmp"))
	if err != nil {
		return nil, explain("create a directory for this process", err)
	}
	// Maintenance may run as another user than the mirror, such as root.
	if !opts.Existing {
		if err := tree.checkRights(workspace.path, opts.Logger); err != nil {
			err = errors.Join(err, workspace.close())
			// The right user could not use directories of this one.
			for _, path := range slices.Backward(missing) {
				_ = os.Remove(path) // only an empty one goes
			}
			return nil, explain("trust the data directory", err)
		}
	}
	s := newStore(tree, workspace, opts)
	if err := s.chooseFlush(opts); err != nil {
		return nil, explain("open the store", errors.Join(err, workspace.close()))
	}
	s.start(opts)
	return s, nil
}

// missingOf returns the directories of a store that do not exist, each behind the one that it is in.
func missingOf(root string) (missing []string) {
	for _, dir := range topDirs {
		path := filepath.Join(root, dir)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, path)
		}
	}
	return missing
}

// topDirs are the directories that each store has, in its root and that itself.
var topDirs = []string{"", "blobs", "records", "tmp"}

// newStore returns a store without background work.
func newStore(tree *tree, workspace *workspace, opts Options) *Store {
	marks, suspects, unreadable := newMarks(), newSuspects(), newUnreadable(opts.Logger)
	found := suspects.find
	if opts.Existing {
		found = func(digest.Digest) {}
	}
	blobs := newBlobs(filepath.Join(tree.root, "blobs"), found)
	flusher := &flusher{
		blobs: blobs, marks: marks, logger: opts.Logger, written: notify.NewSignal(),
		syncfs: func() error { return syncfs(workspace.lock) },
	}
	return &Store{
		tree:       tree,
		blobs:      blobs,
		unreadable: unreadable,
		records: &records{
			tree: tree, unreadable: unreadable, root: filepath.Join(tree.root, "records"), tmp: workspace.path, flusher: flusher, changed: opts.OnRecord,
		},
		workspace:  workspace,
		spools:     spool.NewDir(workspace.path, opts.MinFree, opts.Quota),
		marks:      marks,
		suspects:   suspects,
		flusher:    flusher,
		sync:       (*spool.Spool).Sync,
		durability: opts.Durability,
		existing:   opts.Existing,
		logger:     opts.Logger,

		maxQuarantine: opts.MaxQuarantine,
	}
}

// chooseFlush decides whether files are flushed by their commits or behind them.
func (s *Store) chooseFlush(opts Options) error {
	// A short process has nothing to gain from a flush behind its work.
	if opts.Durability != Behind || opts.Existing {
		return nil
	}
	reason, err := unfit(s.workspace.path)
	if err != nil {
		return err
	}
	if reason != "" {
		opts.Logger.Info("each stored file is flushed individually", "reason", reason)
		return nil
	}
	s.flusher.behind.Store(true)
	s.tree.each = func() bool { return !s.flusher.behind.Load() }
	return nil
}

// start begins the background work. The process that serves from the store does it.
func (s *Store) start(opts Options) {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	if opts.Existing {
		return
	}
	swept := make(chan struct{})
	s.background.Go(func() {
		defer close(swept)
		s.workspace.sweep(ctx, opts.Logger)
	})
	if opts.OnOthers != nil {
		s.endless.Go(func() {
			<-swept
			s.workspace.watch(ctx, opts.OnOthers)
		})
	}
	if !opts.Listed {
		s.background.Go(func() { s.count(ctx, opts.Logger) })
	}
	s.endless.Go(func() { s.check(ctx, opts.Logger) })
	s.endless.Go(func() { s.flusher.run(ctx) })
}

// openTree creates the directories of a store that are missing.
func openTree(root string, opts Options) (*tree, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, explain("open the store", err)
	}
	// Maintenance of a directory without a store is a mistake in its path.
	if opts.Existing {
		if _, err := os.Stat(filepath.Join(root, "blobs")); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w in %s", ErrNoStore, root)
		}
	}
	tree := &tree{flush: (*os.File).Sync, logger: opts.Logger, each: func() bool { return opts.Durability != Never }}
	for _, dir := range topDirs {
		if err := tree.mkdirAll(filepath.Join(root, dir)); err != nil {
			return nil, explain("create the store's directories", err)
		}
	}
	// From here on, a root that vanishes is an error. A volume may have been
	// unmounted, and a new root would fill the filesystem beneath.
	tree.root = root
	tree.refusing = refusesLinks(root)
	return tree, nil
}

// Records returns the records that belong to the content.
func (s *Store) Records() storage.Records { return s.records }

// Spools returns the directory of the spools that Commit can publish.
func (s *Store) Spools() *spool.Dir { return s.spools }

// Size returns how many bytes of content are stored, in how many objects. Both
// grow from zero during the first count, and take in later changes by other
// processes on the same root at each listing by All.
func (s *Store) Size() (bytes, objects int64) {
	return s.blobs.bytes.Load(), s.blobs.objects.Load()
}

// Counted reports whether Size has counted all content.
func (s *Store) Counted() bool { return s.blobs.counted.Load() == int64(len(s.blobs.shards)) }

// Writable returns an error, fit for an operator, if a file cannot be created
// in the store. It writes nothing into that file: a full disk stops caching, not
// serving.
func (s *Store) Writable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, err := os.CreateTemp(s.workspace.path, "probe-")
	if err != nil {
		return explain("write to the store", err)
	}
	return explain("write to the store", errors.Join(file.Close(), os.Remove(file.Name())))
}

// FlushStats returns the counts of the work of [Behind].
func (s *Store) FlushStats() FlushStats {
	return FlushStats{
		Marked:  s.marks.count(),
		Flushes: s.flusher.flushes.Load(), Failures: s.flusher.failures.Load(),
		Intact: s.suspects.intact.Load(), Damaged: s.suspects.damaged.Load(),
	}
}

// Close stops the background work, flushes the files of the last seconds, and removes this
// process's temporary files. Spools have to be closed before; content that is open can be
// read on.
func (s *Store) Close() error {
	s.stop()
	s.background.Wait()
	s.endless.Wait()
	if s.durability != Never {
		s.flusher.end()
	}
	if err := s.workspace.close(); err != nil {
		return fmt.Errorf("disk: cannot remove the temporary files: %w", err)
	}
	return nil
}
