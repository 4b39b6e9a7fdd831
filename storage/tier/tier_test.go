package tier_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/storage/tier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// far is a bucket that a script drives.
type far struct {
	mu       sync.Mutex
	contents map[digest.Digest]string
	attempts map[digest.Digest]int
	fail     error
	isPaused bool
	leaves   bool          // all content is about to be removed
	gate     chan struct{} // if set, an upload waits for it
	asking   chan struct{} // if set, a question for a content waits for it
	running  int
	most     int // that ran at once
}

func newFar() *far {
	return &far{contents: map[digest.Digest]string{}, attempts: map[digest.Digest]int{}}
}

func (f *far) Upload(ctx context.Context, info storage.Info, content io.ReaderAt) error {
	f.mu.Lock()
	f.attempts[info.Digest]++
	f.running++
	f.most = max(f.most, f.running)
	fail, gate := f.fail, f.gate
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
	body, err := io.ReadAll(io.NewSectionReader(content, 0, info.Size))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	if err := errors.Join(fail, err, ctx.Err()); err != nil {
		return err
	}
	f.contents[info.Digest] = string(body)
	return nil
}

func (f *far) Lacks(_ context.Context, info storage.Info) (bool, error) {
	f.mu.Lock()
	leaves, asking := f.leaves, f.asking
	f.mu.Unlock()
	if asking != nil {
		<-asking
	}
	if leaves {
		return false, spool.ErrBusy
	}
	return !f.has(info.Digest), nil
}

func (f *far) Paused() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.isPaused
}

func (f *far) set(change func(*far)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *far) has(dgst digest.Digest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.contents[dgst]
	return ok
}

func (f *far) tried(dgst digest.Digest) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.attempts[dgst]
}

// uploader returns a store in front of near, and its uploader, which ends with the bubble.
func uploader(t *testing.T, near *storagetest.Memory, f *far) (*tier.Store, *tier.Uploader, *testutil.LogBuffer) {
	t.Helper()
	log := new(testutil.LogBuffer)
	u := tier.NewUploader(tier.UploaderOptions{Near: near, Far: f, Logger: slog.New(slog.NewTextHandler(log, nil))})
	t.Cleanup(u.Close)
	return tier.NewStore(near, u), u, log
}

// A blob that is about to leave far is not uploaded now. Nothing waits for it, and the next
// comparison tries again.
func TestUploadOfContentThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		f.leaves = true
		store, u, log := uploader(t, near, f)
		dgst := storagetest.Commit(t, store, near.Spools(), []byte("content"))
		synctest.Wait()
		if err := u.Drain(t.Context()); err != nil || f.tried(dgst) > 0 {
			t.Errorf("Drain: %v; uploads: %d", err, f.tried(dgst))
		}
		f.set(func(f *far) { f.leaves = false })
		time.Sleep(7 * time.Hour)
		synctest.Wait()
		if !f.has(dgst) {
			t.Error("the content was not uploaded later")
		}
		if log.Count("level=ERROR") > 0 {
			t.Errorf("the log has an error:\n%s", log.String())
		}
	})
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Driver {
		near := storagetest.NewMemory(t)
		store, _, _ := uploader(t, near, newFar())
		return storagetest.Decorate(near, store)
	})
}

// Committed content is uploaded, and no commit waits for that.
func TestCommitIsUploaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		f.gate = make(chan struct{})
		store, u, _ := uploader(t, near, f)
		var all []digest.Digest
		for i := range 20 {
			all = append(all, storagetest.Commit(t, store, near.Spools(), []byte(fmt.Sprint("content ", i))))
		}
		synctest.Wait()
		f.set(func(f *far) {
			if f.most != 4 {
				t.Errorf("%d uploads at once, want 4", f.most)
			}
		})
		limited, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := u.Drain(limited); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain with uploads under way: %v", err)
		}
		close(f.gate)
		if err := u.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
		for _, dgst := range all {
			if !f.has(dgst) {
				t.Errorf("%s is not uploaded", dgst)
			}
		}
	})
}

// A failed upload is tried again with growing pauses.
func TestUploadIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		f.fail = errors.New("reset")
		store, _, log := uploader(t, near, f)
		dgst := storagetest.Commit(t, store, near.Spools(), []byte("content"))
		time.Sleep(10 * time.Second)
		if tries := f.tried(dgst); tries < 3 || tries > 5 {
			t.Errorf("%d attempts in ten seconds", tries)
		}
		f.set(func(f *far) { f.fail = nil })
		time.Sleep(10 * time.Second)
		if !f.has(dgst) || log.String() != "" {
			t.Errorf("uploaded: %v; the log: %s", f.has(dgst), log)
		}
	})
}

