package maintain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/regular"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// ImportOptions configure [RegistryDir.Import].
type ImportOptions struct {
	// Spools makes the temporary files that the store publishes.
	Spools *spool.Dir
	// Jobs is how many blobs are copied at once; 0 means 2.
	Jobs int
	// Room is how many bytes may be imported. Nil sets no limit.
	Room *int64
	// DryRun copies nothing. Contents that the store lacks count as imported, and
	// none is compared with its digest.
	DryRun bool
	// Progress, if set, is called with the total done so far. Calls do not overlap.
	Progress func(Amount)
}

// ImportReport is the result of [RegistryDir.Import].
type ImportReport struct {
	Imported Amount
	Present  Amount // stored before
	LeftOut  Amount // for lack of room
	Skips    Skips
}

// errChanged says that a file changed while it was copied.
var errChanged = errors.New("it changed while it was imported")

// errNoRoom says that a blob is left out.
var errNoRoom = errors.New("there is no room for the content")

// Import copies the blobs of the directory into a store, the newest first, each
// verified against its digest. Contents that are stored already are not read.
// Contents without room are left out, and nothing is evicted for them. A file that
// cannot be read, or that does not match its digest, is skipped. Import writes no
// records: no repository may serve an imported blob until its upstream has shown
// that it has the same bytes.
//
// The error is the context's or the store's; the report then covers the blobs
// before it.
func (d *RegistryDir) Import(ctx context.Context, store storage.Store, opts ImportOptions) (ImportReport, error) {
	if opts.Jobs <= 0 {
		opts.Jobs = 2
	}
	i := &importer{dir: d, store: store, opts: opts}
	i.report.Skips = Skips{First: append([]Skip(nil), d.skips.First...), Count: d.skips.Count}
	if opts.Room != nil {
		i.room = *opts.Room
	}
	contents := make(chan storage.Info)
	workers, working := errgroup.WithContext(ctx)
	for range opts.Jobs {
		workers.Go(func() error {
			buf := make([]byte, verifyBuffer)
			for content := range contents {
				if err := i.take(working, content, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	workers.Go(func() error {
		defer close(contents)
		for _, content := range d.contents {
			select {
			case contents <- content.Info:
			case <-working.Done():
				return context.Cause(working)
			}
		}
		return nil
	})
	err := workers.Wait()
	return i.report, err
}

// importer is one run of Import.
type importer struct {
	dir   *RegistryDir
	store storage.Store
	opts  ImportOptions

	mu     sync.Mutex
	room   int64 // bytes that may still be imported
	done   Amount
	report ImportReport
}

// take imports one blob if the store lacks it. Its error is that of the store or of
// the context.
func (i *importer) take(ctx context.Context, content storage.Info, buf []byte) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	have, err := i.store.Stat(ctx, content.Digest)
	switch {
	case err == nil && have.Size == content.Size:
		i.count(&i.report.Present, content)
		return nil
	case err != nil && !errors.Is(err, storage.ErrNotExist):
		return err
	case !i.reserve(content.Size):
		i.count(&i.report.LeftOut, content)
		return nil
	case i.opts.DryRun:
		i.count(&i.report.Imported, content)
		return nil
	}
	skipped, err := i.copy(ctx, content, buf)
	switch {
	case err == nil && skipped == nil:
		i.count(&i.report.Imported, content)
		return nil
	case errors.Is(err, errNoRoom):
		i.release(content.Size)
		i.count(&i.report.LeftOut, content)
		return nil
	case err != nil:
		return err
	}
	i.release(content.Size)
	i.skip(content, skipped)
	return nil
}

// copy copies one blob into the store. It returns why the content is skipped, or the
// error of the store.
func (i *importer) copy(ctx context.Context, content storage.Info, buf []byte) (skipped, err error) {
	file, info, err := regular.Open(i.dir.file(content.Digest))
	if err != nil {
		return err, nil
	}
	defer file.Close()
	if info.Size() != content.Size {
		return errChanged, nil
	}
	s, err := i.opts.Spools.Create("", content.Size)
	if err != nil {
		return nil, lackOfRoom(err)
	}
	defer s.Close() // the error is that of removing a temporary file, which the next process removes
	got, skipped, err := fill(ctx, s, file, content.Digest.Algorithm(), buf)
	switch {
	case err != nil:
		return nil, lackOfRoom(err)
	case skipped != nil:
		return skipped, nil
	case got != content.Digest:
		return fmt.Errorf("%w: they have digest %s", storage.ErrCorrupt, got), nil
	}
	if err := s.Complete(); err != nil {
		return errChanged, nil
	}
	return nil, lackOfRoom(i.store.Commit(ctx, content.Digest, s))
}

// lackOfRoom returns errNoRoom for the errors of a store that is full.
func lackOfRoom(err error) error {
	if errors.Is(err, spool.ErrNoSpace) || errors.Is(err, spool.ErrBusy) {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return err
}

// fill copies a file into a spool, and returns the digest of the bytes that it wrote.
// skipped is a failure of the file, err one of the spool or of the context.
func fill(ctx context.Context, s *spool.Spool, file *os.File, algorithm digest.Algorithm, buf []byte) (dgst digest.Digest, skipped, err error) {
	hash := algorithm.Hash()
	for {
		if err := context.Cause(ctx); err != nil {
			return "", nil, err
		}
		n, failed := file.Read(buf)
		if _, err := s.Write(buf[:n]); errors.Is(err, spool.ErrSize) {
			return "", errChanged, nil
		} else if err != nil {
			return "", nil, err
		}
		hash.Write(buf[:n])
		if failed == io.EOF {
			return digest.NewDigest(algorithm, hash), nil, nil
		}
		if failed != nil {
			return "", failed, nil
		}
	}
}

// reserve takes the bytes of a blob from the room. It returns false if there are not
// that many.
func (i *importer) reserve(size int64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.opts.Room == nil {
		return true
	}
	if size > i.room {
		return false
	}
	i.room -= size
	return true
}

func (i *importer) release(size int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.room += size
}

// count adds a blob to one sum of the report.
func (i *importer) count(sum *Amount, content storage.Info) {
	i.mu.Lock()
	defer i.mu.Unlock()
	sum.add(content.Size, 1)
	i.advance(content)
}

func (i *importer) skip(content storage.Info, why error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.report.Skips.add(i.dir.file(content.Digest), why)
	i.advance(content)
}

// advance reports progress. The caller holds the mutex.
func (i *importer) advance(content storage.Info) {
	i.done.add(content.Size, 1)
	if i.opts.Progress != nil {
		i.opts.Progress(i.done)
	}
}
