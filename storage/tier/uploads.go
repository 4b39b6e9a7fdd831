package tier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

const (
	// uploadsAtOnce is how many blobs are uploaded at once: more than one, so that a
	// large one does not hold up the rest, and few, since clients come first. One more worker
	// has blobs that others wait for, such as manifests.
	uploadsAtOnce = 4
	// maxWaiting bounds the blobs that wait for their upload. Beyond, they wait for
	// the next comparison.
	maxWaiting = 100_000
	// maxCame is how many blobs that come from far are remembered until they are
	// committed. If one is forgotten, its upload ends with the first request.
	maxCame = 8192
	// maxAttempts is how often an upload is tried. With the pauses, that takes some ten
	// minutes.
	maxAttempts = 8
	// firstPause and longestPause bound the growing pause between two attempts.
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	// comparePause is how long after a comparison with failures the next one begins.
	comparePause = 6 * time.Hour
)

// Far is a store that mirrors share.
type Far interface {
	// Lacks reports whether a blob has to be uploaded. It returns an error that matches
	// spool.ErrBusy if far is about to remove it: the next comparison tries again.
	Lacks(ctx context.Context, info storage.Info) (bool, error)
	// Upload stores a blob that has been verified. It succeeds if the content is there.
	Upload(ctx context.Context, info storage.Info, content io.ReaderAt) error
	// Paused reports whether no request is sent at the moment, since the last ones failed.
	Paused() bool
}

// Store decorates a near store: committed content is uploaded too.
type Store struct {
	storage.Store
	uploads *Uploader
}

// NewStore returns a Store over near, which Uploader reads too.
func NewStore(near storage.Store, uploads *Uploader) *Store { return &Store{near, uploads} }

// Unwrap returns the near store.
func (s *Store) Unwrap() storage.Store { return s.Store }

// Commit stores the content near, and asks for its upload.
func (s *Store) Commit(ctx context.Context, dgst digest.Digest, sp *spool.Spool) error {
	err := s.Store.Commit(ctx, dgst, sp)
	if err != nil {
		return err
	}
	// Content that has just come from far is there, and is to be forgotten perhaps. The next time,
	// it may come from an upstream, since far has lost it.
	if came := s.uploads.came.Remove(dgst); !came || s.uploads.opts.Forget != nil {
		s.uploads.add(dgst)
	}
	return nil
}

// UploaderOptions configure an [Uploader].
type UploaderOptions struct {
	// Near has the blobs that are uploaded. Reading them for that does not count as a use, so it
	// is the driver, and no store that evicts.
	Near storage.Store
	Far  Far
	// Uploaded, if set, is called for each blob that this mirror has brought far.
	Uploaded func(digest.Digest)
	// Forget, if set, is called for each blob that is far now, and removes it near.
	Forget  func(ctx context.Context, info storage.Info) error
	Metrics *Metrics
	Logger  *slog.Logger
}

// Uploader uploads blobs in the background.
type Uploader struct {
	opts UploaderOptions

	stop    context.CancelFunc
	running sync.WaitGroup
	came    *lru.Cache[digest.Digest, struct{}] // blobs that are being read from far

	mu      sync.Mutex
	waiting map[digest.Digest]*upload // also those under way
	ready   []digest.Digest           // whose attempt is due
	prompt  []digest.Digest           // as ready, and others wait for them
	changed notify.Broadcast
	logged  bool // a failure since the last success
	missed  bool // one was abandoned or had no place
}

// upload is a blob that is to be uploaded.
type upload struct {
	attempts int
	running  bool
	pausing  bool                // until its next attempt
	again    bool                // it was added while it ran
	failed   bool                // it has ended, and far does not have the content
	dropped  bool                // the content is being removed
	onDrop   func(digest.Digest) // is told of the end of the attempt; may be nil
	cancel   context.CancelFunc  // of the attempt that is running
}

// NewUploader returns an Uploader that compares near and far, and uploads, until Close.
func NewUploader(opts UploaderOptions) *Uploader {
	ctx, cancel := context.WithCancel(context.Background())
	came, err := lru.New[digest.Digest, struct{}](maxCame)
	if err != nil {
		panic(err) // cannot be: the size is positive
	}
	u := &Uploader{opts: opts, stop: cancel, came: came, waiting: make(map[digest.Digest]*upload)}
	for range uploadsAtOnce {
		u.running.Go(func() { u.work(ctx, &u.ready) })
	}
	u.running.Go(func() { u.work(ctx, &u.prompt) })
	u.running.Go(func() { u.compare(ctx) })
	return u
}