// After some attempts an upload is given up, which is logged once for many. Hours later
// the rest is uploaded.
func TestUploadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		f.fail = errors.New("denied")
		store, _, log := uploader(t, near, f)
		var all []digest.Digest
		for i := range 5 {
			all = append(all, storagetest.Commit(t, store, near.Spools(), []byte(fmt.Sprint("content ", i))))
		}
		time.Sleep(time.Hour)
		if tries := f.tried(all[0]); tries != 8 {
			t.Errorf("%d attempts, want 8", tries)
		}
		if n := log.Count("content was not uploaded"); n != 1 {
			t.Errorf("%d lines, want 1: %s", n, log)
		}
		f.set(func(f *far) { f.fail = nil })
		time.Sleep(6 * time.Hour)
		for _, dgst := range all {
			if !f.has(dgst) {
				t.Errorf("%s is not uploaded", dgst)
			}
		}
	})
}

// While far is not asked, no attempt is made or counted.
func TestPauseCostsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		f.isPaused = true
		store, u, log := uploader(t, near, f)
		dgst := storagetest.Commit(t, store, near.Spools(), []byte("content"))
		if err := u.Drain(t.Context()); err != nil {
			t.Errorf("Drain waits for a bucket that is not asked: %v", err)
		}
		time.Sleep(24 * time.Hour)
		if tries := f.tried(dgst); tries != 0 || log.String() != "" {
			t.Errorf("%d attempts; the log: %s", tries, log)
		}
		f.set(func(f *far) { f.isPaused = false })
		time.Sleep(time.Minute)
		if !f.has(dgst) {
			t.Error("it is not uploaded")
		}
	})
}

// Content from before the start is uploaded, and content that goes before its turn is
// forgotten.
func TestComparison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		kept := storagetest.Commit(t, near, near.Spools(), []byte("kept"))
		gone := storagetest.Commit(t, near, near.Spools(), []byte("gone"))
		f.isPaused = true
		_, u, _ := uploader(t, near, f)
		time.Sleep(time.Second)
		if err := near.Delete(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		f.set(func(f *far) { f.isPaused = false })
		time.Sleep(time.Minute)
		if err := u.Drain(t.Context()); err != nil || !f.has(kept) || f.has(gone) {
			t.Errorf("Drain: %v; kept: %v, gone: %v", err, f.has(kept), f.has(gone))
		}
	})
}

// farRecords are records that fail on request.
type farRecords struct {
	*storagetest.Memory
	mu     sync.Mutex
	fail   error
	asked  int
	paused bool
	onNew  func() // if set, it is called before a record is written that was not there
}

func (f *farRecords) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.fail
}

func (f *farRecords) set(err error, paused bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.paused = err, paused
}

func (f *farRecords) isPaused() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.paused
}

func (f *farRecords) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.asked
	f.asked = 0
	return n
}

func (f *farRecords) Get(ctx context.Context, key string) ([]byte, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	return f.Records().Get(ctx, key)
}

func (f *farRecords) Put(ctx context.Context, key string, document []byte) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Records().Put(ctx, key, document)
}

func (f *farRecords) PutNew(ctx context.Context, key string, document []byte) error {
	if _, err := f.Records().Get(ctx, key); err == nil {
		return nil
	}
	if f.onNew != nil {
		f.onNew()
	}
	return f.Put(ctx, key, document)
}

func (f *farRecords) Delete(ctx context.Context, key string) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Records().Delete(ctx, key)
}

func (f *farRecords) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	if err := f.err(); err != nil {
		return func(yield func(string, error) bool) { yield("", err) }
	}
	return f.Records().List(ctx, prefix)
}

func (f *farRecords) RecordKeys(ctx context.Context) iter.Seq2[string, error] { return f.List(ctx, "") }

// shared returns records over near and far, which end with the bubble.
func shared(t *testing.T, near storage.Records, f *farRecords) *tier.Records {
	t.Helper()
	r := tier.NewRecords(tier.RecordsOptions{Near: near, Far: f, Paused: f.isPaused, Shares: func(key string) bool { return key != "private/key" }, TTL: 10 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(r.Close)
	return r
}

func expect(t *testing.T, r storage.Records, key, want string) {
	t.Helper()
	document, err := r.Get(t.Context(), key)
	if want == "" {
		if !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Get(%q) = %q, %v, want ErrNotExist", key, document, err)
		}
		return
	}
	if err != nil || string(document) != want {
		t.Errorf("Get(%q) = %q, %v, want %q", key, document, err, want)
	}
}

func put(t *testing.T, r storage.Records, key, document string) {
	t.Helper()
	if err := r.Put(t.Context(), key, []byte(document)); err != nil {
		t.Fatal(err)
	}
}

func TestRecordsConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Driver {
		near := storagetest.NewMemory(t)
		return driver{near, drained{shared(t, near.Records(), &farRecords{Memory: storagetest.NewMemory(t)})}}
	})
}

