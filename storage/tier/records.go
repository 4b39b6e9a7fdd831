package tier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/internal/keylock"
	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/storage"
)

const (
	// remembered and rememberedBytes bound the memory of records.
	remembered      = 65_536
	rememberedBytes = 32 << 20
	// longest is the longest record that is remembered: a link has some 300 bytes, and
	// lists are read seldom.
	longest = 64 << 10
	// writersAtOnce is how many records are written far at once.
	writersAtOnce = 8
	// maxUnwritten bounds the records that are not far yet, and maxUnwrittenBytes their
	// bytes. Beyond, they stay near only, and give way to those that far has.
	maxUnwritten      = 100_000
	maxUnwrittenBytes = 64 << 20
	// touchPause is how long the use of a near record is not noted again.
	touchPause = 6 * time.Hour
)

// FarRecords are records that mirrors share. A lookup waits for each Get, so that ends soon:
// the near record may be old, and is better than a wait.
type FarRecords interface {
	storage.Records
	// PutNew writes a record if there is none, and otherwise does nothing.
	PutNew(ctx context.Context, key string, document []byte) error
	// RecordKeys yields all keys in any order. There may be any number of them.
	RecordKeys(ctx context.Context) iter.Seq2[string, error]
}

// RecordsOptions configure [Records].
type RecordsOptions struct {
	Near storage.Records
	Far  FarRecords
	// Paused reports whether Far is not asked at the moment.
	Paused func() bool
	// Shares reports whether a near record from before the start belongs into Far. Near may
	// hold others too, such as private keys.
	Shares func(key string) bool
	// TTL is how long a record that was read from Far is believed, absence included.
	TTL time.Duration
	// Touch notes the use of a near record; nil notes nothing.
	Touch   func(ctx context.Context, key string, used time.Time) error
	Metrics *Metrics
	Logger  *slog.Logger
}

// Records are records that are far, and near too. The last write wins, also among mirrors.
type Records struct {
	opts   RecordsOptions
	memory *bounded.Cache[string, recalled]
	keys   keylock.Map[string] // of records that are read from far or changed

	stop    context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	unwritten map[string]*write
	bytes     int // of unwritten
	ready     []string
	changed   notify.Broadcast
	merged    bool // far has all records that were near at the start
	lost      bool // a write had no place or was abandoned, and that was logged
}

// recalled is a record in memory.
type recalled struct {
	document []byte // nil: there is none
	read     time.Time
	touched  time.Time
}

// write is a change that is not far yet.
type write struct {
	document []byte // nil: a deletion
	version  int    // counts the changes
	attempts int
	failed   bool // it was abandoned
}

// NewRecords returns records that are written far in the background until Close.
func NewRecords(opts RecordsOptions) *Records {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Records{
		opts: opts, stop: cancel, unwritten: make(map[string]*write),
		memory: bounded.New(remembered, rememberedBytes, func(key string, r recalled) int { return len(key) + len(r.document) }),
	}
	for range writersAtOnce {
		r.running.Go(func() { r.work(ctx) })
	}
	r.running.Go(func() { r.merge(ctx) })
	return r
}