// Drain waits until no upload is left, or far is paused. It returns the context's error if
// that ends first: the rest is uploaded after the next start.
func (u *Uploader) Drain(ctx context.Context) error {
	for {
		u.mu.Lock()
		left, changed := len(u.waiting), u.changed.Wait()
		u.mu.Unlock()
		if left == 0 || u.opts.Far.Paused() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errNotFar says that far does not have a blob or a record, and that no wait changes that.
var errNotFar = errors.New("storage: it is not in the bucket")

// Hasten lets a blob that waits for its first attempt go before others.
func (u *Uploader) Hasten(dgst digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if known := u.waiting[dgst]; known != nil && !known.running && known.attempts == 0 {
		u.prompt = append(u.prompt, dgst)
		u.changed.Notify()
	}
}

// Await waits until far has a blob that was committed. It returns an error if the upload
// fails, or far is paused. A blob that is not about to be uploaded is taken for one that far
// has.
func (u *Uploader) Await(ctx context.Context, dgst digest.Digest) error {
	u.mu.Lock()
	known := u.waiting[dgst]
	u.mu.Unlock()
	for known != nil {
		u.mu.Lock()
		ended, failed, changed := u.waiting[dgst] != known, known.failed, u.changed.Wait()
		u.mu.Unlock()
		switch {
		case failed:
			return errNotFar
		case ended:
			return nil
		case u.opts.Far.Paused():
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

// Comes notes that a blob is read from far, so that its commit needs no upload.
func (u *Uploader) Comes(dgst digest.Digest) { u.came.Add(dgst, struct{}{}) }

// Lost notes that far has lost a blob, or had other bytes.
func (u *Uploader) Lost(dgst digest.Digest) { u.came.Remove(dgst) }

// Forget drops the uploads of blobs that are being removed. It does not wait for those under way, which
// it cancels: dropped, if set, is called when one has ended, since far may have got the content. The next
// commit of a blob uploads it again.
func (u *Uploader) Forget(contents []digest.Digest, dropped func(digest.Digest)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, dgst := range contents {
		u.came.Remove(dgst)
		switch known := u.waiting[dgst]; {
		case known == nil:
		case known.running:
			known.dropped, known.onDrop, known.again = true, dropped, false
			known.cancel()
		default:
			u.drop(dgst, known)
		}
	}
	u.changed.Notify()
}

// drop takes an upload out that does not run. The caller holds the mutex.
func (u *Uploader) drop(dgst digest.Digest, known *upload) {
	delete(u.waiting, dgst)
	known.failed = true
	u.opts.Metrics.wait(len(u.waiting))
}

// Close ends the uploads under way.
func (u *Uploader) Close() {
	u.stop()
	u.running.Wait()
}

// add asks for the upload of a blob. It does not wait.
func (u *Uploader) add(dgst digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch known := u.waiting[dgst]; {
	case known != nil:
		known.again = known.running
		return
	case len(u.waiting) >= maxWaiting:
		u.missed = true
		u.opts.Metrics.upload(dropped)
		return
	}
	u.waiting[dgst] = new(upload)
	u.ready = append(u.ready, dgst)
	u.opts.Metrics.wait(len(u.waiting))
	u.changed.Notify()
}

// compare asks for the upload of all near blobs, at the start and after failures: an
// upload ends at once if far has the content.
func (u *Uploader) compare(ctx context.Context) {
	for {
		u.mu.Lock()
		u.missed = false
		u.mu.Unlock()
		for entry, err := range u.opts.Near.All(ctx) {
			if err != nil {
				if ctx.Err() == nil {
					u.opts.Logger.Warn("cannot list the local tier, so content from before the start is not uploaded", "error", err)
				}
				break
			}
			if !u.awaitPlace(ctx) {
				return
			}
			u.add(entry.Digest)
		}
		for again := false; !again; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(comparePause):
			}
			u.mu.Lock()
			again = u.missed
			u.mu.Unlock()
		}
	}
}

// awaitPlace waits until half of the places are free, so that a comparison never takes
// those of content that has just come. It reports false if the context ends.
func (u *Uploader) awaitPlace(ctx context.Context) bool {
	for {
		u.mu.Lock()
		full, changed := len(u.waiting) > maxWaiting/2, u.changed.Wait()
		u.mu.Unlock()
		if !full {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// work uploads one content of a queue after the other.
func (u *Uploader) work(ctx context.Context, queue *[]digest.Digest) {
	for {
		dgst, attempts, attempt, ok := u.next(ctx, queue)
		if !ok {
			return
		}
		err := u.upload(attempt, dgst)
		if ctx.Err() != nil {
			return
		}
		u.ended(ctx, dgst, attempts, err)
	}
}

// awaitFar waits until far may be asked. It reports false if the context ends.
func awaitFar(ctx context.Context, paused func() bool) bool {
	for paused() {
		select {
		case <-time.After(firstPause):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return false
		}
	}
	return ctx.Err() == nil
}

// next waits for an upload of a queue that is due while far may be asked. It returns the context of the
// attempt, which its end has to cancel.
func (u *Uploader) next(ctx context.Context, queue *[]digest.Digest) (dgst digest.Digest, attempts int, attempt context.Context, ok bool) {
	for {
		u.mu.Lock()
		paused := u.opts.Far.Paused() // since the last upload, perhaps
		for len(*queue) > 0 && !paused {
			dgst, *queue = (*queue)[0], (*queue)[1:]
			known := u.waiting[dgst]
			// A blob may be in both queues, and in one of them after it was tried from the other.
			if known == nil || known.running || known.pausing {
				continue
			}
			known.running = true
			known.attempts++
			attempts = known.attempts
			attempt, known.cancel = context.WithCancel(ctx)
			u.mu.Unlock()
			return dgst, attempts, attempt, true
		}
		changed := u.changed.Wait()
		u.mu.Unlock()
		if paused {
			if !awaitFar(ctx, u.opts.Far.Paused) {
				return "", 0, nil, false
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", 0, nil, false
		}
	}
}

// upload is one attempt.
func (u *Uploader) upload(ctx context.Context, dgst digest.Digest) error {
	object, err := u.opts.Near.Open(ctx, dgst)
	if errors.Is(err, storage.ErrNotExist) {
		return nil // it was evicted meanwhile
	}
	if err != nil {
		return err
	}
	defer object.Content.Close()
	lacks, err := u.opts.Far.Lacks(ctx, object.Info)
	if err == nil && lacks {
		if err = u.send(ctx, object); err == nil && u.opts.Uploaded != nil {
			u.opts.Uploaded(dgst)
		}
	}
	if err == nil && u.opts.Forget != nil {
		if err := u.opts.Forget(ctx, object.Info); err != nil && !errors.Is(err, storage.ErrNotExist) {
			u.opts.Logger.Warn("content is in the bucket, but cannot be removed from the local tier", "digest", dgst, "error", err)
		}
	}
	return err
}

// send uploads an open blob.
func (u *Uploader) send(ctx context.Context, object *storage.Object) error {
	dgst := object.Digest
	from, ok := object.Content.(io.ReaderAt)
	if !ok {
		from = &seeking{content: object.Content}
	}
	// It was verified when it was stored, which may be long ago, and disks rot.
	verifier := dgst.Verifier()
	if _, err := io.Copy(verifier, io.NewSectionReader(from, 0, object.Size)); err != nil {
		return fmt.Errorf("reading the content: %w", err)
	}
	if !verifier.Verified() {
		return fmt.Errorf("%w: %s has become corrupt here", storage.ErrCorrupt, dgst)
	}
	return u.opts.Far.Upload(ctx, object.Info, from)
}

// ended notes the result of an attempt, and plans the next one after a failure.
func (u *Uploader) ended(ctx context.Context, dgst digest.Digest, attempts int, err error) {
	u.mu.Lock()
	known := u.waiting[dgst]
	known.running = false
	known.cancel()
	dropped, onDrop := known.dropped, known.onDrop
	known.dropped, known.onDrop = false, nil
	var first, again, corrupt bool
	pause := min(firstPause<<min(attempts-1, 16), longestPause)
	switch {
	case dropped && !known.again:
		u.drop(dgst, known)
	case (err == nil || dropped || errors.Is(err, storage.ErrCorrupt)) && known.again: // it was committed anew meanwhile
		known.again, known.attempts, again, pause = false, 0, true, 0
	case err == nil:
		delete(u.waiting, dgst)
		u.logged = false
		u.opts.Metrics.upload(uploaded)
	case errors.Is(err, storage.ErrCorrupt):
		delete(u.waiting, dgst) // weir verify finds it, and so does its next reader
		corrupt, known.failed = true, true
		u.opts.Metrics.upload(givenUp)
	case errors.Is(err, spool.ErrBusy): // far is about to remove the content, or not: its use was announced
		delete(u.waiting, dgst)
		u.missed, known.failed = true, true
		u.opts.Metrics.upload(repeated)
	case u.opts.Far.Paused():
		known.attempts-- // it says nothing about this content
		again = true
	case attempts < maxAttempts:
		again = true
		u.opts.Metrics.upload(repeated)
	default:
		delete(u.waiting, dgst)
		u.missed, known.failed, first, u.logged = true, true, !u.logged, true
		u.opts.Metrics.upload(givenUp)
	}
	known.pausing = again
	u.opts.Metrics.wait(len(u.waiting))
	u.changed.Notify()
	u.mu.Unlock()
	if dropped && onDrop != nil {
		onDrop(dgst)
	}
	if first {
		u.opts.Logger.Error("content was not uploaded to the bucket. Weir tries again in a few hours. Until then, other mirrors fetch it from upstream",
			"digest", dgst, "attempts", attempts, "error", err)
	}
	if corrupt {
		u.opts.Logger.Error("stored content has become corrupt and is not uploaded. Check the disk, and run weir verify", "digest", dgst)
	}
	if again {
		u.running.Go(func() { u.later(ctx, dgst, pause) })
	}
}

// later makes an upload due after a pause.
func (u *Uploader) later(ctx context.Context, dgst digest.Digest, pause time.Duration) {
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	known := u.waiting[dgst]
	if known == nil || !known.pausing { // it was dropped, and may have come again
		return
	}
	known.pausing = false
	u.ready = append(u.ready, dgst)
	u.changed.Notify()
}

// seeking reads a blob that can seek as one that is read anywhere.
type seeking struct {
	mu      sync.Mutex
	content io.ReadSeeker
}

func (s *seeking) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.content.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(s.content, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}