type driver struct {
	*storagetest.Memory
	records storage.Records
}

func (d driver) Records() storage.Records { return d.records }

// drained are records whose list waits for the writes before it.
type drained struct{ *tier.Records }

func (d drained) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := d.Drain(context.WithoutCancel(ctx)); err != nil {
			yield("", err)
			return
		}
		d.Records.List(ctx, prefix)(yield)
	}
}

// A change of another mirror is seen within the time that a record is believed, one that
// appears or goes too. Within it, far is not asked.
func TestRecordsOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), &farRecords{Memory: storagetest.NewMemory(t)}
		r := shared(t, near.Records(), f)
		put(t, r, "tag", "v1")
		expect(t, r, "other", "")
		synctest.Wait()
		put(t, f.Records(), "tag", "v2")
		put(t, f.Records(), "other", "there")
		f.requests()
		time.Sleep(9 * time.Second)
		expect(t, r, "tag", "v1")
		expect(t, r, "other", "")
		if n := f.requests(); n != 0 {
			t.Errorf("%d requests for records that are believed", n)
		}
		time.Sleep(2 * time.Second)
		expect(t, r, "tag", "v2")
		expect(t, r, "other", "there")
		expect(t, near.Records(), "tag", "v2")
		if err := f.Records().Delete(t.Context(), "tag"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		expect(t, r, "tag", "")
		expect(t, near.Records(), "tag", "")
	})
}

// While far fails, the last known records answer, and changes wait. A change is never hidden
// by an older record of far.
func TestRecordsWithoutFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), &farRecords{Memory: storagetest.NewMemory(t)}
		put(t, near.Records(), "old", "near")
		put(t, f.Records(), "tag", "v1")
		r := shared(t, near.Records(), f)
		synctest.Wait()
		expect(t, r, "tag", "v1")
		f.set(errors.New("away"), false)
		put(t, r, "tag", "v2")
		put(t, r, "gone", "x")
		if err := r.Delete(t.Context(), "gone"); err != nil {
			t.Error(err)
		}
		time.Sleep(15 * time.Second)
		expect(t, r, "tag", "v2")
		expect(t, r, "gone", "")
		expect(t, r, "old", "near")
		f.set(errors.New("away"), true)
		for key, err := range r.List(t.Context(), "") {
			if err != nil || key == "gone" {
				t.Errorf("List: %q, %v", key, err)
			}
		}
		f.set(nil, false)
		time.Sleep(time.Minute)
		expect(t, f.Records(), "tag", "v2")
		expect(t, f.Records(), "gone", "")
		expect(t, f.Records(), "old", "near")
	})
}

// Records from before the bucket are written to it, unless another mirror has other ones.
func TestRecordsAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), &farRecords{Memory: storagetest.NewMemory(t)}
		put(t, near.Records(), "a/link", "ours")
		put(t, near.Records(), "a/tag", "v1")
		put(t, near.Records(), "private/key", "secret")
		put(t, f.Records(), "a/tag", "v2")
		f.set(errors.New("away"), false)
		r := shared(t, near.Records(), f)
		time.Sleep(5 * time.Second)
		// They are not compared yet, so the absence in far says nothing.
		f.set(nil, false)
		expect(t, r, "a/link", "ours")
		time.Sleep(time.Minute)
		expect(t, f.Records(), "a/link", "ours")
		expect(t, f.Records(), "a/tag", "v2")
		expect(t, f.Records(), "private/key", "")
		expect(t, r, "a/tag", "v2")
	})
}

// A record that is removed while the comparison writes it does not come back.
func TestRecordIsRemovedBesideTheMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), &farRecords{Memory: storagetest.NewMemory(t)}
		put(t, near.Records(), "a/link", "a right")
		reached, removed := make(chan struct{}), make(chan struct{})
		f.onNew = func() { close(reached); <-removed }
		r := shared(t, near.Records(), f)
		<-reached
		if err := r.Delete(t.Context(), "a/link"); err != nil {
			t.Error(err)
		}
		synctest.Wait() // the removal is far
		close(removed)
		time.Sleep(time.Minute)
		expect(t, f.Records(), "a/link", "")
		expect(t, r, "a/link", "")
	})
}