// Drain waits until all changes are far, or far is paused.
func (r *Records) Drain(ctx context.Context) error {
	for {
		r.mu.Lock()
		left, changed := len(r.unwritten), r.changed.Wait()
		r.mu.Unlock()
		if left == 0 || r.opts.Paused() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Await waits until the changes of a record are far. It returns an error if one is abandoned,
// or far is paused.
func (r *Records) Await(ctx context.Context, key string) error {
	r.mu.Lock()
	known := r.unwritten[key]
	r.mu.Unlock()
	for known != nil {
		r.mu.Lock()
		ended, failed, changed := r.unwritten[key] != known, known.failed, r.changed.Wait()
		r.mu.Unlock()
		switch {
		case failed:
			return errNotFar
		case ended:
			return nil
		case r.opts.Paused():
			return errNotFar
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Reread makes the next Get read a record from far if none was there at the last one: another
// mirror has written it since.
func (r *Records) Reread(key string) {
	defer r.keys.Lock(key)()
	if known, ok := r.memory.Get(key); ok && known.document == nil {
		r.memory.Remove(key)
	}
}

// Close ends the writes under way. Changes that are not far yet stay near.
func (r *Records) Close() {
	r.stop()
	r.running.Wait()
}

// Get returns a record from memory, if it is young enough, else from far or, if far cannot
// be asked, from near.
func (r *Records) Get(ctx context.Context, key string) ([]byte, error) {
	if err := storage.ValidateKey(key); err != nil {
		return nil, err
	}
	known, ok := r.recall(key)
	if !ok {
		unlock := r.keys.Lock(key)
		defer unlock()
		// Another caller may have read it while this one waited.
		if known, ok = r.recall(key); !ok {
			var err error
			if known, err = r.read(ctx, key); err != nil {
				return nil, err
			}
		}
	}
	if known.document == nil {
		return nil, fmt.Errorf("%w: record %q", storage.ErrNotExist, key)
	}
	return bytes.Clone(known.document), nil
}

// recall returns a record from memory, or the change that is on its way to far.
func (r *Records) recall(key string) (recalled, bool) {
	r.mu.Lock()
	var document []byte
	change, waits := r.unwritten[key]
	if waits {
		document = change.document
	}
	r.mu.Unlock()
	if waits {
		return recalled{document: document}, true
	}
	known, ok := r.memory.Get(key)
	return known, ok && time.Since(known.read) < r.opts.TTL
}

// read reads a record from far, or from near. The caller holds the key's lock.
func (r *Records) read(ctx context.Context, key string) (recalled, error) {
	before, _ := r.memory.Get(key)
	known := recalled{read: time.Now(), touched: before.touched}
	document, err := r.opts.Far.Get(ctx, key)
	near, nearErr := r.opts.Near.Get(ctx, key)
	switch {
	case ctx.Err() != nil:
		return known, context.Cause(ctx)
	case err == nil:
		known.document = orEmpty(document)
		// Without far, the next start or outage goes on from here.
		if nearErr != nil || !bytes.Equal(near, document) {
			r.keepNear(ctx, key, document)
			known.touched = time.Now()
		}
	// Another mirror has removed it, unless it never was far.
	case errors.Is(err, storage.ErrNotExist) && r.isMerged():
		if nearErr == nil {
			r.forgetNear(ctx, key)
		}
	case nearErr == nil:
		known.document = orEmpty(near)
	case errors.Is(nearErr, storage.ErrNotExist):
	default:
		return known, nearErr
	}
	if r.opts.Touch != nil && known.document != nil && time.Since(known.touched) > touchPause {
		known.touched = time.Now()
		if err := r.opts.Touch(ctx, key, known.touched); err != nil {
			r.opts.Logger.Debug("cannot record the use of a record", "key", key, "error", err)
		}
	}
	r.remember(key, known)
	return known, nil
}

// orEmpty distinguishes an empty record from none.
func orEmpty(document []byte) []byte {
	if document == nil {
		return []byte{}
	}
	return document
}

func (r *Records) remember(key string, known recalled) {
	if len(known.document) > longest {
		r.memory.Remove(key)
		return
	}
	r.memory.Add(key, known)
}

func (r *Records) keepNear(ctx context.Context, key string, document []byte) {
	if err := r.opts.Near.Put(ctx, key, document); err != nil {
		r.opts.Logger.Debug("cannot keep a record on this machine", "key", key, "error", err)
	}
}

func (r *Records) forgetNear(ctx context.Context, key string) {
	if err := r.opts.Near.Delete(ctx, key); err != nil && !errors.Is(err, storage.ErrNotExist) {
		r.opts.Logger.Debug("cannot remove a record that is gone from the bucket", "key", key, "error", err)
	}
}

// Put writes the record near, and far in the background.
func (r *Records) Put(ctx context.Context, key string, document []byte) error {
	defer r.keys.Lock(key)()
	if err := r.opts.Near.Put(ctx, key, document); err != nil {
		if errors.Is(err, storage.ErrInvalidKey) || errors.Is(err, storage.ErrTooLarge) {
			return err
		}
		// A full disk near says nothing about far.
		r.opts.Logger.Debug("cannot keep a record on this machine", "key", key, "error", err)
	}
	r.change(key, orEmpty(bytes.Clone(document)))
	return nil
}

// Delete removes the record near, and far in the background.
func (r *Records) Delete(ctx context.Context, key string) error {
	if _, err := r.Get(ctx, key); err != nil {
		return err
	}
	defer r.keys.Lock(key)()
	if err := r.opts.Near.Delete(ctx, key); err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	r.change(key, nil)
	return nil
}

// change remembers a change, and asks for its write. The caller holds the key's lock.
func (r *Records) change(key string, document []byte) {
	r.remember(key, recalled{document: document, read: time.Now(), touched: time.Now()})
	r.mu.Lock()
	known := r.unwritten[key]
	if known == nil && (len(r.unwritten) >= maxUnwritten || r.bytes+len(document) > maxUnwrittenBytes) {
		first := !r.lost
		r.lost = true
		r.mu.Unlock()
		r.opts.Metrics.write(dropped)
		if first {
			r.opts.Logger.Error("too many records are waiting for the bucket, so some are kept on this machine only. Check that the bucket can be reached")
		}
		return
	}
	if known == nil {
		known = new(write)
		r.unwritten[key] = known
		r.ready = append(r.ready, key)
	}
	r.bytes += len(document) - len(known.document)
	known.document = document
	known.version++
	r.changed.Notify()
	r.mu.Unlock()
}

// List lists the far records, or the near ones if far cannot be asked.
func (r *Records) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	if r.opts.Paused() {
		return r.opts.Near.List(ctx, prefix)
	}
	return func(yield func(string, error) bool) {
		listed := false
		for key, err := range r.opts.Far.List(ctx, prefix) {
			// Once a key has been listed, the list must not change.
			if err != nil && !listed && ctx.Err() == nil && !errors.Is(err, storage.ErrInvalidKey) {
				r.opts.Near.List(ctx, prefix)(yield)
				return
			}
			listed = true
			if !yield(key, err) || err != nil {
				return
			}
		}
	}
}

// work writes one change after the other.
func (r *Records) work(ctx context.Context) {
	for {
		key, change, ok := r.next(ctx)
		if !ok {
			return
		}
		var err error
		if change.document == nil {
			err = r.opts.Far.Delete(ctx, key)
		} else {
			err = r.opts.Far.Put(ctx, key, change.document)
		}
		if errors.Is(err, storage.ErrNotExist) {
			err = nil
		}
		if ctx.Err() != nil {
			return
		}
		r.wrote(ctx, key, change, err)
	}
}

// next waits for a change that is due while far may be asked, and returns a copy of it.
func (r *Records) next(ctx context.Context) (key string, change write, ok bool) {
	for {
		r.mu.Lock()
		paused := r.opts.Paused() // since the last change, perhaps
		if len(r.ready) > 0 && !paused {
			key, r.ready = r.ready[0], r.ready[1:]
			known := r.unwritten[key]
			known.attempts++
			change = *known
			r.mu.Unlock()
			return key, change, true
		}
		changed := r.changed.Wait()
		r.mu.Unlock()
		if paused {
			if !awaitFar(ctx, r.opts.Paused) {
				return "", write{}, false
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", write{}, false
		}
	}
}

// wrote notes the result of a write.
func (r *Records) wrote(ctx context.Context, key string, change write, err error) {
	r.mu.Lock()
	known := r.unwritten[key]
	pause := min(firstPause<<min(change.attempts-1, 16), longestPause)
	again, first := true, false
	switch {
	case err == nil && known.version != change.version: // it has changed meanwhile
		known.attempts, pause = 0, 0
	case err == nil:
		again = false
		r.opts.Metrics.write(uploaded)
	case r.opts.Paused():
		known.attempts--
	case change.attempts < maxAttempts:
		r.opts.Metrics.write(repeated)
	default:
		again, first, r.lost, known.failed = false, !r.lost, true, true
		r.opts.Metrics.write(givenUp)
	}
	if !again {
		delete(r.unwritten, key)
		r.bytes -= len(known.document)
	}
	r.lost = r.lost && err != nil
	r.changed.Notify()
	r.mu.Unlock()
	if first {
		r.opts.Logger.Error("a record was not written to the bucket, and is kept on this machine only", "key", key, "attempts", change.attempts, "error", err)
	}
	if again {
		r.running.Go(func() { r.later(ctx, key, pause) })
	}
}

// later makes a write due after a pause.
func (r *Records) later(ctx context.Context, key string, pause time.Duration) {
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = append(r.ready, key)
	r.changed.Notify()
}

func (r *Records) isMerged() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.merged
}

// merge writes the near records of before the start that far lacks: they come from a time
// without far, or were not written before the last end.
func (r *Records) merge(ctx context.Context) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if err := r.mergeOnce(ctx); err == nil {
			r.mu.Lock()
			r.merged = true
			r.mu.Unlock()
			return
		} else if ctx.Err() == nil {
			r.opts.Logger.Debug("cannot compare the records of this machine with those of the bucket. Weir tries again", "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// mergeOnce compares the lists of both, and writes the difference. It remembers near keys
// only, by a number each: the number of those in far is chosen by other programs.
func (r *Records) mergeOnce(ctx context.Context) error {
	seed := maphash.MakeSeed()
	lacking := make(map[uint64]struct{})
	for key, err := range r.opts.Near.List(ctx, "") {
		if err != nil {
			return err
		}
		if r.opts.Shares(key) {
			lacking[maphash.String(seed, key)] = struct{}{}
		}
	}
	for key, err := range r.opts.Far.RecordKeys(ctx) {
		if err != nil {
			return err
		}
		delete(lacking, maphash.String(seed, key))
	}
	for key, err := range r.opts.Near.List(ctx, "") {
		if err != nil {
			return err
		}
		if _, lacks := lacking[maphash.String(seed, key)]; !lacks || !r.opts.Shares(key) {
			continue
		}
		if err := r.mergeRecord(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// mergeRecord writes one near record that far lacks.
func (r *Records) mergeRecord(ctx context.Context, key string) error {
	document, err := r.opts.Near.Get(ctx, key)
	if errors.Is(err, storage.ErrNotExist) { // it was removed meanwhile
		return nil
	}
	if err == nil {
		err = r.opts.Far.PutNew(ctx, key, document)
	}
	if err != nil {
		return err
	}
	// A record that was removed while it was written must not come back: it may be a right
	// that was withdrawn.
	defer r.keys.Lock(key)()
	if _, err := r.opts.Near.Get(ctx, key); errors.Is(err, storage.ErrNotExist) {
		r.change(key, nil)
	}
	return nil
}
