package download_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// stuck starts a download that stops after its first byte, until the test ends.
func stuck(t *testing.T, s *setup, body []byte) *download.Reader {
	t.Helper()
	o := &origin{body: body, step: make(chan int)}
	r := s.reader(t, t.Context(), digest.FromBytes(body), o.source(ours))
	t.Cleanup(func() { r.Close() })
	o.step <- 1
	synctest.Wait()
	return r
}

// streams returns how many streams of an origin are open.
func (o *origin) streams() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.opens) - o.closed
}

// Readers far ahead take half of the places, and so leave some for downloads. If their
// clients do not read, the readers give the places back after a turn.
func TestReadersAheadTakePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, func(o *download.Options) { o.MaxFetches = 4 })
		body := random(20 << 20)
		stuck(t, s, body)
		direct := &origin{body: body}
		const clients = 10
		var answered sync.WaitGroup
		for range clients {
			r := s.reader(t, t.Context(), digest.FromBytes(body), direct.source(theirs))
			t.Cleanup(func() { r.Close() })
			answered.Go(func() {
				if _, err := r.Wait(10<<20, -1); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if n := direct.streams(); n != 2 {
			t.Errorf("%d streams are open beside a download, want 2 of 4 places", n)
		}
		other := &origin{body: random(1000)}
		r := s.reader(t, t.Context(), digest.FromBytes(other.body), other.source(ours))
		defer r.Close()
		if got, err := readAll(r); err != nil || !bytes.Equal(got, other.body) {
			t.Errorf("a download beside readers far ahead: %d bytes, %v", len(got), err)
		}
		began := time.Now()
		answered.Wait() // though none of them is read
		if took := time.Since(began); took > time.Minute {
			t.Errorf("the last client was answered after %s", took)
		}
		if n := direct.streams(); n > 2 {
			t.Errorf("%d streams are open, want 2 at most", n)
		}
	})
}

// Readers whose source sends nothing give their places to those of another namespace, though
// each of them waits for bytes.
func TestReadersOfATarpitYield(t *testing.T) {
	for _, tarpits := range []int{1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			s := newSetup(t, func(o *download.Options) { o.MaxFetches = 16 })
			var reading sync.WaitGroup
			ctx, leave := context.WithCancel(t.Context())
			defer reading.Wait()
			defer leave()
			for i := range tarpits {
				hostile := storage.RepoID{Namespace: fmt.Sprint("hostile", i), Name: "app"}
				o := &origin{body: random(20 << 20), step: make(chan int)}
				dgst := digest.FromBytes(append(o.body, byte(i)))
				for range 12 {
					r := s.reader(t, ctx, dgst, o.source(hostile))
					reading.Go(func() {
						defer r.Close()
						if _, err := r.Seek(10<<20, io.SeekStart); err == nil {
							_, _ = r.Read(make([]byte, 1000))
						}
					})
				}
			}
			time.Sleep(time.Minute)
			body := random(20 << 20)
			stuck(t, s, body)
			direct := &origin{body: body}
			patient, giveUp := context.WithTimeout(t.Context(), 10*time.Minute)
			defer giveUp()
			r := s.reader(t, patient, digest.FromBytes(body), direct.source(ours))
			defer r.Close()
			began, got := time.Now(), make([]byte, 1000)
			if _, err := r.Wait(15<<20, 16<<20); err != nil {
				t.Error(err)
			}
			if _, err := r.Seek(15<<20, io.SeekStart); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, body[15<<20:15<<20+1000]) {
				t.Error("other bytes")
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("%d tarpits: a range took %s", tarpits, took)
			}
		})
	}
}

// A reader that gave its place back continues where it stopped.
func TestReaderContinuesAfterItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, func(o *download.Options) { o.MaxFetches = 2 })
		body := random(20 << 20)
		stuck(t, s, body)
		direct := &origin{body: body}
		var both sync.WaitGroup
		for range 2 {
			r := s.reader(t, t.Context(), digest.FromBytes(body), direct.source(theirs))
			both.Go(func() {
				defer r.Close()
				if _, err := r.Wait(15<<20, 16<<20); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, 1<<20)
				for read := 0; read < len(got); read += 64 << 10 { // a slow client
					if _, err := io.ReadFull(r, got[read:read+64<<10]); err != nil {
						t.Error(err)
						return
					}
					time.Sleep(5 * time.Second)
				}
				if !bytes.Equal(got, body[15<<20:16<<20]) {
					t.Error("other bytes")
				}
			})
		}
		both.Wait()
		if n := len(direct.asked()); n < 4 {
			t.Errorf("%d requests, so a slow client kept its place while another waited", n)
		}
	})
}

// A reader that waits for a place needs none when the download has come to it, or has
// ended.
func TestReaderWithoutPlaceFollowsTheDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fail := range []bool{false, true} {
			s := newSetup(t, func(o *download.Options) { o.MaxFetches = 1 })
			o := &origin{body: random(6 << 20), step: make(chan int)}
			if fail {
				o.failAt = 2 << 20
			}
			r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
			o.step <- 1
			synctest.Wait()
			go func() {
				time.Sleep(time.Minute)
				close(o.step)
			}()
			_, err := r.Wait(5<<20, -1)
			// The reader's own source fails as the download's did.
			if fail {
				if err == nil {
					_, err = r.Read(make([]byte, 1))
				}
				if !errors.Is(err, errCut) {
					t.Errorf("the download failed, and the reader got %v", err)
				}
			} else if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, o.body[5<<20:]) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			r.Close()
			if asked := o.asked(); !fail && len(asked) != 1 {
				t.Errorf("asked %v, want the download alone", asked)
			}
		}
	})
}

// A sequential reader reads the download or, after its failure, one stream of its own.
func TestSequentialReader(t *testing.T) {
	for failAt, requests := range map[int]int{0: 0, 3 << 20: 1} {
		synctest.Test(t, func(t *testing.T) {
			s := newSetup(t, nil)
			body := random(20 << 20)
			foreign := &origin{body: body, step: make(chan int), failAt: failAt}
			first := s.reader(t, t.Context(), digest.FromBytes(body), foreign.source(theirs))
			defer first.Close()
			foreign.step <- 1
			direct := &origin{body: body}
			r := s.reader(t, t.Context(), digest.FromBytes(body), direct.source(ours))
			defer r.Close()
			if _, err := r.Wait(0, -1); err != nil {
				t.Fatal(err)
			}
			r.Sequential()
			go func() {
				time.Sleep(time.Second)
				close(foreign.step)
			}()
			for _, at := range []int64{0, 2 << 20, 8 << 20, 12 << 20, 19 << 20} {
				if _, err := r.Seek(at, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, 1000)
				if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, body[at:at+1000]) {
					t.Errorf("at %d: %v", at, err)
				}
			}
			if asked := direct.asked(); len(asked) != requests {
				t.Errorf("a download that fails at %d: asked %v, want %d requests", failAt, asked, requests)
			}
		})
	}
}
