package download_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// A download whose content is taken out of the cache serves its readers to the end and leaves
// nothing behind. The next request for the content starts another one.
func TestForgetServesItsReaders(t *testing.T) {
	body := random(1 << 20)
	for name, test := range map[string]struct {
		repo      storage.RepoID
		gone      map[digest.Digest]bool
		running   int
		forgotten bool
	}{
		"all":                   {ours, nil, 1, true},
		"the digest":            {ours, map[digest.Digest]bool{digest.FromBytes(body): true}, 1, true},
		"another digest":        {ours, map[digest.Digest]bool{digest.FromString(""): true}, 1, false},
		"none":                  {ours, map[digest.Digest]bool{}, 1, false},
		"of another repository": {theirs, nil, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, nil)
				defer s.Close()
				o := &origin{body: body, step: make(chan int)}
				dgst := digest.FromBytes(o.body)
				verified := 0
				source := o.source(ours)
				source.Verified = func(storage.Info, bool) { verified++ }
				first := s.reader(t, t.Context(), dgst, source)
				joined := s.reader(t, t.Context(), dgst, o.source(theirs))
				o.step <- 100 << 10
				synctest.Wait()
				if running, err := s.Forget(t.Context(), test.repo, test.gone); running != test.running || err != nil {
					t.Fatalf("Forget: %d downloads, %v, want %d", running, err, test.running)
				}
				// The body begins anew for the request that comes then.
				again := &origin{body: o.body, step: make(chan int)}
				after, r, err := s.Open(t.Context(), dgst, again.source(ours))
				if err != nil || after != nil {
					t.Fatalf("Open: %v, %v", after, err)
				}
				if r.Joined() == test.forgotten {
					t.Errorf("the next request joined: %v", r.Joined())
				}
				close(o.step)
				for _, reader := range []*download.Reader{first, joined} {
					if got, err := readAll(reader); err != nil || !bytes.Equal(got, o.body) {
						t.Errorf("a reader got %d bytes, %v", len(got), err)
					}
					reader.Close()
				}
				synctest.Wait()
				if got := s.stored(t, dgst); got == test.forgotten || verified == 1 != got {
					t.Errorf("the first download is stored: %v; its right was proved %d times", got, verified)
				}
				close(again.step)
				if got, err := readAll(r); err != nil || !bytes.Equal(got, o.body) {
					t.Errorf("the next request got %d bytes, %v", len(got), err)
				}
				r.Close()
				if err := s.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
				if !s.stored(t, dgst) {
					t.Error("what the next request brought is not stored")
				}
				if got := len(o.asked()) + len(again.asked()); test.forgotten && got != 2 || !test.forgotten && got != 1 {
					t.Errorf("the upstream was asked %v and %v", o.asked(), again.asked())
				}
			})
		})
	}
}

// The content of a download that nobody reads is not fetched any further once it is forgotten.
func TestForgetEndsWhatNobodyReads(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T, s *setup, o *origin) <-chan error{
		"a job completes it": func(t *testing.T, s *setup, o *origin) <-chan error {
			ended := make(chan error, 1)
			s.idle = func(d *download.Download) {
				go func() {
					err := d.Complete(context.Background())
					d.Abandon()
					ended <- err
				}()
			}
			r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
			r.Close()
			return ended
		},
		"it is warmed": func(t *testing.T, s *setup, o *origin) <-chan error {
			ended := make(chan error, 1)
			r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
			go func() { ended <- r.Complete() }()
			return ended
		},
		"it is prefetched": func(t *testing.T, s *setup, o *origin) <-chan error {
			ended := make(chan error, 1)
			go func() {
				_, err := s.Prefetch(context.Background(), digest.FromBytes(o.body), o.source(ours), always)
				ended <- err
			}()
			return ended
		},
		"it is paused": func(t *testing.T, s *setup, o *origin) <-chan error {
			r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
			r.Close()
			time.Sleep(time.Minute)
			return nil
		},
		"its last follower leaves after that": func(t *testing.T, s *setup, o *origin) <-chan error {
			s.idle = func(*download.Download) { t.Error("somebody is asked what becomes of it") }
			dgst := digest.FromBytes(o.body)
			r := s.reader(t, t.Context(), dgst, o.source(ours))
			f, err := s.Follow(t.Context(), dgst, ours.Namespace, 0)
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			ended := make(chan error, 1)
			go func() {
				time.Sleep(time.Minute)
				f.Close()
				ended <- download.ErrForgotten
			}()
			return ended
		},
		"its last reader leaves after that": func(t *testing.T, s *setup, o *origin) <-chan error {
			s.idle = func(*download.Download) { t.Error("somebody is asked what becomes of it") }
			r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
			ended := make(chan error, 1)
			go func() {
				time.Sleep(time.Minute)
				r.Close()
				ended <- download.ErrForgotten
			}()
			return ended
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &setup{}
				*s = *newSetup(t, func(opts *download.Options) {
					opts.OnUnattended = func(d *download.Download) {
						if s.idle != nil {
							s.idle(d)
						}
					}
				})
				defer s.Close()
				o := &origin{body: random(1 << 20), step: make(chan int)}
				ended := begin(t, s, o)
				synctest.Wait()
				if _, err := s.Forget(t.Context(), ours, nil); err != nil {
					t.Fatal(err)
				}
				if ended != nil {
					if err := <-ended; !errors.Is(err, download.ErrForgotten) {
						t.Errorf("it ended with %v, want ErrForgotten", err)
					}
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
				if s.stored(t, digest.FromBytes(o.body)) {
					t.Error("the content is stored")
				}
			})
		})
	}
}

// Content that the store is taking is stored when Forget returns, for its caller to remove.
func TestForgetWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		s := newSetup(t, nil)
		defer s.Close()
		o := &origin{body: random(1000)}
		dgst := digest.FromBytes(o.body)
		source := o.source(ours)
		source.Verified = func(storage.Info, bool) { <-gate } // it is committing then
		r := s.reader(t, t.Context(), dgst, source)
		defer r.Close()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Forget(ctx, ours, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the store takes the content: %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			close(gate)
		}()
		if _, err := s.Forget(t.Context(), ours, nil); err != nil || !s.stored(t, dgst) {
			t.Errorf("Forget: %v, stored %v", err, s.stored(t, dgst))
		}
	})
}
