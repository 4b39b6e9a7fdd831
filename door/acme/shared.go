package acme

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/internal/seal"
	"github.com/weirhq/weir/storage"
)

const (
	// sharedPurpose keeps the key of the records apart from all others of the same secret.
	sharedPurpose = "weir acme record v1"
	// farRead bounds the wait for a shared record. A store that is slower is taken for away; its
	// own limit for records is shorter.
	farRead = 5 * time.Second
	// farWrite bounds a write, a removal and a list. An order waits for them.
	farWrite = 10 * time.Second
	// awayFor is how long after a failure only this machine is read, so that the many reads of a
	// start wait for a store that is unavailable once.
	awayFor = 5 * time.Second
	// maxShared bounds a sealed record: a chain of certificates has some 6 KiB.
	maxShared = 1 << 20
	// maxSharedKeys bounds a list: other programs may write to the store. A host has three records.
	maxSharedKeys = 4096
	// proofWindow is how long the readers of one proof are gathered for one read. Strangers may
	// ask for proofs as often as they like.
	proofWindow = 100 * time.Millisecond
	// calm is how long records have to be good before the log reports the failure as over.
	calm = time.Hour
)

// SharedOptions configure [Shared].
type SharedOptions struct {
	Near storage.Records // of this machine, in clear
	// Far are the records that all machines share, such as those of a bucket. Strangers may read
	// and write there.
	Far    storage.Records
	Logger *slog.Logger
}

// Shared are the records of package acme that several machines share, each encrypted with a
// secret of theirs. All reads and writes are done at once, since an authority asks another
// machine for a proof right after it was written. This machine keeps a copy, which it uses
// while the shared records cannot be, and instead of older ones.
type Shared struct {
	opts     SharedOptions
	box      atomic.Pointer[seal.Box] // nil: nothing is shared
	away     atomic.Int64             // until when Far is not read, in nanoseconds of Unix
	closed   *episode.Episode         // records that do not open
	unshared *episode.Episode         // records that are not written

	mu     sync.Mutex
	proofs map[string]*proofRead // that have not begun
}

var _ storage.Records = (*Shared)(nil)

// NewShared returns records that share nothing until they have a secret.
func NewShared(opts SharedOptions) *Shared {
	return &Shared{
		opts: opts, proofs: make(map[string]*proofRead),
		closed:   episode.New(calm, func() {}),
		unshared: episode.New(calm, func() { opts.Logger.Info("certificates are shared with other replicas again") }),
	}
}

// Use shares records with all machines that have the same secret, from now on. Without a
// secret, nothing is shared.
func (s *Shared) Use(secret string) { s.box.Store(seal.NewBox(secret, sharedPurpose)) }

// Shares reports whether there is a secret.
func (s *Shared) Shares() bool { return s.box.Load() != nil }

// Get returns the younger one of the shared record and the copy of this machine. A shared
// record that is not sealed with the secret counts as absent.
func (s *Shared) Get(ctx context.Context, key string) ([]byte, error) {
	box := s.box.Load()
	if box == nil || isTrial(key) {
		return s.opts.Near.Get(ctx, key)
	}
	if isProof(key) {
		// A copy of a proof may be one of an earlier order, so it is worth less.
		document, err := s.readProof(ctx, box, key)
		if err == nil || ctx.Err() != nil {
			return document, err
		}
		return s.opts.Near.Get(ctx, key)
	}
	far, err := s.read(ctx, box, key)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	near, nearErr := s.opts.Near.Get(ctx, key)
	switch {
	case err == nil && (nearErr != nil || !younger(near, far)):
		if nearErr != nil || !bytes.Equal(near, far) {
			s.keep(ctx, key, far)
		}
		return far, nil
	// The record was lost, forged or replaced by an older one, or it was written here while the
	// store was unavailable.
	case nearErr == nil && (err == nil || errors.Is(err, storage.ErrNotExist)):
		s.share(ctx, box, key, near)
	}
	return near, nearErr
}

// read reads a shared record. It returns storage.ErrNotExist too if the record does not open.
func (s *Shared) read(ctx context.Context, box *seal.Box, key string) ([]byte, error) {
	if time.Now().UnixNano() < s.away.Load() {
		return nil, errAway
	}
	limited, cancel := context.WithTimeoutCause(ctx, farRead, errAway)
	defer cancel()
	sealed, err := s.opts.Far.Get(limited, key)
	if err != nil {
		s.failed(ctx, err)
		return nil, err
	}
	if len(sealed) > maxShared {
		err = errTooLong
	}
	var document []byte
	if err == nil {
		document, err = box.Open(sealed, key)
	}
	if err == nil {
		s.closed.Good()
		return document, nil
	}
	if s.closed.Bad() {
		s.opts.Logger.Warn("a shared record of certificates cannot be decrypted and is ignored. It was written with another secret or by another program. "+
			"Set the same secret on all replicas, and let no other program write to their store", "record", key, "error", err)
	}
	return nil, fmt.Errorf("%w: record %q: %w", storage.ErrNotExist, key, err)
}

// failed notes that the store is unavailable, unless the caller has left or the store has answered.
func (s *Shared) failed(ctx context.Context, err error) {
	if ctx.Err() == nil && !errors.Is(err, storage.ErrNotExist) {
		s.away.Store(time.Now().Add(awayFor).UnixNano())
	}
}