// A full disk near costs no record.
func TestRecordsWithoutNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), &farRecords{Memory: storagetest.NewMemory(t)}
		r := shared(t, near.Records(), f)
		near.FailPut(errors.New("disk full"))
		put(t, r, "tag", "v1")
		time.Sleep(time.Minute)
		expect(t, f.Records(), "tag", "v1")
		expect(t, r, "tag", "v1")
	})
}

// Content that came from far needs no upload, unless far has lost it meanwhile.
func TestContentOfFarIsNotUploaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		store, u, _ := uploader(t, near, f)
		synctest.Wait() // the comparison of the start has ended
		there, lost := []byte("there"), []byte("lost")
		u.Comes(digest.FromBytes(there))
		u.Comes(digest.FromBytes(lost))
		u.Lost(digest.FromBytes(lost))
		storagetest.Commit(t, store, near.Spools(), there)
		storagetest.Commit(t, store, near.Spools(), lost)
		synctest.Wait()
		if f.tried(digest.FromBytes(there)) != 0 || !f.has(digest.FromBytes(lost)) {
			t.Errorf("%d attempts for what is there, and what is lost is uploaded: %v", f.tried(digest.FromBytes(there)), f.has(digest.FromBytes(lost)))
		}
		// Far and near lose it, and it comes from an upstream.
		if err := near.Delete(t.Context(), digest.FromBytes(there)); err != nil {
			t.Fatal(err)
		}
		storagetest.Commit(t, store, near.Spools(), there)
		synctest.Wait()
		if !f.has(digest.FromBytes(there)) {
			t.Error("what far had once is not uploaded when it comes again")
		}
	})
}

// Content that rotted here never enters the bucket.
func TestCorruptContentIsNotUploaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		dgst := digest.FromString("content")
		if err := near.Commit(t.Context(), dgst, storagetest.NewSpool(t, near.Spools(), []byte("rotten!"))); err != nil {
			t.Fatal(err)
		}
		_, _, log := uploader(t, near, f)
		time.Sleep(time.Hour)
		if f.has(dgst) || f.tried(dgst) != 0 || log.Count("stored content has become corrupt and is not uploaded") != 1 {
			t.Errorf("uploaded: %v after %d attempts; the log: %s", f.has(dgst), f.tried(dgst), log)
		}
	})
}

// Rotten content that is replaced while its upload begins is uploaded as it is then.
func TestReplacedContentIsUploaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		f.asking = make(chan struct{})
		content := []byte("content")
		dgst := digest.FromBytes(content)
		if err := near.Commit(t.Context(), dgst, storagetest.NewSpool(t, near.Spools(), []byte("rotten!"))); err != nil {
			t.Fatal(err)
		}
		store, _, log := uploader(t, near, f)
		synctest.Wait() // the rotten file is open
		if err := near.Delete(t.Context(), dgst); err != nil {
			t.Fatal(err)
		}
		storagetest.Commit(t, store, near.Spools(), content)
		close(f.asking)
		synctest.Wait()
		if !f.has(dgst) || log.Count("corrupt") != 0 {
			t.Errorf("uploaded: %v; the log: %s", f.has(dgst), log)
		}
	})
}

// A tier that keeps nothing forgets content once it is far, and not before.
func TestContentIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		f.gate = make(chan struct{})
		u := tier.NewUploader(tier.UploaderOptions{
			Near: near, Far: f, Logger: slog.New(slog.DiscardHandler),
			Forget: func(ctx context.Context, info storage.Info) error { return near.Delete(ctx, info.Digest) },
		})
		t.Cleanup(u.Close)
		store := tier.NewStore(near, u)
		came := digest.FromString("came from far")
		u.Comes(came)
		storagetest.Commit(t, store, near.Spools(), []byte("came from far"))
		ours := storagetest.Commit(t, store, near.Spools(), []byte("ours"))
		synctest.Wait()
		if _, err := near.Stat(t.Context(), ours); err != nil {
			t.Errorf("content was forgotten before its upload: %v", err)
		}
		close(f.gate)
		synctest.Wait()
		for _, dgst := range []digest.Digest{came, ours} {
			if _, err := near.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) || !f.has(dgst) {
				t.Errorf("%s: near %v, far %v", dgst, err, f.has(dgst))
			}
		}
	})
}
