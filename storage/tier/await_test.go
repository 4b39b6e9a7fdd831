package tier_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/storagetest"
)

// A blob that others wait for goes before the rest, however many and large they are.
func TestHastenedContentGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		f.gate = make(chan struct{})
		store, u, _ := uploader(t, near, f)
		for n := range 20 {
			storagetest.Commit(t, store, near.Spools(), []byte(fmt.Sprint("layer ", n)))
		}
		synctest.Wait() // all workers are busy
		manifest := storagetest.Commit(t, store, near.Spools(), []byte("manifest"))
		u.Hasten(manifest)
		waited := make(chan error)
		go func() { waited <- u.Await(t.Context(), manifest) }()
		synctest.Wait()
		if f.tried(manifest) != 1 {
			t.Error("a content that is waited for is not uploaded at once")
		}
		select {
		case err := <-waited:
			t.Errorf("the wait ended before the upload: %v", err)
		default:
		}
		close(f.gate)
		if err := <-waited; err != nil || !f.has(manifest) {
			t.Errorf("%v, and far has it: %v", err, f.has(manifest))
		}
		if err := u.Drain(t.Context()); err != nil || f.tried(manifest) != 1 {
			t.Errorf("%v, and %d attempts", err, f.tried(manifest))
		}
		if err := u.Await(t.Context(), manifest); err != nil {
			t.Errorf("one that is far: %v", err)
		}
	})
}

// A blob that went first and failed waits for its next attempt as others do, although it is
// still among those that came before it.
func TestHastenedContentPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, f := storagetest.NewMemory(t), newFar()
		gate := make(chan struct{})
		f.gate, f.fail = gate, errors.New("denied")
		store, u, _ := uploader(t, near, f)
		for n := range 4 {
			storagetest.Commit(t, store, near.Spools(), []byte(fmt.Sprint("layer ", n)))
		}
		synctest.Wait() // all workers but one are busy
		f.set(func(f *far) { f.gate = nil })
		manifest := storagetest.Commit(t, store, near.Spools(), []byte("manifest"))
		u.Hasten(manifest)
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if tries := f.tried(manifest); tries != 1 {
			t.Errorf("%d attempts at once", tries)
		}
		f.set(func(f *far) { f.fail = nil })
		if err := u.Drain(t.Context()); err != nil || !f.has(manifest) || f.tried(manifest) != 2 {
			t.Errorf("%v, and %d attempts", err, f.tried(manifest))
		}
	})
}

// A wait ends with its context, with an upload that fails for good, and while far is paused.
func TestAwaitEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		trouble func(*far)
		within  time.Duration
	}{
		"it is slow":     {func(f *far) { f.gate = make(chan struct{}) }, 3 * time.Second},
		"it is paused":   {func(f *far) { f.isPaused = true }, 0},
		"it fails":       {func(f *far) { f.fail = errors.New("denied") }, 3 * time.Second},
		"content leaves": {func(f *far) { f.leaves = true }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, f := storagetest.NewMemory(t), newFar()
				tc.trouble(f)
				store, u, _ := uploader(t, near, f)
				dgst := storagetest.Commit(t, store, near.Spools(), []byte("content"))
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				begun := time.Now()
				// Content that leaves may have ended before the wait, and is not found.
				if err := u.Await(ctx, dgst); err == nil && !f.leaves {
					t.Error("the wait succeeds")
				}
				if took := time.Since(begun); took != tc.within {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// A record can be waited for until it is far. An absence that is remembered can be read again, and
// a record that is remembered stays.
func TestRecordIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &farRecords{Memory: storagetest.NewMemory(t)}
		one, two := shared(t, storagetest.NewMemory(t).Records(), f), shared(t, storagetest.NewMemory(t).Records(), f)
		synctest.Wait()
		expect(t, two, "a/key", "")
		put(t, one, "a/key", "one")
		if err := one.Await(t.Context(), "a/key"); err != nil {
			t.Error(err)
		}
		expect(t, f.Records(), "a/key", "one")
		expect(t, two, "a/key", "") // it remembers the absence
		two.Reread("a/key")
		expect(t, two, "a/key", "one")
		put(t, one, "a/key", "two")
		if err := one.Await(t.Context(), "a/key"); err != nil {
			t.Error(err)
		}
		two.Reread("a/key")
		expect(t, two, "a/key", "one")
		f.set(errors.New("denied"), false)
		put(t, one, "a/key", "three")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := one.Await(ctx, "a/key"); err == nil {
			t.Error("a record that cannot be written is far")
		}
		// It is given up in the end.
		if err := one.Await(t.Context(), "a/key"); err == nil {
			t.Error("a record that was given up is far")
		}
		f.set(nil, true)
		put(t, one, "a/key", "four")
		if err := one.Await(t.Context(), "a/key"); err == nil {
			t.Error("a record is far although far is paused")
		}
	})
}

// Content that is being removed is not uploaded, however far its upload had come. When it is committed
// anew, it is.
func TestForgottenContentIsNotUploaded(t *testing.T) {
	for name, trouble := range map[string]func(*far){
		"it waits":           func(f *far) { f.isPaused = true },
		"it is being sent":   func(f *far) { f.gate = make(chan struct{}) },
		"it waits to repeat": func(f *far) { f.fail = errors.New("denied") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, f := storagetest.NewMemory(t), newFar()
				trouble(f)
				store, u, _ := uploader(t, near, f)
				content := []byte("content")
				dgst := storagetest.Commit(t, store, near.Spools(), content)
				synctest.Wait()
				waited := make(chan error, 1)
				go func() { waited <- u.Await(t.Context(), dgst) }()
				synctest.Wait()
				var told atomic.Int64
				u.Forget([]digest.Digest{dgst, digest.FromString("another")}, func(digest.Digest) { told.Add(1) })
				synctest.Wait()
				if running := name == "it is being sent"; (told.Load() == 1) != running {
					t.Errorf("the end of an upload was told %d times", told.Load())
				}
				if err := <-waited; err == nil {
					t.Error("one that waits for the content is told that it is far")
				}
				f.set(func(f *far) { f.isPaused, f.gate, f.fail = false, nil, nil })
				time.Sleep(time.Hour)
				if err := u.Drain(t.Context()); err != nil || f.has(dgst) {
					t.Errorf("%v, and far has the content: %v", err, f.has(dgst))
				}
				storagetest.Commit(t, store, near.Spools(), content)
				if err := u.Drain(t.Context()); err != nil || !f.has(dgst) {
					t.Errorf("committed anew: %v, and far has it: %v", err, f.has(dgst))
				}
			})
		})
	}
}