var (
	errAway    = errors.New("the shared records cannot be read at the moment")
	errTooLong = errors.New("it is too long")
)

// proofRead is a read of a proof that several callers wait for.
type proofRead struct {
	done     chan struct{}
	document []byte
	err      error
}

// readProof reads a proof. All callers within a short time share one read, which begins after
// the last one has come: an absence of before would be wrong.
func (s *Shared) readProof(ctx context.Context, box *seal.Box, key string) ([]byte, error) {
	s.mu.Lock()
	next, waits := s.proofs[key]
	if !waits {
		next = &proofRead{done: make(chan struct{})}
		s.proofs[key] = next
	}
	s.mu.Unlock()
	if waits {
		select {
		case <-next.done:
			return bytes.Clone(next.document), next.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	time.Sleep(proofWindow)
	s.mu.Lock()
	delete(s.proofs, key)
	s.mu.Unlock()
	// The others wait also if the first one leaves.
	next.document, next.err = s.read(context.WithoutCancel(ctx), box, key)
	close(next.done)
	return bytes.Clone(next.document), next.err
}

// Put writes the copy and the shared record. It fails only if neither can be written.
func (s *Shared) Put(ctx context.Context, key string, document []byte) error {
	err := s.opts.Near.Put(ctx, key, document)
	box := s.box.Load()
	if box == nil || isTrial(key) {
		return err
	}
	if s.share(ctx, box, key, document) {
		return nil
	}
	return err
}

// share writes a shared record, and reports whether it could.
func (s *Shared) share(ctx context.Context, box *seal.Box, key string, document []byte) bool {
	limited, cancel := context.WithTimeoutCause(ctx, farWrite, errAway)
	defer cancel()
	err := s.opts.Far.Put(limited, key, box.Seal(document, key))
	if err == nil {
		s.unshared.Good()
		return true
	}
	s.failed(ctx, err)
	if ctx.Err() == nil && s.unshared.Bad() {
		s.opts.Logger.Warn("cannot share a record of certificates, so other replicas may request certificates of their own. Check that the bucket is writable", "record", key, "error", err)
	}
	return false
}

// keep writes the copy of a shared record.
func (s *Shared) keep(ctx context.Context, key string, document []byte) {
	if err := s.opts.Near.Put(ctx, key, document); err != nil {
		s.opts.Logger.Debug("cannot keep a copy of a shared record", "record", key, "error", err)
	}
}

// Delete removes the copy and the shared record. A store that cannot be reached, or lets
// nothing be removed, keeps its own: an old proof or account is refused by the authority.
func (s *Shared) Delete(ctx context.Context, key string) error {
	err := s.opts.Near.Delete(ctx, key)
	if s.box.Load() == nil || isTrial(key) {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, farWrite, errAway)
	defer cancel()
	farErr := s.opts.Far.Delete(limited, key)
	if farErr != nil && !errors.Is(farErr, storage.ErrNotExist) {
		s.opts.Logger.Debug("cannot remove a shared record", "record", key, "error", farErr)
	}
	if errors.Is(err, storage.ErrNotExist) && farErr == nil {
		return nil
	}
	return err
}

// List yields the keys of the shared records and of the copies.
func (s *Shared) List(ctx context.Context, below string) iter.Seq2[string, error] {
	if s.box.Load() == nil || time.Now().UnixNano() < s.away.Load() {
		return s.opts.Near.List(ctx, below)
	}
	return func(yield func(string, error) bool) {
		keys, err := s.listFar(ctx, below)
		for key, nearErr := range s.opts.Near.List(ctx, below) {
			err = errors.Join(err, nearErr)
			keys = append(keys, key)
		}
		if err != nil {
			yield("", err)
			return
		}
		slices.Sort(keys)
		for _, key := range slices.Compact(keys) {
			if ctx.Err() != nil {
				yield("", context.Cause(ctx))
				return
			}
			if !yield(key, nil) {
				return
			}
		}
	}
}

// listFar lists the shared records, or none if that fails. It returns an error if the caller
// has left.
func (s *Shared) listFar(ctx context.Context, below string) (keys []string, err error) {
	limited, cancel := context.WithTimeoutCause(ctx, farWrite, errAway)
	defer cancel()
	for key, err := range s.opts.Far.List(limited, below) {
		if err != nil {
			s.failed(ctx, err)
			return nil, context.Cause(ctx)
		}
		if keys = append(keys, key); len(keys) >= maxSharedKeys {
			break
		}
	}
	return keys, nil
}

// isProof reports whether a record has the proof of a host, which is good for one order.
func isProof(key string) bool { return strings.Contains(key, "/challenge_tokens/") }

// isTrial reports whether a record is one that certmagic writes before an order to see whether
// it can.
func isTrial(key string) bool { return strings.HasPrefix(key, prefix+"/rw_test_") }

// younger reports whether a document was written after another one. One that is none was
// written before all.
func younger(a, b []byte) bool {
	var first, second document
	if json.Unmarshal(a, &first) != nil {
		return false
	}
	return json.Unmarshal(b, &second) != nil || first.Modified.After(second.Modified)
}
